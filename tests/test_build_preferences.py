"""Pairs that are made of questions with answers: as long, right once and wrong once, nothing of one part in the other."""

import collections
import importlib.util
import json
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parent.parent / "tools" / "build_preferences.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("build_preferences", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def glosses(kinds=("noun", "verb"), count=20):
    """Answers of one word and of two, by turns."""
    return [
        {"question": f'What does the {kind} "w{n}" mean?', "answer": f"{kind}{n}" + " more" * (n % 2)}
        for kind in kinds
        for n in range(count)
    ]  # fmt: skip


def choices(count=10):
    """Of the wrong ones with one word, "bbbb" is nearest to "ccccc"; "d d" has two."""
    found = {"question": "q", "choices": ["a", "bbbb", "ccccc", "d d"], "answer": 2}
    return [found] * count


def test_pairs_are_as_long_and_parts_share_no_answer(tool, tmp_path, capsys):
    options = ["--glosses", write(tmp_path / "g.jsonl", glosses()), "--choice", write(tmp_path / "c.jsonl", choices())]  # fmt: skip
    assert tool.main([str(tmp_path / "out"), *options]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["train"] == {"glosses": 36, "choice": 9} and shown["held_out"]["choice"] == 1
    parts = {}
    for part in ("train", "held_out"):
        lines = (tmp_path / "out" / f"{part}.jsonl").read_text().splitlines()
        parts[part] = [json.loads(line) for line in lines]
        for pair in parts[part]:
            assert len(pair["chosen"].split()) == len(pair["rejected"].split())
            if pair["source"] == "choice":
                assert (pair["chosen"], pair["rejected"]) == ("ccccc", "bbbb")
            else:  # of the same kind of word
                assert pair["chosen"][:4] == pair["rejected"][:4] == pair["prompt"][14:18]
        own = [pair for pair in parts[part] if pair["source"] == "glosses"]
        right, wrong = (
            collections.Counter(p[side] for p in own) for side in ("chosen", "rejected")
        )
        assert right == wrong and set(right.values()) == {1}
    answers = [{p["chosen"] for p in parts[part] if p["source"] == "glosses"} for part in parts]
    assert not set.intersection(*answers)


def test_length_alone(tool):
    """Two of four are longer, one is as long: 2.5 of 4 by the longer one, 1.5 by the shorter one."""
    pairs = [{"chosen": "a" * n, "rejected": "b" * 2} for n in (3, 4, 2, 1)]
    assert tool.length_only(pairs, longer=True) == 2.5 / 4
    assert tool.length_only(pairs, longer=False) == 1.5 / 4


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (glosses(), "--choice={path} line 1 has no column 'choices' (it has question, answer)"),
        (choices(1), "no pair of the same length is left for train or held_out"),
    ],
)
def test_what_can_be_wrong_is_named(tool, tmp_path, capsys, lines, message):
    few = write(tmp_path / "g.jsonl", glosses(count=1))
    path = write(tmp_path / "c.jsonl", lines)
    assert tool.main([str(tmp_path / "out"), "--glosses", few, "--choice", path]) == 2
    assert message.format(path=path) in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
