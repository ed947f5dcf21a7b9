"""From Python: run, load, logits, generate; and a model, objective and task of the user's own, outside this repository."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlm
from jaxlm import config

TEXT = "abcdefghij " * 400


def small(tmp_path, **overrides):
    (tmp_path / "text.txt").write_text(TEXT)
    cfg = config.base()
    cfg.model = config.section("model", "gpt", num_layers=1, d_model=32, num_heads=2, max_len=16)
    cfg.data = config.section(
        "data", "text", path=str(tmp_path / "text.txt"), tokenizer="chars", seq_len=16
    )
    cfg.num_steps, cfg.batch_size, cfg.sample_tokens = 3, 8, 5
    for key, text in overrides.items():
        config.override(cfg, key.replace("__", "."), text)
    return cfg


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with averaged weights, and what it returned."""
    folder = tmp_path_factory.mktemp("finished")
    return folder, jaxlm.run(small(folder, step__ema_decay="0.5"), folder / "run")


@pytest.fixture(scope="module")
def lm(finished):
    return jaxlm.load(finished[0] / "run")


@functools.partial(jax.jit, static_argnums=0)
def logits_and_nll(model, params, tokens, targets):
    output = model.apply({"params": params}, tokens)
    return output.logits(), output.token_nll(targets)


def test_run_load_logits_generate(finished, lm):
    result = finished[1]
    assert lm.step == result["final_step"] == 3
    tokens = lm.tokenizer.encode("abcdefgh")[None]
    logits = lm.logits(tokens)
    assert logits.shape == (1, 8, lm.tokenizer.vocab_size) and logits.dtype == jnp.float32
    expected, _ = logits_and_nll(lm.model, lm.params, tokens, tokens)
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    texts = lm.generate(["abc", "de"], max_tokens=6, seed=1)
    assert len(texts) == 2 and all(texts)
    assert texts == lm.generate(["abc", "de"], max_tokens=6, seed=1)
    assert lm.generate("abc", max_tokens=6, seed=1)[0] == texts[0]


def test_loaded_weights_are_the_averaged_ones_where_the_run_had_them(finished, lm):
    folder, result = finished
    assert result["val_weights"] == "ema"
    from jaxlm.train import assembly

    task = assembly.make_task(small(folder))
    nll = weight = 0.0
    for batch in task.eval("val", 8):
        _, values = logits_and_nll(lm.model, lm.params, batch["tokens"], batch["targets"])
        nll += float((values * batch["weights"]).sum())
        weight += batch["weights"].sum()
    assert nll / weight == pytest.approx(result["val_loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (np.zeros((4,), np.int32), r"integers \[B, T\]"),
        (np.zeros((1, 4)), "integers"),
        (np.zeros((1, 17), np.int32), "accepted are 1 to 16"),
        (np.full((1, 4), 10**6), "ids must be in 0"),
    ],
)
def test_wrong_tokens_are_named(lm, tokens, message):
    with pytest.raises(ValueError, match=message):
        lm.logits(tokens)


def test_loading_what_is_no_run_says_so(tmp_path):
    with pytest.raises(ValueError, match="no run's folder"):
        jaxlm.load(tmp_path)


def test_a_finished_run_is_not_run_again(finished):
    folder, first = finished
    again = jaxlm.run(small(folder, step__ema_decay="0.5"), folder / "run")
    assert again["state_sha256"] == first["state_sha256"] and again["val_loss"] == first["val_loss"]


def test_a_batch_entry_that_nobody_reads_is_refused(tmp_path, monkeypatch):
    from jaxlm.data.tasks.text import TextTask

    original = TextTask.train
    monkeypatch.setattr(
        TextTask,
        "train",
        lambda self, seed: original(self, seed).map(lambda x: x | {"speaker": x["tokens"]}),
    )
    with pytest.raises(ValueError, match="speaker.*nothing is dropped in silence"):
        jaxlm.run(small(tmp_path), tmp_path / "run")


OWN = '''
"""A user's own bigram model, objective and task: no edit in jaxlm, named by dotted path in the user's own config."""
import dataclasses
from typing import ClassVar

import flax.linen as nn
import flax.struct
import grain
import jax
import jax.numpy as jnp
import numpy as np

from jaxlm import config
from jaxlm.core import metrics
from jaxlm.core.outputs import NeuralOutput
from jaxlm.core.types import LossOut, SplitInfo, TaskInfo
from jaxlm.data import tokenizers


@dataclasses.dataclass(frozen=True)
class BigramConfig:
    vocab_size: int = 0


@flax.struct.dataclass
class Last:
    lengths_B: jax.Array


class Bigram(nn.Module):
    Config = BigramConfig
    inputs: ClassVar[tuple[str, ...]] = ("tokens",)
    optional_inputs: ClassVar[tuple[str, ...]] = ()
    config: BigramConfig

    @nn.compact
    def __call__(self, tokens, *, train=False):
        size = self.config.vocab_size
        table = self.param("table", nn.initializers.zeros, (size, size))
        return NeuralOutput(jax.nn.one_hot(tokens, size), table, {}, vocab_size=size)

    def init_cache(self, params, batch_size, max_len):
        return Last(jnp.zeros((batch_size,), jnp.int32))

    def extend(self, params, cache, tokens_BT, lengths_B):
        return self.apply({"params": params}, tokens_BT), Last(cache.lengths_B + lengths_B)


class Objective:
    @dataclasses.dataclass(frozen=True)
    class Config:
        confidence: float = 1.0

    batch_keys = ("targets", "weights")
    coupled = False

    def __init__(self, config, model):
        self.terms, self.model = {"nll": config.confidence}, model

    def weights(self, batch):
        return {"nll": jnp.sum(batch["weights"])}

    def __call__(self, params, ctx, batch):
        output = self.model.apply({"params": params}, batch["tokens"], train=ctx.train)
        nll = metrics.weighted(output.token_nll(batch["targets"]), batch["weights"])
        return LossOut({"nll": nll.total}, {"loss": nll}, ctx.vars)


class Counting:
    """The digits, over and over."""

    @dataclasses.dataclass(frozen=True)
    class Config:
        seq_len: int = 8

    def __init__(self, config):
        self.length = config.seq_len
        split = SplitInfo(10, 80, 80)
        self.info = TaskInfo(257, {"train": split, "val": split}, tokenizers.build("bytes"), digest="counting")

    def row(self, start):
        digits = (np.arange(self.length + 1, dtype=np.int32) + start) % 10 + 48
        return {"tokens": digits[:-1], "targets": digits[1:], "weights": np.ones(self.length, np.float32)}

    def train(self, seed):
        return grain.MapDataset.range(10).map(self.row).seed(seed).shuffle().repeat()

    def eval(self, split, batch_size):
        rows = [self.row(start % 10) for start in range(batch_size)]
        yield {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def show(self, batch, num_examples):
        return str(batch["tokens"][:num_examples])


def get_config():
    cfg = config.base()
    cfg.model = config.section("model", "own:Bigram")
    cfg.objective = config.section("objective", "own:Objective")
    cfg.data = config.section("data", "own:Counting")
    cfg.optim = config.section("optim", "adamw", learning_rate=0.3, warmup_steps=1, weight_decay=0.0)
    cfg.num_steps, cfg.batch_size, cfg.log_every = 60, 4, 20
    cfg.checkpoint_every, cfg.sample_tokens, cfg.sample_prompt = 20, 5, "3"
    return cfg
'''


def test_a_users_own_model_objective_and_task_train_resume_and_generate(tmp_path, run_cli):
    (tmp_path / "own.py").write_text(OWN)
    result = run_cli("launch", "--config", "own.py", "--workdir", "run", check=True)
    assert '"final_step": 60' in result.stdout
    (tmp_path / "run" / "summary.json").unlink()
    again = run_cli("launch", "--config", "own.py", "--workdir", "run", check=True)
    assert "resumed    step 60" in again.stdout
    command = ["--workdir", "run", "--prompt", "56", "--max_tokens", "6", "--temperature", "0"]
    shown = run_cli(
        "generate", *command, check=True, env={"PYTHONPATH": f"{tmp_path}:{jaxlm_root()}"}
    )
    written = json.loads(shown.stdout)
    assert (written["prompt"], written["text"]) == ("56", "789012")


def jaxlm_root():
    from pathlib import Path

    return Path(jaxlm.__file__).parent.parent


def test_the_seed_of_the_key_is_not_overwritten(tmp_path):
    from jaxlm.core import randomness

    root = jax.random.key_data(jax.random.key(3))
    keys = {int(jax.random.bits(randomness.step_key(root, jnp.int32(step)))) for step in range(50)}
    assert len(keys) == 50
    named = {
        int(jax.random.bits(randomness.named_key(jax.random.key(0), n)))
        for n in ("dropout", "noise")
    }
    assert len(named) == 2
