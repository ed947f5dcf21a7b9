"""The translator of experiments/transformer_translate.py in PyTorch: torch.nn.Transformer on our batches. For bench_translation.py.

The same model as models/encoder_decoder.py, weight by weight (`to_torch`, `to_jax`): tied embeddings, sinusoids, dropout of
embeddings and branches only, no norm behind a post-norm stack. Eager, float32, scaled_dot_product_attention, fused Adam.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

LAYOUTS = ("packed", "padded")


class Translator(nn.Module):
    """torch.nn.Transformer between embeddings and logits.

    Args:
      config: models.encoder_decoder.EncoderDecoderConfig.
    """

    def __init__(self, config: Any):
        super().__init__()
        check(config)
        self.config = config
        shape = {"d_model": config.d_model, "nhead": config.num_heads}
        shape |= {"dim_feedforward": config.ff_width, "dropout": config.dropout}
        shape |= {"activation": config.mlp, "layer_norm_eps": config.norm_eps}
        shape |= {"batch_first": True, "norm_first": not config.post_norm}
        shape |= {"num_encoder_layers": config.num_layers}
        shape |= {"num_decoder_layers": config.decoder_layers}
        with warnings.catch_warnings():  # of nested tensors, which are for inference
            warnings.simplefilter("ignore", UserWarning)
            self.transformer = nn.Transformer(**shape)
        sides = (self.transformer.encoder, self.transformer.decoder)
        for side in sides:
            side.norm = None if config.post_norm else side.norm
            for layer in side.layers:
                layer.dropout.p = layer.self_attn.dropout = 0.0  # only branches drop, as in 2017
        for layer in self.transformer.decoder.layers:
            layer.multihead_attn.dropout = 0.0
        self.transformer.encoder.enable_nested_tensor = False
        self.embed = nn.Embedding(config.vocab_size, config.d_model)
        self.drop = nn.Dropout(config.dropout)
        self.register_buffer("sinusoids", sinusoids(config.max_len, config.d_model), False)

    def forward(self, view: Mapping[str, Any]) -> torch.Tensor:
        """Logits [N, V] of the N real targets of a view."""
        states = self.transformer(
            self._begin(view["source"], view["source_positions"]),
            self._begin(view["tokens"], view["positions"]),
            **view["masks"],
        )
        return nn.functional.linear(states[view["real"]], self.embed.weight)

    def _begin(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids) * math.sqrt(self.config.d_model)
        return self.drop(x + self.sinusoids[positions])


def check(config: Any) -> None:
    """Raises ValueError for a model that torch.nn.Transformer is not."""
    for name, value in (
        ("positions", "sinusoidal"),
        ("mlp", "relu"),
        ("cross_attention", "dot"),
        ("share_embeddings", True),
        ("tie_embeddings", True),
        ("bias", True),
        ("norm", "layernorm"),
        ("scan_layers", False),
    ):
        if getattr(config, name) != value:
            raise ValueError(
                f"model.{name}={getattr(config, name)}: torch.nn.Transformer is compared at {value}"
            )


def sinusoids(length: int, width: int) -> torch.Tensor:
    """Section 3.5 of the paper: sines at even places, cosines at odd ones."""
    angles = np.arange(length)[:, None] / 10_000.0 ** (np.arange(0, width, 2) / width)
    table = np.stack([np.sin(angles), np.cos(angles)], -1).reshape(length, width)
    return torch.tensor(table, dtype=torch.float32)


# --- a packed batch as torch takes it ------------------------------------------------------------


def views(batch: Mapping[str, np.ndarray], layout: str, count: int, heads: int) -> Iterator[dict]:
    """What `Translator` takes, of all pairs of a packed batch.

    "packed": the rows as they are, with a mask for each. "padded": one pair a row, filled up to the longest; pairs of
    similar lengths in each of `count` views, whose gradients are added. Measured on one core, tokens a CPU second: packed
    2,882; padded 2,537 with 8 views, 2,384 with 4, 981 with 1.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"--layout {layout}: accepted are {', '.join(LAYOUTS)}")
    if layout == "packed":
        yield _packed(batch, heads)
        return
    pairs = sorted(_pairs(batch), key=lambda pair: len(pair[0]) + len(pair[1]))
    sizes = np.cumsum([len(one) + len(other) for one, other in pairs])
    places = np.searchsorted(sizes, sizes[-1] * np.arange(1, count) / count)
    for part in np.split(np.arange(len(pairs)), places):
        if len(part):
            yield _padded([pairs[place] for place in part])


def _packed(batch: Mapping[str, np.ndarray], heads: int) -> dict:
    arrays = {name: torch.from_numpy(np.ascontiguousarray(batch[name])) for name in batch}
    own, theirs = arrays["segment_ids"], arrays["source_segment_ids"]
    length = own.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()

    def hidden(seen: torch.Tensor) -> torch.Tensor:
        mask = torch.zeros(seen.shape).masked_fill_(~seen, -math.inf)
        return mask.repeat_interleave(heads, 0)

    filling = own[:, :, None] == 0  # sees everything, so that no softmax is empty
    masks = {
        "src_mask": hidden(theirs[:, :, None] == theirs[:, None]),
        "tgt_mask": hidden((own[:, :, None] == own[:, None]) & causal),
        "memory_mask": hidden((own[:, :, None] == theirs[:, None]) | filling),
    }
    return _view(arrays, masks, arrays["weights"] > 0)


def _pairs(batch: Mapping[str, np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Source and target of every pair."""
    found = []
    for row in range(len(batch["tokens"])):
        for segment in range(1, int(batch["segment_ids"][row].max()) + 1):
            source = batch["source"][row][batch["source_segment_ids"][row] == segment]
            found.append((source, batch["targets"][row][batch["segment_ids"][row] == segment]))
    return found


def _padded(pairs: list[tuple[np.ndarray, np.ndarray]]) -> dict:
    source, targets = (
        nn.utils.rnn.pad_sequence([torch.from_numpy(one[side]) for one in pairs], batch_first=True)
        for side in (0, 1)
    )
    lengths = torch.tensor([[len(side) for side in one] for one in pairs])
    tokens = nn.functional.pad(targets[:, :-1], (1, 0))  # behind the start symbol, 0
    places = [torch.arange(side.shape[1])[None] for side in (source, targets)]
    filling = places[0] >= lengths[:, :1]
    length = targets.shape[1]
    masks = {
        "src_key_padding_mask": filling,
        "memory_key_padding_mask": filling,
        "tgt_mask": nn.Transformer.generate_square_subsequent_mask(length),
        "tgt_is_causal": True,
    }
    arrays = {"source": source, "tokens": tokens, "targets": targets}
    arrays |= {"source_positions": places[0], "positions": places[1]}
    return _view(arrays, masks, places[1] < lengths[:, 1:])


def _view(arrays: Mapping[str, torch.Tensor], masks: dict, real: torch.Tensor) -> dict:
    names = ("source", "source_positions", "tokens", "positions")
    view = {name: arrays[name].long() for name in names}
    return view | {"targets": arrays["targets"][real].long(), "real": real, "masks": masks}


# --- weights -------------------------------------------------------------------------------------


def names(config: Any) -> Iterator[tuple[str, tuple[str, ...], bool]]:
    """(torch's name, ours side by side, whether transposed) of every tensor."""
    yield "embed.weight", ("embed/embedding",), False
    for side, layers in (("encoder", config.num_layers), ("decoder", config.decoder_layers)):
        for layer in range(layers):
            theirs, ours = f"transformer.{side}.layers.{layer}", f"{side}/block_{layer}"
            norms = ["attention_norm", *(["cross_norm"] if side == "decoder" else []), "mlp_norm"]
            for number, norm in enumerate(norms, 1):
                yield from _norm(f"{theirs}.norm{number}", f"{ours}/{norm}")
            attentions = {"self_attn": "attention"}
            attentions |= {"multihead_attn": "cross"} if side == "decoder" else {}
            for their, our in attentions.items():
                for ending, kind in (("weight", "kernel"), ("bias", "bias")):
                    three = tuple(f"{ours}/{our}/{part}/{kind}" for part in "qkv")
                    yield f"{theirs}.{their}.in_proj_{ending}", three, kind == "kernel"
                yield from _linear(f"{theirs}.{their}.out_proj", f"{ours}/{our}/out")
            yield from _linear(f"{theirs}.linear1", f"{ours}/mlp/in")
            yield from _linear(f"{theirs}.linear2", f"{ours}/mlp/out")
        if not config.post_norm:
            yield from _norm(f"transformer.{side}.norm", f"{side}_norm")


def _norm(theirs: str, ours: str) -> Iterator[tuple[str, tuple[str, ...], bool]]:
    yield f"{theirs}.weight", (f"{ours}/scale",), False
    yield f"{theirs}.bias", (f"{ours}/bias",), False


def _linear(theirs: str, ours: str) -> Iterator[tuple[str, tuple[str, ...], bool]]:
    yield f"{theirs}.weight", (f"{ours}/kernel",), True
    yield f"{theirs}.bias", (f"{ours}/bias",), False


def to_torch(params: Mapping[str, Any], config: Any) -> dict[str, torch.Tensor]:
    """A state dict of our parameters; the filling rows of the table are left out."""
    found = {}
    for theirs, ours, turned in names(config):
        parts = [np.asarray(_leaf(params, path)) for path in ours]
        parts = [part.T if turned else part for part in parts]
        found[theirs] = torch.from_numpy(np.concatenate(parts).copy())
    found["embed.weight"] = found["embed.weight"][: config.vocab_size].clone()
    return found


def to_jax(state: Mapping[str, torch.Tensor], config: Any) -> dict[str, Any]:
    """Our parameters of a state dict; the filling rows of the table, which are never read, are 0."""
    params: dict[str, Any] = {}
    for theirs, ours, turned in names(config):
        array = state[theirs].detach().numpy()
        if theirs == "embed.weight":
            array = np.pad(array, ((0, config.vocab_rows - len(array)), (0, 0)))
        for path, part in zip(ours, np.split(array, len(ours)), strict=True):
            *folders, leaf = path.split("/")
            node = params
            for folder in folders:
                node = node.setdefault(folder, {})
            node[leaf] = np.ascontiguousarray(part.T if turned else part)
    return params


def _leaf(params: Mapping[str, Any], path: str) -> Any:
    for name in path.split("/"):
        params = params[name]
    return params
