"""peft's folders without peft: one by hand is read as its numbers say, written names are the shortest, what we have not is refused."""

import json

import numpy as np
import pytest
import stored
from safetensors.numpy import load_file, save_file

import jaxlm
from jaxlm import convert
from jaxlm.interop import peft, peft_outward

CONFIG = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "r": 2,
    "lora_alpha": 3,
    "target_modules": ["v_proj"],
    "bias": "none",
}
RNG = np.random.default_rng(0)
Q = "base_model.model.model.layers.1.self_attn.v_proj"
PAIR = {
    f"{Q}.lora_A.weight": RNG.standard_normal((2, 32)).astype(np.float32),
    f"{Q}.lora_B.weight": RNG.standard_normal((16, 2)).astype(np.float32),
}


def adapter(folder, tensors=PAIR, **changes):
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | changes))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def run(*arguments):
    return convert.main([str(one) for one in arguments])


@pytest.fixture
def base(tmp_path):
    return stored.write(tmp_path / "hf", stored.LLAMA, stored.llama_tensors())


def test_an_adapter_by_hand_is_added_to_its_kernel_and_comes_back(base, tmp_path):
    """W' = W + 3/2 B A of one layer; the other layers are as they were."""
    source = adapter(tmp_path / "adapter", base_model_name_or_path="elsewhere/model")
    assert run("import", source, tmp_path / "run", "--init_from", base) == 0
    here, there = jaxlm.load(tmp_path / "run"), jaxlm.load(base)
    kernel = np.asarray(there.params["stack"]["block_1"]["attention"]["v"]["kernel"])
    product = (PAIR[f"{Q}.lora_B.weight"] @ PAIR[f"{Q}.lora_A.weight"]).T
    found = here.params["stack"]["block_1"]["attention"]["v"].pop("kernel")
    np.testing.assert_allclose(found, kernel + 1.5 * product, atol=1e-5)
    del there.params["stack"]["block_1"]["attention"]["v"]
    for path in (("stack", "block_0", "attention", "v"), ("stack", "block_1", "attention", "q")):
        a, b = here.params, there.params
        for name in path:
            a, b = a[name], b[name]
        np.testing.assert_array_equal(a["kernel"], b["kernel"])
    assert run("export", tmp_path / "run", tmp_path / "back", "--adapter") == 0
    back = load_file(tmp_path / "back" / "adapter_model.safetensors")
    assert back.keys() == PAIR.keys()
    for name, array in PAIR.items():
        np.testing.assert_array_equal(back[name], array)
    facts = json.loads((tmp_path / "back" / "adapter_config.json").read_text())
    assert facts["target_modules"] == ["1.self_attn.v_proj"]  # of both layers' the one
    assert (facts["r"], facts["lora_alpha"], facts["task_type"]) == (2, 3.0, "CAUSAL_LM")
    assert facts["base_model_name_or_path"] == str(base)


def test_names_are_the_shortest_that_select_no_others():
    modules = {
        f"h.{n}.{name}"
        for n in (0, 1)
        for name in ("attention.out.dense", "mlp.dense", "attention.q")
    }
    modules |= {"pooler.dense"}
    assert peft_outward.shortest({"h.0.attention.q", "h.1.attention.q"}, modules) == ["q"]
    inner = {name for name in modules if name.startswith("h.") and name.endswith("dense")}
    assert peft_outward.shortest(inner, modules) == ["mlp.dense", "out.dense"]
    assert peft_outward.shortest({"h.1.mlp.dense"}, modules) == ["1.mlp.dense"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "PROMPT_TUNING"}, "peft_type='PROMPT_TUNING' is not read; accepted is 'LORA'"),
        ({"use_dora": True}, "use_dora=True can't be represented"),
        ({"bias": "all"}, "bias='all' is not read"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa' has changed the model under the adapter"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices=[3] can't be represented"),
        ({"base_model_name_or_path": "some/model"}, "is an adapter of some/model, which is not here: name it with --init_from"),
        ({"base_model_name_or_path": None}, "is an adapter of an unnamed model"),
        ({"lora_alpha": None}, "lora_alpha=None must be a number"),
        ({"lora_dropout": "x"}, "lora_dropout='x' must be a number"),
        ({"alpha_pattern": [1]}, "alpha_pattern=[1] is damaged"),
        ({"alpha_pattern": {"(": 1}}, "alpha_pattern={'(': 1} is damaged"),
    ],
)  # fmt: skip
def test_what_can_not_be_represented_is_one_line(tmp_path, capsys, changes, message):
    assert run("import", adapter(tmp_path / "adapter", **changes), tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("pattern", "alpha"),
    [
        ("v_proj", 8),
        (r"layers\.[01]\..*", 8),
        ("1.self_attn.v_proj", 8),
        ("proj", 3),
        ("layers", 3),
    ],
)
def test_a_pattern_of_alphas_is_a_regular_expression_for_the_end_of_a_name(
    tmp_path, pattern, alpha
):
    """As in peft: rank 2, so a scale of 8 / 2, or of lora_alpha's 3 / 2."""
    opened = peft.open_folder(adapter(tmp_path / "adapter", alpha_pattern={pattern: 8}))
    ((_, _, scale),) = opened.pairs.values()
    assert scale == alpha / 2


def test_tensors_of_another_model_and_mistaken_options_are_one_line(base, tmp_path, capsys):
    other = {name.replace("v_proj", "w_proj"): array for name, array in PAIR.items()}
    half = {name: array for name, array in PAIR.items() if "lora_A" in name}
    wide = PAIR | {f"{Q}.lora_B.weight": np.zeros((32, 2), np.float32)}
    for number, (tensors, message) in enumerate([
        (other, "is no adapter of this Llama: model.layers.1.self_attn.w_proj"),
        (half, "has no matching pair of lora_A and lora_B"),
        (wide, "does not fit"),
        (PAIR | {f"{Q}.lora_magnitude_vector": np.zeros(3, np.float32)}, "lora_magnitude_vector can't be represented"),
    ]):  # fmt: skip
        source = adapter(tmp_path / f"adapter{number}", tensors)
        assert run("import", source, tmp_path / "run", "--init_from", base) == 2
        assert message in capsys.readouterr().err
    source = adapter(tmp_path / "adapter")
    assert run("import", base, tmp_path / "run", "--init_from", base) == 2
    assert "--init_from is for an adapter" in capsys.readouterr().err
    whole = stored.make_run(tmp_path / "whole", num_layers=1, d_model=16, num_heads=2)
    assert run("export", whole, tmp_path / "x", "--adapter") == 2
    assert 'tuning.kind="full" has no adapter' in capsys.readouterr().err
    with pytest.raises(
        ValueError,
        match="is an adapter, not a model: make a run of it, python -m jaxlm.convert import",
    ):
        from jaxlm.train import origin

        origin.open_source(str(source))
    assert peft.is_folder(source) and not peft.is_folder(base)
