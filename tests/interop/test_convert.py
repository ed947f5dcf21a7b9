"""The command line: an import loads, an export of it is the original byte for byte, every mistake is one line and exit 2."""

import json

import numpy as np
import pytest
import stored
from safetensors.numpy import load_file, save_file

import jaxlm
from jaxlm import convert
from jaxlm.interop import huggingface, tensors


def run(*arguments):
    return convert.main([str(one) for one in arguments])


def mixed_llama():
    """float32 norms, float16 and bfloat16 kernels, a head that our model has not, and a buffer."""
    arrays = stored.llama_tensors()
    for name, array in arrays.items():
        if array.ndim == 2:
            arrays[name] = array.astype(stored.BF16 if "mlp" in name else np.float16)
    arrays["score.weight"] = np.arange(64, dtype=np.float32).reshape(2, 32).astype(np.float16)
    arrays["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)
    return arrays


def test_an_import_loads_as_its_source_does(tmp_path, capsys):
    source = stored.write(tmp_path / "hf", stored.LLAMA, stored.llama_tensors())
    assert run("import", source, tmp_path / "run") == 0
    assert "Llama, " in capsys.readouterr().out
    here, there = jaxlm.load(tmp_path / "run"), jaxlm.load(source)
    tokens = np.array([[3, 1, 4, 1, 5]])
    np.testing.assert_array_equal(here.logits(tokens), there.logits(tokens))
    assert here.tokenizer.digest == there.tokenizer.digest and here.template
    hidden = here.hidden(tokens)
    assert hidden.shape == (1, 5, 32) and hidden.dtype == np.float32
    kernel = load_file(source / "model.safetensors")["lm_head.weight"]
    np.testing.assert_allclose(hidden @ kernel.T, here.logits(tokens), atol=1e-5)


@pytest.mark.parametrize("sharded", [False, True])
def test_an_export_of_an_import_is_the_original_byte_for_byte(tmp_path, sharded):
    arrays = mixed_llama()
    source = stored.write(tmp_path / "hf", stored.LLAMA, arrays)
    (source / "generation_config.json").write_text('{"do_sample": true}')
    if sharded:
        (source / "model.safetensors").unlink()
        names = sorted(arrays)
        parts = {f"part-{i}.safetensors": names[i::3] for i in range(3)}
        for file, part in parts.items():
            save_file({name: arrays[name] for name in part}, source / file)
        weight_map = {name: file for file, part in parts.items() for name in part}
        (source / tensors.INDEX).write_text(json.dumps({"weight_map": weight_map}))
    assert run("import", source, tmp_path / "run") == 0
    assert run("export", tmp_path / "run", tmp_path / "back") == 0
    files = sorted(path.name for path in source.glob("*.safetensors"))
    assert sorted(path.name for path in (tmp_path / "back").glob("*.safetensors")) == files
    for file in files:
        old, new = load_file(source / file), load_file(tmp_path / "back" / file)
        assert set(new) == {name for name in old if "inv_freq" not in name}  # a buffer
        for name, array in new.items():
            assert array.dtype == old[name].dtype and array.tobytes() == old[name].tobytes(), name
    for name in ("config.json", "tokenizer.json", "generation_config.json"):
        assert (tmp_path / "back" / name).read_bytes() == (source / name).read_bytes()
    if sharded:
        tensors.open_folder(tmp_path / "back")  # its index is true


def test_a_run_of_our_own_is_exported_under_llamas_names(tmp_path):
    source = stored.make_run(
        tmp_path / "run", "chars", num_layers=1, d_model=16, num_heads=2, max_len=16, positions="rotary",
        norm="rmsnorm", mlp="swiglu", bias=False, tie_embeddings=False,
    )  # fmt: skip
    assert run("export", source, tmp_path / "hf") == 0
    lm, again = jaxlm.load(source), jaxlm.load(tmp_path / "hf")
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["eos_token_id"] == 12
    assert again.tokenizer.encode("abc").tolist() == lm.tokenizer.encode("abc").tolist()
    assert again.tokenizer.eos_id == lm.tokenizer.eos_id
    facts = json.loads((tmp_path / "hf" / "tokenizer_config.json").read_text())
    assert facts["model_input_names"] == ["input_ids", "attention_mask"]
    assert facts["unk_token"] == "<unk>" and "pad_token" not in facts  # what its vocabulary has
    tokens = lm.tokenizer.encode("abcdefgh")[None]
    np.testing.assert_allclose(again.logits(tokens), lm.logits(tokens), atol=1e-6)


def test_missing_heads_are_drawn_and_foreign_ones_reported(tmp_path, caplog):
    arrays = stored.llama_tensors() | {"score.weight": np.ones((2, 32), np.float32)}
    del arrays["lm_head.weight"]
    source = stored.write(tmp_path, stored.LLAMA, arrays)
    with caplog.at_level("WARNING", "jaxlm"):
        lm = jaxlm.load(source)
    assert "fresh      not in it, so drawn by the seed: head/kernel" in caplog.text
    assert "unused     in it, and not of this model: score.weight" in caplog.text
    assert 0.01 < float(lm.params["head"]["kernel"].std()) < 0.03


def broken(folder, what):
    config_, arrays = dict(stored.LLAMA), stored.llama_tensors()
    if what == "architecture":
        config_["model_type"] = "llamma"
    if what == "missing":
        del arrays["model.norm.weight"]
    if what == "left over":
        arrays["model.layers.0.self_attn.q_proj.bias"] = np.zeros(32, np.float32)
    if what == "shape":
        config_["vocab_size"] = 41
    if what == "no copy":
        config_["tie_word_embeddings"] = True
    if what == "number":
        config_["rms_norm_eps"] = -1e-6
    if what == "type":
        arrays["model.norm.weight"] = arrays["model.norm.weight"].astype(np.float64)
    words = [*stored.WORDS, *map(str, range(100, 200))] if what == "tokenizer" else stored.WORDS
    stored.write(folder, config_, arrays, words)
    weights = folder / "model.safetensors"
    if what == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    if what == "no object":
        (folder / "config.json").write_text("[1, 2]")
    if what == "modules":
        (folder / "modules.json").write_text('["Pooling"]')
    if what == "twice":
        weights.rename(folder / "a.safetensors")
        save_file({"lm_head.weight": arrays["lm_head.weight"] + 1}, folder / "b.safetensors")
        files = dict.fromkeys(arrays, "a.safetensors") | {"lm_head.weight": "b.safetensors"}
        (folder / tensors.INDEX).write_text(json.dumps({"weight_map": files}))
    if what == "pickle":
        weights.rename(folder / "pytorch_model.bin")
    return folder


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("architecture", "model_type='llamma' is not known (did you mean \"llama\"?)"),
        ("truncated", "model.safetensors is truncated: its header describes"),
        ("tokenizer", "its tokenizer has 131 ids, its model 40"),
        ("missing", "1 missing (model.norm.weight)"),
        ("left over", "1 left over (model.layers.0.self_attn.q_proj.bias)"),
        ("shape", "2 of another shape (model.embed_tokens.weight: [40, 32], expected [41, 32], lm_head"),
        ("type", "model.norm.weight: F64"),
        ("no copy", "lm_head.weight is not the copy of model.embed_tokens.weight that its config says"),
        ("number", "rms_norm_eps=-1e-06 must be a number above 0"),
        ("no object", "config.json is no saved config (no model in it)"),
        ("modules", "modules.json is damaged: it is no list of modules"),
        ("twice", "lm_head.weight is in a.safetensors and in b.safetensors"),
        ("pickle", "pytorch_model.bin only, which is never opened"),
    ],
)  # fmt: skip
def test_each_mistake_is_one_line_and_exit_code_2(tmp_path, capsys, what, message):
    source = broken(tmp_path / "hf", what)
    assert run("import", source, tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1 and "Traceback" not in said
    assert not (tmp_path / "run").exists()


def test_what_fails_or_is_killed_half_way_leaves_nothing_under_the_name(
    tmp_path, monkeypatch, capsys
):
    source = stored.write(tmp_path / "hf", stored.LLAMA, stored.llama_tensors())

    def full(*arguments):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(huggingface, "record", full)
        assert run("import", source, tmp_path / "run") == 2
    assert "disk full" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf"]
    (tmp_path / ".run.part" / "checkpoints").mkdir(parents=True)  # as kill -9 leaves it
    assert run("import", source, tmp_path / "run") == 0
    with monkeypatch.context() as patch:
        patch.setattr(huggingface, "save_again", full)
        assert run("export", tmp_path / "run", tmp_path / "back") == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "run"]
    assert run("export", tmp_path / "run", source / "config.json" / "back") == 2
    assert "can't be written" in capsys.readouterr().err


def test_folders_that_do_not_fit_are_refused(tmp_path, capsys):
    source = stored.write(tmp_path / "hf", stored.LLAMA, stored.llama_tensors())
    for arguments, message in [
        (("import", tmp_path / "nothing", tmp_path / "x"), "no such file or folder"),
        (("import", source, source), "is in use: name a new folder"),
        (("export", source, tmp_path / "x"), "is no run of ours: import it first"),
        (("export", tmp_path, tmp_path / "x"), "is no run's folder"),
        (
            (
                "export",
                stored.make_run(tmp_path / "run", num_layers=1, d_model=16, num_heads=2),
                tmp_path / "x",
                "--best",
            ),
            "was saved with a metric",
        ),
    ]:
        assert run(*arguments) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        run("inport", source, tmp_path / "x")
    assert stop.value.code == 2


def test_a_model_without_a_form_there_is_refused_before_anything_is_written(tmp_path, capsys):
    source = stored.make_run(tmp_path / "run", num_layers=1, d_model=16, num_heads=2, mlp="relu2")
    assert run("export", source, tmp_path / "hf") == 2
    assert 'model.mlp="relu2": GPT-2 has relu, gelu_exact, gelu' in capsys.readouterr().err
    assert not (tmp_path / "hf").exists()
