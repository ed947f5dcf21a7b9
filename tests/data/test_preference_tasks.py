"""Pairs and verdicts as rows: segments, what is compared, what is left out; texts with a chat template and without."""

import json
import logging

import numpy as np
import pytest

from jaxlm.data.tasks.preferences import PreferencesConfig, PreferencesTask
from jaxlm.data.tasks.prompts import PromptsConfig, PromptsTask
from jaxlm.data.tasks.verdicts import VerdictsConfig, VerdictsTask
from jaxlm.decode import prompted
from jaxlm.decode.types import Written

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content + eos_token }}{% endgeneration %}"
    "{% else %}{{ m.content + '>' }}{% endif %}{% endfor %}"
)
ENDLESS = TEMPLATE.replace(
    " + eos_token }}{% endgeneration %}", " }}{% endgeneration %}{{ eos_token }}"
)
UNMARKED = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ ':' + m.content + eos_token + ' ' }}{% else %}"
    "{{ m.content + '>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ ':' }}{% endif %}"
)
EOS = 256
PAIR = {"prompt": "ab", "chosen": " c", "rejected": " de"}


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def make(tmp_path, lines, kind=PreferencesTask, **fields):
    path = write(tmp_path / "lines.jsonl", lines)
    fields = {"seq_len": 14, "val_fraction": 0.0, "tokenizer": "bytes"} | fields
    return kind(kind.Config(path=path, **fields))


def rows(task, split="train"):
    return next(iter(task.eval(split, len(task.splits[split].rows))))


def test_a_pair_by_hand(tmp_path):
    """ab c<eos> and ab de<eos>, the last token read as well."""
    row = {name: values[0].tolist() for name, values in rows(make(tmp_path, [PAIR])).items()}
    assert row["tokens"] == [*b"ab c", EOS, *b"ab de", EOS, 0, 0, 0]
    assert row["targets"] == [*b"b c", EOS, 0, *b"b de", EOS, 0, 0, 0, 0]
    assert row["weights"] == [0, 1, 1, 1, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0]
    assert row["segment_ids"] == [1] * 5 + [2] * 6 + [0] * 3
    assert row["positions"] == [*range(5), *range(6), 0, 0, 0]


@pytest.mark.parametrize(
    "line",
    [
        {"prompt": "ab", "chosen": "c", "rejected": "de"},
        {"prompt": ["ab"], "chosen": [{"role": "assistant", "content": "c"}], "rejected": "de"},
    ],
)
def test_pairs_with_a_chat_template(tmp_path, line):
    row = rows(make(tmp_path, [line], chat_template=TEMPLATE))
    assert row["tokens"][0].tolist() == [*b"ab>c", EOS, *b"ab>de", EOS, 0, 0, 0]
    assert row["weights"][0].tolist() == [0, 0, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0]


def test_whole_conversations_without_a_prompt(tmp_path):
    """Only the last answer is compared."""
    line = {"chosen": ["a", "b", "c", "d"], "rejected": ["a", "b", "c", "e"]}
    row = rows(make(tmp_path, [line], chat_template=TEMPLATE, prompt_column="", seq_len=16))
    assert row["tokens"][0].tolist() == [*b"a>b", EOS, *b"c>d", EOS, *b"a>b", EOS, *b"c>e", EOS]
    assert row["weights"][0].tolist() == [0, 0, 0, 0, 0, 1, 1, 0] * 2


def test_what_is_left_out_is_counted(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    lines = [PAIR, PAIR | {"rejected": " d" * 9}, PAIR | {"rejected": " c"}]
    assert len(make(tmp_path, lines).splits["train"].rows) == 1
    assert (
        "1 of 3 train lines have more than data.seq_len=14 tokens and are left out" in caplog.text
    )
    assert "1 of 2 train lines hold the same text twice and are left out" in caplog.text


def test_what_is_shown(tmp_path):
    task = make(tmp_path, [PAIR])
    assert task.show(rows(task), 1).splitlines()[1:] == [
        "  chosen 1: 3 of 5 tokens count", "    ab[[ c<eos>]]",
        "  rejected 2: 4 of 6 tokens count", "    ab[[ de<eos>]]",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "line, fields, message",
    [
        ({"prompt": "a", "chosen": "b"}, {}, r"line 1 has no column 'rejected' \(it has prompt, chosen\); set data.rejected_column"),
        (PAIR | {"prompt": ["ab"]}, {}, "line 1: messages need a chat template, and the tokenizer has none"),
        (PAIR | {"chosen": ["a", "b", "c"]}, {"chat_template": TEMPLATE}, "line 1: a completion must be the assistant's answer"),
        (PAIR | {"chosen": ""}, {"chat_template": ENDLESS}, "line 1: an answer is empty, and the chat template writes no end"),
        (PAIR | {"rejected": None}, {}, "line 1: column 'rejected' is null: expected a text"),
        (PAIR, {"tokenizer": "gone"}, "data.tokenizer=gone is not known"),
        (PAIR, {"seq_len": 0}, "data.seq_len=0"),
    ],
)  # fmt: skip
def test_lines_that_are_no_pairs(tmp_path, line, fields, message):
    with pytest.raises(ValueError, match=message):
        make(tmp_path, [line], **fields)


def test_tab_separated_lines(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("ab\t c\t de\n")
    config = PreferencesConfig(path=str(path), tokenizer="bytes", val_fraction=0.0, seq_len=14)
    row = next(iter(PreferencesTask(config).eval("train", 1)))
    assert row["tokens"][0].tolist() == [*b"ab c", EOS, *b"ab de", EOS, 0, 0, 0]


def test_verdicts_by_hand(tmp_path):
    lines = [
        {"prompt": "ab", "completion": " c", "label": True},
        {"prompt": "ab", "completion": " de", "label": 0},
        PAIR,
    ]
    task = make(tmp_path, lines, VerdictsTask, seq_len=6)
    assert task.info.splits["train"].num_examples == 4
    found = [task.train(0)[n] for n in range(4)]
    good = [row for row in found if row["desirable"]]
    bad = [row for row in found if not row["desirable"]]
    for row in good:
        assert row["tokens"].tolist() == [*b"ab c", EOS, 0]
        assert row["weights"].tolist() == [0, 1, 1, 1, 0, 0] and row["segment_ids"].tolist() == [
            1
        ] * 5 + [0]
    for row in bad:
        assert row["tokens"].tolist() == [*b"ab de", EOS] and row["segment_ids"].tolist() == [1] * 6
    assert len(good) == len(bad) == 2
    shown = rows(task)
    assert shown["segment_ids"].tolist() == [
        [1] * 5 + [0] * 7, [2] * 6 + [0] * 6, [1] * 5 + [2] * 6 + [0],
    ]  # fmt: skip
    batch = {name: np.asarray(values)[None] for name, values in bad[0].items()}
    assert "  bad: 4 of 6 tokens count" in task.show(batch, 1)


def test_verdicts_that_are_none(tmp_path):
    with pytest.raises(
        ValueError, match="column 'label' is 'maybe': expected true or false, 1 or 0"
    ):
        make(tmp_path, [{"prompt": "a", "completion": "b", "label": "maybe"}], VerdictsTask)
    with pytest.raises(ValueError, match="line 1: column 'completion' is null"):
        make(tmp_path, [{"prompt": "a", "completion": None, "label": True}], VerdictsTask)
    path = tmp_path / "verdicts.csv"
    path.write_text("prompt,completion,label\nab, c,True\n")
    config = VerdictsConfig(path=str(path), tokenizer="bytes", val_fraction=0.0, seq_len=6)
    assert VerdictsTask(config).train(0)[0]["desirable"] == 1


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, [*b"a c", EOS]),
        ({"chat_template": TEMPLATE}, [*b"a > c", EOS]),
        ({"chat_template": UNMARKED}, [*b"a >: c", EOS]),
    ],
    ids=["texts", "marked", "unmarked"],
)
def test_a_reward_model_reads_what_it_was_trained_on(tmp_path, fields, expected):
    """The very tokens that pairs were made of, when a model has written the better one; the reward stands at their last."""
    line = {"prompt": "a ", "chosen": "c" if not fields else " c", "rejected": "d"}
    pairs = make(tmp_path, [line], seq_len=20, **fields)
    trained = rows(pairs)
    task = make(tmp_path, [line], PromptsTask, seq_len=12, answer_column="chosen", **fields)
    batch = rows(task)
    targets, weights = batch["targets"], batch["weights"]
    asked = prompted.prompts(batch["tokens"], weights)
    if fields:
        assert asked[0] == pairs.ask("a ")  # with the generation prompt
    written = [Written(prompted.answers(targets, weights)[0], "end", 0.0)]
    read = prompted.completed(asked, written, prompted.end_of(targets, weights), 12)
    size = len(expected)
    assert read["tokens"][0, :size].tolist() == expected and not read["tokens"][0, size:].any()
    own = trained["segment_ids"][0] == 1
    for name in ("tokens", "weights"):
        np.testing.assert_array_equal(trained[name][0][own], read[name][0, :size], err_msg=name)
    # A supervised start is taught the same.
    np.testing.assert_array_equal(batch["targets"], read["targets"])
    np.testing.assert_array_equal(batch["weights"], read["weights"])
    assert (batch["input"][0], batch["reference"][0]) == (line["prompt"], line["chosen"])


def test_prompts_of_several_messages(tmp_path):
    line = {"prompt": ["a", "b", "c"], "answer": "d"}
    batch = rows(make(tmp_path, [line], PromptsTask, chat_template=TEMPLATE, seq_len=12))
    ids = [*b"a>b", EOS, *b"c>d", EOS]
    assert batch["tokens"][0].tolist() == [*ids[:-1], *[0] * 5]
    assert batch["weights"][0].tolist() == [0] * 5 + [1, 1] + [0] * 5
    assert (batch["input"][0], batch["reference"][0]) == ("a\nb\nc", "d")
    only = make(tmp_path, [line], PromptsTask, chat_template=TEMPLATE, seq_len=12, answer_column="")
    assert rows(only)["targets"][0, 5] == EOS and rows(only)["weights"][0].sum() == 1


def test_an_answer_without_an_end_can_t_be_written(tmp_path):
    with pytest.raises(
        ValueError, match="ends an answer with no special token.*data.chat_template"
    ):
        make(tmp_path, [PAIR], PromptsTask, answer_column="chosen", chat_template=ENDLESS)
    with pytest.raises(ValueError, match="line 1: messages need a chat template"):
        make(tmp_path, [PAIR | {"prompt": ["ab"]}], PromptsTask, answer_column="chosen")
    with pytest.raises(
        ValueError, match="line 1: column 'answer' is int, not text; set data.answer"
    ):
        make(tmp_path, [{"prompt": "a", "answer": 5}], PromptsTask)
    with pytest.raises(ValueError, match="data.tokenizer=chars is made of a text"):
        PromptsTask(PromptsConfig(path="x.jsonl", tokenizer="chars", chat_template=TEMPLATE))
