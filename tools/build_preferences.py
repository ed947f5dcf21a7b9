"""Preferences from questions with answers: the right answer against a wrong one of the same length.

    python tools/build_preferences.py OUTDIR [--glosses FILE.jsonl] [--choice FILE.jsonl] [--seed 0]

writes OUTDIR/train.jsonl and OUTDIR/held_out.jsonl, lines of {"prompt", "chosen", "rejected", "source"}, and prints what they
hold with the accuracy of a baseline that knows nothing but lengths. FILEs default to the bundled sets of these names.

Of a dictionary (question, answer) the wrong answer is that of another word of the same kind (noun, verb, ...) with as many words.
Every answer is right once and wrong once, in the same part: so neither its length nor anything else of an answer alone says
which it is. Of multiple choice (question, choices, answer) it is the wrong choice that is nearest in length, where both have as
many words. The last tenth of each file's lines is held out.
"""

from __future__ import annotations

import collections
import json
import random
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from jaxlm import cli

HELD_OUT = 0.1
COLUMNS = {"glosses": ("question", "answer"), "choice": ("question", "choices", "answer")}


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, or 2 for something that the user can change."""
    parser = cli.Parser("tools.build_preferences", "Right answers against wrong ones.")
    parser.add_argument("target", metavar="OUTDIR", type=Path)
    for name in ("glosses", "choice"):
        parser.add_argument(f"--{name}", metavar="FILE.jsonl", default=f"bundled:{name}")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    return cli.guarded(lambda: build(options))


def build(options) -> None:
    """Write both parts."""
    makers = {"glosses": of_glosses, "choice": of_choices}
    parts: dict[str, list[dict]] = {"train": [], "held_out": []}
    for name, make in makers.items():
        lines = list(read(name, getattr(options, name)))
        cut = round(len(lines) * (1 - HELD_OUT))
        for part, own in (("train", lines[:cut]), ("held_out", lines[cut:])):
            rng = random.Random(f"{options.seed} {name} {part}")
            parts[part] += [pair | {"source": name} for pair in make(own, rng)]
    if not all(parts.values()):
        raise ValueError(
            "no pair of the same length is left for train or held_out: give larger files"
        )
    options.target.mkdir(parents=True, exist_ok=True)
    for part, pairs in parts.items():
        random.Random(f"{options.seed} {part}").shuffle(pairs)
        text = "".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs)
        (options.target / f"{part}.jsonl").write_text(text, encoding="utf-8")
    rule = longer_is_right(parts["train"]) >= 0.5
    print(
        json.dumps(
            {
                part: dict(collections.Counter(p["source"] for p in own))
                for part, own in parts.items()
            }
            | {"length_only": round(length_only(parts["held_out"], rule), 4)}
        )
    )


def read(name: str, path: str) -> Iterator[dict]:
    """The objects of a file, or of bundled:NAME; raises ValueError for one without an option's columns."""
    from jaxlm.data import reading, records

    def parse(row, where: str) -> dict:
        if not isinstance(row, dict):
            raise ValueError(f"{where}: --{name} is read from a *.jsonl file")
        for column in COLUMNS[name]:
            reading.record_column(row, column, where, f"--{name} to another file")
        return row

    return iter(records.Source(f"--{name}", path, parse=parse, kind=()).records())


def of_glosses(lines: list[dict], rng: random.Random) -> Iterator[dict]:
    """Every answer against that of another word of its kind, in a cycle through those with as many words."""
    groups = collections.defaultdict(list)
    for line in lines:
        kind = re.match(r'What does the (\w+) "', line["question"])
        groups[kind and kind[1], len(line["answer"].split())].append(line)
    for group in groups.values():
        rng.shuffle(group)
        for line, other in zip(group, group[1:] + group[:1], strict=True):
            if line["answer"] != other["answer"]:
                yield pair(line["question"], line["answer"], other["answer"])


def of_choices(lines: Iterable[dict], rng: random.Random) -> Iterator[dict]:
    """The right choice against the wrong one that is nearest in length."""
    for line in lines:
        right = line["choices"][line["answer"]]
        wrong = [one for one in line["choices"] if len(one.split()) == len(right.split())]
        wrong = [one for one in wrong if one != right]
        rng.shuffle(wrong)  # of equally near ones any
        if wrong:
            nearest = min(wrong, key=lambda one: abs(len(one) - len(right)))
            yield pair(line["question"], right, nearest)


def pair(question: str, right: str, wrong: str) -> dict:
    """A line of the file."""
    return {"prompt": question, "chosen": right, "rejected": wrong}


def longer_is_right(pairs: list[dict]) -> float:
    """The share of pairs whose better answer has more characters; of as many it is a half."""
    sizes = [(len(pair["chosen"]), len(pair["rejected"])) for pair in pairs]
    return sum((a > b) + 0.5 * (a == b) for a, b in sizes) / len(sizes)


def length_only(pairs: list[dict], longer: bool) -> float:
    """The accuracy of always taking the longer answer, or the shorter one, as was better in training."""
    share = longer_is_right(pairs)
    return share if longer else 1 - share


if __name__ == "__main__":
    sys.exit(main())
