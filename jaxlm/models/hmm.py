"""Hidden Markov language models: a state that nobody sees moves on by chance, and each state says its words by chance.

Rabiner, A Tutorial on Hidden Markov Models, 1989, DOI 10.1109/5.18626; Baum et al. 1970, DOI 10.1214/aoms/1177697196 for learning
by expected counts (`step.kind="em"`), Chiu and Rush 2020, arXiv:2011.04640, for tables made by a network. Any of them is learned
by gradient too. The recursions are in core/markov.py.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from jaxlm.core import markov, markov_blocks
from jaxlm.core.markov import Chain
from jaxlm.core.outputs import FULL_LOGITS_BYTES, TableOutput
from jaxlm.core.types import Array, PyTree, Sums
from jaxlm.layers.state_network import StateNetwork
from jaxlm.models import hmm_counts
from jaxlm.models.hmm_tables import (
    Emission,
    log_of_each,
    log_prob,
    log_probs,
    observed_rows,
    probabilities,
)

PARAMETERS = ("table", "neural")


@dataclasses.dataclass(frozen=True)
class HMMConfig:
    """A hidden Markov model.

    Attributes:
      num_states: C; a step costs C^2, and a word C V.
      parameters: "table": logits, learned by EM or by gradient; "neural": a network's, by gradient alone.
      init_std: of a table's first logits, normal noise: states that were alike would stay alike, and EM with them.
      d_model: neural: width of the embeddings.
      num_layers: neural: residual layers of each MLP.
      scan: how the recursions go through a row: "sequential", "parallel" (blocks of positions at once, core/markov_blocks.py;
        for EM and scoring) or "auto". A gradient is always of the sequential form.
    """

    vocab_size: int = 0
    num_states: int = 64
    parameters: str = "table"
    init_std: float = 1.0
    d_model: int = 256
    num_layers: int = 2
    scan: str = "auto"

    def __post_init__(self):
        for name, wrong, accepted in (
            ("num_states", self.num_states < 1, "at least 1"),
            ("parameters", self.parameters not in PARAMETERS, f"one of {', '.join(PARAMETERS)}"),
            (
                "init_std",
                not 0 < self.init_std < math.inf,
                "above 0: states that begin alike stay alike",
            ),
            ("d_model", self.d_model < 1, "at least 1"),
            ("num_layers", self.num_layers < 0, "0 or more"),
            (
                "scan",
                self.scan not in markov_blocks.SCANS,
                f"one of {', '.join(markov_blocks.SCANS)}",
            ),
        ):
            if wrong:
                raise ValueError(f"model.{name}={getattr(self, name)!r} must be {accepted}")


@flax.struct.dataclass
class Cache:
    """What is believed after a row's last token, and whether there is one."""

    belief_BC: Array
    read_B: Array  # bool


class HMM(nn.Module):
    """tokens int32 [B, T] -> TableOutput, whose `hidden` is p(next state | tokens so far)."""

    Config = HMMConfig
    inputs: ClassVar[tuple[str, ...]] = ("tokens",)
    optional_inputs: ClassVar[tuple[str, ...]] = ("segment_ids", "continues")
    direction: ClassVar[str] = "causal"
    flops_formula: ClassVar[str] = "6 C (C + V)"
    config: HMMConfig

    def setup(self):
        cfg = self.config
        if cfg.parameters == "neural":
            self.network = StateNetwork(cfg.num_states, cfg.vocab_size, cfg.d_model, cfg.num_layers)
            return
        noise = nn.initializers.normal(cfg.init_std)
        self.initial = self.param("initial", noise, (cfg.num_states,))
        self.transition = self.param("transition", noise, (cfg.num_states, cfg.num_states))
        self.emission = self.param("emission", noise, (cfg.num_states, cfg.vocab_size))

    def log_tables(self) -> tuple[Array, Array, Array]:
        """Log-probabilities [C], [C, S], [C, V]."""
        if self.config.parameters == "neural":
            tables = self.network()
        else:
            tables = self.initial, self.transition, self.emission
        return tuple(jax.nn.log_softmax(table, axis=-1) for table in tables)

    def __call__(
        self,
        tokens: Array,
        segment_ids: Array | None = None,
        continues: Array | None = None,
        *,
        carry: Cache | None = None,
        lengths: Array | None = None,
        train: bool = False,
    ) -> TableOutput | tuple[TableOutput, Cache]:
        """Score every position's next token.

        Args:
          tokens: int32 [B, T].
          segment_ids: int32 [B, T]; the belief begins anew where the segment changes. 0 is filling.
          continues: float [B], with `carry`: 0 where a row begins anew.
          carry: what is believed of the rows before, from `init_cache` or an earlier call.
          lengths: int32 [B]; the rest of a row is filling.
          train: nothing is drawn; by gradient the recursion is the sequential one.

        Returns:
          The output; with `carry`, also the new one.

        Raises:
          ValueError: `continues` without `carry`; or model.scan="parallel" in training by gradient.
        """
        if continues is not None and carry is None:
            raise ValueError("continues says which rows go on, and needs carry, where they do")
        if train and self.config.scan == "parallel":
            raise ValueError(
                'model.scan="parallel" is for EM and scoring: its gradient would hold a matrix of states for each '
                'position. Take "auto" or "sequential"'
            )
        batch_size, length = tokens.shape
        chain, emission = probabilities(*self.log_tables())
        read_B = jnp.zeros(batch_size, bool) if carry is None else carry.read_B
        if continues is not None:
            read_B = read_B & (continues > 0)
        observed = observed_rows(emission, tokens, segment_ids, lengths, read_B)
        before_BC = jnp.full((batch_size, self.config.num_states), 1.0 / self.config.num_states)
        if carry is not None:
            before_BC = jnp.where(read_B[:, None], carry.belief_BC, before_BC)
        scan = "sequential" if train else self.scan_choice(length)[0]
        belief_BTC, _ = markov_blocks.filtered(chain, observed, before_BC, scan)
        hidden_BTC = markov.dot(belief_BTC, chain.transition_CS)
        output = TableOutput(hidden_BTC, emission, {}, self.config.vocab_size, log_probs, log_prob)
        if carry is None:
            return output
        return output, Cache(belief_BTC[:, -1], read_B | jnp.any(observed.seen_BT, axis=1))

    def scan_choice(self, length: int) -> tuple[str, str]:
        """The form of the recursions for rows of `length`, and why; a gradient is always of the sequential one."""
        return markov_blocks.choose(self.config.scan, self.config.num_states, length)

    def init_cache(self, params: PyTree, batch_size: int, max_len: int) -> Cache:
        """Rows of which nothing has been read; as large for one token as for a million."""
        del params, max_len
        belief_BC = jnp.full((batch_size, self.config.num_states), 1.0 / self.config.num_states)
        return Cache(belief_BC, jnp.zeros(batch_size, bool))

    def extend(
        self, params: PyTree, cache: Cache, tokens_BT: Array, lengths_B: Array
    ) -> tuple[TableOutput, Cache]:
        """Score the next tokens of each row after what the cache holds.

        Args:
          tokens_BT: int32; row b's first lengths_B[b] count, the rest is filling.
          lengths_B: int32, how many tokens of each row are real.
        """
        return self.apply({"params": params}, tokens_BT, carry=cache, lengths=lengths_B)

    def viterbi(
        self,
        params: PyTree,
        tokens: Array,
        segment_ids: Array | None = None,
        lengths: Array | None = None,
    ) -> tuple[Array, Array]:
        """The most likely states of each row and how likely they are together with its tokens.

        Args:
          tokens: int32 [B, T].
          segment_ids, lengths: as of a call.

        Returns:
          int32 [B, T], -1 for filling; log p(states, tokens), nats, float32 [B].
        """
        chain, emission = self._probabilities(params)
        read_B = jnp.zeros(len(tokens), bool)
        observed = observed_rows(emission, tokens, segment_ids, lengths, read_B)
        path_BT, log_p_B = markov_blocks.best_path(
            chain, observed, self.scan_choice(tokens.shape[1])[0]
        )
        scale_BT = jnp.where(observed.seen_BT, emission.log_scale_V[tokens], 0.0)
        return path_BT, log_p_B + jnp.sum(scale_BT, axis=-1)

    def posteriors(
        self,
        params: PyTree,
        tokens: Array,
        segment_ids: Array | None = None,
        lengths: Array | None = None,
    ) -> tuple[Array, Array]:
        """p(state | all tokens of its segment), float32 [B, T, C], 0 for filling; log p(tokens), nats, [B]."""
        chain, emission = self._probabilities(params)
        read_B = jnp.zeros(len(tokens), bool)
        observed = observed_rows(emission, tokens, segment_ids, lengths, read_B)
        beliefs, counts = markov_blocks.expected(
            chain, observed, self.scan_choice(tokens.shape[1])[0]
        )
        log_p_BT = log_of_each(emission, beliefs, observed, tokens)
        return counts.posterior_BTC, jnp.sum(log_p_BT, axis=-1)

    def _probabilities(self, params: PyTree) -> tuple[Chain, Emission]:
        return probabilities(*self.apply({"params": params}, method="log_tables"))

    def require_counts(self) -> None:
        """Raises ValueError where the parameters are not what expected counts say."""
        if self.config.parameters != "table":
            raise ValueError(
                f'step.kind="em" writes the tables of model.parameters="table"; those of '
                f'"{self.config.parameters}" are a network\'s: step.kind="gradient"'
            )

    def expected_counts(self, params: PyTree, batch: Any) -> tuple[dict[str, Array], Sums]:
        """EM's expectations for a batch (Rabiner 1989, section III.C).

        Args:
          batch: tokens, targets int32 [B, T]; weights float32 [B, T]; maybe segment_ids. What of it counts:
            hmm_counts.py.

        Returns:
          Expected numbers under `params` of initial [C], transition [C, S] and emission [C, V], log_likelihood and
          num_observations [], all of which add up over batches; and the targets' loss, as objectives/causal_lm.py has it.
        """
        length = batch["tokens"].shape[1]
        return hmm_counts.expected(*self._probabilities(params), batch, self.scan_choice(length)[0])

    def maximized(self, params: PyTree, counts: dict[str, Array], smoothing: float) -> PyTree:
        """The parameters that expected counts, each raised by `smoothing`, are likeliest under; logarithms.

        A state that was never left, or never was, keeps what it had where nothing raises the counts.
        """
        return {
            name: hmm_counts.normalised(logits, counts[name], smoothing)
            for name, logits in params.items()
        }

    def log_prior(self, params: PyTree, smoothing: float) -> Array:
        """What `smoothing` adds to the log-likelihood that EM climbs: log of a Dirichlet's density, but for its constant."""
        tables = self.apply({"params": params}, method="log_tables")
        return smoothing * sum(jnp.sum(table) for table in tables)

    def flops_per_token(self, params: PyTree, seq_len: int) -> float:
        """Of a step by gradient: three times 2 C^2 of the recursion and 2 C V of the words' probabilities.

        A network's part is done once a batch and left out, as is its gradient.
        """
        del params, seq_len
        return 6.0 * self.config.num_states * (self.config.num_states + self.config.vocab_size)

    def counting_flops_per_token(self, params: PyTree, seq_len: int) -> tuple[float, str]:
        """Of EM, and the formula: forward, backward and transitions, 2 C^2 each."""
        del params, seq_len
        return 6.0 * self.config.num_states**2, "6 C^2 of EM"

    def activation_bytes(self, num_tokens: int) -> float:
        """About what one micro-batch needs for its backward pass, bytes."""
        cfg = self.config
        fits = 4 * num_tokens * cfg.vocab_size <= FULL_LOGITS_BYTES
        scored = num_tokens if fits else min(num_tokens, 8192)
        return 4.0 * (10 * cfg.num_states * num_tokens + 3 * cfg.vocab_size * scored)
