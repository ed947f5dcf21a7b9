"""The report on GANs of texts: what judges texts, by hand and by extremes; the table; and what is refused."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from jaxlm.data.tokenizers import CharsTokenizer
from jaxlm.models.ngram import NGram, NGramConfig

TOOL = Path(__file__).resolve().parent.parent / "tools" / "gan_report.py"
TOKENIZER = CharsTokenizer("abcd ")


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("gan_report", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ngram(order=3):
    return NGram(NGramConfig(order=order, vocab_size=7, separator=TOKENIZER.eos_id))


def encoded(*texts):
    return [TOKENIZER.encode(text).tolist() for text in texts]


def test_perplexity_is_that_of_the_scores_whatever_the_lengths(tool):
    """Of one text after the other, by the model's own likelihoods; a text's first token is given."""
    model, texts = ngram(), encoded("ab ab", "abcd", "ba")
    tables = tool.counted_on(model, encoded("ab ab ab cd"))
    total, count = 0.0, 0
    for ids in texts:
        ids = np.array([ids])
        nll = model.apply({"params": tables}, ids[:, :-1]).token_nll(ids[:, 1:])
        total, count = total + float(nll.sum()), count + nll.size
    np.testing.assert_allclose(
        tool.perplexity(model, tables, texts), np.exp(total / count), rtol=1e-5
    )


def judges(tool, held_out, train):
    model = ngram()
    tables = tool.counted_on(model, train)
    return tool.Judges(TOKENIZER, model, tables, np.array(held_out), len(held_out[0]), train, [0])


def test_what_collapsed_looks_real_and_covers_nothing(tool):
    """The forward perplexity of one mode, written again and again, is low; the reverse one says that the other is missing."""
    kinds = "abababab", "cdcdcdcd"
    both, one = encoded(*kinds * 8), encoded(*kinds[:1] * 16)
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 5, (16, 8)).tolist()
    judge = judges(tool, encoded(*kinds), both)
    found = {
        name: judge.scores(texts)
        for name, texts in (("both", both), ("one", one), ("noise", noise))
    }
    assert found["one"]["forward_perplexity"] < 1.5 < 3 < found["noise"]["forward_perplexity"]
    assert found["both"]["forward_perplexity"] < 1.5
    assert 2 * found["both"]["reverse_perplexity"] < found["one"]["reverse_perplexity"]
    assert found["one"]["distinct_1"] < found["both"]["distinct_1"]
    assert set(found["one"]) == set(tool.SCORES)


def test_windows_are_spread_over_the_text(tool):
    stream = np.arange(23, dtype=np.int32)
    np.testing.assert_array_equal(tool._windows(stream, 4, 2)[:, 0], [0, 8])
    assert tool._windows(stream, 4, 99).shape == (5, 4)


def test_the_table_has_every_row(tool, tmp_path):
    scores = dict.fromkeys(tool.SCORES, 1.5)
    run = {"final_step": 3, "val_bits_per_byte": 2.5, "train_seconds": 7.0}
    rows = [
        {"run": tool.REAL, "temperature": None} | scores,
        {"run": "gumbel", "temperature": 0.8} | scores,
    ]
    found = {"texts": 4, "order": 5, "runs": {"gumbel": run}, "rows": rows}
    text = tool.table(found)
    assert "| gumbel | 3 | 2.500 | 7 |" in text
    assert "| real text |  | 1.500 |" in text and "| gumbel | 0.8 | 1.500 |" in text
    tool.draw(tmp_path / "figure.png", found)
    assert (tmp_path / "figure.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"runs": "gumble"}, r"--runs gumble: \['gumble'\] are none of likelihood, gumbel, seqgan"),
        ({"texts": 1}, "--texts 1: at least 2"),
        ({"temperatures": "0.5,0"}, "--temperatures: '0' must be a number above 0"),
    ],
)
def test_a_wrong_option_is_named(tool, changes, said):
    options = {"runs": "gumbel", "texts": 4, "temperatures": "1.0", "workdir": "x", "output": "y"}
    with pytest.raises(ValueError, match=said):
        tool.report(SimpleNamespace(**options | changes), {})
