"""N-grams (Shannon 1948): the next word from how often it came behind the last few, with counts smoothed.

What is learned is counted, by `step.kind="counting"`: `estimated` makes tables of counts, the model looks into them.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.core import ngrams, smoothing
from jaxlm.core.ngrams import Counts
from jaxlm.core.outputs import TableOutput
from jaxlm.core.types import Array, PyTree
from jaxlm.layers import history

SMOOTHINGS = ("modified_kneser_ney", "kneser_ney", "witten_bell", "add_k", "stupid_backoff")
LOGITS_AT_ONCE = 1 << 22
"""Scores of a whole vocabulary that exist at the same time; each takes a search in every order."""


@dataclasses.dataclass(frozen=True)
class NGramConfig:
    """Which n-grams, and what is made of their counts.

    Attributes:
      order: words of the longest, the one that is predicted included.
      smoothing: core/smoothing.py says what each is. Scores of "stupid_backoff" are no probabilities.
      add: of add_k, what every count is raised by.
      discount: of kneser_ney, for all counts alike; 0: from counts of counts.
      backoff: of stupid_backoff, the factor for each word that a context is shortened by.
      least_counts: for orders 2, 3, ... the fewest times that an n-gram was seen, the last one for all above; (): all are kept.
      separator: the token between texts, which n-grams begin or end with but do not reach across; -1: the tokenizer's.
    """

    vocab_size: int = 0
    order: int = 5
    smoothing: str = "modified_kneser_ney"
    add: float = 0.1
    discount: float = 0.0
    backoff: float = 0.4
    least_counts: tuple[int, ...] = ()
    separator: int = -1

    def __post_init__(self):
        for name, wrong, accepted in (
            ("order", not 1 <= self.order <= 6, "from 1 to 6"),
            ("smoothing", self.smoothing not in SMOOTHINGS, f"one of {', '.join(SMOOTHINGS)}"),
            ("add", not 0 < self.add < np.inf, "above 0"),
            ("discount", not 0 <= self.discount < 1, "0 (from the data) or more, below 1"),
            ("backoff", not 0 < self.backoff <= 1, "above 0, at most 1"),
            ("least_counts", any(one < 1 for one in self.least_counts), "numbers of at least 1"),
        ):
            if wrong:
                raise ValueError(f"model.{name}={getattr(self, name)!r} must be {accepted}")
        if self.least_counts and self.smoothing in ("add_k", "stupid_backoff"):
            raise ValueError(
                f'model.least_counts leaves nothing to shorter contexts with model.smoothing="{self.smoothing}": '
                "it needs one that interpolates"
            )

    @property
    def gives_probabilities(self) -> bool:
        """Whether scores sum to one."""
        return self.smoothing != "stupid_backoff"


@dataclasses.dataclass(frozen=True)
class Lookup:
    """Log-probabilities from tables."""

    config: NGramConfig

    def of_all(self, tables: PyTree, contexts: Array) -> Array:
        """Of every word behind contexts int32 [..., order - 1]: float32 [..., V]."""
        words = jnp.arange(self.config.vocab_size, dtype=jnp.int32)
        words = jnp.broadcast_to(words, (*contexts.shape[:-1], len(words)))
        return self.of_one(tables, contexts[..., None, :], words)

    def of_one(self, tables: PyTree, contexts: Array, words: Array) -> Array:
        """Of one word behind each context [..., order - 1], float32 of the shape of words, which broadcasts with [...]."""
        cfg = self.config
        value = tables[ngrams.name(1)]["mass"][words]
        for length in range(1, cfg.order):
            level = tables[ngrams.name(length + 1)]
            context = self._node(tables, contexts[..., cfg.order - 1 - length :])
            found = ngrams.child(level, context, words, cfg.vocab_size)
            if not level["mass"].shape[0]:
                mass = jnp.zeros(found.shape)
            else:
                mass = jnp.where(found >= 0, level["mass"][jnp.maximum(found, 0)], 0.0)
            if not cfg.gives_probabilities:
                shorter = jnp.where(
                    contexts[..., cfg.order - 1 - length] >= 0, cfg.backoff * value, value
                )
                value = jnp.where(mass > 0, mass, shorter)
                continue
            rest = jnp.ones(context.shape)
            if level["rest"].shape[0]:
                rest = jnp.where(context >= 0, level["rest"][jnp.maximum(context, 0)], 1.0)
            value = mass + rest * value
        return jnp.log(value)

    def _node(self, tables: PyTree, context: Array) -> Array:
        """The node of a context [..., L], int32 [...]; -1: never seen, or shorter."""
        node = context[..., 0]
        for place in range(1, context.shape[-1]):
            level = tables[ngrams.name(place + 1)]
            word = context[..., place]
            node = jnp.where(word >= 0, ngrams.child(level, node, word, self.config.vocab_size), -1)
        return node


class NGram(nn.Module):
    """tokens int32 [B, T] -> TableOutput, whose states are contexts: the last order - 1 words, -1 where there is none.

    A context that is shorter, at the beginning of a window, is taken as it is.
    """

    Config = NGramConfig
    inputs: ClassVar[tuple[str, ...]] = ("tokens",)
    optional_inputs: ClassVar[tuple[str, ...]] = ("segment_ids", "continues")
    direction: ClassVar[str] = "causal"
    flops_formula: ClassVar[str] = "counting and looking up are no arithmetic"
    config: NGramConfig

    @nn.compact
    def __call__(
        self,
        tokens: Array,
        segment_ids: Array | None = None,
        continues: Array | None = None,
        *,
        carry: Array | None = None,
        lengths: Array | None = None,
        train: bool = False,
    ) -> TableOutput | tuple[TableOutput, Array]:
        """Score every position.

        Args:
          tokens: int32 [B, T].
          segment_ids: int32 [B, T]; a context ends where its segment does.
          continues: float [B], with carry; 0: what it holds is not this row's.
          carry: int32 [B, order - 1], the words before, -1 where there is none.
          lengths: int32 [B], with carry; the rest of a row is filling.
          train: changes nothing.

        Returns:
          The output; with carry, also the new one.
        """
        width = self.config.order - 1
        batch, length = tokens.shape
        before = jnp.full((batch, width), -1, jnp.int32) if carry is None else carry
        if continues is not None:
            before = jnp.where(continues[:, None] > 0, before, -1)
        words = jnp.concatenate([before, tokens.astype(jnp.int32)], axis=1)
        places = jnp.arange(length)[:, None] + 1 + jnp.arange(width)[None]
        contexts = words[:, places]  # [B, T, order - 1], the token read last at its end
        if segment_ids is not None:  # the first one goes on from what was carried
            of_segment = jnp.pad(segment_ids, ((0, 0), (width, 0)), mode="edge")[:, places]
            contexts = jnp.where(of_segment == segment_ids[..., None], contexts, -1)
        contexts = _cut(contexts, self.config.separator)
        tables = {
            name: jax.tree.map(jnp.asarray, self._table(name, value))
            for name, value in self.untrained().items()
        }
        size = self.config.vocab_size
        chunk = max(1, LOGITS_AT_ONCE // size) if batch * length * size > LOGITS_AT_ONCE else 0
        look = Lookup(self.config)
        output = TableOutput(contexts, tables, {}, size, look.of_all, look.of_one, chunk)
        if carry is None:
            return output
        real_BT = history.marks(length, segment_ids, lengths).real_BT
        ends = jnp.full((batch,), length) if real_BT is None else jnp.sum(real_BT, axis=1)
        states = jnp.concatenate([before[:, None], contexts], axis=1)
        return output, jnp.take_along_axis(states, ends[:, None, None], axis=1)[:, 0]

    def _table(self, name: str, value: PyTree) -> PyTree:
        """A variable whose length is that of what was counted: `param` would hold it to its first one."""
        if not self.has_variable("params", name):
            self.put_variable("params", name, value)
        return self.get_variable("params", name)

    def untrained(self) -> PyTree:
        """Tables that nothing was counted for: every word is as likely as any other."""
        return jax.tree.map(jnp.asarray, self.estimated(self.counted(None))[0])

    def init_cache(self, params: PyTree, batch_size: int, max_len: int) -> Array:
        """Contexts of nothing; `max_len` plays no part."""
        return jnp.full((batch_size, self.config.order - 1), -1, jnp.int32)

    def extend(
        self, params: PyTree, cache: Array, tokens_BT: Array, lengths_B: Array
    ) -> tuple[TableOutput, Array]:
        """Score the next tokens of each row after what the cache holds; as of any family."""
        return self.apply({"params": params}, tokens_BT, carry=cache, lengths=lengths_B)

    def counted(self, counts: Counts | None, ids: Any = (), weights: Any = ()) -> Counts:
        """`counts`, None being nothing, and the n-grams that end at the weighed places of ids [M]."""
        cfg = self.config
        if counts is None:
            counts = ngrams.empty(cfg.order, cfg.vocab_size)
        if not len(ids):
            return counts
        new = ngrams.count(ids, weights, cfg.order, cfg.vocab_size, cfg.separator)
        return ngrams.merge(counts, new) if counts[ngrams.name(1)]["counts"].any() else new

    def estimated(self, counts: Counts) -> tuple[PyTree, dict[str, float]]:
        """The tables that counts make, and what the log shows: n-grams kept, and orders whose discounts were the fallback's."""
        cfg, shown = self.config, {}
        if cfg.smoothing.endswith("kneser_ney"):
            modified = cfg.smoothing.startswith("modified")
            shares, fell_back = smoothing.kneser_ney(counts, cfg.separator, modified, cfg.discount)
            shown["orders_with_fallback_discounts"] = float(len(fell_back))
        elif cfg.smoothing == "witten_bell":
            shares = smoothing.witten_bell(counts)
        elif cfg.smoothing == "add_k":
            shares = smoothing.add_k(counts, cfg.add)
        else:
            shares = smoothing.stupid_backoff(counts)
        if cfg.least_counts:
            counts, shares = smoothing.prune(counts, shares, cfg.least_counts)
        mass, rest = shares[0]
        # Words never seen have their part of the rest; scores that are no shares have none.
        uniform = rest[0] / cfg.vocab_size if cfg.gives_probabilities else 0.0
        tables = {ngrams.name(1): {"mass": (mass + uniform).astype(np.float32)}}
        for order, (mass, rest) in enumerate(shares[1:], 2):
            level = counts[ngrams.name(order)]
            tables[ngrams.name(order)] = {
                "words": level["words"],
                "first": level["first"],
                "mass": mass.astype(np.float32),
                "rest": rest.astype(np.float32) if len(mass) else np.zeros(0, np.float32),
            }
        seen = np.asarray(counts[ngrams.name(1)]["counts"]) > 0
        shown["ngrams"] = float(seen.sum() + sum(len(mass) for mass, _ in shares[1:]))
        return tables, shown

    def flops_per_token(self, params: PyTree, seq_len: int) -> float:
        """See `flops_formula`."""
        return 0.0

    def activation_bytes(self, num_tokens: int) -> float:
        """About what looking up the targets of so many positions needs, bytes."""
        return 64.0 * num_tokens


def _cut(contexts: Array, separator: int) -> Array:
    """Contexts [..., K] without what stands before the last separator in them."""
    if separator < 0 or not contexts.shape[-1]:
        return contexts
    ends = contexts == separator
    later = jnp.cumsum(ends[..., ::-1], axis=-1)[..., ::-1] - ends  # separators behind each word
    return jnp.where(later > 0, -1, contexts)
