"""The contracts between models, objectives, data, steps and the loop; no behaviour lives here.

Shapes use one letter per axis: B batch, T position, V vocabulary (docs/architecture.md, section 4).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import flax.struct
import jax
import numpy as np

Array = jax.Array
PyTree = Any
Batch = Mapping[str, Any]
"""Host or device arrays by name; every value's first axis is the batch."""


@flax.struct.dataclass
class TrainState:
    """Everything that must be checkpointed: arrays only, no functions."""

    step: Array  # int32 []; batches consumed, a skipped bad one included
    params: PyTree  # what trains, and nothing else
    frozen: PyTree  # {"base": untrained part, "teacher": ...}; never updated
    vars: PyTree  # carried state: running statistics, counts; "rows": what belongs to a row of the batch (recurrent carry)
    opt_state: PyTree
    ema: PyTree  # {} when off
    key: Array  # uint32 [2], data of the root key, never overwritten: a step's key is fold_in(root, step)


@flax.struct.dataclass
class Sums:
    """A running mean kept as a total and a weight: merged by adding, divided once, when written."""

    total: Array  # float32 []
    weight: Array  # float32 []


@flax.struct.dataclass
class LossContext:
    """What an objective may read besides the parameters and the batch."""

    frozen: PyTree
    vars: PyTree
    step: Array
    key: Array
    train: bool = flax.struct.field(pytree_node=False, default=True)


@flax.struct.dataclass
class LossOut:
    """Sums, never means: the step divides by weights of the whole global batch."""

    sums: dict[str, Array]  # term name -> float32 [] sum over this batch
    report: dict[str, Sums]  # what the log shows
    vars: PyTree


@runtime_checkable
class ModelOutput(Protocol):
    """What a language model returns, whether neural (hidden states) or a table of probabilities."""

    aux: dict[str, Array]

    def token_nll(self, targets_BT: Array) -> Array:
        """Negative log-likelihood of each target, nats, float32 [B, T]."""

    def logits(self, positions: Array | None = None) -> Array:
        """Float32 logits over the true vocabulary, [B, T, V] or, for positions [B], [B, V]."""


class Objective(Protocol):
    """A pure loss, built by a function from a model and a config."""

    terms: Mapping[str, float]  # coefficient of each term
    batch_keys: tuple[str, ...]  # the batch entries it consumes itself
    coupled: bool  # rows of a batch depend on each other

    def weights(self, batch: Batch) -> dict[str, Array]:
        """How much each term weighs, float32 [], from the batch alone."""

    def __call__(self, params: PyTree, ctx: LossContext, batch: Batch) -> LossOut: ...


class Tokenizer(Protocol):
    """Text to ids and back; numpy only."""

    name: str
    vocab_size: int
    eos_id: int | None  # also the separator between documents
    digest: str  # sha256 over everything that changes an encoding
    chat_template: Any  # optional: a data.chat_templates.ChatTemplate; None: it has none

    def encode(self, text: str) -> np.ndarray:
        """Ids, int32 [N], without special tokens."""

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """`encode` of each text."""

    def decode(self, ids: Iterable[int]) -> str:
        """The text; ids that are no valid UTF-8 together decode with U+FFFD."""

    def token_bytes(self) -> np.ndarray:
        """UTF-8 bytes that each id stands for, int32 [V]; special tokens count 0."""

    def special_ids(self) -> dict[str, int]:
        """Name -> id of the tokens that no text is encoded to, <unk> included."""

    def pieces(self) -> list[str]:
        """What each id reads as, with the space before a word; special tokens read as nothing."""

    def spellings(self, begins: bool) -> Sequence[bytes]:
        """The bytes that each id adds to a text, [V]; special tokens add none.

        Args:
          begins: as the text's first token, which has no space before it in some vocabularies.
        """

    def save(self, directory: Any) -> None:
        """Write what `tokenizers.load(directory)` needs to give it back."""


@dataclasses.dataclass(frozen=True)
class SplitInfo:
    """What one split holds, counted once when it was tokenised."""

    num_examples: int
    num_tokens: int
    num_bytes: int  # UTF-8 bytes of the raw text


@dataclasses.dataclass(frozen=True)
class TaskInfo:
    """Facts that only the data knows; `config.resolve` and the evaluators read them."""

    vocab_size: int
    splits: Mapping[str, SplitInfo]
    tokenizer: Tokenizer | None = None
    labels: tuple[str, ...] = ()  # class names, in id order
    digest: str = ""  # of the data as tokenised: a resume with other data is refused
    num_outputs: int = (
        0  # of a head that scores neither tokens nor `labels`: a span's two ends, one number
    )
    scale: tuple[float, float] = (
        0.0,
        1.0,
    )  # mean and deviation that numbers to predict were standardised with
    whole_texts: bool = False  # a row is one text from its beginning; else a window of a stream
    row_tokens: float = 0.0  # of the text, by training row; 0: as many as it has positions
    parts: Mapping[str, TaskInfo] = dataclasses.field(default_factory=dict)
    """Of a mixture, by the names of its tasks in the order of their numbers; `labels` are all of theirs."""


class Task(Protocol):
    """A dataset, as batches that are a pure function of (seed, step).

    One whose texts are answers may have `ask(text)`: the tokens that a model is given to answer a text, for samples.
    """

    info: TaskInfo

    def train(self, seed: int) -> Any:
        """An endless, shuffled grain.MapDataset of examples (dicts of numpy arrays, no batch axis)."""

    def eval(self, split: str, batch_size: int) -> Iterable[dict[str, np.ndarray]]:
        """Every example of a split once, in order; the last batch is filled with weight-0 rows.

        Each batch also has `id`, int64 [B], -1 in filling rows.
        """

    def show(self, batch: Batch, num_examples: int, predictions: Any = None) -> str:
        """A batch as a person reads it: token pieces, targets, what is masked.

        `predictions`, int [B, T] like the targets, are what a model answers at each of them; given for models that
        can't write on (without `extend`).
        """


class Step(NamedTuple):
    """How learning happens; the loop knows nothing else of it."""

    init: Callable[[Array, Batch], TrainState]
    fn: Callable[[TrainState, Batch], tuple[TrainState, dict[str, Any]]]
    compiled: bool
