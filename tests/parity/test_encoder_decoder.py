"""The Transformer of 2017 against torch.nn.Transformer with the same weights: states, smoothed losses, gradients."""

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow

import math  # noqa: E402

import flax.linen as nn  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from jaxlm.core.types import LossContext  # noqa: E402
from jaxlm.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig  # noqa: E402
from jaxlm.objectives.seq2seq import Config, Seq2Seq  # noqa: E402

VOCAB, WIDTH, HEADS, INNER, SMOOTHING = 61, 24, 3, 40, 0.1
ENCODER_LAYERS, DECODER_LAYERS = 2, 3
LENGTHS = {"source": (17, 9), "tokens": (11, 6)}  # of the two rows


class Theirs(torch.nn.Module):
    """torch.nn.Transformer with the paper's embeddings and positions, put together by hand.

    Its post-norm stacks end with one more norm, which the paper's don't: those are made without it.
    """

    def __init__(self, pre_norm: bool):
        super().__init__()
        self.embed = torch.nn.Embedding(VOCAB, WIDTH)
        layer = {"dropout": 0.0, "norm_first": pre_norm, "batch_first": True}
        shape = (WIDTH, HEADS, INNER)
        stacks = {}
        if not pre_norm:
            encoder = torch.nn.TransformerEncoderLayer(*shape, **layer)
            decoder = torch.nn.TransformerDecoderLayer(*shape, **layer)
            stacks = {
                "custom_encoder": torch.nn.TransformerEncoder(encoder, ENCODER_LAYERS),
                "custom_decoder": torch.nn.TransformerDecoder(decoder, DECODER_LAYERS),
            }
        self.stacks = torch.nn.Transformer(
            WIDTH, HEADS, ENCODER_LAYERS, DECODER_LAYERS, INNER, **layer, **stacks
        )
        torch.manual_seed(0)
        for parameter in self.parameters():  # gains and biases too, so that none is a plain 0 or 1
            torch.nn.init.normal_(parameter, std=0.3)

    def begin(self, ids):
        table = torch.tensor(
            [
                [(math.cos if i % 2 else math.sin)(p / 10_000 ** ((i - i % 2) / WIDTH)) for i in range(WIDTH)]
                for p in range(ids.shape[1])
            ]
        )  # fmt: skip
        return self.embed(ids) * math.sqrt(WIDTH) + table

    def forward(self, source, tokens, source_mask, mask):
        causal = torch.nn.Transformer.generate_square_subsequent_mask(tokens.shape[1]).isinf()
        states = self.stacks(
            self.begin(source),
            self.begin(tokens),
            tgt_mask=causal,
            src_key_padding_mask=~source_mask,
            tgt_key_padding_mask=~mask,
            memory_key_padding_mask=~source_mask,
        )
        return states, states @ self.embed.weight.T


def in_our_form(named, pre_norm):
    """Tensors under torch's names, weights or their gradients, as our tree of parameters."""
    left = {name: tensor.detach().numpy() for name, tensor in named.items()}

    def linear(name):
        return {"kernel": left.pop(f"{name}.weight").T, "bias": left.pop(f"{name}.bias")}

    def norm(name):
        return {"scale": left.pop(f"{name}.weight"), "bias": left.pop(f"{name}.bias")}

    def attention(name):
        kernels = np.split(left.pop(f"{name}.in_proj_weight"), 3)
        biases = np.split(left.pop(f"{name}.in_proj_bias"), 3)
        parts = zip("qkv", kernels, biases, strict=True)
        made = {part: {"kernel": kernel.T, "bias": bias} for part, kernel, bias in parts}
        return made | {"out": linear(f"{name}.out_proj")}

    def block(name, cross):
        made = {
            "attention": attention(f"{name}.self_attn"),
            "attention_norm": norm(f"{name}.norm1"),
            "mlp": {"in": linear(f"{name}.linear1"), "out": linear(f"{name}.linear2")},
            "mlp_norm": norm(f"{name}.norm3" if cross else f"{name}.norm2"),
        }
        if cross:
            made["cross"] = attention(f"{name}.multihead_attn")
            made["cross_norm"] = norm(f"{name}.norm2")
        return made

    tree = {"embed": {"embedding": left.pop("embed.weight")}}
    for side, layers in (("encoder", ENCODER_LAYERS), ("decoder", DECODER_LAYERS)):
        tree[side] = {
            f"block_{n}": block(f"stacks.{side}.layers.{n}", side == "decoder")
            for n in range(layers)
        }
        if pre_norm:
            tree[f"{side}_norm"] = norm(f"stacks.{side}.norm")
    assert not left  # every tensor has its place
    return tree


def batch():
    rng = np.random.default_rng(0)
    made = {}
    for name, mask in (("source", "source_segment_ids"), ("tokens", "segment_ids")):
        width = max(LENGTHS[name])
        made[mask] = (np.arange(width)[None] < np.array(LENGTHS[name])[:, None]).astype(np.int32)
        made[name] = rng.integers(1, VOCAB, (2, width)).astype(np.int32) * made[mask]
    targets = rng.integers(1, VOCAB, made["tokens"].shape).astype(np.int32)
    return made | {"targets": targets, "weights": made["segment_ids"].astype(np.float32)}


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("pre_norm", [False, True], ids=["post-norm", "pre-norm"])
def test_states_smoothed_loss_and_gradients(pre_norm):
    theirs, given = Theirs(pre_norm), batch()
    config = EncoderDecoderConfig(
        vocab_size=VOCAB,
        vocab_multiple=1,
        num_layers=ENCODER_LAYERS,
        num_decoder_layers=DECODER_LAYERS,
        d_model=WIDTH,
        num_heads=HEADS,
        d_ff=INNER,
        dropout=0.0,
        post_norm=not pre_norm,
    )
    model = EncoderDecoder(config)
    params = in_our_form(dict(theirs.named_parameters()), pre_norm)
    made = jax.eval_shape(model.init, jax.random.key(0), given["tokens"], given["source"])
    assert jax.tree.map(jnp.shape, nn.unbox(made)["params"]) == jax.tree.map(jnp.shape, params)

    source, tokens, targets = (
        torch.tensor(given[name]).long() for name in ("source", "tokens", "targets")
    )
    mask = torch.tensor(given["segment_ids"]).bool()
    source_mask = torch.tensor(given["source_segment_ids"]).bool()
    states, logits = theirs(source, tokens, source_mask, mask)
    loss = torch.nn.functional.cross_entropy(
        logits[mask], targets[mask], label_smoothing=SMOOTHING, reduction="sum"
    )
    loss.backward()

    names = ("source", "tokens", "source_segment_ids", "segment_ids")
    inputs = {name: given[name] for name in names}
    output = jax.jit(model.apply)({"params": params}, **inputs)
    real = np.asarray(mask)
    expected = states.detach().numpy()[real]
    np.testing.assert_allclose(np.asarray(output.hidden)[real], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        np.asarray(output.logits())[real], logits.detach().numpy()[real], rtol=1e-5, atol=1e-5
    )

    objective = Seq2Seq(Config(label_smoothing=SMOOTHING), model)
    context = LossContext({}, {}, jnp.int32(0), jax.random.key(0))

    @jax.jit
    @jax.value_and_grad
    def ours(params):
        return objective(params, context, given).sums["nll"]

    value, grads = ours(params)
    np.testing.assert_allclose(value, loss.item(), rtol=1e-5)
    expected = in_our_form({n: p.grad for n, p in theirs.named_parameters()}, pre_norm)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    jax.tree.map(
        # A key's bias has none but for rounding.
        lambda found, leaf: np.testing.assert_allclose(
            found, leaf, rtol=0, atol=1e-4 * np.abs(leaf).max() + 1e-6 * largest
        ),
        grads,
        expected,
    )
