"""Mixtures: shares as they were asked for, the same after a resume, rows of one form, and what is refused."""

import json

import numpy as np
import pytest
from scipy import stats

from jaxlm.data import mixing, pipeline
from jaxlm.data.tasks.mixture import MixtureConfig, MixtureTask


def test_proportions_are_those_of_t5():
    np.testing.assert_allclose(mixing.proportions([1, 3]), [0.25, 0.75])
    np.testing.assert_allclose(mixing.proportions([1, 16], 2.0), [0.2, 0.8])  # 1 : 4
    np.testing.assert_allclose(mixing.proportions([5, 0]), [1, 0])


def inside(count, total, share):
    """Whether a count is one that 99.9 % of all draws would have."""
    low, high = stats.binom.interval(0.999, total, share)
    return low <= count <= high


@pytest.mark.parametrize("seed", range(5))
def test_shares_lie_in_a_binomial_interval_on_the_whole_and_in_every_part(seed):
    shares = [0.6, 0.3, 0.1]
    tasks, _ = mixing.Choices(shares, shares, 0, (seed,))(range(40_000))
    for part in (tasks, *np.split(tasks, 8)):
        for task, share in enumerate(shares):
            assert inside((part == task).sum(), len(part), share)
    other, _ = mixing.Choices(shares, shares, 0, (seed + 1,))(range(40_000))
    assert (tasks != other).mean() > 0.3


def test_a_schedule_goes_from_the_first_shares_to_the_last():
    choices = mixing.Choices([0.9, 0.1], [0.2, 0.8], 20_000, (0,))
    tasks, _ = choices(range(40_000))
    assert inside((tasks[:1000] == 0).sum(), 1000, 0.9 - 0.35 * 0.05)
    assert inside((tasks[9_000:11_000] == 0).sum(), 2000, 0.55)
    assert inside((tasks[20_000:] == 0).sum(), 20_000, 0.2)


def test_places_can_be_asked_for_in_any_order_and_every_task_counts_on():
    choices = mixing.Choices([0.5, 0.5], [0.5, 0.5], 0, (3,))
    tasks, ranks = choices(range(50_000))
    for task in (0, 1):
        assert ranks[tasks == task].tolist() == list(range((tasks == task).sum()))
    fresh = mixing.Choices([0.5, 0.5], [0.5, 0.5], 0, (3,))
    places = [40_001, 3, 16_384, 16_383, 40_000]
    for found, whole in zip(fresh(places), (tasks, ranks), strict=True):
        assert found.tolist() == whole[places].tolist()


@pytest.fixture
def sections(tmp_path):
    """Forty labelled lines, twenty pairs with a label, twenty tagged ones."""
    rows = {
        "kind": [{"text": f"item {n}", "label": ("even", "odd")[n % 2]} for n in range(40)],
        "same": [
            {"text": f"a {n}", "pair": f"b {n % 3}", "label": ("yes", "no", "maybe")[n % 3]}
            for n in range(20)
        ],
        "words": [{"tokens": ["one", f"{n}"], "tags": ["O", "B-NUM"]} for n in range(20)],
    }
    for name, lines in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    labelled = {"kind": "labelled", "val_fraction": 0.2}
    return {
        "kind": labelled | {"path": "kind.jsonl"},
        "same": labelled | {"path": "same.jsonl", "pair_column": "pair"},
        "words": {"kind": "tagged", "path": "words.jsonl", "val_fraction": 0.2},
    }, {"folder": str(tmp_path), "seq_len": 16}


def test_rows_of_all_tasks_have_one_form(sections):
    tasks, more = sections
    mixture = MixtureTask(MixtureConfig(tasks=tasks, **more))
    assert mixture.info.labels == (
        "kind/even", "kind/odd", "same/maybe", "same/no", "same/yes", "words/B-NUM", "words/O",
    )  # fmt: skip
    assert list(mixture.info.parts) == ["kind", "same", "words"]
    assert mixture.info.splits["train"].num_examples == 32 + 16 + 16
    rows = [mixture.train(0)[i] for i in range(60)]
    assert {int(row["task"]) for row in rows} == {0, 1, 2}
    for row in rows:
        assert {name: value.shape for name, value in row.items()} == {
            "tokens": (16,), "segment_ids": (16,), "token_types": (16,), "targets": (16,),
            "weights": (16,), "task": (),
        }  # fmt: skip
        first, end = [(0, 2), (2, 5), (5, 7)][int(row["task"])]
        scored = row["targets"][row["weights"] > 0]
        assert ((scored >= first) & (scored < end)).all()
        if row["task"] < 2:  # the class of a row stands at [CLS]
            assert np.flatnonzero(row["weights"]).tolist() == [0]
        else:
            assert scored.tolist() == [6, 5]
        assert (row["token_types"].any()) == (row["task"] == 1)
    shown = mixture.show(pipeline.train_batches(mixture, 0, 60)[0], 60)
    assert "task     words" in shown and "'one' O  " in shown and "label    maybe" in shown


def test_evaluation_goes_through_one_task_after_the_other(sections):
    tasks, more = sections
    mixture = MixtureTask(MixtureConfig(tasks=tasks, **more))
    found = list(mixture.eval("val", 3))
    assert [batch["task"].tolist() for batch in found] == [[0] * 3] * 3 + [[1] * 3] * 2 + [
        [2] * 3
    ] * 2
    ids = np.concatenate([batch["id"] for batch in found])
    assert ids[ids >= 0].tolist() == list(range(8 + 4 + 4))
    assert mixture.example("val", 8)[1] == "a 16\tb 1"
    assert mixture.example("val", 12)[1] == "one 16"


def test_batches_are_the_same_after_a_resume_and_shares_go_by_examples(sections):
    tasks, more = sections
    config = MixtureConfig(tasks=tasks, **more, limit=16)
    np.testing.assert_allclose(MixtureTask(config).shares()[0], np.ones(3) / 3)
    batches = pipeline.train_batches(MixtureTask(config), 5, 8)
    with pipeline.BatchIterator(batches) as through:
        wanted = [next(through) for _ in range(6)]
    again = pipeline.train_batches(MixtureTask(config), 5, 8)
    with pipeline.BatchIterator(again, start_step=4) as resumed:
        for step in (4, 5):
            batch = next(resumed)
            for name, value in wanted[step].items():
                np.testing.assert_array_equal(batch[name], value)


def test_text_to_text_says_its_task_in_words(tmp_path):
    for name in ("a", "b"):
        lines = "".join(f"{name} {n}\t{n}\n" for n in range(20))
        (tmp_path / f"{name}.tsv").write_text(lines)
    pairs = {"kind": "pairs", "source_len": 24, "target_len": 8}
    tasks = {
        name: pairs | {"path": str(tmp_path / f"{name}.tsv"), "source_prefix": f"task {name}: "}
        for name in ("a", "b")
    }
    mixture = MixtureTask(MixtureConfig(tasks=tasks))
    assert mixture.info.labels == ()
    batch = next(mixture.eval("val", 1))
    assert (batch["input"][0], batch["reference"][0]) == ("task a: a 18", "18")
    with pytest.raises(ValueError, match="data.tasks.b has other rows than data.tasks.a: source"):
        MixtureTask(MixtureConfig(tasks=tasks | {"b": tasks["b"] | {"source_len": 25}}))


def test_what_does_not_fit_is_refused_with_the_task(sections, tmp_path):
    tasks, more = sections
    refused = {
        "data.tasks is empty": {},
        "data.weights must have a number": {"tasks": tasks, "weights": {"kind": 1.0}},
        "are all 0": {"tasks": tasks, "weights": dict.fromkeys(tasks, 0.0)},
        "go together": {"tasks": tasks, "schedule_examples": 10},
        "temperature=0 must be above 0": {"tasks": tasks, "temperature": 0},
        "data.tasks.a/b: letters": {"tasks": {"a/b": tasks["kind"]}},
    }
    for message, config in refused.items():
        with pytest.raises(ValueError, match=message):
            MixtureConfig(**config)
    opened = {
        r'data.tasks.kind.txt_column is no key of its kind \(did you mean "text_column"': {
            "txt_column": "x"
        },
        "data.tasks.kind.seq_len=9: all tasks have one": {"seq_len": 9},
        "data.tasks.kind: .*label_column": {"label_column": "nothing"},
        'data.tasks.kind.kind="label" is not known': {"kind": "label"},
        "a mixture of mixtures": {"kind": "mixture"},
    }
    for message, change in opened.items():
        changed = tasks | {"kind": tasks["kind"] | change}
        with pytest.raises(ValueError, match=message):
            MixtureTask(MixtureConfig(tasks=changed, **more))
    (tmp_path / "pairs.tsv").write_text("a\tb\n" * 20)
    other = {"pairs": {"kind": "pairs", "path": "pairs.tsv"}}
    with pytest.raises(ValueError, match="data.tokenizer=bytes makes other ids for each"):
        MixtureTask(MixtureConfig(tasks=tasks | other, **more))
