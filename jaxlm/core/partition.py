"""A tree of parameters in two parts, what trains and what does not, and as one again.

A path joins the names on the way to a leaf by "/": "stack/block_0/attention/q/kernel". Boxes that name a parameter's
logical axes (`nn.Partitioned`) count as leaves. Which paths train is said elsewhere (train/tuning).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax

from jaxlm.core.types import PyTree

LOW_RANK = ("lora_a", "lora_b", "lora_dropout")
"""Leaves that stand beside a `kernel` in the tree that a model is called with; layers/linear.py reads them."""
ADAPTERS = (*LOW_RANK, "prompt")
"""Last names of parameters that no model has but by its tuning."""


def path_of(keys: tuple[Any, ...]) -> str:
    """The path of a leaf, from jax's keys."""
    return jax.tree_util.keystr(keys, simple=True, separator="/")


def flatten(tree: PyTree) -> dict[str, Any]:
    """Path -> leaf, in the order of the tree."""
    pairs = jax.tree_util.tree_leaves_with_path(tree, is_leaf=_is_box)
    return {path_of(keys): leaf for keys, leaf in pairs}


def nest(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The tree of nested dicts with these leaves: the inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def split(tree: PyTree, chosen: Callable[[str], bool]) -> tuple[PyTree, PyTree]:
    """The leaves whose path is chosen, and the others."""
    leaves = flatten(tree)
    first = {path: leaf for path, leaf in leaves.items() if chosen(path)}
    return nest(first), nest({path: leaf for path, leaf in leaves.items() if path not in first})


def join(first: PyTree, second: PyTree) -> PyTree:
    """One tree of both; no path is in both."""
    left, right = flatten(first), flatten(second)
    twice = left.keys() & right.keys()
    assert not twice, f"in both parts: {sorted(twice)}"
    return nest(left | right)


def unboxed(tree: PyTree) -> PyTree:
    """A tree without its boxes; unlike `nn.unbox`, under any mesh, as shapes have no place on one."""
    return jax.tree.map(
        lambda x: x.unbox(apply_constraint=False) if _is_box(x) else x, tree, is_leaf=_is_box
    )


def _is_box(x: Any) -> bool:
    return isinstance(x, nn.meta.AxisMetadata)
