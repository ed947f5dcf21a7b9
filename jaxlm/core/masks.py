"""Which query may attend to which key: boolean masks, True where it may. Built from positions, so packing works.

Positions and segment ids are int32; B batch, T query, S key. The result broadcasts to [B, 1, T, S].
"""

from __future__ import annotations

from jaxlm.core.types import Array


def causal(query_pos_BT: Array, key_pos_BS: Array) -> Array:
    """A query sees keys at its own position and before."""
    return (key_pos_BS[:, None, None, :] <= query_pos_BT[:, None, :, None]).astype(bool)


def sliding_window(query_pos_BT: Array, key_pos_BS: Array, window: int) -> Array:
    """A query sees the last `window` positions, its own included (Mistral 7B, arXiv:2310.06825)."""
    return query_pos_BT[:, None, :, None] - key_pos_BS[:, None, None, :] < window


def segments(query_seg_BT: Array, key_seg_BS: Array) -> Array:
    """A query sees keys of its own document only."""
    return query_seg_BT[:, None, :, None] == key_seg_BS[:, None, None, :]


def prefix(key_pos_BS: Array, prefix_B: Array) -> Array:
    """Every query sees a row's first `prefix` positions (prefix LM: Raffel et al. 2020, T5, figure 4)."""
    return key_pos_BS[:, None, None, :] < prefix_B[:, None, None, None]
