"""How good a text is by a rule: what reinforcement learns from, and what answers are scored by.

A rule is called as rule(prompt, completion, reference), all texts, and gives a number; one of your own is named by its dotted
path, "module:function". It must be a pure function of them. Learned rewards are objectives' (objectives/reinforcement.py).
"""

from __future__ import annotations

import re

REWARDS = {
    "exact_match": "jaxlm.eval.rewards:exact_match",
    "number_match": "jaxlm.eval.rewards:number_match",
    "regex_match": "jaxlm.eval.rewards:regex_match",
}

_NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?")


def exact_match(prompt: str, completion: str, reference: str) -> float:
    """1 where the completion is the reference, white space around them aside."""
    del prompt
    return float(completion.strip() == reference.strip())


def number_match(prompt: str, completion: str, reference: str) -> float:
    """1 where the last number of the completion is that of the reference: "... so 1,200." is 1200."""
    del prompt
    found, wanted = _last_number(completion), _last_number(reference)
    return float(found is not None and found == wanted)


def regex_match(prompt: str, completion: str, reference: str) -> float:
    """1 where all of the completion, white space around it aside, matches the reference as a regular expression.

    Raises:
      ValueError: the reference is none.
    """
    del prompt
    try:
        return float(re.fullmatch(reference, completion.strip()) is not None)
    except re.error as error:
        raise ValueError(f"regex_match: {reference!r} is no regular expression: {error}") from error


def _last_number(text: str) -> float | None:
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None
