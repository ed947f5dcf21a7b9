"""The benchmark of writing: its figures are what they say, and mistakes are one line."""

import importlib.util
import json
from pathlib import Path

import pytest
import stored

PATH = Path(__file__).resolve().parent.parent / "tools" / "bench_decode.py"


@pytest.fixture
def tool(monkeypatch):
    spec = importlib.util.spec_from_file_location("bench_decode", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "_bandwidth", lambda: 2e9)
    return module


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    stored.make_run(folder, num_layers=1, d_model=16, num_heads=2, d_ff=32, max_len=48)
    return folder


def test_a_line_for_the_machine_and_one_for_each_type_and_batch(tool, run, capsys):
    sizes = ["--tokens", "3", "--prompt_tokens", "5", "--repeats", "2"]
    assert tool.main([str(run), "--batch", "3", "--dtype", "float32,bfloat16", *sizes]) == 0
    machine, *rows = map(json.loads, capsys.readouterr().out.splitlines())
    assert machine["bandwidth_gb_s"] == 2.0 and machine["threads"] > 0
    assert [(row["dtype"], row["batch"]) for row in rows] == [("float32", 3), ("bfloat16", 3)]
    # 384 rows of the tied table, the block's four matrices, two of its MLP, biases and norms; no positions.
    weights = 384 * 16 + 4 * 16 * 16 + 2 * 16 * 32 + (5 * 16 + 32) + 3 * 2 * 16
    for row in rows:
        assert row["weight_bytes"] == weights * (4 if row["dtype"] == "float32" else 2)
        ours = row["jaxlm"]
        assert ours["programs"] > 0 and ours["first_token_seconds"] > 0
        steps = ours["tokens_per_second"] / row["batch"]
        assert ours["bandwidth_share"] == pytest.approx(steps * row["weight_bytes"] / 2e9)


def test_the_ratio_is_that_of_pairs_in_turn(tool):
    class Side:
        weight_bytes = 10

        def __init__(self, rates, token):
            self.rates, self.token = iter([0.0, *rates]), token  # the first call is not counted

        def write(self, prompts, tokens):
            return tool.Written(0.5, next(self.rates), [[7], [self.token]])

        def facts(self):
            return {}

    sides = {"jaxlm": Side([10.0, 30.0, 8.0], 1), "other": Side([10.0, 10.0, 4.0], 2)}
    found = tool.compare(sides, [[1], [1]], tokens=1, repeats=3)
    assert found["ratio"] == 2.0 and found["same_texts"] == "1/2"  # of 1, 3 and 2
    assert found["jaxlm"]["tokens_per_second"] == found["other"]["tokens_per_second"] == 10.0
    assert found["jaxlm"]["bandwidth_share"] == 10 / 2 * 10 / 2e9


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--batch", "1,0"], "argument --batch: 1,0: expected numbers above 0, such as 1,8"),
        (["--dtype", "int4"], "argument --dtype: int4: accepted are float32, bfloat16"),
        (["--tokens", "1"], "--tokens=1 must be at least 2"),
        (["--threads", "9999"], "--threads=9999: there are"),
    ],
)
def test_a_mistake_is_one_line(tool, run, arguments, line, capsys):
    try:
        code = tool.main([str(run), *arguments])
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2 and line in capsys.readouterr().err
