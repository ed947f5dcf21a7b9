"""The alignment of a pair as the model has it, and pictures of it."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import flax.linen as nn
import jax
import numpy as np
import pytest

from jaxlm import config
from jaxlm.data.tokenizers import BytesTokenizer
from jaxlm.language_model import LanguageModel
from jaxlm.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from jaxlm.models.gpt import GPT, GPTConfig
from jaxlm.models.rnn_seq2seq import RNNSeq2Seq, RNNSeq2SeqConfig

PATH = Path(__file__).resolve().parent.parent / "tools" / "plot_alignment.py"
SIZES = {"vocab_size": 257, "num_layers": 2, "d_model": 8, "max_len": 16}


@pytest.fixture
def tool():
    spec = importlib.util.spec_from_file_location("plot_alignment", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def loaded(model):
    """A fresh model as api.load gives it."""
    cfg = config.base()
    cfg.model = config.section("model", "gpt", **SIZES)
    cfg.objective = config.section("objective", "seq2seq")
    cfg.data = config.section("data", "pairs", tokenizer="bytes")
    ids = np.ones((1, 3), np.int32)
    given = {"source": ids} if "source" in model.inputs else {}
    made = jax.jit(lambda: model.init(jax.random.key(0), ids, **given))()
    return LanguageModel(model, nn.unbox(made)["params"], BytesTokenizer(), cfg, step=1)


@pytest.mark.parametrize(
    "model",
    [
        RNNSeq2Seq(RNNSeq2SeqConfig(**SIZES)),
        EncoderDecoder(EncoderDecoderConfig(**SIZES, num_heads=2)),
    ],
    ids=lambda model: type(model).__name__,
)
def test_weights_stand_beside_their_pieces(tool, model):
    lm = loaded(model)
    found = tool.aligned(lm, "a cat", "eine")
    end = "<eos>"
    assert found.source == ["a", "▁", "c", "a", "t", end]
    assert found.target == ["e", "i", "n", "e", end]
    assert found.weights_TS.shape == (5, 6)
    np.testing.assert_allclose(found.weights_TS.sum(1), 1, atol=1e-5)
    # A row is what was read where that token was scored: behind the tokens before it.
    other = tool.aligned(lm, "a cat", "eins")
    np.testing.assert_allclose(found.weights_TS[:4], other.weights_TS[:4], atol=1e-5)
    last = 0 if isinstance(model, RNNSeq2Seq) else 1
    np.testing.assert_array_equal(
        found.weights_TS, tool.aligned(lm, "a cat", "eine", last).weights_TS
    )
    with pytest.raises(ValueError, match=f"--layer 2: the decoder has layers 0 to {last}"):
        tool.aligned(lm, "a cat", "eine", 2)


def test_without_a_target_the_model_writes_one(tool):
    lm = loaded(RNNSeq2Seq(RNNSeq2SeqConfig(**SIZES)))
    ((text,),) = lm.write("a cat", temperature=0.0)
    found = tool.aligned(lm, "a cat")
    assert len(found.target) == len(text.tokens) + (text.finish == "end")


@pytest.mark.parametrize(("name", "begin"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml")])
def test_pictures(tool, tmp_path, monkeypatch, capsys, name, begin):
    weights = np.array([[0.75, 0.25], [0.0, 1.0]])
    made = tool.Aligned(weights, ["Hund", "$x$"], ["▁dog", "</s>"])
    monkeypatch.setattr(tool, "aligned", lambda *given: made)
    monkeypatch.setattr("jaxlm.api.load", lambda path: SimpleNamespace())
    path = tmp_path / "pictures" / name
    command = [str(tmp_path), "--source", "the dog costs $5", "--output", str(path)]
    assert tool.main(command) == 0 and capsys.readouterr().out == f"{path}\n"
    assert path.read_bytes().startswith(begin)
    assert tool.main([*command[:-1], "a.pdf"]) == 2
    assert "accepted are files that end in .png, .svg" in capsys.readouterr().err


def test_a_model_without_a_source_is_refused(tool):
    with pytest.raises(ValueError, match="GPT shows no attention to a source"):
        tool.aligned(loaded(GPT(GPTConfig(**SIZES, num_heads=2))), "a")
