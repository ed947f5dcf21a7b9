"""Sets of labels, scores, choices and answers in texts: literal batches, windows, splits, refusals."""

import json
import logging

import numpy as np
import pytest

from jaxlm.data.tasks.answer_spans import AnswerSpansTask
from jaxlm.data.tasks.choices import ChoicesTask
from jaxlm.data.tasks.multi_labelled import MultiLabelledTask
from jaxlm.data.tasks.scored import ScoredTask

EOS, PAD, CLS, SEP = 256, 257, 258, 259  # of bytes with BERT's special tokens


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXLM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def make(tmp_path):
    """A task over the rows of a file."""

    def made(kind, rows, name="a.jsonl", **fields):
        lines = rows if name.endswith(("tsv", "csv")) else [json.dumps(row) for row in rows]
        text = json.dumps(rows) if name.endswith(".json") else "".join(f"{o}\n" for o in lines)
        (tmp_path / name).write_text(text, encoding="utf-8")
        return kind(kind.Config(path=str(tmp_path / name), **({"val_fraction": 0.0} | fields)))

    return made


def only(task, split="train", size=8):
    (batch,) = task.eval(split, size)
    return batch


# --- sets of labels ------------------------------------------------------------------------------------------------


MULTI = [
    {"text": "a", "labels": ["x", "y"]},
    {"text": "b", "labels": []},
    {"text": "c", "labels": ["z", "x"]},
    {"text": "d", "labels": ["y"]},
]


def test_sets_of_labels_literally(make):
    task = make(MultiLabelledTask, MULTI, seq_len=4, val_fraction=0.25)
    assert task.info.labels == ("x", "y", "z")
    batch = only(task, size=4)
    assert batch["tokens"][:3].tolist() == [[CLS, b, SEP, PAD] for b in b"abc"]
    assert batch["targets"].tolist() == [[1, 1, 0], [0, 0, 0], [1, 0, 1], [0, 0, 0]]
    assert batch["weights"].tolist() == [[1] * 3] * 3 + [[0] * 3]
    assert batch["targets"].dtype == np.float32
    assert task.show(batch, 2, np.array([[0, 1, 1], [0, 0, 0]])).splitlines()[1:] == [
        "  text     '[CLS]a[SEP]'",
        "  labels   x, y",
        "  predicted y, z",
        "example 1: 3 tokens, 3 scored",
        "  text     '[CLS]b[SEP]'",
        "  labels   (none)",
        "  predicted (none)",
    ]


def test_labels_between_separators(make):
    rows = ["text,labels", 'a,"x, y"', "b,", "c,z", "d,x"]
    task = make(MultiLabelledTask, rows, "a.csv", seq_len=4)
    assert only(task, size=4)["targets"].tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1], [1, 0, 0]]
    task = make(MultiLabelledTask, ["a\tx;y", "b\ty"], "b.tsv", seq_len=4, separator=";")
    assert task.info.labels == ("x", "y")


def test_rare_labels_go_and_their_lines_stay(make, caplog):
    with caplog.at_level(logging.INFO, "jaxlm"):
        task = make(MultiLabelledTask, MULTI, seq_len=4, min_count=2)
    assert "1 labels on fewer than data.min_count=2 lines are dropped: z" in caplog.text
    assert only(task)["targets"][:4].tolist() == [[1, 1], [0, 0], [1, 0], [0, 1]]


# --- scores --------------------------------------------------------------------------------------------------------


def test_scores_are_standardised_by_the_training_lines(make):
    rows = [{"text": "a", "score": 10}, {"text": "b", "score": "14"}, {"text": "c", "score": 20.5}]
    task = make(ScoredTask, rows, seq_len=4, val_fraction=0.3)
    assert task.info.scale == (12.0, 2.0) and task.info.num_outputs == 1
    assert only(task)["targets"][:2].tolist() == [[-1], [1]]
    batch = only(task, "val")
    assert batch["targets"][0].tolist() == [4.25] and batch["weights"].tolist()[:2] == [[1], [0]]
    assert task.show(batch, 1, np.array([[0.0]])).splitlines()[-2:] == [
        "  score    20.5",
        "  predicted 12",
    ]


def test_scores_of_pairs(make):
    rows = ["a\tb\t1", "c\td\t3.5"]
    task = make(ScoredTask, rows, "a.tsv", seq_len=6, pair_column="second")
    batch = only(task)
    assert batch["tokens"][0].tolist() == [CLS, 97, SEP, 98, SEP, PAD]
    assert batch["token_types"][0].tolist() == [0, 0, 0, 1, 1, 0]
    np.testing.assert_allclose(batch["targets"][:2, 0], [-1, 1], rtol=1e-6)


# --- choices -------------------------------------------------------------------------------------------------------


CHOICES = [
    {"question": "q", "choices": ["ab", "c"], "answer": 1},
    {"question": "qq", "choices": ["a", "b", "c"], "answer": "C"},
    {"question": "q", "choices": ["7", "0"], "answer": "7"},  # the choice itself
]


def test_every_choice_is_a_segment(make):
    task = make(ChoicesTask, CHOICES, seq_len=20)
    assert task.info.num_outputs == 1 and not task.info.labels
    batch = only(task, size=3)
    assert batch["tokens"][0].tolist() == [
        CLS, 113, SEP, 97, 98, SEP, CLS, 113, SEP, 99, SEP, *[PAD] * 9,
    ]  # fmt: skip
    assert batch["segment_ids"][0].tolist() == [1] * 6 + [2] * 5 + [0] * 9
    assert batch["positions"][0].tolist() == [*range(6), *range(5), *[0] * 9]
    assert batch["token_types"][0].tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1] + [0] * 9
    assert batch["starts"].tolist() == [[0, 6, -1], [0, 6, 12], [0, 5, -1]]
    assert batch["targets"].tolist() == [[1], [2], [0]]
    assert batch["input"].tolist() == ["q", "qq", "q"]
    assert batch["reference"].tolist() == ["c", "c", "7"]
    assert batch["raw"][1] == ("a", "b", "c")
    assert task.show(batch, 1, np.array([[0]])).splitlines() == [
        "example 0: 11 tokens, 1 scored",
        "  >  '[CLS]q[SEP]ab[SEP]'",
        "   * '[CLS]q[SEP]c[SEP]'",
    ]


def test_long_choices_share_a_row(make, caplog):
    rows = [{"question": "123456789", "choices": ["ab", "cdefghijk"], "answer": 0}]
    with caplog.at_level(logging.INFO, "jaxlm"):
        task = make(ChoicesTask, rows, seq_len=20)
    assert "1 of 1 lines are longer than data.seq_len=20 and are cut (the longest has 35" in caplog.text  # fmt: skip
    batch = only(task, size=1)
    assert task.show(batch, 1).splitlines()[1:] == [
        "   * '[CLS]12345[SEP]ab[SEP]'",
        "     '[CLS][SEP]cdefghi[SEP]'",
    ]


def test_choices_in_columns(make):
    rows = ["ask,a,b,right", "q,x,y,B", "r,z,w,z"]
    task = make(
        ChoicesTask, rows, "a.csv", seq_len=16, question_column="ask", choices_column="a+b",
        answer_column="right",
    )  # fmt: skip
    assert only(task)["targets"][:2].tolist() == [[1], [0]]


# --- answers in texts ----------------------------------------------------------------------------------------------


def spans(make, rows, **fields):
    return make(AnswerSpansTask, rows, **fields)


SPAN = {"context": "0123456789", "question": "q?", "answers": ["56"], "starts": [5]}


def test_a_long_text_is_read_in_windows(make):
    """Rows of 9 with a question of 2 hold 4 tokens of the text; windows move by half of that, and the last one ends with it."""
    task = spans(make, [SPAN], seq_len=9)
    batch = only(task, size=5)
    ask = [CLS, *b"q?", SEP]
    assert batch["tokens"].tolist() == [
        [*ask, *b"0123", SEP],
        [*ask, *b"2345", SEP],
        [*ask, *b"4567", SEP],
        [*ask, *b"6789", SEP],
        [0] * 9,
    ]
    assert batch["targets"].tolist() == [[0, 0], [0, 0], [5, 6], [0, 0], [0, 0]]
    assert batch["allowed"][0].tolist() == [1, 0, 0, 0, 1, 1, 1, 1, 0]
    assert batch["token_types"][0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 1]
    assert batch["id"].tolist() == [0, 0, 0, 0, -1]  # all of one question
    assert batch["weights"].tolist() == [[1, 1]] * 4 + [[0, 0]]
    assert batch["input"][0] == "q?\n\n0123456789" and batch["reference"][3] == ["56"]
    assert batch["raw"][2].offsets[4:8].tolist() == [[4, 5], [5, 6], [6, 7], [7, 8]]
    assert task.info.splits["train"].num_tokens == 36 and task.info.num_outputs == 2
    assert task.show(batch, 3, batch["targets"]).splitlines()[-4:] == [
        "  question  '[CLS]q?[SEP]'",
        "  context   '4567[SEP]'",
        "  answer    '56'",
        "  predicted '56'",
    ]
    moved = only(spans(make, [SPAN], seq_len=9, stride=4), size=4)
    assert moved["tokens"][:3, 4:8].tolist() == [[*b"0123"], [*b"4567"], [*b"6789"]]


def test_training_reads_every_window_once_an_epoch(make):
    task = spans(make, [SPAN, SPAN | {"context": "56", "starts": [0]}], seq_len=9)
    rows = sorted(
        bytes((row["tokens"][4:8] % 256).tolist()) for row in task.train(3)._getitems(range(5))
    )
    assert rows == sorted([b"0123", b"2345", b"4567", b"6789", b"56\x03\x01"])


def test_an_answer_that_every_window_cuts_is_counted(make, caplog):
    rows = [SPAN, SPAN | {"answers": ["23456"], "starts": [2]}, SPAN | {"answers": [""]}]
    with caplog.at_level(logging.INFO, "jaxlm"):
        batch = only(spans(make, rows, seq_len=9), size=12)
    assert "of 1 lines no window holds an answer whole" in caplog.text
    assert (batch["targets"][:, 0] > 0).tolist() == [False, False, True] + [False] * 9
    assert batch["reference"][8] == []


def test_no_answer_and_several(make):
    rows = [
        SPAN | {"answers": [], "starts": []},
        SPAN | {"answers": ["9", "12"], "starts": [9, 1]},  # the first one that a window holds
    ]
    batch = only(spans(make, rows, seq_len=9))
    assert batch["targets"].tolist() == [
        *[[0, 0]] * 4, [5, 6], [0, 0], [0, 0], [7, 7],
    ]  # fmt: skip
    assert batch["reference"][0] == [] and batch["reference"][4] == ["9", "12"]


@pytest.mark.parametrize(
    "name, row, fields",
    [
        ("a.jsonl", SPAN | {"answers": {"text": ["56"], "answer_start": [5]}}, {}),
        ("a.jsonl", SPAN | {"answers": {"text": "56", "answer_start": 5}}, {}),
        ("a.jsonl", {"context": "0123456789", "question": "q?", "answers": "56", "starts": 5}, {}),
        ("a.json", SPAN, {}),
        ("a.jsonl", {"context": "0123456789", "question": "q?", "answers": ["56"]}, {"starts_column": ""}),
    ],
)  # fmt: skip
def test_forms_of_an_answer(make, name, row, fields):
    batch = only(make(AnswerSpansTask, [row], name, seq_len=16, **fields))
    assert batch["targets"][0].tolist() == [9, 10]


def test_a_file_as_squads(make, tmp_path):
    answer = {"text": "56", "answer_start": 5}
    asked = [
        {"id": "1", "question": "q?", "answers": [answer], "is_impossible": False},
        {"id": "2", "question": "r?", "answers": [], "is_impossible": True},
    ]
    body = {"version": "2", "data": [{"paragraphs": [{"context": "0123456789", "qas": asked}]}]}
    (tmp_path / "dev.json").write_text(json.dumps(body))
    task = AnswerSpansTask(
        AnswerSpansTask.Config(path=str(tmp_path / "dev.json"), seq_len=16, val_fraction=0.0)
    )
    assert only(task)["targets"][:2].tolist() == [[9, 10], [0, 0]]
    (tmp_path / "dev.json").write_text('{"data": [{"title": "a"}]}')
    with pytest.raises(ValueError, match="neither a list of objects nor of SQuAD's form"):
        AnswerSpansTask(AnswerSpansTask.Config(path=str(tmp_path / "dev.json"), seq_len=16))


def test_eval_examples_are_questions_not_windows(make):
    rows = [SPAN, SPAN | {"question": "r?"}, SPAN | {"question": "s?"}]
    task = spans(make, rows, seq_len=9, eval_examples=2)
    ids = [number for batch in task.eval("train", 3) for number in batch["id"].tolist()]
    assert ids == [0, 0, 0, 0, 1, 1, 1, 1, -1]
    assert task.example("train", 2) == (task.config.path, "s?\t0123456789")


@pytest.mark.parametrize("kind, rows", [
    (MultiLabelledTask, MULTI), (ScoredTask, [{"text": t, "score": s} for s, t in enumerate("abc")]),
    (ChoicesTask, CHOICES), (AnswerSpansTask, [SPAN, SPAN | {"question": "r?"}]),
])  # fmt: skip
def test_the_same_again_and_other_settings(make, kind, rows):
    first, again, other = (make(kind, rows, seq_len=length) for length in (20, 20, 24))
    assert first.info.digest == again.info.digest != other.info.digest
    drawn = [str(one.train(5)._getitems(range(6))) for one in (first, again)]
    assert drawn[0] == drawn[1]
    with pytest.raises(ValueError, match='no split "dev"; accepted: train'):
        first.eval("dev", 1)


@pytest.mark.parametrize(
    "kind, rows, fields, message",
    [
        (MultiLabelledTask, [{"text": "a", "labels": ["x", ""]}], {},
         "line 1 has no label: an entry of column 'labels' is ''"),
        (MultiLabelledTask, [{"text": "a", "labels": "x,,y"}], {}, "an entry of column 'labels' is ''"),
        (MultiLabelledTask, [{"text": "a", "labels": ["x", "x"]}], {},
         "line 1: column 'labels' has the label 'x' twice"),
        (MultiLabelledTask, [{"text": "a", "labels": 3}], {}, "'labels' is int, no list; set data.labels_column"),
        (MultiLabelledTask, [{"text": "a", "labels": []}] * 2, {}, "fewer than two labels .* lines: none"),
        (MultiLabelledTask, [*MULTI, {"text": "e", "labels": ["new"]}], {"val_fraction": 0.2},
         "the val lines have labels that no training line has: new"),
        (MultiLabelledTask, MULTI, {"separator": ""}, 'data.separator="" is empty'),
        (ScoredTask, [{"text": "a", "score": "high"}], {}, "line 1 has no score: column 'score' is 'high'"),
        (ScoredTask, [{"text": "a", "score": None}], {}, "line 1 has no score: .* is None, not a number"),
        (ScoredTask, [{"text": "a", "score": "nan"}], {}, "line 1 has no score"),
        (ScoredTask, [{"text": "a", "score": 1e39}], {}, "line 1 has no score: .* that fits into float32"),
        (ScoredTask, [{"text": "a", "score": 1}] * 2, {}, r"all training lines have the same score, \[1.0\]"),
        (ScoredTask, [{"text": "a", "stars": 1}], {}, "no column 'score' .it has text, stars.; set data.score_column"),
        (ChoicesTask, [CHOICES[0] | {"answer": 2}], {},
         "line 1: column 'answer' is 2: expected 0 to 1, A to B, or one of the choices"),
        (ChoicesTask, [CHOICES[0] | {"answer": "C"}], {}, "column 'answer' is 'C': expected 0 to 1"),
        (ChoicesTask, [CHOICES[0] | {"choices": [f"c{n}" for n in range(30)], "answer": 30}], {"seq_len": 150},
         "column 'answer' is 30: expected 0 to 29, A to Z, or one of the choices"),
        (ChoicesTask, [CHOICES[0] | {"choices": ["1", "2"], "answer": "1"}], {},
         "column 'answer' is '1': one of the choices, and another one's number or letter"),
        (ChoicesTask, [CHOICES[0] | {"choices": ["a"]}], {}, "line 1 has 1 choices: expected two or more"),
        (ChoicesTask, CHOICES, {"seq_len": 12}, "data.seq_len=12 is too short for 3 choices: expected at least 15"),
        (ChoicesTask, [{"question": "q", "answer": 0}], {}, "no column 'choices' .*set data.choices_column"),
        (AnswerSpansTask, [SPAN | {"starts": [6]}], {},
         "line 1: the answer '56' does not begin at character 6 of its context: there stands '67'"),
        (AnswerSpansTask, [SPAN | {"starts": [float("inf")]}], {}, "the start inf of an answer is no number"),
        (AnswerSpansTask, [SPAN | {"starts": [5, 6]}], {}, "line 1 has 1 answers and 2 starts of them"),
        (AnswerSpansTask, [{"context": "a", "question": "b", "answers": ["a"]}], {},
         "no column 'starts' .*set data.starts_column"),
        (AnswerSpansTask, [SPAN], {"stride": 16}, "data.stride=16 skips tokens: a window holds as few as 15 of a text"),
        (AnswerSpansTask, [SPAN], {"seq_len": 0}, "data.seq_len=0 and the model has no max_len"),
    ],
)  # fmt: skip
def test_what_is_refused(make, kind, rows, fields, message):
    with pytest.raises(ValueError, match=message):
        make(kind, rows, **({"seq_len": 20} | fields))


@pytest.mark.parametrize("kind", [ChoicesTask, AnswerSpansTask])
def test_lines_without_names_are_refused(make, kind):
    with pytest.raises(ValueError, match="line 1: questions with .* by the names of their columns"):
        make(kind, ["a\tb\tc"], "a.tsv", seq_len=20)
