"""Two models on the same examples: difference, interval and verdict; other questions are refused."""

import dataclasses
import json

import pytest
from test_results import made

from jaxlm import compare as command
from jaxlm.eval import comparison, results

HITS = [1.0] * 30 + [0.0] * 10


def test_the_better_model_is_named_and_chance_is_not():
    first, second = made(HITS, "first"), made(HITS[::-1][10:] + [0.0] * 10, "second")
    second = made([0.0] * 12 + HITS[12:], "second")
    (one,), left_out = comparison.compare(first, second)
    assert (one.first, one.second, one.difference) == (0.75, 0.45, pytest.approx(0.3))
    assert 0 < one.low < 0.3 < one.high and one.p < 0.01 and one.better == "first"
    assert left_out == ["variety: it has no statistics of single examples"]
    (back,), _ = comparison.compare(second, first)
    assert back.better == "first" and back.difference == -one.difference
    (same,), _ = comparison.compare(first, made(HITS, "other"))
    assert same.difference == 0 and same.better == ""


def test_a_fixed_shift_of_every_example_is_certain_and_its_interval_a_point():
    first = made([2.0, 3.0, 4.0], "first")
    (one,), _ = comparison.compare(first, made([1.0, 2.0, 3.0], "second"))
    assert one.low == pytest.approx(1) and one.high == pytest.approx(1) and one.better == "first"


def test_of_one_example_nothing_is_said():
    (one,), _ = comparison.compare(made([2.0], "first"), made([1.0], "second"))
    assert one.difference == 1.0 and one.verdict == "one example: nothing can be said of others"


def test_predictions_that_share_an_id_are_told_apart():
    old, new = made(), made()
    for one in (old, new):
        one.scores.examples[0]["id"] = one.scores.examples[1]["id"]
        one.scores.examples[0]["prediction"] = "by another evaluator"
    assert comparison.differences(old, new) == ([], [])
    new.scores.examples[1]["prediction"] = "otherwise"
    assert comparison.differences(old, new) == ([], ["1 of 4 predictions differ"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data": {"bundled:choice": "d" * 64}}, "data bundled:choice: c+ and d+"),
        (
            {"suite": {"name": "qa", "options": {}}},
            "suite: choice and qa; .*option limit: 4 and None",
        ),
        (
            {"suite": {"name": "choice", "options": {"limit": 4, "shots": [4], "batch_size": 8}}},
            r"option shots: \[0\] and \[4\]$",
        ),
    ],
)
def test_other_data_or_options_are_refused_by_name(fields, message):
    with pytest.raises(ValueError, match=message):
        comparison.compare(made(), made(**fields))


def test_the_batch_size_may_differ():
    options = {"limit": 4, "shots": [0], "batch_size": 1}
    comparison.compare(made(), made(suite={"name": "choice", "options": options}))


def test_scores_a_token_of_other_tokenizers_are_left_out():
    first, second = made(), made()
    for one in (first, second):
        one.scores.rows[0] = dataclasses.replace(one.scores.rows[0], unit="nats/token")
        one.scores.rows.append(
            dataclasses.replace(one.scores.rows[0], name="bits", unit="bits/byte")
        )
    second.model["tokenizer"] = {"name": "gpt2", "sha256": "f" * 64}
    compared, left_out = comparison.compare(first, second)
    assert [one.name for one in compared] == ["bits"]
    assert left_out[0] == "accuracy: its unit is nats/token, and the tokenizers differ"


def test_other_signatures_are_noted():
    second = made()
    second.scores.rows[0] = dataclasses.replace(second.scores.rows[0], signature="shots=0|tok=y")
    (one,), _ = comparison.compare(made(), second)
    assert one.note == "computed with tok=x, tok=y"


def test_names_tell_models_apart():
    names = comparison.names_of
    step = made()
    step.model["step"] = 9
    other = made()
    other.model["sha256"] = "9" * 64
    assert names(made(name="a"), made(name="b")) == ("a", "b")
    assert names(made(), step) == ("model@3", "model@9")
    assert names(made(), other) == ("model aaaaaa", "model 999999")
    assert names(made(), made()) == ("model aaaaaa (A)", "model aaaaaa (B)")


def test_the_command_line(tmp_path, capsys):
    results.save(made(HITS, "first"), tmp_path / "a")
    results.save(made([0.0] * 12 + HITS[12:], "second"), tmp_path / "b")
    paths = [str(tmp_path / name) for name in "ab"]
    assert command.main([*paths, "--out", str(tmp_path / "c" / "d.json")]) == 0
    assert "first is better" in capsys.readouterr().out
    found = json.loads((tmp_path / "c" / "d.json").read_text())
    assert found["scores"][0]["difference"] == pytest.approx(0.3)
    assert found["method"]["resamples"] == 1000
    assert command.main([paths[0], str(tmp_path / "nothing")]) == 2
    assert "no such result" in capsys.readouterr().err
