"""The policy step: a pure function of (seed, step), few programs, no gradient for the reference; it learns, also on 8 devices."""

import json
import shutil
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import config as configs
from jaxlm.decode import prompted, sampling
from jaxlm.train import assembly, parallel, plan
from jaxlm.train.resolve import resolve

REPO = Path(__file__).resolve().parent.parent.parent
SMALL = {"model.num_layers": 1, "model.d_model": 16, "model.num_heads": 2, "batch_size": 8,
         "micro_batch_size": 8, "num_steps": 4}  # fmt: skip


def ones(prompt, completion, reference):
    """A reward that is easily had."""
    return float(completion.startswith("1"))


def parts_of(variant="", **overrides):
    cfg = configs.load(f"{REPO}/experiments/grpo_arithmetic.py{variant}")
    settings = SMALL | {
        "data.seq_len": 10,
        "step.num_completions": 2,
        "mesh.data": 1,
        "mesh.fsdp": 8,
    }
    for key, value in (settings | overrides).items():
        section, _, name = key.rpartition(".")
        (cfg[section] if section else cfg)[name] = value
    task = assembly.make_task(cfg)
    cfg = resolve(cfg, task)
    batch = next(iter(task.eval("train", cfg.batch_size)))
    batch = {name: batch[name] for name in ("tokens", "targets", "weights")}
    parts = assembly.assemble(cfg, task, assembly.global_shapes(batch, cfg.batch_size))
    return cfg, parts, batch


def started(variant="", **overrides):
    cfg, parts, batch = parts_of(variant, **overrides)
    shapes = assembly.global_shapes(batch, cfg.batch_size)
    return parts, assembly.first_state(parts, cfg, shapes, lambda line: None), batch


def in_mesh(parts):
    return jax.set_mesh(parts.mesh), nn.logical_axis_rules(parallel.RULES)


def copy(state):
    return jax.tree.map(jnp.copy, state)


def test_prompts_and_answers_are_taken_apart():
    tokens, targets = np.array([[1, 2, 3, 4], [5, 6, 0, 0]]), np.array([[2, 3, 4, 9], [6, 9, 0, 0]])
    weights = np.array([[0, 0, 1, 1], [0, 1, 0, 0]])
    assert prompted.prompts(tokens, weights) == [[1, 2, 3], [5, 6]]
    assert prompted.answers(targets, weights) == [[4], []]
    assert prompted.end_of(targets, weights) == 9
    with pytest.raises(ValueError, match=r"end with different tokens \(4, 9, ...\)"):
        prompted.end_of(targets, np.array([[0, 0, 1, 0], [0, 1, 0, 0]]))
    request = prompted.request([[1, 2, 3], [5, 6]], 8, end_ids=(9,), seeds=(0, 1))
    assert (request.max_tokens, request.max_len) == (6, 8)
    assert request.watch(0, [1] * 5) and not request.watch(1, [1] * 5)


def test_it_learns_what_is_rewarded_and_compiles_once():
    parts, state, batch = started(
        **{
            "step.reward": f"{__name__}:ones",
            "step.num_completions": 8,
            "optim.learning_rate": 0.03,
            "optim.warmup_steps": 1,
            "optim.schedule": "constant",
        }
    )
    builder = parts.step.fn.__self__
    reference = jax.device_get(state.frozen)
    place = parallel.placer(parts.mesh)
    with in_mesh(parts)[0], in_mesh(parts)[1]:
        rewards, before = [], sampling._write_on._cache_size()
        for _ in range(12):
            state, metrics = parts.step.fn(state, place(batch))
            rewards.append(metrics["reward"])
        assert builder._update._cache_size() == builder._experience._cache_size() == 1
        assert sampling._write_on._cache_size() - before <= 1
    assert rewards[0] < 0.3 and rewards[-1] > 0.8
    assert int(state.step) == 12
    jax.tree.map(np.testing.assert_array_equal, reference, jax.device_get(state.frozen))
    assert set(metrics) >= {
        "kl",
        "entropy",
        "clip_fraction",
        "completion_length",
        "ended",
        "reward_std",
    }
    assert float(metrics["kl"]) > 0.1


def test_a_step_is_a_function_of_state_and_batch():
    lora = configs.section("tuning", "lora", rank=2)
    updates = {"step.num_minibatches": 2, "step.num_epochs": 2, "step.ema_decay": 0.9}
    parts, state, batch = started(**updates, tuning=lora)
    with in_mesh(parts)[0], in_mesh(parts)[1]:
        first, found = jax.block_until_ready(parts.step.fn(copy(state), batch))
        again, _ = jax.block_until_ready(parts.step.fn(copy(state), batch))
        jax.tree.map(np.testing.assert_array_equal, first, again)
        rollouts = [
            parts.step.fn.__self__.rollout(state.replace(step=jnp.int32(step)), batch)[0]["tokens"]
            for step in (0, 1)
        ]
    assert not np.array_equal(*rollouts)
    jax.tree.map(np.testing.assert_array_equal, first.frozen, state.frozen)
    assert int(first.step) == 1 and int(first.opt_state[-1][0].count) == 4
    # Four updates, the last of which is the fourth of a warm-up of twenty.
    np.testing.assert_allclose(found["lr"], 1e-3 * 4 / 20, rtol=1e-6)


def test_what_is_written_stands_as_the_data_do():
    """Behind the prompt, weighed, to its end: and drawn at once or in parts, the same."""
    parts, state, batch = started()
    builder = parts.step.fn.__self__
    with in_mesh(parts)[0], in_mesh(parts)[1]:
        rollout, shown = builder.rollout(state, batch)
        builder.num_micro_batches = 4
        again, _ = builder.rollout(state, batch)
    np.testing.assert_array_equal(rollout["tokens"], again["tokens"])
    asked = prompted.prompts(batch["tokens"], batch["weights"])
    assert prompted.prompts(rollout["tokens"], rollout["weights"]) == [
        p for p in asked for _ in range(2)
    ]
    lengths = rollout["weights"].sum(1)
    assert shown["completion_length"] == lengths.mean() and lengths.max() <= 10 - 6
    for tokens, targets, weights in zip(
        *(rollout[n] for n in ("tokens", "targets", "weights")), strict=True
    ):
        size = int(np.flatnonzero(weights)[-1]) + 1
        np.testing.assert_array_equal(tokens[1:size], targets[: size - 1])
        assert weights[5:size].all() and not weights[:5].any()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"step.num_completions": 1}, "step.num_completions=1 must be at least 2"),
        ({"step.num_minibatches": 3}, "step.num_minibatches=3 does not divide a rollout evenly"),
        ({"model.dropout": 0.1}, "model.dropout=0"),
        ({"step.reward": ""}, "objective.reward_model no model"),
        ({"step.reward": "exact"}, "exact_match"),
        ({"objective": configs.section("objective", "causal_lm")}, "grpo, ppo"),
        ({"step": configs.section("step", "gradient")}, "from what the model writes itself"),
    ],
    ids=str,
)
def test_what_is_refused(overrides, message):
    with pytest.raises(ValueError, match=message):
        parts_of(**overrides)


def test_what_is_learned_from_is_what_was_drawn_whole_or_in_parts():
    """The decoder's own log-probability of each completion, its end included; and completions of any length."""
    parts, state, batch = started()
    builder = parts.step.fn.__self__
    asked = [p for p in prompted.prompts(batch["tokens"], batch["weights"]) for _ in range(2)]
    with in_mesh(parts)[0], in_mesh(parts)[1]:
        end_id = prompted.end_of(batch["targets"], batch["weights"])
        written = builder._write(state, asked, 10, end_id, jax.random.key(1))
        rows = builder._rows(
            prompted.completed(asked, written, end_id, 10), np.arange(16, dtype=np.float32) % 3
        )
        experience = jax.block_until_ready(builder._experience(state, builder.place(rows)))
        found = []
        for count in (1, 2):
            builder.num_micro_batches = count
            call = jax.jit(lambda *given: builder.loss_and_gradients(*given)[1])
            found.append(jax.block_until_ready(call(state, experience)))
    assert len(set(rows["weights"].sum(1))) > 1
    totals = (np.asarray(experience["old_log_probs"]) * rows["weights"]).sum(1)
    np.testing.assert_allclose(totals, [one.score for one in written], rtol=1e-5)
    jax.tree.map(lambda *pair: np.testing.assert_allclose(*pair, rtol=1e-4, atol=1e-7), *found)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(found[0])) > 1e-3


def test_models_read_a_rollout_in_parts():
    """What is learned from does not change, and memory is that of a part."""
    parts, state, batch = started()
    builder = parts.step.fn.__self__
    moved = jax.tree.map(lambda leaf: np.asarray(leaf) + 0.01, state.params)
    state = jax.device_put(state.replace(params=moved), jax.devices()[0])
    batch = {name: np.repeat(values, 8, axis=0) for name, values in batch.items()}
    rollout = builder._rows(batch, np.arange(64, dtype=np.float32) % 3)
    found, memory = [], []
    with parallel.one_device():
        for count in (1, 4):
            builder.num_micro_batches = count
            program = jax.jit(lambda *given: builder.experience(*given)).lower(state, rollout)
            compiled = program.compile()
            found.append(compiled(state, rollout))
            memory.append(compiled.memory_analysis().temp_size_in_bytes)
    jax.tree.map(lambda *pair: np.testing.assert_allclose(*pair, rtol=1e-6, atol=1e-6), *found)
    assert np.abs(found[0]["old_log_probs"] - found[0]["reference_log_probs"]).max() > 1e-3
    assert len(set(rollout["weights"].sum(1))) > 1
    assert memory[1] < memory[0] / 2


@pytest.mark.parametrize("axis", ["fsdp", pytest.param("data", marks=pytest.mark.slow)])
def test_every_device_writes_its_share_and_the_same_as_one_device(axis, monkeypatch):
    parts, state, batch = started(**{"mesh.data": 1, "mesh.fsdp": 1, f"mesh.{axis}": 8})
    builder, write_on, rows = parts.step.fn.__self__, sampling._write_on, []

    def counted(model, params, cache, *rest):
        rows.extend(leaf.sharding.shard_shape(leaf.shape)[0] for leaf in jax.tree.leaves(cache))
        return write_on(model, params, cache, *rest)

    monkeypatch.setattr(sampling, "_write_on", counted)
    asked = [p for p in prompted.prompts(batch["tokens"], batch["weights"]) for _ in range(2)]
    given = asked, 10, prompted.end_of(batch["targets"], batch["weights"]), jax.random.key(1)
    with in_mesh(parts)[0], in_mesh(parts)[1]:
        written = builder._write(state, *given)
    assert set(rows) == {16 // 8}
    with parallel.one_device():
        alone = builder._write(jax.device_put(state, jax.devices()[0]), *given)
    assert set(rows) == {16 // 8, 16}
    assert [(one.tokens, one.finish) for one in written] == [(o.tokens, o.finish) for o in alone]
    assert len({len(one.tokens) for one in written}) > 1
    np.testing.assert_allclose([o.score for o in written], [o.score for o in alone], rtol=1e-5)


def test_rows_of_several_texts_are_refused():
    """Their segments would be written over in silence."""
    _, parts, batch = parts_of()
    builder = parts.step.fn.__self__
    with pytest.raises(
        ValueError,
        match=r"data.kind gives \['segment_ids'\], which step.kind=\"policy\" does not read",
    ):
        builder.shapes(parts.abstract_state, batch | {"segment_ids": batch["tokens"]})


def test_the_plan_counts_what_is_written():
    """8 prompts, 2 completions each, 10 positions; of half of them activations at once, each learned from 3 times."""
    cfg, parts, batch = parts_of(**{"step.num_minibatches": 2, "step.num_epochs": 3})
    found = plan.make(cfg, parts, batch)
    assert found.tokens_per_step == 8 * 2 * 10
    params = parts.abstract_state.params
    assert found.flops_per_token == 3 * plan.flops_per_token(parts.model, params, (10,))[0]
    cfg, more, batch = parts_of(**{"step.num_completions": 4, "step.num_minibatches": 2})
    grown = plan.make(cfg, more, batch).memory - found.memory
    assert grown == parts.model.activation_bytes(10)  # a device's part: two rows in place of one
    text = "\n".join(found.lines)
    assert "160 tokens (8 x 2 completions x 10)" in text and "of updates alone" in text


RUN = {"num_steps": 4, "batch_size": 8, "micro_batch_size": 4, "log_every": 1, "eval_every": 2, "checkpoint_every": 2,
       "sample_every": 2, "data.eval_examples": 8, "step.ema_decay": 0.9, "step.num_completions": 2}  # fmt: skip
VARIANTS = {
    "": {},
    ":ppo": {"step.num_minibatches": 2},
    ":distil": {"objective.teacher": "start", "objective.on_policy": 0.5},
}


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_resumed_is_uninterrupted(variant, tmp_path, run_cli):
    """From a short start, killed behind step 2, it ends bit for bit as if it had not been."""
    experiment = f"{REPO}/experiments/grpo_arithmetic.py"
    small = [f"--config.{key}={value}" for key, value in SMALL.items()]
    run_cli("launch", "--config", f"{experiment}:start", *small, "--workdir", "start", check=True)
    settings = {"init_from": "start"} | RUN | VARIANTS[variant]
    options = [f"--config.{key}={value}" for key, value in settings.items()]
    line = ["launch", "--config", f"{experiment}{variant}", *options, "--workdir"]
    run_cli(*line, "whole", check=True)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "00000004")
    (tmp_path / "cut" / "summary.json").unlink()
    result = run_cli(*line, "cut", check=True)
    assert "resumed    step 2" in result.stdout
    whole, cut = (
        json.loads((tmp_path / name / "summary.json").read_text()) for name in ("whole", "cut")
    )
    assert whole["state_sha256"] == cut["state_sha256"]
    assert whole["val_exact_match"] == cut["val_exact_match"]
    assert 0 < whole["compile_seconds"] < whole["wall_seconds"]
    assert (tmp_path / "whole" / "plots" / "metrics.png").exists()
