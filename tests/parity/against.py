"""A small random torch model and ours with its weights, read from the folder that it was saved to."""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

from jaxlm.interop import huggingface, mapping
from jaxlm.interop.mapping import Family
from jaxlm.models.gpt import GPT


class Ours(NamedTuple):
    """Our form of a torch model."""

    model: nn.Module
    params: dict
    family: Family
    matched: mapping.Matched


class Memory:
    """Tensors of a torch model or their gradients, as `mapping.load` reads them."""

    where = "memory"

    def __init__(self, tensors: dict[str, torch.Tensor]):
        self.arrays = {name: tensor.detach().numpy() for name, tensor in tensors.items()}
        self.shapes = {name: array.shape for name, array in self.arrays.items()}
        self.dtypes = dict.fromkeys(tensors, "F32")

    def read(self, name: str) -> np.ndarray:
        return self.arrays[name]


def random_weights(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """A torch model for evaluation, every parameter moved off its initial value: gains and biases too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def imported(make, theirs: torch.nn.Module, folder, inputs: dict) -> Ours:
    """What our interop makes of a torch model.

    Args:
      make: our model's class.
      theirs: the torch model.
      folder: where it is saved on the way.
      inputs: arrays that our model can be initialised with.
    """
    theirs.save_pretrained(folder)
    source = huggingface.open_folder(folder)
    model = make(make.Config(**source.fields))
    params, matched = mapping.load(
        source.family, model.config, source.tensors, shapes(model, inputs)
    )
    return Ours(model, flax.traverse_util.unflatten_dict(params, sep="/"), source.family, matched)


def shapes(model: nn.Module, inputs: dict):
    return nn.unbox(jax.eval_shape(lambda: model.init(jax.random.key(0), **inputs)))["params"]


def assert_same_logits(ours, theirs: torch.Tensor, mask=None) -> None:
    """Within 1e-4, where the mask is 1."""
    ours, theirs = np.asarray(ours), theirs.detach().numpy()
    if mask is not None:
        ours, theirs = ours[mask != 0], theirs[mask != 0]
    assert np.abs(theirs).max() > 0.1  # something is there to be compared
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def assert_same_gradients(ours: Ours, loss, theirs: torch.nn.Module, their_loss) -> None:
    """Losses within 1e-5, gradients of every parameter within 1e-4 of its largest entry.

    Args:
      ours: the model.
      loss: of our parameters.
      theirs: the torch model.
      their_loss: its loss, computed with a graph.
    """
    theirs.zero_grad()
    their_loss.backward()
    value, grads = jax.jit(jax.value_and_grad(loss))(ours.params)
    np.testing.assert_allclose(value, their_loss.item(), rtol=1e-5)
    named = {name: one.grad for name, one in theirs.named_parameters() if one.grad is not None}
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), grads)
    expected, _ = mapping.load(ours.family, ours.model.config, Memory(named), abstract)
    found = mapping.flatten(grads)
    assert set(expected) == set(found)
    largest = max(float(jnp.abs(leaf).max()) for leaf in expected.values())
    for path, leaf in expected.items():
        # Some gradients are zero but for rounding: that of a key's bias, for one.
        atol = 1e-4 * float(jnp.abs(leaf).max()) + 1e-6 * largest
        np.testing.assert_allclose(found[path], leaf, rtol=0, atol=atol, err_msg=path)


def exported(ours: Ours, auto, folder) -> torch.nn.Module:
    """Our model as `auto.from_pretrained` reads our export; nothing may be missing or left over."""
    folder.mkdir()
    config = ours.model.config
    huggingface.save_folder(folder, ours.family, ours.family.hf_config(config), config, ours.params)
    model, said = auto.from_pretrained(
        folder, output_loading_info=True, attn_implementation="eager"
    )
    assert not said["missing_keys"] and not said["unexpected_keys"], said
    assert not said["mismatched_keys"], said
    return model.eval()


def assert_decoder_parity(theirs: torch.nn.Module, folder, back: str = "") -> None:
    """Logits, gradients and export of a model that reads left to right: two rows, of 13 and 6 real tokens.

    Args:
      theirs: the torch model.
      folder: where both are saved.
      back: the model_type of the export, where it is another one.
    """
    rng = np.random.default_rng(0)
    mask = np.ones((2, 13), np.int32)
    mask[1, 6:] = 0
    tokens = rng.integers(0, theirs.config.vocab_size, mask.shape).astype(np.int32)
    ours = imported(GPT, theirs, folder / "theirs", {"tokens": tokens})
    assert not ours.matched.fresh and not ours.matched.unused
    given = {"input_ids": torch.tensor(tokens).long(), "attention_mask": torch.tensor(mask).long()}

    expected = theirs(**given).logits
    inputs = {"tokens": tokens, "segment_ids": mask}
    found = jax.jit(ours.model.apply)({"params": ours.params}, **inputs).logits()
    assert_same_logits(found, expected, mask)

    weights = mask[:, 1:] * rng.integers(0, 2, (2, 12))
    labels = torch.tensor(np.where(weights, tokens[:, 1:], -100)).long()

    def loss(params):
        output = ours.model.apply({"params": params}, **inputs)
        nll = output.token_nll(jnp.roll(tokens, -1, axis=1))[:, :-1]
        return jnp.sum(nll * weights) / weights.sum()

    their_loss = torch.nn.functional.cross_entropy(expected[:, :-1].flatten(0, 1), labels.flatten())
    assert_same_gradients(ours, loss, theirs, their_loss)

    again = exported(ours, transformers.AutoModelForCausalLM, folder / "ours")
    assert again.config.model_type == (back or theirs.config.model_type)
    assert_same_logits(expected.detach(), again(**given).logits)
