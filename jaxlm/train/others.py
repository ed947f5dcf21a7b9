"""Models that an objective reads besides the one that trains: teachers, references, reward models. None of them learns.

An objective names them in `others`, which are fields of its config that hold a path, and those whose path may be empty in
`own`: the run's own model as it began; one of `optional` whose path is empty is not there. Modules are given to the objective by these names,
weights come as `ctx.frozen[name]`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from jaxlm import config as configs
from jaxlm.core import partition
from jaxlm.core.types import PyTree, Task
from jaxlm.data import tokenizers
from jaxlm.train import origin
from jaxlm.train.steps.gradient import fresh

OWN_FIELDS = ("head", "num_labels", "pooler", "value_head")
"""Of a folder in another layout, which does not say what its heads are for: as in the model that trains."""


class Other(NamedTuple):
    """A model that does not learn."""

    name: str
    path: str  # "": the run's own model as it began
    model: Any
    config: Any  # of the model
    source: Any  # origin.Foreign or origin.Run; None: the run's own

    def shapes(self, batch: dict[str, Any]) -> PyTree:
        """Its parameters' shapes, in boxes that name their axes."""
        return jax.eval_shape(lambda: fresh(self.model, jax.random.key(0), batch))

    def weights(self, abstract: PyTree) -> PyTree:
        """Read from the source.

        Raises:
          ValueError: it lacks some.
        """
        found, matched = self.source.weights(self.config, abstract)
        if matched.fresh:
            raise ValueError(
                f"objective.{self.name}={self.path} has no {', '.join(matched.fresh)}: it was not trained for this"
            )
        return partition.nest({path: found[path] for path in partition.flatten(abstract)})


def open_all(cfg: ConfigDict, model: Any) -> list[Other]:
    """What the objective of a config asks for.

    Raises:
      ValueError: a path that is empty or leads to no model.
    """
    kind = configs.implementation(cfg, "objective")
    optional = getattr(kind, "optional", ())
    return [
        _open(cfg, name, model, name in getattr(kind, "own", ()))
        for name in getattr(kind, "others", ())
        if cfg.objective[name] or name not in optional
    ]


def _open(cfg: ConfigDict, name: str, model: Any, may_be_own: bool) -> Other:
    path = cfg.objective[name]
    if not path:
        if may_be_own:
            return Other(name, "", model, None, None)
        raise ValueError(
            f"objective.{name} names no model: give a run's folder, or a Hugging Face one"
        )
    try:
        source = origin.open_source(path, f"objective.{name}")
    except ValueError as error:
        raise ValueError(f"objective.{name}: {error}") from error
    section = configs.section("model", source.kind, **source.fields)
    if isinstance(source, origin.Foreign):
        section.update(
            {key: cfg.model[key] for key in OWN_FIELDS if key in cfg.model and key in section}
        )
    section.dtype = cfg.model.dtype
    whole = ConfigDict({"model": section})
    config = configs.build(whole, "model")
    other = Other(name, path, configs.implementation(whole, "model")(config), config, source)
    ways = [getattr(one, "direction", "causal") for one in (other.model, model)]
    if len(set(ways)) > 1:
        raise ValueError(
            f"objective.{name}={path} is a {type(other.model).__name__}, which is {ways[0]}, and the model is {ways[1]}: "
            "what they say of a text can't be compared"
        )
    return other


def check_vocabularies(others: list[Other], task: Task) -> None:
    """Ids, and classes, mean the same to every model of a run.

    Raises:
      ValueError: another tokenizer, or other classes; both are named.
    """
    ours = task.info.tokenizer
    for other in others:
        if other.source is None or ours is None:
            continue
        folder = other.source.tokenizer_folder()
        theirs = None if folder is None else tokenizers.load(folder)
        if theirs is None or theirs.digest != ours.digest:
            said = "no tokenizer" if theirs is None else f"{theirs.name}, {theirs.vocab_size} ids"
            raise ValueError(
                f"objective.{other.name}={other.path} has another vocabulary ({said}) than this run's data "
                f"({ours.name}, {ours.vocab_size} ids): their probabilities can't be compared"
            )
        _check_labels(other, task.info.labels)


def _check_labels(other: Other, ours: tuple[str, ...]) -> None:
    """Raises ValueError for other classes. A foreign model may have other words for them, but not ours in another order."""
    theirs = other.source.labels()
    differing = sorted({*theirs} ^ {*ours})
    if not theirs or not ours or theirs == ours:
        return
    if differing and isinstance(other.source, origin.Foreign):
        return
    raise ValueError(
        f"objective.{other.name}={other.path} was trained with {len(theirs)} other classes than this run's "
        f"{len(ours)} ({differing or 'the same in another order'}): is its data the same?"
    )


def modules(others: list[Other]) -> dict[str, Any]:
    """Name -> module, as an objective is given them."""
    return {other.name: other.model for other in others}


def shapes(
    others: list[Other], batch: dict[str, Any], trained: PyTree, tuning: Any
) -> dict[str, PyTree]:
    """What stands in `frozen` for each, as boxed shapes; of the run's own model, what would change."""
    return {
        other.name: tuning.first(trained) if other.source is None else other.shapes(batch)
        for other in others
    }
