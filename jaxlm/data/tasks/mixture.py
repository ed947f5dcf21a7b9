"""Several tasks at once: their examples mixed in training, evaluated one task after the other.

Each is a data section of its own. Two forms: tasks of classes (labelled, tagged), for one encoder with a head for all
of their labels, and tasks of texts (pairs, ...), which say in their texts what is asked for.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from jaxlm import registry
from jaxlm.core.types import Batch, SplitInfo, Task, TaskInfo
from jaxlm.data import cache
from jaxlm.data.tasks import TASKS, batches

SHARED = ("tokenizer", "seq_len")
"""Keys of a task's section that the mixture's own stand for."""
PATHS = {"path", "val_path", "test_path"}
CLASSIFIED = {"tokens", "segment_ids", "token_types", "targets", "weights"}
"""What an example of classes may hold."""


@dataclasses.dataclass(frozen=True)
class MixtureConfig:
    """The tasks, and how often each one's examples come.

    Attributes:
      tasks: name -> a data section, config.section("data", "tagged", ...), with data's tokenizer and
        seq_len for its own.
      folder: where paths of the tasks begin that are neither absolute nor of a scheme (bundled:NAME);
        "": the current folder.
      weights: name -> its share, of all or of none; {}: in proportion to the training examples.
      limit: a task with more examples than this counts as one with so many (T5's examples-proportional
        mixing); 0: none. For shares that go by examples.
      temperature: shares are raised to 1 / temperature: 1 as they are, large all alike.
      final_weights: the weights that are reached, in a straight line, after schedule_examples.
      schedule_examples: how many training examples (steps times batch_size) that takes.
      tokenizer: as a section of text has it; not bpe:N or chars, which each task would make anew.
      seq_len: tokens of an example of classes; 0: the model's max_len, which the loop fills in.
    """

    tasks: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    folder: str = ""
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    limit: int = 0
    temperature: float = 1.0
    final_weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    schedule_examples: int = 0
    tokenizer: str = "bytes"
    seq_len: int = 0

    def __post_init__(self):
        if not self.tasks:
            raise ValueError('data.tasks is empty: name -> config.section("data", ...)')
        if wrong := [name for name in self.tasks if not name.replace("-", "_").isidentifier()]:
            raise ValueError(f"data.tasks.{wrong[0]}: letters, digits, - and _ make a task's name")
        for key in ("weights", "final_weights"):
            given = getattr(self, key)
            if given and (set(given) != set(self.tasks) or min(given.values()) < 0):
                raise ValueError(
                    f"data.{key} must have a number of 0 or more for each of {', '.join(self.tasks)}"
                )
            if given and not sum(given.values()) > 0:
                raise ValueError(f"data.{key} are all 0: no task has a share")
        if bool(self.final_weights) != (self.schedule_examples > 0):
            raise ValueError(
                f"data.schedule_examples={self.schedule_examples} and data.final_weights go together"
            )
        if not self.temperature > 0 or self.limit < 0:
            raise ValueError(
                f"data.temperature={self.temperature} must be above 0, and data.limit={self.limit} at least 0 (none)"
            )
        if self.limit and self.weights:
            raise ValueError("data.limit is of shares by examples, and data.weights says others")


class Part(NamedTuple):
    """One task of a mixture."""

    name: str
    number: int
    task: Task
    first_label: int  # of its own among all labels
    of_rows: bool  # one class a row, not one a word


class MixtureTask:
    """Examples of all tasks in one form, each with `task` int32 [], its task's number; see MixtureConfig.

    Of tasks of classes, labels are all tasks' labels as TASK/LABEL, and targets count in them; targets and weights are
    [T], with the class of a whole row at its first token, [CLS]; token_types stand in all rows or in none.
    """

    Config: ClassVar[type] = MixtureConfig

    def __init__(self, config: MixtureConfig):
        """Open every task.

        Raises:
          ValueError: a section that is wrong, or tasks that don't go together; it is named.
        """
        self.config = config
        tasks = {name: self._open(name, section) for name, section in config.tasks.items()}
        self._check_tokenizers(tasks)
        firsts = itertools.accumulate((len(t.info.labels) for t in tasks.values()), initial=0)
        examples = {name: task.train(0)[0] for name, task in tasks.items()}
        self.parts = [
            Part(name, number, task, first, examples[name]["targets"].shape == (1,))
            for number, ((name, task), first) in enumerate(zip(tasks.items(), firsts, strict=False))
        ]
        self.classes = any(task.info.labels for task in tasks.values())
        self._token_types = any("token_types" in example for example in examples.values())
        self._check_forms(examples)
        self.info = self._make_info()

    def _open(self, name: str, section: Mapping[str, Any]) -> Task:
        where = f"data.tasks.{name}"
        values = dict(section)
        kind = registry.lookup(TASKS, values.pop("kind", ""), where)
        if kind is MixtureTask:
            raise ValueError(
                f'{where}.kind="mixture": a mixture of mixtures is one of all their tasks'
            )
        fields = {field.name: field for field in dataclasses.fields(kind.Config)}
        for key in values.keys() - fields.keys():
            raise ValueError(f"{where}.{key} is no key of its kind{registry.nearest(key, fields)}")
        for key in fields.keys() & set(SHARED):
            if values.get(key, fields[key].default) != fields[key].default:
                raise ValueError(f"{where}.{key}={values[key]}: all tasks have one, data.{key}")
            values[key] = getattr(self.config, key)
        for key in PATHS & values.keys():
            if values[key] and ":" not in values[key]:
                values[key] = str(Path(self.config.folder) / values[key])
        try:
            return kind(kind.Config(**values))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error

    def _check_tokenizers(self, tasks: Mapping[str, Task]) -> None:
        """One vocabulary for all."""
        digests = {name: task.info.tokenizer.digest for name, task in tasks.items()}
        if len(set(digests.values())) > 1:
            raise ValueError(
                f"data.tokenizer={self.config.tokenizer} makes other ids for each of {', '.join(tasks)}: name a "
                "tokenizer that exists already (init_from, gpt2, a file), and tasks that need the same special tokens"
            )

    def _check_forms(self, examples: Mapping[str, Batch]) -> None:
        """Rows of one shape."""
        for part in self.parts if self.classes else ():
            extra = sorted(set(examples[part.name]) - CLASSIFIED)
            if extra or not part.task.info.labels:
                raise ValueError(
                    f"data.tasks.{part.name} has {', '.join(extra) or 'no labels'}: beside tasks with labels only such can "
                    'stand whose rows or words have one each ("labelled", "tagged")'
                )
        forms = {}
        for part in self.parts:
            row = self._adapted(part, examples[part.name])
            forms[part.name] = {name: (v.shape, str(v.dtype)) for name, v in row.items()}
        (first, wanted), *others = forms.items()
        for name, form in others:
            if differing := [f"{k} {v}" for k, v in form.items() if wanted.get(k) != v]:
                raise ValueError(
                    f"data.tasks.{name} has other rows than data.tasks.{first}: {', '.join(differing)}; rows of all tasks "
                    "have one shape"
                )

    def _adapted(self, part: Part, rows: Batch) -> dict[str, Any]:
        """A task's example, or batch of them, in the mixture's form."""
        shape = rows["tokens"].shape[:-1]
        made = dict(rows) | {"task": np.full(shape, part.number, np.int32)}
        if not self.classes:
            return made
        weights, targets = rows["weights"], rows["targets"]
        if part.of_rows:
            room = [(0, 0)] * len(shape) + [(0, rows["tokens"].shape[-1] - 1)]
            weights, targets = np.pad(weights, room), np.pad(targets, room)
        targets = np.where(weights > 0, targets + part.first_label, 0).astype(np.int32)
        made |= {"targets": targets, "weights": weights}
        if self._token_types:
            made.setdefault("token_types", np.zeros_like(rows["tokens"]))
        return made

    def _make_info(self) -> TaskInfo:
        infos = {part.name: part.task.info for part in self.parts}
        splits = {}
        for split in ("train", "val", "test"):
            counted = [info.splits[split] for info in infos.values() if split in info.splits]
            if counted:
                columns = zip(*map(dataclasses.astuple, counted), strict=True)
                splits[split] = SplitInfo(*map(sum, columns))
        labels = [f"{name}/{label}" for name, info in infos.items() for label in info.labels]
        shares = [share.tolist() for share in self.shares()]
        made_of = [[name, info.digest] for name, info in infos.items()]
        first = self.parts[0].task.info
        return TaskInfo(
            first.vocab_size,
            splits,
            first.tokenizer,
            tuple(labels),
            cache.digest([made_of, shares, self.config.schedule_examples]),
            parts=infos,
        )

    def shares(self) -> tuple[np.ndarray, np.ndarray]:
        """Every task's share of the training examples, float64 [K]: at the beginning, and at the schedule's end."""
        from jaxlm.data.mixing import proportions

        config, limit = self.config, self.config.limit
        sizes = [part.task.info.splits["train"].num_examples for part in self.parts]
        rates = [config.weights[part.name] for part in self.parts] if config.weights else sizes
        if limit:
            rates = [min(rate, limit) for rate in rates]
        last = [config.final_weights[p.name] for p in self.parts] if config.final_weights else rates
        return proportions(rates, config.temperature), proportions(last, config.temperature)

    def train(self, seed: int) -> Any:
        """Endless examples: which task each is of, and which of that task's, is a function of (seed, its number)."""
        from jaxlm.data.mixing import Choices, Mixed, task_seed

        datasets = [
            part.task.train(task_seed(seed, part.number)).map(
                lambda example, part=part: self._adapted(part, example)
            )
            for part in self.parts
        ]
        return Mixed(datasets, Choices(*self.shares(), self.config.schedule_examples, (seed,)))

    def eval(self, split: str, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
        """Every example of a split once, one task after the other, each in batches of its own.

        Returns:
          As a task's own `eval`, in the mixture's form; `id` counts on from task to task.

        Raises:
          ValueError: no task has such a split.
        """
        if split not in self.info.splits:
            raise ValueError(f'no split "{split}"; accepted: {", ".join(self.info.splits)}')
        for part, first in self._numbered(split):
            for batch in part.task.eval(split, batch_size):
                ids = batch["id"]
                yield self._adapted(part, batch) | {"id": np.where(ids < 0, ids, ids + first)}

    def _numbered(self, split: str) -> Iterator[tuple[Part, int]]:
        """The tasks that have a split, and the number of each one's first example."""
        first = 0
        for part in self.parts:
            if split in part.task.info.splits:
                yield part, first
                first += part.task.info.splits[split].num_examples

    def example(self, split: str, example_id: int) -> tuple[str, str]:
        """What the task of the example that `eval` gave this id says of it."""
        found = [(part, first) for part, first in self._numbered(split) if first <= example_id]
        if not found:
            raise ValueError(f'split "{split}" has no example {example_id}')
        part, first = found[-1]
        return part.task.example(split, example_id - first)

    def show(self, batch: Batch, num_examples: int, predictions: np.ndarray | None = None) -> str:
        """The first rows of a batch as a person reads them: see batches.show."""
        return batches.show(batch, num_examples, predictions, self.show_example)

    def show_example(
        self, example: dict[str, np.ndarray], predicted: np.ndarray | None
    ) -> list[str]:
        """The name of an example's task, and what that shows of it."""
        part = self.parts[int(example["task"])]
        if self.classes:
            used = slice(0, 1) if part.of_rows else slice(None)
            weights = example["weights"][used]
            targets = np.where(weights > 0, example["targets"][used] - part.first_label, 0)
            example = example | {"targets": targets, "weights": weights}
            predicted = None if predicted is None else predicted[used] - part.first_label
        return [f"task     {part.name}", *part.task.show_example(example, predicted)]
