"""Where what a model carries along a row begins anew, what leaves it alone, and the last few inputs as such a carried state.

For recurrent models and those of a fixed context, whose cache is as large after a thousand tokens as after one.
"""

from __future__ import annotations

import flax.struct
import jax.numpy as jnp

from jaxlm.core.types import Array


@flax.struct.dataclass
class Marks:
    """Of the positions of rows; None: of no position."""

    starts_BT: Array | None = None  # bool; what was carried so far is forgotten here
    real_BT: Array | None = None  # bool; filling, where it is False, leaves no trace


def marks(length: int, segment_ids: Array | None = None, lengths_B: Array | None = None) -> Marks:
    """The marks of rows of `length` positions.

    Args:
      segment_ids: int32 [B, T]; a row begins anew where the id changes, but for its first position; 0 is filling.
      lengths_B: int32 [B]; what stands behind a row's first so many positions is filling.
    """
    starts = real = None
    if segment_ids is not None:
        real = segment_ids > 0
        changed = segment_ids[:, 1:] != segment_ids[:, :-1]
        starts = jnp.pad(changed, ((0, 0), (1, 0)))
    if lengths_B is not None:
        inside = jnp.arange(length, dtype=jnp.int32)[None] < lengths_B[:, None]
        real = inside if real is None else real & inside
    return Marks(None if starts is None else starts & real, real)


def shifted(x: Array, before: Array, places: Marks, count: int) -> tuple[list[Array], Array]:
    """The inputs 0, 1, ..., count behind each position, and those to carry on with.

    Args:
      x: [B, T, ...].
      before: [B, count, ...], the inputs before the first position, of which those that are not there are 0.
      places: filling stands behind a row's real positions.
      count: how far to look back.

    Returns:
      count + 1 arrays [B, T, ...], 0 where an input would lie before the place where a row begins anew; and `before` of the
      position after the last real one, [B, count, ...].
    """
    length = x.shape[1]
    known = jnp.concatenate([before, x], axis=1)
    parts = [known[:, count - back : count - back + length] for back in range(count + 1)]
    ends_B = None
    if places.real_BT is not None:
        ends_B = jnp.sum(places.real_BT, axis=1, dtype=jnp.int32)
    if ends_B is None:
        after = known[:, length:]
    else:
        rows = ends_B[:, None] + jnp.arange(count, dtype=jnp.int32)[None]
        after = jnp.take_along_axis(known, _like(rows, known), axis=1)
    if places.starts_BT is None:
        return parts, after
    segment_BT = jnp.cumsum(places.starts_BT, axis=1, dtype=jnp.int32)
    segments = jnp.pad(segment_BT, ((0, 0), (count, 0)))  # what was carried belongs to the first
    own = [
        segments[:, count - back : count - back + length] == segment_BT for back in range(count + 1)
    ]
    parts = [jnp.where(_like(same, x), part, 0) for same, part in zip(own, parts, strict=True)]
    if ends_B is None:
        last = segments[:, length:]
    else:
        last = jnp.take_along_axis(segments, rows, axis=1)
    return parts, jnp.where(_like(last == last[:, -1:], x), after, 0)


def _like(values_BT: Array, x: Array) -> Array:
    """With `x`'s number of axes."""
    return values_BT.reshape(*values_BT.shape, *(1,) * (x.ndim - 2))
