"""torch's side of the translation benchmark is the same training: the same steps, again after a kill; and the tool end to end."""

import importlib
import json
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("sacrebleu")
pytestmark = pytest.mark.slow

from jaxlm import config  # noqa: E402
from jaxlm.train import assembly, parallel  # noqa: E402

REPO = Path(__file__).resolve().parent.parent
EXPERIMENT = """
from jaxlm import config
def get_config():
    cfg = config.base()
    cfg.objective = config.section("objective", "seq2seq", label_smoothing=0.1)
    cfg.evaluators = ("perplexity", "translation")
    cfg.model = config.section("model", "encoder_decoder", num_layers=2, num_decoder_layers=1, d_model=16,
                               num_heads=2, d_ff=32, max_len=24, dropout=0.1)
    cfg.data = config.section("data", "packed_pairs", path="pairs.tsv", tokenizer="bytes", source_len=24, target_len=24)
    cfg.optim = config.section("optim", "adamw", learning_rate=0.01, schedule="inverse_sqrt", warmup_steps=2,
                               weight_decay=0.0, b2=0.98, eps=1e-9)
    cfg.step.ema_decay = 0.5
    cfg.batch_size = cfg.micro_batch_size = 8
    cfg.num_steps = 4
    cfg.log_every = cfg.checkpoint_every = 2
    return cfg
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(REPO / "tools"))
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdef"), rng.integers(1, 15))) for _ in range(200)]
    (tmp_path / "pairs.tsv").write_text("".join(f"{w}\t{w[::-1].upper()}\n" for w in words))
    (tmp_path / "exp.py").write_text(EXPERIMENT)
    return tmp_path


def tools():
    return (importlib.import_module(name) for name in ("bench_translation", "torch_training"))


def setup_of(bench, **overrides):
    return bench.prepare(config.load("exp.py", overrides))


class Options:
    def __init__(self, layout="packed", views=3):
        self.layout, self.views = layout, views


@pytest.mark.parametrize("post_norm", ["true", "false"])
@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_both_sides_take_the_same_steps(folder, post_norm, layout):
    bench, training = tools()
    overrides = {"model.post_norm": post_norm, "model.dropout": "0.0", "optim.clip_norm": "0.5"}
    # Adam makes full steps of the rounding errors of gradients that are 0, as of a key's bias: hence the eps.
    setup = setup_of(bench, **overrides, **{"optim.eps": "1e-4"})
    trainer = training.make_trainer(Options(layout), setup)
    with jax.set_mesh(setup.parts.mesh), nn.logical_axis_rules(parallel.RULES):
        state = assembly.init_state(setup.parts, 0, setup.shapes)
        step = jax.jit(setup.parts.step.fn)
        for number in range(3):
            batch = setup.source[number]
            assert 0 < (batch["segment_ids"].max(axis=1) > 1).mean()  # several pairs in a row
            state, metrics = step(state, batch)
            assert trainer.step(batch) == pytest.approx(float(metrics["loss_total"]), rel=1e-5)
            assert float(metrics["grad_norm"]) > 0.5  # clipped
    vocab = setup.cfg.model.vocab_size
    for ours, theirs in (
        (state.params, trainer.model.state_dict()),
        (state.ema, trainer.averaged()),
    ):
        theirs = training.to_jax(theirs, trainer.model.config)
        assert jax.tree.structure(ours) == jax.tree.structure(theirs)
        for tree in (ours, theirs):
            tree["embed"] = {"embedding": tree["embed"]["embedding"][:vocab]}  # no filling rows
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), ours, theirs)


def test_after_a_kill_torch_goes_on_bit_by_bit(folder):
    bench, training = tools()
    setup = setup_of(bench)  # with dropout
    whole = training.make_trainer(Options(), setup)
    losses = [whole.step(setup.source[number]) for number in range(4)]
    first = training.make_trainer(Options(), setup)
    again = [first.step(setup.source[number]) for number in range(2)]
    first.save(folder / "state.pt")
    second = training.make_trainer(Options(), setup)
    second.step(setup.source[0])  # is forgotten
    second.restore(folder / "state.pt")
    again += [second.step(setup.source[number]) for number in range(2, 4)]
    assert again == losses and second.done == 4
    for name, value in whole.averaged().items():
        assert (value == second.averaged()[name]).all(), name


def test_a_model_that_torch_has_not_is_refused(folder):
    bench, training = tools()
    with pytest.raises(
        ValueError, match="model.mlp=gelu: torch.nn.Transformer is compared at relu"
    ):
        training.make_trainer(Options(), setup_of(bench, **{"model.mlp": "gelu"}))
    with pytest.raises(ValueError, match="--layout rows: accepted are packed, padded"):
        setup = setup_of(bench)
        training.make_trainer(Options("rows"), setup).step(setup.source[0])


def test_the_tool_trains_both_and_compares_them(folder, capfd):
    bench, _ = tools()
    run = ["exp.py", "--out", "out", "--slices", "1", "--slice_steps", "2"]
    assert bench.main([*run, "--parts", "jaxlm,torch", "--seconds", "1e-9"]) == 1
    assert "the same command goes on" in capfd.readouterr().out
    assert bench.main(run) == 0
    shown = capfd.readouterr().out
    assert "| val_bleu |" in shown and "BLEU: sacrebleu|BLEU|nrefs:1" in shown
    found = json.loads((folder / "out/result.json").read_text())
    rows = {row["name"]: row for row in found["scores"]["rows"]}
    summary = json.loads((folder / "out/jaxlm/summary.json").read_text())
    assert rows["val_bleu"]["jaxlm"] == pytest.approx(summary["bleu"])
    assert rows["val_loss"]["jaxlm"] == pytest.approx(rows["val_loss"]["torch"], rel=0.05)
    bench, _ = tools()
    source = setup_of(bench).source
    tokens = sum(
        int((source[n][name] > 0).sum()) for n in range(4) for name in ("tokens", "source")
    )
    starts = sum(int(source[n]["segment_ids"].max(axis=1).sum()) for n in range(4))
    assert found["scores"]["tokens"] >= tokens + starts  # the start symbol is a 0, and real
    assert found["speed"]["ratio"] > 0 and found["speed"]["layout"] == "packed"
    with pytest.raises(SystemExit):
        bench.main([*run, "--parts", "everything"])
    assert "accepted are jaxlm, torch, scores, speed" in capfd.readouterr().err
    assert bench.main([*run, "--config.optim.learning_rate=0.02", "--parts", "torch"]) == 2
