"""Results on disk: all comes back, nothing torn or changed is read, and what differs is named."""

import dataclasses
import hashlib
import json
import math

import numpy as np
import pytest

from jaxlm.eval import Row, Scores, comparison, results
from jaxlm.eval.metric import make_row


def made(values=(1.0, 0.0, 1.0, 1.0), name="model", **fields) -> results.Result:
    """A result of an accuracy over four examples, and of a score that can't be resampled."""
    statistics = np.stack([np.array(values), np.ones(len(values))], axis=1)
    rows = [
        make_row(
            "accuracy",
            statistics,
            unit="fraction",
            finish="ratio",
            signature="shots=0|tok=x",
            higher_is_better=True,
        ),
        Row("variety", 0.25, "fraction", math.nan, "n=2", True),
    ]
    examples = [
        {"id": str(n), "input": f"q{n}", "prediction": "é\u2028\n", "reference": "", "score": v}
        for n, v in enumerate(values)
    ]
    model = {
        "name": name, "path": f"/tmp/{name}", "best": False, "kind": "gpt", "step": 3, "weights": "ema",
        "num_params": 1234, "sha256": "a" * 64, "tokenizer": {"name": "bytes", "sha256": "b" * 64},
        "config": {"model": {"kind": "gpt"}},
    }  # fmt: skip
    return dataclasses.replace(
        results.Result(
            command=["python", "-m", "jaxlm.evaluate", "--suite", "a b"],
            created="2030-01-02T03:04:05+00:00",
            seconds=1.5,
            versions={"jax": "0.10.2"},
            device="1 x cpu (cpu), x86_64",
            model=model,
            suite={"name": "choice", "options": {"limit": 4, "shots": [0], "batch_size": 8}},
            data={"bundled:choice": "c" * 64},
            scores=Scores(rows, examples, {"groups": [{"z": "first", "a": None}]}),
        ),
        **fields,
    )


def test_a_folder_that_can_not_be_written_is_found_before(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="--out .*file/new can't be written: .*/file is a file"):
        results.check_writable(tmp_path / "file" / "new")
    results.check_writable(tmp_path / "new" / "newer")
    results.check_writable("gs://somewhere/else")
    assert not (tmp_path / "new").exists()


def test_a_result_comes_back_whole(tmp_path):
    path = results.save(made(), tmp_path / "new" / "folder", "<html>")
    assert sorted(file.name for file in path.parent.iterdir()) == [
        "examples.jsonl", "report.html", "results.json", "statistics.npz",
    ]  # fmt: skip
    for where in (path, path.parent):
        back = results.load(where)
        assert back.scores.rows[0] == made().scores.rows[0]
        assert back.scores.rows[0].statistics.tolist() == [[1, 1], [0, 1], [1, 1], [1, 1]]
        assert math.isnan(back.scores.rows[1].stderr) and back.scores.rows[1].statistics is None
        assert back.scores.examples == made().scores.examples
        assert list(back.scores.tables["groups"][0]) == ["z", "a"]  # in the order that was written
        plain = dataclasses.asdict(made()) | {"scores": None}
        assert dataclasses.asdict(back) | {"scores": None} == plain
    assert comparison.differences(made(), back) == ([], [])


def test_the_same_result_is_the_same_bytes(tmp_path):
    paths = [results.save(made(), tmp_path / name) for name in "ab"]
    for name in ("results.json", "examples.jsonl", "statistics.npz"):
        first, second = ((path.parent / name).read_bytes() for path in paths)
        assert first == second


def test_equal_statistics_are_kept_once(tmp_path):
    one = made()
    twice = one.scores._replace(rows=[one.scores.rows[0], one.scores.rows[0]])
    path = results.save(dataclasses.replace(one, scores=twice), tmp_path)
    assert np.load(path.parent / "statistics.npz").files == ["s0"]


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("results.json", lambda raw: raw[: len(raw) // 2], "no whole result: it was cut short"),
        ("results.json", lambda raw: b"", "no whole result"),
        ("results.json", lambda raw: b"[1]", "no whole result"),
        (
            "results.json",
            lambda raw: raw.replace(b"0.75", b"0.76"),
            "does not match its own sha256",
        ),
        ("results.json", lambda raw: raw + b"\n", "does not match its own sha256"),
        ("examples.jsonl", lambda raw: raw[:-9], "examples.jsonl is not the one that belongs to"),
        ("statistics.npz", lambda raw: raw + b"x", "statistics.npz is not the one that belongs to"),
    ],
)
def test_what_was_cut_or_changed_is_refused_in_one_line(tmp_path, file, change, message):
    path = results.save(made(), tmp_path)
    target = path.parent / file
    target.write_bytes(change(target.read_bytes()))
    with pytest.raises(ValueError, match=message) as caught:
        results.load(path)
    assert "\n" not in str(caught.value)


def test_what_is_missing_or_of_another_format_is_said(tmp_path):
    with pytest.raises(ValueError, match="no such result"):
        results.load(tmp_path / "results.json")
    path = results.save(made(), tmp_path)
    body = json.loads(path.read_text())["result"] | {"format": 9}
    digest = hashlib.sha256(json.dumps(body).encode()).hexdigest()
    path.write_text(json.dumps({"result": body, "sha256": digest}, indent=1) + "\n")
    with pytest.raises(ValueError, match="another format than 1"):
        results.load(path)
    (tmp_path / "examples.jsonl").unlink()
    path = results.save(made(), tmp_path / "x")
    (path.parent / "examples.jsonl").unlink()
    with pytest.raises(ValueError, match=r"needs examples.jsonl beside it"):
        results.load(path)


def test_the_digest_of_weights_sees_every_bit_name_and_shape():
    def digest(**leaves):
        return results.weights_digest({"layer": leaves})

    base = {"w": np.arange(4, dtype=np.float32), "b": np.zeros(2, np.float32)}
    same = digest(**base)
    assert same == digest(**dict(reversed(base.items()))) and len(same) == 64
    nudged = base["w"].copy()
    nudged[3] = np.nextafter(nudged[3], np.float32(9))
    for other in (
        base | {"w": nudged},
        base | {"w": base["w"].reshape(2, 2)},
        base | {"w": base["w"].astype(np.int32)},
        {"w": base["w"], "c": base["b"]},
    ):
        assert digest(**other) != same


def changed(row_fields=None, **model):
    one = made()
    rows = list(one.scores.rows)
    rows[0] = dataclasses.replace(rows[0], **(row_fields or {}))
    return dataclasses.replace(one, model=one.model | model, scores=one.scores._replace(rows=rows))


def test_what_differs_is_told_from_what_may():
    compare = comparison.differences
    assert compare(made(), changed(sha256="d" * 64))[0] == [
        f"sha256 of the weights: {'a' * 64} -> {'d' * 64}"
    ]
    assert compare(made(), changed({"value": 0.750001}))[0] == ["accuracy, value: 0.75 -> 0.750001"]
    wrong, notes = compare(made(), changed({"value": 0.75 + 1e-9}))
    assert not wrong and notes == ["accuracy, value: 0.75 -> 0.750000001"]
    assert compare(made(), changed({"name": "other"}))[0] == [
        "accuracy: 0.75 -> (absent)",
        "other: (absent) -> 0.75",
    ]
    assert compare(made(), made(data={"bundled:choice": "e" * 64}))[0] != []
    wrong, notes = compare(made(), made(versions={"jax": "0.12"}, device="gpu"))
    assert not wrong and notes == [
        "version of jax: 0.10.2 -> 0.12",
        "device: 1 x cpu (cpu), x86_64 -> gpu",
    ]
    other = made()
    other.scores.examples[0]["prediction"] = "new"
    assert compare(made(), other) == ([], ["1 of 4 predictions differ"])


def test_a_folder_that_can_not_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="can't be written"):
        results.save(made(), tmp_path / "file" / "x")
