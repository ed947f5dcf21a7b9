"""Perplexity and bits of texts: against a plain loop, for a uniform model, and in blocks that no tokenizer moves."""

import dataclasses
import math

import jax
import numpy as np
import pytest
import suite_models

from jaxlm.data import tokenizers
from jaxlm.eval.suites import language_modelling as lm_suite
from jaxlm.eval.suites import make

TEXTS = [
    "short",
    "",
    "Ünïcödé 字 and then a text that is longer than one window of the model " * 2,
    "x",
]


@pytest.fixture(scope="module")
def lm():
    return suite_models.small()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    names = []
    for name, part in (("first", TEXTS[:3]), ("second", TEXTS[3:])):
        path = folder / f"{name}.jsonl"
        path.write_text("".join(f'{{"text": "{text}"}}\n' for text in part))
        names.append(str(path))
    return ",".join(names)


def rows(found):
    return {row.name: row for row in found.scores.rows}


def loop_nats(lm, context, stride, texts=TEXTS):
    """Every token of every text by a window of its own: the last `context` tokens, or fewer as the windows fall."""
    total = 0.0
    for text in texts:
        ids = [lm.tokenizer.eos_id, *lm.tokenizer.encode(text).tolist()]
        done = 0
        while done < len(ids) - 1:
            end = min(context if done == 0 else done + stride, len(ids) - 1)
            begin = max(0, end - context)
            row = np.zeros((1, 32), np.int32)
            row[0, : end - begin] = ids[begin:end]
            logs = jax.nn.log_softmax(lm.logits(row)[0])
            total -= sum(
                float(logs[place - 1 - begin, ids[place]]) for place in range(done + 1, end + 1)
            )
            done = end
    return total


@pytest.mark.parametrize(("context", "stride"), [(32, 32), (16, 16), (16, 5), (16, 1)])
def test_every_token_once_as_a_plain_loop_counts_it(lm, files, context, stride):
    found = make(
        "language_modelling", {"data": files, "context": context, "stride": stride, "batch_size": 3}
    ).run(lm)
    nats = loop_nats(lm, context, stride)
    raw = [text.encode() for text in TEXTS]
    num_bytes, characters = sum(map(len, raw)), sum(map(len, TEXTS))
    got = rows(found)
    assert got["loss"].value == pytest.approx(nats / num_bytes, rel=1e-5)  # a token is a byte
    assert got["perplexity"].value == pytest.approx(math.exp(nats / num_bytes), rel=1e-5)
    assert got["bits_per_byte"].value == pytest.approx(nats / math.log(2) / num_bytes, rel=1e-5)
    assert got["bits_per_character"].value == pytest.approx(
        nats / math.log(2) / characters, rel=1e-5
    )
    assert f"context={context}|stride={stride}|" in got["loss"].signature
    tables = {line["domain"]: line for line in found.scores.tables["domains"]}
    assert [tables["first"]["tokens"], tables["second"]["tokens"]] == [num_bytes - 1, 1]
    assert got["bits_per_byte_second"].value == tables["second"]["bits_per_byte"]


def test_a_uniform_model_gives_exactly_the_vocabulary(lm, files):
    uniform = dataclasses.replace(lm, params=jax.tree.map(np.zeros_like, lm.params))
    options = {"data": files, "stride": 7, "batch_size": 3}
    found = rows(make("language_modelling", options).run(uniform))
    assert found["perplexity"].value == pytest.approx(257, rel=1e-6)
    assert found["bits_per_byte"].value == pytest.approx(math.log2(257), rel=1e-6)


def test_stride_is_of_no_matter_where_a_text_fits_the_context(lm, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("x" * 31)
    found = [
        rows(
            make("language_modelling", {"data": str(path), "stride": stride, "batch_size": 3}).run(
                lm
            )
        )["loss"].value
        for stride in (32, 9, 1)
    ]
    assert found[0] == found[1] == found[2]


def test_blocks_are_those_of_the_text_whatever_the_tokens(monkeypatch):
    monkeypatch.setattr(lm_suite, "BLOCK", 4)
    text = "abcdé字z"  # a b c d | é(2) 字(2 of 3) | 字(1) z
    words = np.array([2, 2, 5, 1])  # "ab" "cd" "é字" "z": bytes of each token
    sums = lm_suite.block_sums(text, np.arange(4), np.array([1.0, 2.0, 4.0, 8.0]), words)
    assert sums.tolist() == [[3.0, 2, 4, 4], [4.0, 1, 4, 2], [8.0, 1, 2, 1]]
    first_not_scored = lm_suite.block_sums(text, np.arange(4), np.array([2.0, 4.0, 8.0]), words)
    # "ab" is only read: of the first block, its bytes count as little as its nats
    assert first_not_scored.tolist() == [[2.0, 1, 2, 2], [4.0, 1, 4, 2], [8.0, 1, 2, 1]]


def test_without_a_token_that_begins_a_text_its_first_token_is_only_read(files):
    lm = suite_models.Told()
    lm.tokenizer = type("NoEos", (type(lm.tokenizer),), {"eos_id": None})()
    found = rows(make("language_modelling", {"data": files, "context": 32}).run(lm))
    scored = sum(max(0, len(text.encode()) - 1) for text in TEXTS)
    assert f"tokens={scored}|" in found["loss"].signature and found["loss"].value == 1.0
    assert "first token of a document not scored" in found["loss"].signature


def test_unknown_characters_are_counted(tmp_path):
    lm = suite_models.Told()
    lm.tokenizer = tokenizers.build("chars", ["ab"])
    path = tmp_path / "a.txt"
    path.write_text("abxaby")
    scores = make("language_modelling", {"data": str(path)}).run(lm).scores
    assert "|unknown tokens=2|" in scores.rows[0].signature
    (line,) = scores.tables["domains"]
    assert line["unknown_tokens"] == pytest.approx(2 / 6) and line["bytes"] == 6


def test_files_of_one_name_are_domains_of_their_own(tmp_path):
    paths = [tmp_path / folder / "a.txt" for folder in "bc"]
    for number, path in enumerate(paths):
        path.parent.mkdir()
        path.write_text("x" * (number + 5))
    named = ",".join(map(str, paths))
    found = make("language_modelling", {"data": named, "context": 8}).run(suite_models.Told())
    assert list(found.data) == named.split(",") and len(set(rows(found))) == len(found.scores.rows)
    with pytest.raises(ValueError, match="names a part twice"):
        make("language_modelling", {"data": f"{named},{paths[0]}"}).run(suite_models.Told())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": "9", "context": "8"}, "--stride 9 is more than --context 8"),
        ({"context": "64"}, "--context 64 is more than the 32 positions"),
        ({"data": "bundled:poetri"}, 'did you mean "poetry"'),
        ({"context": "-1"}, "--context -1 must be at least 0"),
        ({"data": "bundled:poetry@0.5"}, "weights mean nothing"),
    ],
)
def test_what_does_not_fit_is_one_clear_line(lm, options, message):
    with pytest.raises(ValueError, match=message):
        make("language_modelling", options).run(lm)


def test_a_model_that_reads_both_ways_has_no_perplexity():
    lm = suite_models.Told()
    lm.model = suite_models.FakeModel("bidirectional")
    with pytest.raises(ValueError, match="no causal language model"):
        make("language_modelling", {}).run(lm)
