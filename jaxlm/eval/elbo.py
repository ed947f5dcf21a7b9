"""What a latent variable model of texts does with its latent, and a tighter bound of its likelihood than `perplexity` has.

For models whose output of a text has aux["mean_BZ"], "log_var_BZ", "latent_BZ" and "kl_BZ" and can be scored `under` other latents
(models/vae.py). Letters: K samples, N texts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.core import gaussian
from jaxlm.core.types import Array, Batch, ModelOutput, TaskInfo
from jaxlm.eval import Scores
from jaxlm.eval.metric import collect, make_row


class Latent:
    """Rows: `kl`, nats a text; `active_units`, the dimensions whose posterior mean has a variance above 0.01 over the texts
    (Burda et al. 2016, arXiv:1509.00519, section 5.2); `nll`, nats a token under a z of the text's own posterior;
    `shuffled_nll`, the same under that of the next text of the batch. Where z says something of its text, this is clearly worse.

    A collapsed posterior has a `kl` and `active_units` of 0, and `nll` equals `shuffled_nll`.
    """

    def __init__(self, info: TaskInfo, seq_len: int, objective: str):
        """Raises ValueError for data that no latent was learned of."""
        _check(objective, "latent")
        self.how = _how(info, seq_len)

    def outputs(self, output: ModelOutput, batch: Batch) -> dict[str, Array]:
        """kl_B, mean_BZ, and nats a text under its own z and another's; `other`: 0 where a batch has no other text."""
        latent_BZ, weights = output.aux["latent_BZ"], batch["weights"]
        real_B = jnp.any(weights > 0, axis=1)
        own_B = jnp.arange(len(real_B), dtype=jnp.int32)
        next_B = jnp.roll(own_B, -1)
        next_B = jnp.where(real_B[next_B], next_B, 0)  # filling stands behind all texts
        targets = batch["targets"]
        return {
            "kl": jnp.sum(output.aux["kl_BZ"], axis=1),
            "mean": output.aux["mean_BZ"],
            "nll": _text_nll(output, targets, weights),
            "shuffled": _text_nll(output.under(latent_BZ[next_B]), targets, weights),
            "other": next_B != own_B,
        }

    def run(self, predict: Callable[[Batch], dict[str, Any]], data: Iterable[Batch]) -> Scores:
        """Scores over all of `data`.

        Raises:
          ValueError: the data holds no weighed token.
        """
        found = collect(predict, data)
        means_NZ, tokens_N = found["mean"].astype(np.float64), found["weights"].sum(1)
        ones_N1 = np.ones((len(tokens_N), 1))
        moments = np.concatenate([means_NZ, means_NZ**2, ones_N1], 1)
        how, alone = self.how, {"unit": "nats/text", "finish": "ratio"}
        a_token = {"unit": "nats/token", "finish": "ratio"}
        nll = np.stack([found["nll"], tokens_N], 1)
        shuffled = np.stack([found["shuffled"], tokens_N], 1)[found["other"]]
        kl = np.concatenate([found["kl"][:, None], ones_N1], 1)
        rows = [
            make_row("kl", kl, signature=how, **alone),
            make_row(
                "active_units",
                moments,
                unit=f"of {means_NZ.shape[1]}",
                finish="jaxlm.eval.elbo:count_active",
                signature=f"{how}|variance>{gaussian.ACTIVE}",
                higher_is_better=True,
            ),
            make_row("nll", nll, signature=f"{how}|z=own", **a_token),
        ]
        if len(shuffled):
            about = f"{how}|z=next text's|texts={len(shuffled)}"
            rows.append(make_row("shuffled_nll", shuffled, signature=about, **a_token))
        return Scores(rows)


class ImportanceWeighted:
    """Rows `iw_loss` and `iw_bits_per_byte`, of the bound log mean_k p(text, z_k) / q(z_k | text) with K draws from the posterior
    (Burda et al. 2016, arXiv:1509.00519, equation 8).

    Its expectation grows with K, from the ELBO at 1 to log p(text): so it is an upper bound of the true bits per byte, and a tighter
    one than `perplexity` gives. K passes of the decoder a text; another number is a subclass of one's own with another `num_samples`,
    in `evaluators` as "module:Class".
    """

    num_samples: ClassVar[int] = 50

    def __init__(self, info: TaskInfo, seq_len: int, objective: str):
        """Raises ValueError for data that no latent was learned of."""
        _check(objective, "iw_bound")
        if info.tokenizer is None:
            raise ValueError('evaluators: "iw_bound" scores text, and this data has no tokenizer')
        self.token_bytes = info.tokenizer.token_bytes()
        self.how = f"{_how(info, seq_len)}|bound=iw,samples={self.num_samples}"

    def outputs(self, output: ModelOutput, batch: Batch) -> dict[str, Array]:
        """The bound of each text, nats, float32 [B]."""
        log_weights_KB = log_weights(output, batch, self.num_samples)
        bound_B = jax.nn.logsumexp(log_weights_KB, axis=0) - math.log(self.num_samples)
        return {"bound": bound_B}

    def run(self, predict: Callable[[Batch], dict[str, Any]], data: Iterable[Batch]) -> Scores:
        """Scores over all of `data`.

        Raises:
          ValueError: the data holds no weighed token.
        """
        found = collect(predict, data)
        loss_N, weights = -found["bound"].astype(np.float64), found["weights"]
        bytes_N = (self.token_bytes[found["targets"]] * weights).sum(1)
        per_token = np.stack([loss_N, weights.sum(1)], 1)
        about = {"finish": "ratio", "signature": self.how}
        rows = [make_row("iw_loss", per_token, unit="nats/token", **about)]
        if bytes_N.sum():
            bits = np.stack([loss_N / math.log(2), bytes_N], 1)
            rows.append(make_row("iw_bits_per_byte", bits, unit="bits/byte", **about))
        return Scores(rows)


def log_weights(output: ModelOutput, batch: Batch, num_samples: int) -> Array:
    """log p(text, z) - log q(z | text) of `num_samples` z drawn for each text, one after the other, float32 [K, B].

    The first one's z is that which the output itself has; each depends on the text alone.
    """
    mean_BZ, log_var_BZ = output.aux["mean_BZ"], output.aux["log_var_BZ"]
    targets, weights = batch["targets"], batch["weights"]

    def one(sample: Array) -> Array:
        noise_BZ = gaussian.text_noise(targets, weights > 0, mean_BZ.shape[1], sample)
        latent_BZ = gaussian.draw(mean_BZ, log_var_BZ, noise_BZ)
        nll_B = _text_nll(output.under(latent_BZ), targets, weights)
        return gaussian.log_ratio(latent_BZ, mean_BZ, log_var_BZ) - nll_B

    return jax.lax.map(one, jnp.arange(num_samples, dtype=jnp.int32))


def count_active(sums: np.ndarray) -> np.ndarray:
    """Of 2 Z + 1: means, their squares and texts; the dimensions whose variance is above gaussian.ACTIVE."""
    means, squares = np.split(sums[..., :-1] / np.maximum(sums[..., -1:], 1), 2, axis=-1)
    return (squares - means**2 > gaussian.ACTIVE).sum(-1).astype(np.float64)


def _text_nll(output: ModelOutput, targets_BT: Array, weights_BT: Array) -> Array:
    """-log p(text | z), nats, float32 [B]: without the divergence."""
    return jnp.sum(output.token_stats(targets_BT).nll * weights_BT, axis=1)


def _check(objective: str, name: str) -> None:
    if objective != "elbo":
        raise ValueError(
            f'evaluators: "{name}" is of models with a latent, learned by objective.kind="elbo", not "{objective}"'
        )


def _how(info: TaskInfo, seq_len: int) -> str:
    tokenizer = f"|tokenizer={info.tokenizer.name}" if info.tokenizer else ""
    return f"texts<={seq_len} tokens{tokenizer}"
