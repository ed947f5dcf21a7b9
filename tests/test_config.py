"""Configs: typed overrides, nearest names, kinds, and the record of what ran."""

import pytest
from etils import epath

from jaxlm import config


@pytest.fixture
def cfg():
    return config.base()


def test_overrides_keep_the_type_of_the_key(cfg):
    for key, text in {
        "num_steps": "1e3",
        "model.num_layers": "3",
        "optim.learning_rate": "1",
        "model.bias": "false",
        "model.num_kv_heads": "2",
        "evaluators": "('perplexity',)",
        "data.path": "123",
    }.items():
        config.override(cfg, key, text)
    assert (cfg.num_steps, cfg.model.num_layers, cfg.model.bias) == (1000, 3, False)
    assert cfg.optim.learning_rate == 1.0 and isinstance(cfg.optim.learning_rate, float)
    assert cfg.model.num_kv_heads == 2
    assert cfg.data.path == "123"


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("modle.num_layers", "3", 'no such key.*did you mean "model.num_layers"'),
        ("model.num_layer", "3", 'did you mean "model.num_layers"'),
        ("model.num_layers", "three", "model.num_layers=three: expected int, got str"),
        ("model.num_layers", "3.5", "expected int, got float"),
        ("model.num_kv_heads", "x", "expected int"),
        ("model.bias", "maybe", "expected true or false"),
        ("optim.learning_rate", "fast", "expected float"),
        ("model", "gpt", "is a section: override one of"),
        ("seed.x", "1", "no such key in seed"),
    ],
)
def test_a_wrong_override_is_one_clear_error(cfg, key, text, message):
    with pytest.raises(ValueError, match=message):
        config.override(cfg, key, text)


def test_what_holds_no_key_yet_takes_all_of_them_at_once(cfg):
    cfg.data = config.section("data", "mixture")
    config.override(cfg, "data.weights", "{'a': 1, 'b': 2.5}")
    assert cfg.data.weights.to_dict() == {"a": 1, "b": 2.5}
    with pytest.raises(ValueError, match="data.final_weights=3: expected dict, got int"):
        config.override(cfg, "data.final_weights", "3")


def test_a_misspelt_key_in_an_experiment_raises(cfg):
    with pytest.raises(AttributeError, match="num_step"):
        cfg.num_step = 3
    with pytest.raises(ValueError, match='model.num_layer .*did you mean "num_layers"'):
        config.section("model", "gpt", num_layer=3)
    with pytest.raises(ValueError, match='model.kind="gtp" is not known.*did you mean "gpt"'):
        config.section("model", "gtp")


def test_sequence_length_is_the_models_until_it_is_given(cfg):
    from jaxlm.train import assembly

    config.override(cfg, "model.max_len", "64")
    assert assembly.with_lengths(cfg).data.seq_len == 64
    config.override(cfg, "data.seq_len", "32")
    filled = assembly.with_lengths(cfg)
    assert (filled.data.seq_len, filled.model.max_len) == (32, 64)


def test_none_takes_an_optional_field_back(cfg):
    config.override(cfg, "model.num_kv_heads", "2")
    config.override(cfg, "model.num_kv_heads", "none")
    assert cfg.model.num_kv_heads is None
    with pytest.raises(ValueError, match="expected int"):
        config.override(cfg, "model.num_layers", "none")


def test_an_unknown_variant_names_the_nearest():
    with pytest.raises(ValueError, match='no variant "lnog".*did you mean "long"'):
        config.load("experiments/quickstart.py:lnog")


def test_a_kind_alone_cannot_swap_a_section(cfg):
    cfg.data.kind = "jaxlm.models.gpt:GPT"
    with pytest.raises(ValueError, match="data.kind=.*has other keys.*config.section"):
        config.build(cfg, "data")


def test_sections_become_checked_dataclasses(cfg):
    built = config.build(cfg, "model")
    assert (built.num_layers, built.num_kv_heads, built.d_model) == (12, None, 768)
    cfg.model.num_heads = 7
    with pytest.raises(
        ValueError, match="model.d_model=768 must be a multiple of model.num_heads=7"
    ):
        config.build(cfg, "model")


def test_optim_may_be_a_map_of_patterns(cfg):
    from ml_collections import ConfigDict

    with cfg.unlocked(), cfg.ignore_type():
        cfg.optim = ConfigDict(
            {"embed": config.section("optim", "sgd"), "^": config.section("optim", "lion")}
        )
    built = config.build(cfg, "optim")
    assert {pattern: part.kind for pattern, part in built.items()} == {"embed": "sgd", "^": "lion"}


def test_what_is_saved_reads_back_and_differences_name_keys(cfg, tmp_path):
    path = epath.Path(tmp_path)  # as a run's folder is; it does not rename onto a file
    config.save(cfg, path / "config.json")
    config.save(cfg, path / "config.json")  # a run that was killed before its first checkpoint
    again = config.read(tmp_path / "config.json")
    assert config.differences(cfg, again) == []
    config.override(cfg, "model.num_layers", "3")
    assert config.differences(cfg, again) == ["model.num_layers: 12 -> 3"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no file"),
        ("def get_config(:\n", "exp.py:1: SyntaxError"),
        ("x = 1\n", "it defines no get_config"),
        ("def get_config():\n    return 3\n", "must return"),
        ("def get_config():\n    return 1 / 0\n", "exp.py:2: ZeroDivisionError"),
        ("import nothing_of_this_name\n", "exp.py:1: ModuleNotFoundError"),
        (
            "from jaxlm import config\ndef get_config():\n    cfg = config.base()\n    cfg.seeed = 1\n",
            "exp.py:4: AttributeError",
        ),
    ],
)
def test_a_missing_or_broken_file_names_its_line(tmp_path, text, message):
    path = tmp_path / "exp.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=message):
        config.load(str(path))


def test_variants_and_names(tmp_path):
    path = tmp_path / "exp.py"
    path.write_text(
        "from jaxlm import config\n"
        "def get_config(variant=''):\n"
        "    cfg = config.base()\n"
        "    cfg.num_steps = {'': 1, 'long': 9}[variant]\n"
        "    return cfg\n"
    )
    assert config.load(str(path)).num_steps == 1
    assert config.load(f"{path}:long").num_steps == 9
    assert config.load(f"{path}:long", {"num_steps": "4"}).num_steps == 4
    assert config.experiment_name(f"{path}:long") == "exp-long"
    with pytest.raises(ValueError, match="KeyError"):
        config.load(f"{path}:short")
