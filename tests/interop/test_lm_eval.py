"""The evaluation harness runs its own way through a random model of ours, on the tasks that are shipped."""

import functools
import json
import math
import sys

import lm_eval
import numpy as np
import pytest
import stored
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.tasks import TaskManager

import jaxlm
import jaxlm.interop
from jaxlm import lm_eval as command
from jaxlm.interop.lm_eval import JaxLM
from jaxlm.interop.lm_eval_options import Writing
from jaxlm.interop.lm_eval_tasks import FOLDER, documents

SAMPLES = {"jaxlm_choice": [0, 1, 2], "jaxlm_trivia": [0, 1], "jaxlm_technical": [4, 14]}
TINY = {"num_layers": 1, "d_model": 16, "num_heads": 2, "max_len": 128}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A byte model: 256 is <eos>."""
    return stored.make_run(tmp_path_factory.mktemp("run"), **TINY)


@pytest.fixture(scope="module")
def model(run):
    return JaxLM(path=str(run), batch_size=4)


@pytest.fixture(scope="module")
def manager():
    return TaskManager(include_path=str(FOLDER), include_defaults=False)


def requests(kind, *arguments):
    return [Instance(kind, {}, one, number) for number, one in enumerate(arguments)]


def evaluate(run, manager, batch_size, samples):
    return lm_eval.simple_evaluate(
        "jaxlm",
        {"path": str(run)},
        tasks=list(samples),
        batch_size=batch_size,
        samples=samples,
        task_manager=manager,
        bootstrap_iters=0,
    )


def test_the_shipped_tasks_run_and_their_scores_are_those_by_hand(run, model, manager):
    found = evaluate(run, manager, 4, SAMPLES)
    scored = {task: which for task, which in SAMPLES.items() if task != "jaxlm_trivia"}
    alone = evaluate(run, manager, 1, scored)
    for task, scores in alone["results"].items():
        for name, value in scores.items():
            other = found["results"][task][name]
            assert value == (pytest.approx(other, rel=1e-6) if isinstance(value, float) else other)
    lm = jaxlm.load(run)
    lines = list(documents.choice()["validation"])[:3]
    right = normed = 0
    for line in lines:
        pairs = [(f"Question: {line['question']}\nAnswer:", f" {c}") for c in line["choices"]]
        totals = np.array([one.total for one in lm.loglikelihoods(pairs)])
        right += totals.argmax() == line["answer"]
        lengths = np.array([len(choice) for choice in line["choices"]])
        normed += (totals / lengths).argmax() == line["answer"]
    choice = found["results"]["jaxlm_choice"]
    assert (choice["acc,none"], choice["acc_norm,none"]) == (right / 3, normed / 3)
    every = documents.technical()["validation"]
    texts = [every[number]["text"] for number in SAMPLES["jaxlm_technical"]]
    nats = -sum(one.total for one in lm.rolling(texts))
    size = sum(len(text.encode()) for text in texts)
    technical = found["results"]["jaxlm_technical"]
    assert technical["bits_per_byte,none"] == pytest.approx(nats / math.log(2) / size, rel=1e-6)
    assert technical["byte_perplexity,none"] == pytest.approx(math.exp(nats / size), rel=1e-6)
    assert found["results"]["jaxlm_trivia"]["exact_match,none"] == 0  # an untrained model
    config = found["config"]
    assert config["model_num_parameters"] == sum(p.size for p in _leaves(lm.params))
    assert len(config["model_sha"]) == 64 and config["max_length"] == 128


def _leaves(params):
    import jax

    return jax.tree.leaves(params)


def test_tasks_say_their_source_and_licence_and_split_as_training_does(manager):
    assert set(manager.all_subtasks) == {"jaxlm_choice", "jaxlm_trivia", "jaxlm_technical"}
    for task in manager.load(["jaxlm"])["tasks"].values():
        assert {"version", "data", "source", "licence"} <= task.config.metadata.keys()
    choice = documents.choice(path="ignored", version=1.0)
    assert [len(choice[split]) for split in ("train", "validation")] == [3632, 404]
    trivia = documents.trivia()["validation"]
    assert not any("[" in str(line["answers"][0]) or line["topic"] == "bard" for line in trivia)


def test_likelihoods_follow_the_contexts_own_tokens(model):
    lm = model.lm
    found = model.loglikelihood(
        requests("loglikelihood", ("ab ", "cd"), ("", "cd"), ("  ", "cd"), ("x" * 200, "yz"))
    )
    pairs = [(b"ab", b" cd"), ([256], b"cd"), ([256], b"  cd"), (b"x" * 127, b"yz")]
    expected = lm.loglikelihoods([(list(c), list(t)) for c, t in pairs])
    np.testing.assert_allclose([one for one, _ in found], [one.total for one in expected], 1e-5)
    assert [greedy for _, greedy in found] == [one.greedy for one in expected]
    (total,) = model.loglikelihood_rolling(requests("loglikelihood_rolling", ("abc" * 100,)))
    assert total == pytest.approx(lm.rolling(["abc" * 100])[0].total, rel=1e-6)
    with pytest.raises(ValueError, match="'' after 'ab': the continuation has no token of its own"):
        model.loglikelihood(requests("loglikelihood", ("ab", "")))


def test_special_tokens_are_read_where_they_are_spelt(model, run):
    assert model.tok_encode("<eos>a") == [256, 97]
    assert model.lm.tokenizer.encode("<eos>a")[0] == ord("<")  # what people typed is text
    always = JaxLM(path=str(run), add_bos_token=True, prefix_token_id=7)
    assert always.tok_encode("a") == [7, 97] and always.tok_encode("a", False) == [97]
    assert always.prefix_token_id == 7 and always.eot_token_id == 256


def test_a_folder_of_others_says_what_begins_a_text(tmp_path):
    folder = stored.write(tmp_path, stored.LLAMA, stored.llama_tensors())
    model = JaxLM(path=str(folder))
    assert model.prefix_token_id == model.eot_token_id == 1  # nothing said: what ends one
    assert model.tok_encode("ab") == [0, 2, 3]  # its template, but for the end
    assert model.tok_encode("ab", False) == [2, 3]
    (folder / "tokenizer_config.json").write_text('{"bos_token": {"content": "<s>"}}')
    model = JaxLM(path=str(folder))
    assert model.prefix_token_id == 0 and model.tok_encode("<s>ab") == [0, 2, 3]  # not twice


def test_writing_stops_where_the_task_says(model):
    prompts = ["ab", "a longer one", "x"]
    whole = model.lm.generate(prompts, max_tokens=12, temperature=0)
    stop = whole[0][4]
    how = {"until": [stop], "max_gen_toks": 12, "do_sample": False}
    found = model.generate_until(requests("generate_until", *[(p, how) for p in prompts]))
    assert found == [text.split(stop)[0] for text in whole] and len(found[0]) <= 4
    free, long = how | {"until": []}, "q" * 60 + "a longer one" * 10
    both = model.generate_until(requests("generate_until", (long, free), (long[-116:], free)))
    assert both[0] == both[1] != ""  # room for 12 of 128, cut from the left


@pytest.mark.slow
def test_draws_depend_on_a_requests_number_only(run, model):
    how = {"until": ["\n"], "max_gen_toks": 6, "do_sample": True, "temperature": 1.0}
    other = {**how, "temperature": 0.7}
    asked = requests("generate_until", ("ab", how), ("abc", other), ("ab", how), ("ab", how))
    found = model.generate_until(asked)
    assert JaxLM(path=str(run), batch_size=1).generate_until(asked) == found
    assert len({found[0], found[2], found[3]}) == 3
    assert JaxLM(path=str(run), seed=1).generate_until(asked)[0] != found[0]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"temprature": 1}, 'temprature is not known .did you mean "temperature"'),
        ({"num_beams": 2, "top_k": 3}, "top_k is not known; accepted: .*num_beams, length_penalty"),
        ({"do_sample": True}, "needs a temperature above 0"),
        ({"max_gen_toks": 128}, "max_gen_toks=128 leaves no room for a prompt in max_length=128"),
    ],
)
def test_how_a_task_writes_is_checked(kwargs, message):
    with pytest.raises(ValueError, match=message):
        Writing(kwargs, 128, "causal")


def test_other_names_of_a_number_of_tokens_are_known():
    how = Writing({"max_tokens": 5, "until": "\n", "top_p": 0.9, "temperature": 0.5}, 128, "causal")
    assert (how.max_tokens, how.stop, how.room, how.draws) == (5, ["\n"], 123, True)
    assert how.settings == {"top_p": 0.9, "temperature": 0.5}
    assert Writing({}, 300, "causal").max_tokens == 256  # as the harness's own backends
    how = Writing(
        {"num_beams": 3, "max_gen_toks": 128}, 128, "seq2seq"
    )  # a source has its own room
    assert (how.method, how.settings, how.room) == ("beam", {"num_beams": 3}, 128)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pth": "x"}, 'model_args: pth is not known .did you mean "path"'),
        ({}, "path=DIR is missing"),
        ({"batch_size": "auto"}, "batch_size=auto, max_batch_size=None: say one number"),
        ({"device": "tpu"}, "device=tpu: this process runs on cpu"),
        ({"max_length": 129}, "max_length=129 must be in 1..128"),
    ],
)
def test_arguments_of_the_model_are_checked(run, arguments, message):
    path = {} if message.startswith("path") else {"path": str(run)}
    with pytest.raises(ValueError, match=message):
        JaxLM(**path | arguments)


def test_conversations_go_through_the_models_template(run, model):
    with pytest.raises(ValueError, match="no chat template"):
        model.apply_chat_template([{"role": "user", "content": "Hi"}])
    template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "[{{ m.role }}]{{ m.content }}<eos>{% endfor %}{% if add_generation_prompt %}[bot]{% endif %}"
    )
    folder = stored.write(
        run.parent / "chat", stored.LLAMA, stored.llama_tensors(), [*stored.WORDS, "[", "]"]
    )
    (folder / "chat_template.jinja").write_text(template)
    talking = JaxLM(path=str(folder))
    asked = [{"role": "user", "content": "Hi"}, {"role": "bot", "content": "Well"}]
    assert talking.apply_chat_template(asked[:1]) == "[user]Hi<eos>[bot]"
    assert talking.apply_chat_template(asked, False) == "[user]Hi<eos>[bot]Well"
    system = {"role": "system", "content": "Be kind"}
    assert talking.apply_chat_template([system, *asked[:1]]) == "[user]Hi<eos>[bot]"
    assert talking.chat_template(True) == template and talking.chat_template(False) is None
    with pytest.raises(ValueError, match="the model has one template"):
        talking.chat_template("tool_use")
    assert "/" not in talking.tokenizer_name


def test_the_command_line_is_the_harnesss_own(run, tmp_path, capsys, monkeypatch):
    """Its arguments, our model unless another is named, our tasks beside a folder of the user's."""
    few = functools.partial(TaskManager, include_defaults=False)  # it brings thousands
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", few)
    (tmp_path / "mine.yaml").write_text(f"include: {FOLDER}/jaxlm_choice.yaml\ntask: mine\n")
    line = ["--model_args", f"path={run}", "--tasks", "mine,jaxlm_choice", "--limit", "2"]
    assert (
        command.main([*line, "--include_path", str(tmp_path), "--output_path", str(tmp_path)]) == 0
    )
    shown = capsys.readouterr().out
    assert f"jaxlm ({{'path': '{run}'" in shown and "|mine " in shown and "|jaxlm_choice|" in shown
    (written,) = tmp_path.glob("*/results_*.json")
    assert set(json.loads(written.read_text())["results"]) == {"mine", "jaxlm_choice"}
    assert command.main(["--model_args", "path=nowhere", "--tasks", "jaxlm_choice"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("jaxlm: error: nowhere")


def test_importing_registers_and_a_missing_harness_is_one_line(monkeypatch, capsys):
    assert get_model("jaxlm") is JaxLM
    monkeypatch.delitem(sys.modules, "jaxlm.interop.lm_eval")
    monkeypatch.delattr(jaxlm.interop, "lm_eval")
    for name in [name for name in sys.modules if name.split(".")[0] == "lm_eval"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert command.main(["--tasks", "jaxlm_choice"]) == 2
    expected = "jaxlm: error: lm_eval is not installed: pip install 'jaxlm[eval]'\n"
    assert capsys.readouterr().err == expected
