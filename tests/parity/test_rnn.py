"""Recurrent layers against torch.nn.RNN, GRU and LSTM with the same weights: outputs, last states and all gradients."""

import pytest

torch = pytest.importorskip("torch")

import functools  # noqa: E402

import flax.linen as nn  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from jaxlm.layers.history import Marks  # noqa: E402
from jaxlm.layers.recurrent import Recurrent  # noqa: E402

BATCH, LENGTH, WIDTHS = 3, 17, (13, 20)
THEIRS = {"rnn": torch.nn.RNN, "gru": torch.nn.GRU, "lstm": torch.nn.LSTM}


class Stack(nn.Module):
    """Layers of one cell on one another."""

    cell: str
    num_layers: int

    @nn.compact
    def __call__(self, x, states):
        last = []
        for number, state in enumerate(states):
            x, state = Recurrent(self.cell, WIDTHS[1], name=f"l{number}")(x, state, Marks())
            last.append(state)
        return x, last


def weights(theirs, cell, num_layers):
    """torch's parameters, or their gradients, as ours: of two biases that are added the sum, or either's gradient."""
    of_gradients = isinstance(theirs, dict)
    named = theirs if of_gradients else dict(theirs.named_parameters())
    left = {name: tensor.detach().numpy() for name, tensor in named.items()}
    params = {}
    for n in range(num_layers):
        read, told = (left.pop(f"bias_{kind}_l{n}") for kind in ("ih", "hh"))
        bias = read if of_gradients else read + told
        if cell == "gru":
            cut = 2 * WIDTHS[1]
            bias = np.concatenate([bias[:cut], read[cut:], told[cut:]])
        kernels = {ours: {"kernel": left.pop(f"weight_{kind}_l{n}").T}
                   for ours, kind in (("input", "ih"), ("recurrent", "hh"))}  # fmt: skip
        params[f"l{n}"] = kernels | {"bias": bias}
    assert not left
    return params


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("cell", THEIRS)
def test_outputs_states_and_gradients(cell, num_layers):
    torch.manual_seed(0)
    theirs = THEIRS[cell](*WIDTHS, num_layers, batch_first=True)
    for parameter in theirs.parameters():  # biases of their own, beyond what torch draws
        torch.nn.init.uniform_(parameter, -0.35, 0.35)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH, LENGTH, WIDTHS[0])).astype(np.float32)
    num_states = 2 if cell == "lstm" else 1
    first = rng.normal(size=(num_states, num_layers, BATCH, WIDTHS[1])).astype(np.float32)
    out_grad = rng.normal(size=(BATCH, LENGTH, WIDTHS[1])).astype(np.float32)
    last_grad = rng.normal(size=first.shape).astype(np.float32)

    read = torch.tensor(x, requires_grad=True)
    begin = torch.tensor(first, requires_grad=True)
    out, last = theirs(read, (begin[0], begin[1]) if cell == "lstm" else begin[0])
    last = torch.stack(last) if cell == "lstm" else last[None]
    loss = (out * torch.tensor(out_grad)).sum() + (last * torch.tensor(last_grad)).sum()
    loss.backward()

    def run(params, x, first):
        states = [tuple(first[:, number]) for number in range(num_layers)]
        out, last = Stack(cell, num_layers).apply({"params": params}, x, states)
        return out, jnp.swapaxes(jnp.asarray(last), 0, 1)

    params = weights(theirs, cell, num_layers)
    (ours, our_last), back = jax.vjp(jax.jit(run), params, x, first)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    close(ours, out.detach())
    close(our_last, last.detach())
    params_grad, x_grad, first_grad = back((jnp.asarray(out_grad), jnp.asarray(last_grad)))
    close(x_grad, read.grad)
    close(first_grad, begin.grad)
    grads = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    jax.tree.map(close, params_grad, weights(grads, cell, num_layers))
