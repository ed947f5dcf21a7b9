"""The variational auto-encoder of texts (Bowman et al. 2016, arXiv:1511.06349): a recurrent language model that writes under a
latent vector z of the whole text, and an encoder that says which z a text is likely to have.

Not for its loss (objectives/elbo.py), nor for the bounds and diagnostics of a split (eval/elbo.py).
"""

from __future__ import annotations

from typing import Any, ClassVar

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from jaxlm.core import gaussian
from jaxlm.core.outputs import NeuralOutput
from jaxlm.core.types import Array, PyTree
from jaxlm.layers.embedding import ONE_HOT_LIMIT, Embedding
from jaxlm.layers.history import marks
from jaxlm.layers.linear import Head, Linear, named
from jaxlm.layers.lookups import looked_up
from jaxlm.layers.recurrent import CELLS, Recurrent, State
from jaxlm.layers.text_encoder import TextEncoder
from jaxlm.models.vae_config import VAEConfig


@flax.struct.dataclass
class Cache:
    """The decoder's states behind what was read, and the z that a row is written under."""

    states: tuple[State, ...]
    latent_BZ: Array


@flax.struct.dataclass
class VAEOutput(NeuralOutput):
    """Of a text under a z that was drawn for it; `aux` has mean_BZ, log_var_BZ, latent_BZ and kl_BZ, float32.

    `logits` and `token_stats` are those under this z, which has seen the text: their sum is no bound of its probability. To
    `token_nll` the divergence is added, the same share for each scored token, so that a text's sum is minus its ELBO.
    """

    share_B: Array | None = None  # nats a scored token
    tokens_BT: Array | None = None
    params: PyTree = None
    model: Any = flax.struct.field(pytree_node=False, default=None)

    def token_nll(self, targets_BT: Array) -> Array:
        """-log p(target | tokens before, z) and the token's share of the divergence, nats, float32 [B, T]."""
        nll_BT = self.token_stats(targets_BT).nll
        return nll_BT if self.share_B is None else nll_BT + self.share_B[:, None]

    def at(self, rows_R: Array, places_RC: Array) -> VAEOutput:
        """The output at chosen places only, as that of other models."""
        picked = super().at(rows_R, places_RC)
        return picked.replace(share_B=None if self.share_B is None else self.share_B[rows_R])

    def under(self, latent_BZ: Array) -> VAEOutput:
        """The same tokens scored under other latents, without any divergence."""
        return self.model.apply({"params": self.params}, self.tokens_BT, latent=latent_BZ)


class VAE(nn.Module):
    """tokens int32 [B, T] -> VAEOutput.

    p(text) is the integral of p(z) p(text | z) over z, N(0, 1) in Z dimensions, which nobody can do. So a text is scored by a
    bound: z is drawn from q(z | text), what the encoder makes of the text that is to be scored, and what knowing this z is
    worth, KL(q || p), is paid for in `token_nll`. The encoder may see the targets because of that price; the decoder sees
    none but those before. Without training the draw is a function of the text alone (`gaussian.text_noise`): a score is
    one unbiased sample of the ELBO of each text, the same one each time.

    Called without targets the z is `latent`, or 0, the prior's mean: under any z that is not of the text the decoder
    is a causal language model of its own, whose probabilities are exact (`lm.logits`, `lm.loglikelihoods`). What is written
    is written under a z drawn from the prior by the row's seed, and a prompt is read under it too.

    Deviations from the paper: z also reaches the decoder with each token (`condition`), a variant that made little difference
    there (section 3); `pooling`.
    """

    Config = VAEConfig
    inputs: ClassVar[tuple[str, ...]] = ("tokens",)
    optional_inputs: ClassVar[tuple[str, ...]] = ("targets", "weights")
    direction: ClassVar[str] = "latent"
    takes_seeds: ClassVar[bool] = True  # what init_cache draws is a row's own
    config: VAEConfig

    def setup(self):
        cfg, dtype = self.config, self.config.compute_dtype
        init = nn.initializers.normal(cfg.init_std)
        spread = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
        self.encoder = TextEncoder(
            cfg.cell,
            cfg.vocab_rows,
            cfg.d_model,
            cfg.d_encoder,
            2 * cfg.d_latent,
            cfg.pooling,
            cfg.forget_bias,
            cfg.init_std,
            dtype,
        )
        self.embed = Embedding(cfg.vocab_rows, cfg.d_model, init, dtype=dtype)
        if cfg.word_dropout:
            self.unknown = self.param("unknown", named(init, None, "embed"), (1, cfg.d_model))
        if cfg.condition != "state":
            self.to_inputs = Linear(cfg.d_model, (None, "embed"), spread)
        if cfg.condition != "inputs":
            width = cfg.num_layers * CELLS[cfg.cell].num_states * cfg.d_hidden
            self.to_states = Linear(width, (None, "embed"), spread, True)
        layer = (cfg.cell, cfg.d_hidden, cfg.forget_bias)
        self.blocks = [Recurrent(*layer, dtype=dtype) for _ in range(cfg.num_layers)]
        self.drop = nn.Dropout(cfg.dropout)
        self.head = Head(cfg.vocab_rows, cfg.d_hidden, init)

    def __call__(
        self,
        tokens: Array,
        targets: Array | None = None,
        weights: Array | None = None,
        *,
        latent: Array | None = None,
        carry: tuple[State, ...] | None = None,
        lengths: Array | None = None,
        train: bool = False,
    ) -> VAEOutput | tuple[VAEOutput, tuple[State, ...]]:
        """Score every position.

        Args:
          tokens: int32 [B, T], what the decoder reads: the text behind the token that begins it.
          targets: int32 [B, T], the text: what the encoder reads. None: see `latent`.
          weights: float [B, T], with targets; above 0 where they belong to the text. None: everywhere.
          latent: float [B, Z], the z to score under; in place of targets. None with no targets either: 0.
          carry: the decoder's states behind what came before, from `first_states` or from here.
          lengths: int32 [B]; the rest of a row is filling.
          train: dropouts (stream "dropout") on; z is drawn from the stream "latent".

        Returns:
          The output; with carry, also the new states.

        Raises:
          ValueError: targets and a latent; or, in training, targets and no stream to draw z from.
        """
        if targets is not None and latent is not None:
            raise ValueError("targets and latent: z is either drawn for a text or given")
        cfg, found = self.config, {}
        if targets is None and self.is_initializing():
            targets = tokens
        if targets is not None:
            real_BT = jnp.ones(targets.shape, bool) if weights is None else weights > 0
            found = self._posterior(targets, real_BT, train)
            latent = found["aux"]["latent_BZ"]
            found |= {
                "tokens_BT": tokens,
                "params": self.variables["params"],
                "model": self.clone(),
            }
        elif latent is None:
            latent = jnp.zeros((tokens.shape[0], cfg.d_latent))
        states = self.first_states(latent) if carry is None else carry
        x = self._read(tokens, latent, train)
        places, new = marks(tokens.shape[1], lengths_B=lengths), []
        for block, state in zip(self.blocks, states, strict=True):
            x, state = block(self.drop(x, deterministic=not train), state, places, train)
            new.append(state)
        x = self.drop(x, deterministic=not train)
        aux = found.pop("aux", {})
        output = VAEOutput(x, self.head(), aux, cfg.vocab_size, chunk=cfg.loss_chunk, **found)
        return output if carry is None else (output, tuple(new))

    def _posterior(self, targets: Array, real_BT: Array, train: bool) -> dict[str, Any]:
        """A z drawn for each text, what it is drawn from, and the divergence's share of each scored token."""
        mean_BZ, log_var_BZ = jnp.split(self.encoder(targets, real_BT), 2, axis=-1)
        if self.has_rng("latent"):
            noise_BZ = jax.random.normal(self.make_rng("latent"), mean_BZ.shape)
        elif train:
            raise ValueError(
                'model.kind="vae" in training needs an objective that draws z (stream "latent") and adds KL(q || p), as '
                'objective.kind="elbo" does: any other one would train it to copy its answers'
            )
        else:
            noise_BZ = gaussian.text_noise(targets, real_BT, self.config.d_latent)
        aux = {
            "mean_BZ": mean_BZ,
            "log_var_BZ": log_var_BZ,
            "latent_BZ": gaussian.draw(mean_BZ, log_var_BZ, noise_BZ),
            "kl_BZ": gaussian.kl(mean_BZ, log_var_BZ),
        }
        count_B = jnp.sum(real_BT, axis=1)
        share_B = jnp.sum(aux["kl_BZ"], axis=1) / jnp.maximum(count_B, 1)
        return {"aux": aux, "share_B": jnp.where(count_B > 0, share_B, 0.0)}

    def _read(self, tokens: Array, latent: Array, train: bool) -> Array:
        """The vectors that the decoder reads, [B, T, D]."""
        cfg, table_VD = self.config, self.embed.embedding
        if cfg.word_dropout and train:
            dropped = jax.random.bernoulli(self.make_rng("dropout"), cfg.word_dropout, tokens.shape)
            tokens = jnp.where(dropped, cfg.vocab_rows, tokens)
        if cfg.word_dropout:
            table_VD = jnp.concatenate([table_VD, self.unknown])
        table_VD = table_VD.astype(cfg.compute_dtype)
        if cfg.vocab_rows <= ONE_HOT_LIMIT:
            x = looked_up(table_VD, tokens)
        else:
            x = jnp.take(table_VD, tokens, axis=0, mode="clip")
        if cfg.condition == "state":
            return x
        return x + self.to_inputs(latent).astype(x.dtype)[:, None]

    def first_states(self, latent: Array) -> tuple[State, ...]:
        """The decoder's states before any token, of z [B, Z]."""
        cfg, count = self.config, CELLS[self.config.cell].num_states
        if cfg.condition == "inputs":
            zeros = jnp.zeros((latent.shape[0], cfg.d_hidden), jnp.float32)
            return ((zeros,) * count,) * cfg.num_layers
        parts = jnp.split(jnp.tanh(self.to_states(latent)), cfg.num_layers * count, axis=-1)
        return tuple(tuple(parts[n : n + count]) for n in range(0, len(parts), count))

    def init_cache(
        self,
        params: PyTree,
        batch_size: int,
        max_len: int,
        seeds: Array | None = None,
        latent: Array | None = None,
    ) -> Cache:
        """What rows are written from; there is room for any number of positions.

        Args:
          seeds: uint32 [B], by which each row's z is drawn from the prior.
          latent: float [B, Z], the z to write under; in place of what seeds would draw. None and no seeds: 0.
        """
        if latent is None and seeds is None:
            latent = jnp.zeros((batch_size, self.config.d_latent))
        elif latent is None:
            latent = gaussian.seed_noise(seeds, self.config.d_latent)
        states = self.apply({"params": params}, latent, method="first_states")
        return Cache(states, latent)

    def extend(
        self, params: PyTree, cache: Cache, tokens_BT: Array, lengths_B: Array
    ) -> tuple[VAEOutput, Cache]:
        """Score the next tokens of each row after what the cache has seen: int32 [B, T], of row b the first lengths_B[b].

        Returns:
          The output for tokens_BT, and the cache behind those that count.
        """
        known = {"latent": cache.latent_BZ, "carry": cache.states, "lengths": lengths_B}
        output, states = self.apply({"params": params}, tokens_BT, **known)
        return output, cache.replace(states=states)

    flops_formula: ClassVar[str] = "6 N, latent layers once a text"

    def flops_per_token(self, params: PyTree, seq_len: int) -> float:
        """Training FLOPs a token: 6 for each weight of a product; tables are looked up, and z is made and read once a text."""
        latent = ("to_states", "to_inputs")

        def size(tree: PyTree) -> int:
            return sum(leaf.size for leaf in jax.tree.leaves(tree))

        once = size([params[name] for name in latent if name in params])
        once += size(params["encoder"]["out"])
        lookups = size([params["embed"], params["encoder"]["embed"], params.get("unknown", ())])
        return 6.0 * (size(params) - lookups - once + once / seq_len)

    def activation_bytes(self, num_tokens: int) -> float:
        """About what one micro-batch needs for its backward pass, bytes."""
        cfg, cell = self.config, CELLS[self.config.cell]
        kept = 3 * len(cell.parts) + 3 * cell.num_states
        states = kept * (cfg.num_layers * cfg.d_hidden + cfg.d_encoder)
        return 4.0 * (
            num_tokens * (states + 4 * cfg.d_model) + 3 * min(num_tokens * cfg.vocab_rows, 2**28)
        )
