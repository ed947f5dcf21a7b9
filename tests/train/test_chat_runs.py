"""A chat model's runs: its template stays with it, packed rows are padded ones, a reference under LoRA is the bare base."""

import json
import math

import chatting
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlm
from jaxlm import config as configs
from jaxlm.core import partition
from jaxlm.core.types import TrainState
from jaxlm.data import chat_templates
from jaxlm.models.gpt import GPT, GPTConfig
from jaxlm.objectives import preferences
from jaxlm.train.steps.gradient import Config, Gradient, others
from jaxlm.train.tuning.lora import Config as LoRAConfig
from jaxlm.train.tuning.lora import LoRA

MODEL = GPT(GPTConfig(vocab_size=20, num_layers=1, d_model=16, num_heads=2, max_len=16))
SEGMENTS = np.array([[1] * 6 + [2] * 7 + [0] * 3, [1] * 4 + [2] * 4 + [0] * 8], np.int32)


def batch():
    rng = np.random.default_rng(0)
    positions = np.stack(
        [np.concatenate([np.arange((row == s).sum()) for s in (1, 2, 0)]) for row in SEGMENTS]
    )
    ids = rng.integers(1, 20, (2, 17)).astype(np.int32)
    weights = ((positions > 1) & (SEGMENTS > 0)).astype(np.float32)
    return {"tokens": ids[:, :-1], "targets": ids[:, 1:], "segment_ids": SEGMENTS,
            "positions": positions.astype(np.int32), "weights": weights}  # fmt: skip


def lora_state(objective_kind=preferences.DPO):
    """A model with adapters that do something already, as `assembly.first_state` would start it, and its step."""
    import optax

    objective = objective_kind(objective_kind.Config(), MODEL, reference=MODEL)
    tuning = LoRA(LoRAConfig(rank=2), fresh())
    step = Gradient(Config(), MODEL, objective, optax.sgd(0.1), lambda _: 0.1, 1, tuning)
    trained, base = tuning.split(fresh(), jax.random.key(1))
    frozen = {"base": base, "reference": jax.tree.map(jnp.copy, tuning.first(trained))}
    trained = jax.tree.map(lambda x: x + 0.05, trained)
    state = TrainState(
        jnp.int32(0),
        trained,
        frozen,
        {},
        step.tx.init(trained),
        {},
        jax.random.key_data(jax.random.key(2)),
    )
    return step, state


def fresh():
    return nn.unbox(MODEL.init(jax.random.key(0), batch()["tokens"]))["params"]


def test_the_reference_of_a_lora_is_the_base_without_it():
    step, state = lora_state()
    whole = others(step.objective, state.frozen)["reference"]
    for path, leaf in partition.flatten(fresh()).items():
        np.testing.assert_array_equal(leaf, partition.flatten(whole)[path], err_msg=path)
    assert not state.frozen["reference"]
    new, metrics = jax.jit(step.step)(state, batch())
    jax.tree.map(np.testing.assert_array_equal, new.frozen, state.frozen)
    assert float(metrics["kl"]) > 0 and metrics["loss"] != pytest.approx(math.log(2))

    def log_probs(params):
        given = {name: batch()[name] for name in ("tokens", "segment_ids", "positions")}
        scores = (
            -MODEL.apply({"params": params}, **given).token_nll(batch()["targets"])
            * batch()["weights"]
        )
        return np.stack([np.where(SEGMENTS == s, scores, 0).sum(1) for s in (1, 2)], 1)

    folded = step.tuning.folded(state.params, state.frozen["base"])
    rewards = 0.1 * (log_probs(folded) - log_probs(fresh()))
    np.testing.assert_allclose(metrics["margin"], (rewards[:, 0] - rewards[:, 1]).mean(), atol=1e-4)
    # Only adapters learn: at first policy and reference are one.
    zeros = state.replace(params=jax.tree.map(lambda x: x * 0, state.params))
    _, metrics = jax.jit(step.step)(zeros, batch())
    assert metrics["loss"] == pytest.approx(math.log(2), abs=1e-6) and metrics["kl"] == 0


def chat_config(folder, path, **data):
    cfg = configs.base()
    cfg.init_from = str(folder)
    cfg.model = configs.section("model", "gpt")
    cfg.data = configs.section(
        "data", "chat", path=str(path), val_fraction=0.25, seq_len=128, **data
    )
    cfg.tuning = configs.section("tuning", "lora", rank=2)
    cfg.batch_size = cfg.micro_batch_size = 8
    cfg.num_steps = cfg.log_every = 1
    cfg.sample_tokens, cfg.evaluators = 4, ()
    return cfg


@pytest.fixture(scope="module")
def talks(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "talks.jsonl"
    lines = [{"messages": [f"What is {n}?", f"{n}!"]} for n in range(16)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory, talks):
    """A random chat model, and a run that starts from it."""
    folder = chatting.write(tmp_path_factory.mktemp("model") / "model", chatting.LLAMA3)
    workdir = tmp_path_factory.mktemp("run") / "run"
    jaxlm.run(chat_config(folder, talks), workdir)
    return folder, workdir


def test_a_run_remembers_how_its_model_is_talked_to(run, tmp_path, capsys):
    from jaxlm import chat, convert

    folder, workdir = run
    lm, source = jaxlm.load(workdir), jaxlm.load(folder)
    assert lm.chat_template.source == chatting.LLAMA3 == source.chat_template.source
    assert lm.chat_ids(chatting.ASK) == source.chat_ids(chatting.ASK)
    assert lm.ends == (
        258,
        261,
    )  # the tokenizer's <|im_end|>, and <|end|>, with which the template ends an answer
    assert chat.main(["--model", str(workdir), "--max_tokens", "3", "--template", "no file"]) == 2
    assert convert.main(["export", str(workdir), str(tmp_path / "out")]) == 0
    found = chat_templates.read(tmp_path / "out")
    assert (found.source, found.tokens["bos_token"]) == (chatting.LLAMA3, "<s>")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["eos_token_id"] == [258, 261]
    samples = (workdir / "samples.txt").read_text()
    assert "user       Hello! Who are you?\nassistant  " in samples


@pytest.mark.slow
def test_packed_rows_score_as_padded_ones(run):
    """Each conversation in a row of its own, cut from the rows that hold several."""
    from jaxlm.data.tasks.chat import ChatConfig, ChatTask

    folder, workdir = run
    lm = jaxlm.load(workdir)
    data = configs.build(lm.config, "data")
    task = ChatTask(
        ChatConfig(path=data.path, tokenizer=str(folder), seq_len=320, val_fraction=0.0)
    )
    packed = next(iter(task.eval("train", 1)))
    segments = packed["segment_ids"][0]
    assert segments.max() > 2
    apply = jax.jit(lambda tokens, segment_ids, positions, targets: lm.model.apply(
        {"params": lm.params}, tokens, segment_ids, positions).token_nll(targets))  # fmt: skip
    names = ("tokens", "segment_ids", "positions", "targets")
    together = np.asarray(apply(*(packed[name] for name in names)))[0]
    rows = {name: np.zeros((segments.max(), 320), np.int32) for name in names}
    for number in range(segments.max()):
        own = segments == number + 1
        for name in names:
            rows[name][number, : own.sum()] = 1 if name == "segment_ids" else packed[name][0][own]
    alone = np.asarray(apply(*(rows[name] for name in names)))
    for number in range(segments.max()):
        own = segments == number + 1
        np.testing.assert_allclose(together[own], alone[number, : own.sum()], rtol=1e-5, atol=1e-5)
