"""A GPT that sees an image before its text: patches cut and projected as in ViT (Dosovitskiy et al. 2021, arXiv:2010.11929),
a prefix seen in both directions as in PaliGemma (Beyer et al. 2024, arXiv:2407.07726).

Not for losses (objectives/), files of images (data/images.py) or search (decode/).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm.core.outputs import NeuralOutput
from jaxlm.core.types import Array, PyTree
from jaxlm.layers.attention import Caches
from jaxlm.layers.linear import Linear, named
from jaxlm.models.gpt import GPT, Cache, GPTConfig


@dataclasses.dataclass(frozen=True)
class VLMConfig(GPTConfig):
    """A GPT's config; the images of ViT by default, 14 x 14 patches of 16 x 16 pixels in three colours.

    `max_len` counts the patches too.
    """

    window: ClassVar[int] = 0  # it would hide the image from the end of a text
    num_future: ClassVar[int] = 1

    image_size: int = 224  # pixels, of the height and of the width
    patch_size: int = 16  # likewise
    num_channels: int = 3
    decoder_start_id: int = 0  # the first token; the data put it there

    def __post_init__(self):
        super().__post_init__()
        self.check_least(image_size=1, patch_size=1, num_channels=1, decoder_start_id=0)
        if self.image_size % self.patch_size:
            raise ValueError(
                f"model.image_size={self.image_size} must be a multiple of model.patch_size={self.patch_size}"
            )
        if self.max_len <= self.num_patches + 1:
            raise ValueError(
                f"model.max_len={self.max_len} leaves no room for text after an image's {self.num_patches} patches"
            )

    @property
    def num_patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return (self.image_size, self.image_size, self.num_channels)


class Patches(nn.Module):
    """image float [B, height, width, channels], 0..1 -> a vector for each patch, [B, P, D], P patches.

    A linear projection of a patch's pixels, moved to -1..1, and a learned position. No class token: the text is the class.
    """

    config: VLMConfig

    @nn.compact
    def __call__(self, image: Array) -> Array:
        cfg = self.config
        if image.shape[1:] != cfg.image_shape:
            raise ValueError(
                f"images are {_by(image.shape[1:])} (height x width x channels), and the model reads {_by(cfg.image_shape)}: "
                "model.image_size and model.num_channels must be those of the data"
            )
        pixels = cut(2 * image - 1, cfg.patch_size)
        init = nn.initializers.normal(cfg.init_std)
        project = Linear(
            cfg.d_model, (None, "embed"), init, cfg.bias, cfg.compute_dtype, name="project"
        )
        shape = (cfg.num_patches, cfg.d_model)
        positions = self.param("positions", named(init, None, "embed"), shape)
        return project(pixels) + positions[None].astype(cfg.compute_dtype)


def cut(image: Array, size: int) -> Array:
    """Squares of an image [B, height, width, channels], row by row, each as its pixels row by row: [B, P, pixels]."""
    batch, height, width, channels = image.shape
    rows = image.reshape(batch, height // size, size, width // size, size, channels)
    return jnp.swapaxes(rows, 2, 3).reshape(batch, -1, size * size * channels)


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


class VLM(GPT):
    """tokens int32 [B, T], image float32 [B, height, width, channels] -> NeuralOutput of the tokens.

    Deviations: patches go through the GPT's own stack, without an encoder before it, and are trained with it.
    """

    Config = VLMConfig
    inputs: ClassVar[tuple[str, ...]] = ("tokens", "image")
    optional_inputs: ClassVar[tuple[str, ...]] = ()
    source_inputs: ClassVar[tuple[str, ...]] = ("image",)
    direction: ClassVar[str] = "image_to_text"
    config: VLMConfig

    @property
    def input_shapes(self) -> Mapping[str, jax.ShapeDtypeStruct]:
        """Of inputs that are no ids [B, T], for one row."""
        return {"image": jax.ShapeDtypeStruct((1, *self.config.image_shape), "float32")}

    @property
    def input_lengths(self) -> Mapping[str, int]:
        """Positions of a row that such inputs take."""
        return {"image": self.config.num_patches}

    @nn.compact
    def __call__(
        self, tokens: Array, image: Array | None = None, **given: Any
    ) -> NeuralOutput | tuple[NeuralOutput, Caches]:
        """Score every token.

        Args:
          tokens: int32 [B, T], targets shifted right; filling behind them is seen by none of them.
          image: float32 [B, height, width, channels], 0..1; None if caches hold its keys and values.
          given: train, caches, lengths, positions, as `GPT`; the last two count the patches.

        Raises:
          ValueError: images of another size, or none; or more tokens than `max_len` leaves room for.
        """
        cfg, caches = self.config, given.get("caches")
        if image is None and caches is None:
            raise ValueError(f"{type(self).__name__} reads an image with its tokens: none is given")
        if (
            caches is None and cfg.num_patches + tokens.shape[1] >= cfg.max_len
        ):  # one is for decoding
            raise ValueError(
                f"model.max_len={cfg.max_len} must be more than an image's {cfg.num_patches} patches and "
                f"{tokens.shape[1]} tokens together"
            )
        if image is not None:  # patches see each other in both directions
            given["prefix"] = Patches(cfg, name="patches")(image)
            given["prefix_lengths"] = jnp.full((image.shape[0],), cfg.num_patches, jnp.int32)
        return super().__call__(tokens, **given)

    def init_cache(self, params: PyTree, batch_size: int, max_len: int, image: Array) -> Cache:
        """Read the images into a cache with room for `max_len` tokens a row behind them.

        Args:
          image: float [batch_size, height, width, channels], 0..1.

        Raises:
          ValueError: images of another size, or more positions than the learned ones.
        """
        count = self.config.num_patches
        cache = super().init_cache(params, batch_size, count + max_len)
        places_BP = jnp.broadcast_to(jnp.arange(count, dtype=jnp.int32)[None], (batch_size, count))
        lengths_B = jnp.full((batch_size,), count, jnp.int32)
        _, layers = self.apply(
            {"params": params},
            jnp.zeros((batch_size, 0), jnp.int32),
            image,
            positions=places_BP,
            caches=cache.layers,
            lengths=lengths_B,
        )
        return Cache(layers, lengths_B)

    def rewind(self, cache: Cache, lengths_B: Array) -> Cache:
        """Forget what lies behind the first lengths_B tokens."""
        return super().rewind(cache, lengths_B + self.config.num_patches)

    def attention_choice(self, batch_keys: Iterable[str] = ()) -> tuple[str, str]:
        """The attention backend that will run on this device, and why."""
        return super().attention_choice((*batch_keys, "prefix_lengths"))

    def flops_per_token(self, params: PyTree, target_len: int, image_len: int) -> float:
        """Training FLOPs of a row by its target_len + image_len positions: a GPT's, but patches meet no head."""
        length = target_len + image_len
        text = {name: part for name, part in params.items() if name != "patches"}
        project = sum(leaf.size for leaf in jax.tree.leaves(params["patches"]["project"]))
        head = self.config.vocab_rows * self.config.d_model
        more = 6.0 * image_len * (project - head)
        return super().flops_per_token(text, length) + more / length
