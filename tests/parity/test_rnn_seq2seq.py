"""Encoder, decoder and alignment against torch.nn.LSTM and GRU with the same weights: logits, losses and all gradients."""

import pytest

torch = pytest.importorskip("torch")

import functools  # noqa: E402

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from jaxlm.models.rnn_seq2seq import RNNSeq2Seq, RNNSeq2SeqConfig  # noqa: E402

VOCAB, WIDTH, INNER, LAYERS = 31, 10, 14, 2
LENGTHS = (9, 4)  # of the two sources
THEIRS = {"gru": torch.nn.GRU, "lstm": torch.nn.LSTM}


class Theirs(torch.nn.Module):
    """Bahdanau's or Luong's alignment over packed sequences, as torch's own tutorials put it together."""

    def __init__(self, cell, alignment, both, feeding):
        super().__init__()
        self.alignment, self.feeding = alignment, feeding
        self.embed = torch.nn.Embedding(VOCAB, WIDTH)
        make, more = THEIRS[cell], {"num_layers": LAYERS, "batch_first": True}
        self.encoder = make(WIDTH, INNER // (1 + both), bidirectional=both, **more)
        self.decoder = make(WIDTH * (1 + feeding), INNER, **more)
        self.key = torch.nn.Linear(INNER, INNER, bias=False)
        self.query = torch.nn.Linear(INNER, INNER, bias=False)
        self.score = torch.nn.Linear(INNER, 1, bias=False)
        self.join = torch.nn.Linear(2 * INNER, WIDTH, bias=False)
        torch.manual_seed(0)
        for parameter in self.parameters():
            torch.nn.init.uniform_(parameter, -0.6, 0.6)

    def forward(self, source, tokens):
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            self.embed(source), LENGTHS, batch_first=True
        )
        read, last = self.encoder(packed)
        memory, _ = torch.nn.utils.rnn.pad_packed_sequence(read, batch_first=True)
        state = tuple(map(self.side_by_side, last)) if isinstance(last, tuple) else None
        state = self.side_by_side(last) if state is None else state
        x = self.embed(tokens)
        if not self.feeding:
            return self.attend(self.decoder(x, state)[0], memory) @ self.embed.weight.T
        fed, found = x.new_zeros(len(x), 1, WIDTH), []
        for place in range(x.shape[1]):
            out, state = self.decoder(torch.cat([x[:, place : place + 1], fed], 2), state)
            fed = self.attend(out, memory)
            found.append(fed)
        return torch.cat(found, 1) @ self.embed.weight.T

    def side_by_side(self, state):
        """[layers * ways, B, D / ways] as [layers, B, D]."""
        ways = state.reshape(LAYERS, -1, *state.shape[1:])
        return torch.cat(list(ways.unbind(1)), dim=-1)

    def attend(self, states, memory):
        if self.alignment == "additive":
            sums = self.query(states)[:, :, None] + self.key(memory)[:, None]
            scores = self.score(torch.tanh(sums))[..., 0]
        else:
            keys = self.key(memory) if self.alignment == "general" else memory
            scores = states @ keys.transpose(1, 2)
        hidden = torch.arange(memory.shape[1])[None, None] >= torch.tensor(LENGTHS)[:, None, None]
        weights = torch.softmax(scores.masked_fill(hidden, -torch.inf), -1)
        return torch.tanh(self.join(torch.cat([weights @ memory, states], -1)))


def in_our_form(named, cell, alignment, of_gradients=False):
    """torch's weights, or their gradients, as our tree: of two biases that are added the sum, or either's gradient."""
    left = {name: tensor.detach().numpy() for name, tensor in named.items() if tensor is not None}

    def layer(name):
        read, told = (left.pop(f"{name.replace('?', f'bias_{one}')}") for one in ("ih", "hh"))
        bias = read if of_gradients else read + told
        if cell == "gru":
            cut = len(read) // 3 * 2
            bias = np.concatenate([bias[:cut], read[cut:], told[cut:]])
        kernels = {ours: {"kernel": left.pop(name.replace("?", f"weight_{one}")).T}
                   for ours, one in (("input", "ih"), ("recurrent", "hh"))}  # fmt: skip
        return kernels | {"bias": bias}

    def stack(side):
        ways = {"forward": ""} | ({"backward": "_reverse"} if
                                  f"{side}.bias_ih_l0_reverse" in left else {})  # fmt: skip
        return {
            f"block_{n}": {way: layer(f"{side}.?_l{n}{end}") for way, end in ways.items()}
            for n in range(LAYERS)
        }

    found = {"embed": {"embedding": left.pop("embed.weight")}, "encoder": stack("encoder")}
    decoder = {"stack": stack("decoder"), "join": {"kernel": left.pop("join.weight").T}}
    own = {"dot": (), "general": ("key",), "additive": ("key", "query")}[alignment]
    aligned = {name: {"kernel": left.pop(f"{name}.weight").T} for name in own}
    if alignment == "additive":
        aligned["weights"] = left.pop("score.weight")[0]
    assert not left.keys() - {"key.weight", "query.weight", "score.weight"}
    return found | {"decoder": decoder | ({"alignment": aligned} if aligned else {})}


@pytest.mark.parametrize(
    ("cell", "alignment", "both", "feeding"),
    [
        ("lstm", "additive", True, False),
        ("gru", "general", True, False),
        ("lstm", "dot", False, True),
    ],
)
def test_logits_losses_and_gradients(cell, alignment, both, feeding):
    theirs = Theirs(cell, alignment, both, feeding)
    rng = np.random.default_rng(0)
    source, tokens, targets = (
        rng.integers(0, VOCAB, (2, n)).astype(np.int32) for n in (max(LENGTHS), 6, 6)
    )
    real = (np.arange(source.shape[1])[None] < np.array(LENGTHS)[:, None]).astype(np.int32)
    expected = theirs(torch.tensor(source).long(), torch.tensor(tokens).long())
    their_loss = torch.nn.functional.cross_entropy(
        expected.flatten(0, 1), torch.tensor(targets).long().flatten()
    )
    their_loss.backward()

    config = RNNSeq2SeqConfig(
        vocab_size=VOCAB, vocab_multiple=1, cell=cell, num_layers=LAYERS, d_model=WIDTH, d_hidden=INNER,
        bidirectional=both, alignment=alignment, input_feeding=feeding, dropout=0.0,
    )  # fmt: skip
    model = RNNSeq2Seq(config)

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    @functools.partial(jax.value_and_grad, has_aux=True)
    def run(params):
        output = model.apply({"params": params}, tokens, source, real)
        return output.token_nll(targets).mean(), output.logits()

    params = in_our_form(dict(theirs.named_parameters()), cell, alignment)
    shapes = jax.eval_shape(model.init, jax.random.key(0), tokens, source)["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(
        lambda box: box.value.shape, shapes, is_leaf=lambda box: hasattr(box, "names")
    )
    (loss, logits), grads = run(params)
    assert expected.detach().abs().max() > 0.1  # something is there to be compared
    np.testing.assert_allclose(logits, expected.detach(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(loss, their_loss.item(), rtol=1e-5)
    wanted = {name: one.grad for name, one in theirs.named_parameters()}
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, grads, in_our_form(wanted, cell, alignment, of_gradients=True))
