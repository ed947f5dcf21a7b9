"""Suites: what a finished model is asked, and on which texts. How an answer is scored is in the files beside this folder."""

from __future__ import annotations

import ast
import dataclasses
import typing
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from jaxlm import registry
from jaxlm.eval import Scores

SUITES = {
    "run": "jaxlm.train.evaluation:Run",
    "language_modelling": "jaxlm.eval.suites.language_modelling:LanguageModelling",
    "choice": "jaxlm.eval.suites.choice:Choice",
    "classification": "jaxlm.eval.suites.choice:Classification",
    "qa": "jaxlm.eval.suites.writing:QA",
    "summaries": "jaxlm.eval.suites.writing:Summaries",
    "translation": "jaxlm.eval.suites.writing:Translation",
    "retrieval": "jaxlm.eval.suites.retrieval:Retrieval",
    "diversity": "jaxlm.eval.suites.diversity:Diversity",
}


class Found(NamedTuple):
    """What a suite found, and the digests of the data that it found it on."""

    scores: Scores
    data: Mapping[str, str]  # name -> sha256


class Suite(Protocol):
    """A frozen dataclass of options that checks itself; a user's own is named "module:Name"."""

    def run(self, lm: Any) -> Found:
        """Scores of a `LanguageModel`: its model, params, tokenizer, config, `generate`, `loglikelihoods`.

        Raises:
          ValueError: a model or data that it can't score.
        """


def make(name: str, options: Mapping[str, Any]) -> Suite:
    """The suite of this name with these options; values may be the text of a command line.

    Raises:
      ValueError: no such suite or option, the nearest is named; or a value that is not accepted.
    """
    cls = kind(name)
    known = option_names(cls)
    hints = typing.get_type_hints(cls)
    for option in options:
        if option not in known:
            raise ValueError(
                f"suite {name} has no option {option}{registry.nearest(option, known)}; "
                f"accepted: {', '.join(known)}"
            )
    return cls(**{key: _typed(value, hints[key], key) for key, value in options.items()})


def kind(name: str) -> Any:
    """The class of a suite.

    Raises:
      ValueError: no such suite; the nearest is named.
    """
    if name not in SUITES and ":" not in name:
        raise ValueError(
            f'suite "{name}" is not known{registry.nearest(name, SUITES)}; accepted: '
            f'{", ".join(SUITES)}, or "your_module:YourSuite"'
        )
    return registry.lookup(SUITES, name, "suite")


def option_names(kind: Any) -> list[str]:
    """The options of a suite's class.

    Raises:
      ValueError: it is no suite.
    """
    if not dataclasses.is_dataclass(kind) or not hasattr(kind, "run"):
        raise ValueError(f"{kind!r} is no suite: a dataclass of options with run(lm) is one")
    return [field.name for field in dataclasses.fields(kind)]


def shared_out(names: Sequence[str], given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Suite -> its options: each that was given goes to all suites that have it.

    Raises:
      ValueError: an unknown suite, or an option that none of them has.
    """
    known = {name: option_names(kind(name)) for name in names}
    everywhere = sorted({option for found in known.values() for option in found})
    for option in given:
        if option not in everywhere:
            raise ValueError(
                f"--{option}: --suite {','.join(known)} has no such option"
                f"{registry.nearest(option, everywhere)}; it has {', '.join(everywhere)}"
            )
    return {
        name: {option: value for option, value in given.items() if option in found}
        for name, found in known.items()
    }


def options_of(suite: Suite) -> dict[str, Any]:
    """Every option with its value, defaults included."""
    return dataclasses.asdict(suite)


def _typed(value: Any, hint: Any, name: str) -> Any:
    """A value as its field's type: `0,1,4` or [0, 1, 4] for a tuple of numbers."""
    origin = typing.get_origin(hint) or hint
    if isinstance(value, list):
        value = tuple(value)
    if isinstance(value, str) and origin is not str:
        text = f"({value},)" if origin is tuple and value else value
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            pass
    if origin is float and type(value) is int:
        value = float(value)
    if isinstance(origin, type) and type(value) is not origin:
        raise ValueError(f"--{name} {value}: expected {_spelt(hint)}")
    inner = typing.get_args(hint)[0] if origin is tuple else None
    if inner is not None and not all(type(item) is inner for item in value):
        raise ValueError(f"--{name}: expected {_spelt(hint)}")
    return value


def _spelt(hint: Any) -> str:
    origin = typing.get_origin(hint)
    if origin is tuple:
        return "whole numbers joined by ,"
    return {int: "a whole number", float: "a number"}.get(hint, getattr(hint, "__name__", hint))
