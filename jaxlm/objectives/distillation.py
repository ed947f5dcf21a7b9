"""Knowledge distillation: a model learns a frozen teacher's probabilities, and what its layers do, besides the targets.

Not from what the student itself writes (objectives/on_policy.py), nor from texts that the teacher wrote (data like any other).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxlm.core import metrics, numerics
from jaxlm.core.outputs import NeuralOutput, scored
from jaxlm.core.types import Array, Batch, LossContext, LossOut, PyTree
from jaxlm.objectives import token_nll
from jaxlm.objectives.token_nll import Report, Terms

LAYERS = ("hidden", "attention")
"""Terms that match layers."""
ENTRIES = {
    "hidden": (("states", "tokens"), ("encoder/states", "source"), ("decoder/states", "tokens")),
    "attention": (
        ("attention", "tokens"),
        ("encoder/attention", "source"),
        ("decoder/attention", "tokens"),
        ("decoder/cross_attention", "tokens"),
    ),
}
"""Term -> entries of an output's `aux` that it matches, those that there are, and the batch entry whose places they stand at."""
ASKED = {"hidden": "states", "attention": "attention"}
TAUGHT = "taught"
FLOOR = 1e-9
"""Smaller probabilities of attention count as this one."""


@dataclasses.dataclass(frozen=True)
class Config(token_nll.Config):
    """Coefficients of the terms; 0 leaves a term out. Label smoothing and z-loss are of the hard targets.

    Layers are counted from 0. A map has for each layer of the model, of an encoder-decoder the encoder's first, that of the
    teacher which it is to be like, or -1; (): evenly spread, 1, 3, 5 of six for three (TinyBERT's).
    """

    teacher: str = ""  # a run's folder, or one in the Hugging Face layout
    temperature: float = 2.0  # of both models' probabilities in the soft term
    soft_coef: float = 0.5
    hard_coef: float = 0.5
    hidden_coef: float = 0.0
    hidden_loss: str = "cosine"  # or "mse"
    hidden_layers: tuple[int, ...] = ()
    attention_coef: float = 0.0
    attention_loss: str = "kl"  # or "mse"
    attention_layers: tuple[int, ...] = ()

    def __post_init__(self):
        super().__post_init__()
        if not self.temperature > 0:
            raise ValueError(f"objective.temperature={self.temperature} must be above 0")
        coefs = {name: getattr(self, f"{name}_coef") for name in ("soft", "hard", *LAYERS)}
        for name, value in coefs.items():
            if value < 0:
                raise ValueError(f"objective.{name}_coef={value} must be 0 or more")
        if not any(coefs.values()):
            raise ValueError(
                "objective: all of soft_coef, hard_coef, ... are 0: nothing is learned"
            )
        for name in LAYERS:
            accepted = DISTANCES[name]
            if (value := getattr(self, f"{name}_loss")) not in accepted:
                raise ValueError(
                    f'objective.{name}_loss="{value}": accepted are {", ".join(accepted)}'
                )


class Distillation(token_nll.TokenNLL):
    """Terms: `nll`, of the targets; `soft`, T^2 KL(teacher || model) at temperature T at every weighed target (Hinton et al.
    2015, arXiv:1503.02531, section 2); `hidden` and `attention`, how far the states behind a layer and its attention's
    probabilities are from those of a teacher's layer, a mean over the mapped layers and all real tokens.

    hidden: 1 - cosine (DistilBERT, Sanh et al. 2019, arXiv:1910.01108, section 2, for its last layer), or the mean square
    (TinyBERT, Jiao et al. 2020, arXiv:1909.10351, equation 8; here without its projection, so both models have one width).
    attention: KL(teacher || model) over a query's keys (MiniLM, Wang et al. 2020, arXiv:2002.10957, equation 5), or the sum
    of squares (TinyBERT, equation 7, has scores before their softmax, whose size depends on filling); a mean over heads,
    which are averaged first where the models differ in their number. Embeddings are not matched.

    Batch: as the targets' own objective has it, whatever the model's head and direction. Reports also `soft_loss`, nats at
    the temperature without T^2, `hidden_loss`, `attention_loss`, and `accuracy` of models that read both ways.
    """

    Config = Config
    others: ClassVar[tuple[str, ...]] = ("teacher",)

    def __init__(self, config: Config, model: Any, teacher: Any):
        """Raises ValueError where the two don't read the same, or can't show their layers."""
        super().__init__(config, model)
        self.teacher = teacher
        self.both_ways = getattr(model, "direction", "causal") == "bidirectional"
        self.reports_accuracy = self.both_ways
        if set(model.inputs) != set(teacher.inputs):
            raise ValueError(
                f"objective.teacher={config.teacher} is a {type(teacher).__name__}, which reads {', '.join(teacher.inputs)}; "
                f"the model, a {type(model).__name__}, reads {', '.join(model.inputs)}"
            )
        layers = {"hidden": config.hidden_coef, "attention": config.attention_coef}
        more = {name: coef for name, coef in ({"soft": config.soft_coef} | layers).items() if coef}
        self.terms |= {"nll": config.hard_coef} | more
        self.layers = {
            "hidden": (config.hidden_loss, config.hidden_layers),
            "attention": (config.attention_loss, config.attention_layers),
        }
        asked = tuple(what for name, what in ASKED.items() if name in self.terms)
        for one in (model, teacher):
            if missing := set(asked) - set(getattr(one, "shows", ())):
                raise ValueError(
                    f"objective.hidden_coef, attention_coef: {type(one).__name__} shows no {', '.join(sorted(missing))} of "
                    "its layers; GPT, BERT, T5 and EncoderDecoder do"
                )
        self.asks = {"shown": asked} if asked else {}

    def weights(self, batch: Batch) -> dict[str, Array]:
        """Counted targets; for the terms of layers, tokens that are no filling."""
        return super().weights(batch) | {
            name: sum(jnp.sum(mask) for _, mask in self._entries(name, batch))
            for name in LAYERS
            if name in self.terms
        }

    def __call__(self, params: PyTree, ctx: LossContext, batch: Batch) -> LossOut:
        """As `TokenNLL`; the teacher has no dropout."""
        names = token_nll.model_inputs(self.teacher)
        inputs = {name: batch[name] for name in names if name in batch}
        taught = self.teacher.apply({"params": ctx.frozen["teacher"]}, **inputs, **self.asks)
        return super().__call__(params, ctx, {**batch, TAUGHT: taught})

    def score(self, output: NeuralOutput, batch: Batch) -> tuple[Terms, Report]:
        """As `TokenNLL`'s, of a batch that has the teacher's output as well.

        Raises:
          ValueError: the models score different things, or their layers can't be mapped.
        """
        taught, temperature = batch[TAUGHT], self.config.temperature
        if output.vocab_size != taught.vocab_size:
            raise ValueError(
                f"objective.teacher={self.config.teacher} tells {taught.vocab_size} tokens or classes apart, the model "
                f"{output.vocab_size}: their probabilities can't be compared"
            )

        def figures(logits: Array, teachers: Array, targets: Array) -> Any:
            soft = numerics.divergence(logits, teachers, temperature)
            return numerics.token_stats(logits, targets), soft

        stats, soft_BT = scored((output, taught), figures, batch["targets"])
        sums, report = self.sums(stats, batch["weights"])
        found = {"soft": metrics.weighted(soft_BT, batch["weights"])}
        found |= {name: self._matched(name, output, batch) for name in LAYERS if name in self.terms}
        for name in found.keys() & self.terms.keys():
            report[f"{name}_loss"] = found[name]
            sums[name] = found[name].total * (temperature**2 if name == "soft" else 1.0)
        return sums, report

    def _entries(self, term: str, batch: Batch) -> list[tuple[str, Array]]:
        """What of `aux` a term matches, and which places of it are real, float32 [B, T]."""
        two = "source" in self.model.inputs
        found = []
        for entry, side in ENTRIES[term]:
            if ("/" in entry) != two:
                continue
            ids = "segment_ids" if side == "tokens" else "source_segment_ids"
            if ids in batch:
                real = batch[ids] != 0
            elif side == "source" or self.both_ways:
                real = jnp.ones_like(batch[side])
            else:
                real = batch["weights"] > 0
            found.append((entry, real.astype(jnp.float32)))
        return found

    def _matched(self, term: str, output: NeuralOutput, batch: Batch) -> Any:
        """Sums of one term of layers."""
        taught: NeuralOutput = batch[TAUGHT]
        name, given = self.layers[term]
        distance = DISTANCES[term][name]
        entries = self._entries(term, batch)
        depths = {entry.split("/")[0]: len(output.aux[entry]) for entry, _ in entries}
        if given and len(given) != sum(depths.values()):
            raise ValueError(
                f"objective.{term}_layers={given} names {len(given)} layers of the teacher, and the model has "
                f"{sum(depths.values())} layers: one for each"
            )
        parts, first = {}, 0
        for side, depth in depths.items():
            parts[side], first = given[first : first + depth], first + depth
        found = []
        for entry, real_BT in entries:
            mine, theirs = output.aux[entry], taught.aux[entry]
            pairs = layer_pairs(parts[entry.split("/")[0]], len(mine), len(theirs), term)
            each = [distance(mine[ours], theirs[layer]) for ours, layer in pairs]
            mean_BT = sum(each) / len(each) if each else jnp.zeros_like(real_BT)
            found.append(metrics.weighted(mean_BT, real_BT))
        return functools.reduce(metrics.merge, found)


def layer_pairs(
    given: Sequence[int], student: int, teacher: int, term: str
) -> list[tuple[int, int]]:
    """(layer of the student, that of the teacher which it is to be like), from 0.

    Args:
      given: of each of the student's layers the teacher's, -1: none; (): evenly spread.
      student, teacher: how many layers there are.
      term: whose map it is, for messages.

    Raises:
      ValueError: a layer that the teacher lacks, or numbers of layers that can't be spread evenly.
    """
    if not given:
        if teacher % student:
            raise ValueError(
                f"objective.{term}_layers=(): {teacher} layers of the teacher can't be spread evenly over {student}: name "
                "one for each, or -1"
            )
        each = teacher // student
        given = range(each - 1, teacher, each)
    if wrong := [layer for layer in given if not -1 <= layer < teacher]:
        raise ValueError(
            f"objective.{term}_layers: the teacher has layers 0 to {teacher - 1}, and none {wrong}"
        )
    return [(mine, layer) for mine, layer in enumerate(given) if layer >= 0]


def cosine(mine_BTD: Array, theirs_BTD: Array) -> Array:
    """1 - cosine of two states, [B, T]."""
    mine, theirs = _of_one_width(mine_BTD, theirs_BTD)
    sizes = jnp.sum(jnp.square(mine), -1) * jnp.sum(jnp.square(theirs), -1)
    return 1.0 - jnp.sum(mine * theirs, -1) * jax.lax.rsqrt(jnp.maximum(sizes, FLOOR**2))


def mean_square(mine_BTD: Array, theirs_BTD: Array) -> Array:
    """Mean square difference of two states, [B, T]."""
    mine, theirs = _of_one_width(mine_BTD, theirs_BTD)
    return jnp.mean(jnp.square(mine - theirs), -1)


def _of_one_width(mine: Array, theirs: Array) -> tuple[Array, Array]:
    if mine.shape[-1] != theirs.shape[-1]:
        raise ValueError(
            f"objective.hidden_coef: the teacher's states are {theirs.shape[-1]} wide and the model's {mine.shape[-1]}: "
            f"only states of one width are matched; take model.d_model={theirs.shape[-1]}, or hidden_coef 0"
        )
    return mine.astype(jnp.float32), theirs.astype(jnp.float32)


def attention_divergence(mine_BHTS: Array, theirs_BHTS: Array) -> Array:
    """KL(theirs || mine) over a query's keys, a mean over heads, [B, T]."""
    mine, theirs = _of_as_many_heads(mine_BHTS, theirs_BHTS)
    ratio = jnp.log(jnp.maximum(theirs, FLOOR)) - jnp.log(jnp.maximum(mine, FLOOR))
    return jnp.mean(jnp.sum(theirs * ratio, -1), 1)


def attention_squares(mine_BHTS: Array, theirs_BHTS: Array) -> Array:
    """Sum of squared differences over a query's keys, a mean over heads, [B, T]."""
    mine, theirs = _of_as_many_heads(mine_BHTS, theirs_BHTS)
    return jnp.mean(jnp.sum(jnp.square(mine - theirs), -1), 1)


def _of_as_many_heads(mine: Array, theirs: Array) -> tuple[Array, Array]:
    if mine.shape[1] == theirs.shape[1]:
        return mine, theirs
    return jnp.mean(mine, 1, keepdims=True), jnp.mean(theirs, 1, keepdims=True)


DISTANCES = {
    "hidden": {"cosine": cosine, "mse": mean_square},
    "attention": {"kl": attention_divergence, "mse": attention_squares},
}
"""Term -> name -> the distance of two layers at each place."""
