"""The recursions of markov.py with fewer steps that wait for one another: blocks of positions at once.

Särkkä and García-Fernández, Temporal Parallelization of Inference in Hidden Markov Models, 2021, arXiv:2102.05743: what a
stretch of positions does to a belief is a matrix [C, S] and a likelihood for each state before it, and stretches are put
together by an associative operator (their definition 2). Deviation: an element is a block of sqrt(T) positions, not one, and
inside the blocks, all of them at once, the recursions of markov.py run. So there are 2 sqrt(T) + log T steps in a row where
there were T, for C times the work, and the largest array is [B, sqrt(T), C, S], never [B, T, C, S].

N: blocks of a row; K: positions of a block. Not for gradients: those of the products inside a block need one for each position.
"""

from __future__ import annotations

import math

import flax.struct
import jax
import jax.numpy as jnp

from jaxlm.core import markov
from jaxlm.core.markov import Beliefs, Chain, Observed, dot, logs
from jaxlm.core.types import Array

LEAST = 1e-30
"""The least share that a state's likelihood counts with against the likeliest state's, when stretches are put together."""
IMPOSSIBLE = -1e30
"""A logarithm below all others, sums of a few of which are still finite."""
MOST_STATES, LEAST_LENGTH = 64, 256
"""Where "auto" takes blocks, on an accelerator: their work is num_states times as much."""
SCANS = ("sequential", "parallel", "auto")


@flax.struct.dataclass
class Stretches:
    """What stretches of positions do to a belief."""

    states: Array  # [..., C, S]: p(last state | state before, observations); each row's sum is 1
    log_seen: Array  # [..., C]: log p(observations | state before)


def choose(scan: str, num_states: int, length: int) -> tuple[str, str]:
    """The form of the recursions that runs on this device, and why.

    Args:
      scan: one of SCANS.

    Raises:
      ValueError: it is none of them.
    """
    if scan not in SCANS:
        raise ValueError(f'model.scan="{scan}": accepted are {", ".join(SCANS)}')
    if scan != "auto":
        return scan, "as configured"
    backend = jax.default_backend()
    if backend == "cpu":
        return "sequential", f"a CPU does {num_states} times less work so"
    if num_states > MOST_STATES or length < LEAST_LENGTH:
        return (
            "sequential",
            f"{num_states} states, {length} positions: blocks are for up to {MOST_STATES}, from {LEAST_LENGTH} on",
        )
    steps = 2 * math.isqrt(length)
    return (
        "parallel",
        f"about {steps} steps in a row on {backend}, not {length}; not measured there",
    )


def filtered(chain: Chain, observed: Observed, before_BC: Array, scan: str) -> Beliefs:
    """`markov.forward`, "sequential" or "parallel"."""
    if scan == "sequential":
        return markov.forward(chain, observed, before_BC)
    blocks = cut(observed)
    entry_BNC = _entries(_products(chain, blocks), before_BC)
    found = markov.forward(chain, _rows(blocks), _rows(entry_BNC))
    return jax.tree.map(lambda x: joined(x, observed), found)


def expected(chain: Chain, observed: Observed, scan: str) -> tuple[Beliefs, markov.Counts]:
    """Beliefs, and `markov.counts`, of rows that each start with a chain; "sequential" or "parallel"."""
    batch_size, _, num_states = observed.scores_BTC.shape
    before_BC = jnp.full((batch_size, num_states), 1.0 / num_states)
    after_BC = jnp.ones((batch_size, num_states))
    if scan == "sequential":
        beliefs = markov.forward(chain, observed, before_BC)
        message_BTC = markov.backward(chain, observed, after_BC)
        return beliefs, markov.counts(chain, observed, beliefs, message_BTC)
    blocks = cut(observed)
    products = _products(chain, blocks)
    rows = _rows(blocks)
    beliefs = markov.forward(chain, rows, _rows(_entries(products, before_BC)))
    message = markov.backward(chain, rows, _rows(_exits(products)))
    beliefs, message_BTC = jax.tree.map(lambda x: joined(x, observed), (beliefs, message))
    return beliefs, markov.counts(chain, observed, beliefs, message_BTC)


def best_path(chain: Chain, observed: Observed, scan: str) -> tuple[Array, Array]:
    """Viterbi's path of each row, int32 [B, T], -1 for filling, and its log-probability up to the factors of the scores, [B].

    Of paths that are equally likely, which one is found may depend on `scan`.
    """
    batch_size, _, num_states = observed.scores_BTC.shape
    before_BC = jnp.zeros((batch_size, num_states))
    if scan == "sequential":
        steps = markov.best_steps(chain, observed, before_BC)
        last_B1 = jnp.argmax(steps.last_BC, axis=-1, keepdims=True).astype(jnp.int32)
        path_BT = markov.walked_back(steps.back_BTC, last_B1)[0][..., 0]
    else:
        path_BT = _best_path_of_blocks(chain, observed, before_BC)
    return jnp.where(observed.seen_BT, path_BT, -1), _score(chain, observed, path_BT)


def _score(chain: Chain, observed: Observed, path_BT: Array) -> Array:
    """log p(path and observations), [B], of chains along a path."""
    earlier_BT = jnp.pad(path_BT[:, :-1], ((0, 0), (1, 0)))
    moves_BT = jnp.where(
        observed.starts_BT,
        logs(chain.initial_C)[path_BT],
        logs(chain.transition_CS)[earlier_BT, path_BT],
    )
    emits_BT = jnp.take_along_axis(logs(observed.scores_BTC), path_BT[..., None], axis=-1)[..., 0]
    return jnp.sum(jnp.where(observed.seen_BT, moves_BT + emits_BT, 0.0), axis=-1)


def cut(observed: Observed) -> Observed:
    """Rows cut into blocks, [B, N, K, ...], the last one filled up."""
    length = observed.seen_BT.shape[1]
    size = max(1, math.isqrt(length))
    num_blocks = -(-length // size)

    def blocks(x: Array, filling: float | bool) -> Array:
        rest = num_blocks * size - length
        x = jnp.pad(x, ((0, 0), (0, rest), *[(0, 0)] * (x.ndim - 2)), constant_values=filling)
        return x.reshape(x.shape[0], num_blocks, size, *x.shape[2:])

    return Observed(
        blocks(observed.scores_BTC, 1.0),
        blocks(observed.starts_BT, False),
        blocks(observed.seen_BT, False),
    )


def joined(x: Array, observed: Observed) -> Array:
    """Blocks as rows [B * N, K, ...] put together to the rows [B, T, ...] that they were cut from."""
    batch_size, length = observed.seen_BT.shape
    return x.reshape(batch_size, -1, *x.shape[2:])[:, :length]


def _rows(tree):
    """[B, N, ...] as [B * N, ...]."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)


def _products(chain: Chain, blocks: Observed) -> Stretches:
    """What each block does, [B, N]."""
    batch_size, num_blocks, _, num_states = blocks.scores_BTC.shape
    shape = batch_size, num_blocks, num_states

    def step(done: Stretches, at: tuple[Array, Array, Array]):
        scores, start, seen = (x.reshape(batch_size, num_blocks, 1, -1) for x in at)
        moved = dot(done.states, chain.transition_CS)
        prior = jnp.where(start, chain.initial_C[None, None, None], moved)
        joint = prior * scores
        norm = jnp.sum(joint, axis=-1, keepdims=True)
        # As in markov.forward, what can't be leaves the belief alone, and all but rules the state before out.
        new = jnp.where(norm > 0, joint / jnp.where(norm > 0, norm, 1.0), prior)
        log_seen = done.log_seen + logs(norm[..., 0])
        return Stretches(
            jnp.where(seen, new, done.states), jnp.where(seen[..., 0], log_seen, done.log_seen)
        ), None

    nothing = Stretches(
        jnp.broadcast_to(jnp.eye(num_states), (*shape, num_states)), jnp.zeros(shape)
    )
    along = jax.tree.map(lambda x: jnp.moveaxis(x, 2, 0), blocks)
    return jax.lax.scan(step, nothing, (along.scores_BTC, along.starts_BT, along.seen_BT))[0]


def _together(first: Stretches, second: Stretches) -> Stretches:
    """Two stretches as one; associative."""
    most = jnp.max(second.log_seen, axis=-1, keepdims=True)
    likely = jnp.maximum(jnp.exp(second.log_seen - most), LEAST)
    between = first.states * likely[..., None, :]
    norm = jnp.sum(between, axis=-1, keepdims=True)
    return Stretches(
        dot(between / norm, second.states), first.log_seen + jnp.log(norm[..., 0]) + most
    )


def _entries(products: Stretches, before_BC: Array) -> Array:
    """The belief before each block, [B, N, C]."""
    done = jax.lax.associative_scan(_together, products, axis=1)
    done = jax.tree.map(lambda x: x[:, :-1], done)
    most = jnp.max(done.log_seen, axis=-1, keepdims=True)
    weight_BNC = before_BC[:, None] * jnp.maximum(jnp.exp(done.log_seen - most), LEAST)
    entry_BNS = jnp.einsum(
        "BNC,BNCS->BNS", weight_BNC, done.states, precision=jax.lax.Precision.HIGHEST
    )
    entry_BNS = entry_BNS / jnp.sum(entry_BNS, axis=-1, keepdims=True)
    return jnp.concatenate([before_BC[:, None], entry_BNS], axis=1)


def _exits(products: Stretches) -> Array:
    """`markov.backward`'s message at each block's last position, [B, N, C]."""
    rest = jax.lax.associative_scan(
        lambda later, earlier: _together(earlier, later), products, reverse=True, axis=1
    )
    log_rest = rest.log_seen[:, 1:]
    message = jnp.exp(log_rest - jnp.max(log_rest, axis=-1, keepdims=True))
    return jnp.concatenate([message, jnp.ones_like(rest.log_seen[:, :1])], axis=1)


def _best_path_of_blocks(chain: Chain, observed: Observed, before_BC: Array) -> Array:
    """As the sequential one, by the max-product form of the same operator."""
    blocks = cut(observed)
    batch_size, num_blocks, _, num_states = blocks.scores_BTC.shape
    best = jax.lax.associative_scan(_best_of, _best_products(chain, blocks), axis=1)[:, :-1]
    entry_BNS = jnp.max(before_BC[:, None, :, None] + best, axis=2)
    entry_BNS = entry_BNS - jnp.max(entry_BNS, axis=-1, keepdims=True)
    entry_BNC = jnp.concatenate([before_BC[:, None], entry_BNS], axis=1)
    steps = markov.best_steps(chain, _rows(blocks), _rows(entry_BNC))
    every = jnp.arange(num_states, dtype=jnp.int32)[None]
    every = jnp.broadcast_to(every, (batch_size * num_blocks, num_states))
    _, before = markov.walked_back(steps.back_BTC, every)  # of each state that a block may end in
    last_BNC = steps.last_BC.reshape(batch_size, num_blocks, num_states)
    last_B1 = jnp.argmax(last_BNC[:, -1], axis=-1, keepdims=True).astype(jnp.int32)
    ends_BN1, _ = markov.walked_back(before.reshape(batch_size, num_blocks, num_states), last_B1)
    path, _ = markov.walked_back(steps.back_BTC, _rows(ends_BN1))
    return joined(path, observed)[..., 0]


def _best_products(chain: Chain, blocks: Observed) -> Array:
    """Log-probabilities of the best ways through each block, from every state to every state, [B, N, C, S]."""
    initial_C, transition_CS = logs(chain.initial_C), logs(chain.transition_CS)
    batch_size, num_blocks, _, num_states = blocks.scores_BTC.shape

    def step(done: Array, at: tuple[Array, Array, Array]):
        scores, start, seen = (x.reshape(batch_size, num_blocks, 1, -1) for x in at)
        begun = jnp.max(done, axis=-1, keepdims=True) + initial_C[None, None, None]
        moved = _best_of(done, transition_CS[None, None])
        new = jnp.where(start, begun, moved) + logs(scores)
        new = new - jnp.max(new, axis=(-2, -1), keepdims=True)
        return jnp.where(seen, new, done), None

    nothing = jnp.where(jnp.eye(num_states) > 0, 0.0, IMPOSSIBLE)
    nothing = jnp.broadcast_to(nothing, (batch_size, num_blocks, num_states, num_states))
    along = jax.tree.map(lambda x: jnp.moveaxis(x, 2, 0), blocks)
    return jax.lax.scan(step, nothing, (along.scores_BTC, along.starts_BT, along.seen_BT))[0]


def _best_of(first: Array, second: Array) -> Array:
    """The product [..., C, S] of matrices where a sum is a maximum and a product a sum."""
    return jnp.max(first[..., :, :, None] + second[..., None, :, :], axis=-2)
