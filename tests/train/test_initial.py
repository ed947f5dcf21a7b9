"""`init_from`: a run that starts from other weights, and whose architecture and tokenizer those are."""

import shutil

import flax.linen as nn
import jax
import numpy as np
import pytest
import stored
from safetensors.numpy import load_file

import jaxlm
from jaxlm import config, convert
from jaxlm.interop import mapping
from jaxlm.train import assembly, initial, origin, parallel, resolve

TEXT = "the cat sat on the mat. a dog ran.\n" * 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("source")
    (path / "text.txt").write_text(TEXT)
    stored.write(path / "hf", stored.LLAMA, stored.llama_tensors())
    words = [*stored.WORDS, *"0123456789"][:40]
    stored.write(path / "bert", stored.bert_config(), stored.bert_tensors(), words)
    return path


def experiment(folder, **overrides):
    cfg = config.base()
    cfg.model = config.section("model", "gpt", num_layers=7, dropout=0.25)
    cfg.data = config.section(
        "data", "text", path=str(folder / "text.txt"), tokenizer="init_from", seq_len=16
    )
    cfg.init_from = str(folder / "hf")
    cfg.optim = config.section(
        "optim", "adamw", warmup_steps=1, learning_rate=1e-9, weight_decay=0.0
    )
    cfg.num_steps, cfg.batch_size, cfg.micro_batch_size, cfg.sample_tokens = 1, 8, 8, 0
    for key, text in overrides.items():
        config.override(cfg, key.replace("__", "."), text)
    return cfg


def resolved(cfg):
    cfg = assembly.with_lengths(cfg)
    return resolve.resolve(cfg, assembly.make_task(cfg))


def test_the_architecture_is_the_sources_and_how_it_runs_the_configs(folder):
    cfg = resolved(experiment(folder, model__remat="block"))
    model = cfg.model
    assert (model.num_layers, model.d_model, model.positions, model.max_len) == (
        2,
        32,
        "rotary",
        32,
    )
    assert (model.dropout, model.remat, model.vocab_size) == (0.25, "block", 40)
    assert cfg.data.tokenizer == "init_from"


def first_state(cfg, lines):
    """The state before the first step, without compiling one."""
    task = assembly.make_task(cfg)
    shape = jax.ShapeDtypeStruct((8, 16), np.int32)
    batch = {"tokens": shape, "targets": shape,
             "weights": jax.ShapeDtypeStruct((8, 16), np.float32)}  # fmt: skip
    parts = assembly.assemble(cfg, task, batch)
    with jax.set_mesh(parts.mesh), nn.logical_axis_rules(parallel.RULES):
        return assembly.first_state(parts, cfg, batch, lines.append)


@pytest.mark.parametrize("scan", ["false", "true"])
def test_weights_and_averages_are_the_sources_in_the_shards_of_the_mesh(folder, scan):
    cfg = experiment(folder, mesh__fsdp="2", model__scan_layers=scan, step__ema_decay="0.5")
    lines = []
    state = first_state(resolved(cfg), lines)
    theirs = load_file(folder / "hf" / "model.safetensors")
    leaves = mapping.flatten(state.params)
    path = "stack/blocks/mlp/in/kernel" if scan == "true" else "stack/block_1/mlp/in/kernel"
    found = leaves[path][1] if scan == "true" else leaves[path]
    np.testing.assert_array_equal(found, theirs["model.layers.1.mlp.up_proj.weight"].T)
    assert len(leaves[path].sharding.device_set) == 8 and "fsdp" in str(leaves[path].sharding.spec)
    for name, leaf in mapping.flatten(state.ema).items():
        np.testing.assert_array_equal(leaf, leaves[name])
        assert leaf.sharding == leaves[name].sharding
    assert lines == [f"weights    21 parameters from {folder / 'hf'}"]


@pytest.mark.slow
def test_a_run_trains_from_a_folder_and_goes_on_from_its_own_checkpoint(folder, tmp_path, capsys):
    cfg = experiment(
        folder, optim__learning_rate="1e-2", checkpoint_every="1", step__ema_decay="0.5"
    )
    whole = jaxlm.run(experiment_of(cfg, 2), tmp_path / "whole")
    assert capsys.readouterr().out.count(f"weights    21 parameters from {folder / 'hf'}") == 1
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "00000002")
    (tmp_path / "cut" / "summary.json").unlink()
    again = jaxlm.run(experiment_of(cfg, 2), tmp_path / "cut")
    assert "resumed    step 1" in (said := capsys.readouterr().out) and "weights  " not in said
    assert again["state_sha256"] == whole["state_sha256"]

    lines = []
    cfg.init_from = str(tmp_path / "whole")
    state = first_state(resolved(cfg), lines)  # from the averages, which are what was scored
    assert lines == [f"weights    21 parameters from {tmp_path / 'whole'}"]
    averages = mapping.flatten(jaxlm.load(tmp_path / "whole").params)
    for name, leaf in mapping.flatten(state.params).items():
        np.testing.assert_array_equal(averages[name], leaf)


def experiment_of(cfg, num_steps):
    cfg = cfg.copy_and_resolve_references()
    cfg.num_steps = num_steps
    return cfg


def test_a_run_of_our_own_is_a_start_with_its_tokenizer(folder, tmp_path):
    stored.make_run(tmp_path / "run", num_layers=1, d_model=16, num_heads=2, max_len=16)
    lines = []
    cfg = resolved(experiment(folder, init_from=str(tmp_path / "run")))
    assert (cfg.model.vocab_size, cfg.model.d_model, cfg.model.dropout) == (257, 16, 0.25)
    state = first_state(cfg, lines)
    assert lines == [f"weights    20 parameters from {tmp_path / 'run'}"]
    for name, leaf in mapping.flatten(jaxlm.load(tmp_path / "run").params).items():
        np.testing.assert_array_equal(mapping.flatten(state.params)[name], leaf)


@pytest.mark.slow
def test_an_imported_run_is_a_start_as_well(folder, tmp_path):
    assert convert.main(["import", str(folder / "hf"), str(tmp_path / "run")]) == 0
    direct = first_state(resolved(experiment(folder)), [])
    cfg = experiment(folder, init_from=str(tmp_path / "run"))
    through = first_state(resolved(cfg), [])
    for name, leaf in mapping.flatten(direct.params).items():
        np.testing.assert_array_equal(mapping.flatten(through.params)[name], leaf)
    with pytest.raises(ValueError, match="is model.scan_layers the same"):
        first_state(resolved(experiment(folder, init_from=str(tmp_path / "run"),
                                        model__scan_layers="true")), [])  # fmt: skip


def bert_experiment(folder, **model):
    cfg = experiment(folder, init_from=str(folder / "bert"))
    cfg.model = config.section("model", "bert", **model)
    return cfg


def test_a_new_head_is_drawn_and_the_one_that_is_not_used_is_named(folder):
    cfg = assembly.with_lengths(bert_experiment(folder, head="token", num_labels=3, pooler=False))
    cfg.model.vocab_size = 40
    model = assembly.make_model(cfg)
    tokens = jax.ShapeDtypeStruct((1, 4), np.int32)
    abstract = assembly.abstract_params(model, {"tokens": tokens})
    found, matched = origin.open_source(cfg.init_from).weights(model.config, abstract)
    assert matched.fresh == ("classifier/kernel", "classifier/bias")
    assert set(matched.unused) == {"pooler.dense.weight", "pooler.dense.bias"}
    assert initial.report("there", matched)[1:] == [
        "fresh      not in it, so drawn by the seed: classifier/kernel, classifier/bias",
        "unused     in it, and not of this model: pooler.dense.bias, pooler.dense.weight",
    ]
    assert set(found) == set(mapping.flatten(abstract)) - set(matched.fresh)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"data__tokenizer": "bytes"}, r"data.tokenizer=bytes gives 257 ids, but the model of init_from=.* has 40"),
        ({"init_from": "nowhere"}, "nowhere: no such file or folder"),
        ({"init_from": ""}, 'data.tokenizer="init_from" needs init_from'),
        ({"init_from": "BERT"}, 'is a "bert", but model.kind="gpt"'),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_error(folder, overrides, message):
    if overrides.get("init_from") == "BERT":
        overrides = {"init_from": str(folder / "bert")}
    with pytest.raises(ValueError, match=message):
        resolved(experiment(folder, **overrides))
