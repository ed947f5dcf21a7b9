"""Conversations as rows: what is a target, what shares a row, what is cut or left out."""

import json
import logging

import chatting
import numpy as np
import pytest

from jaxlm.data import chat_templates
from jaxlm.data.tasks.chat import ChatConfig, ChatTask

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content + eos_token }}{% endgeneration %}"
    "{% else %}{{ m.content + '>' }}{% endif %}{% endfor %}"
)
EOS = 256


def make(tmp_path, talks, **fields):
    path = tmp_path / "talks.jsonl"
    path.write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in talks))
    fields = {
        "seq_len": 12,
        "val_fraction": 0.0,
        "tokenizer": "bytes",
        "chat_template": TEMPLATE,
    } | fields
    return ChatTask(ChatConfig(path=str(path), **fields))


def rows(task, split="train"):
    return next(iter(task.eval(split, task.info.splits[split].num_examples)))


def test_a_row_by_hand(tmp_path):
    """ab>c<eos> and x>yz<eos>: the last token of each is a target only."""
    task = make(tmp_path, [["ab", "c"], ["x", "yz"]])
    row = {name: values[0].tolist() for name, values in rows(task).items()}
    assert row["tokens"] == [*b"ab>c", *b"x>yz", 0, 0, 0, 0]
    assert row["targets"] == [*b"b>c", EOS, *b">yz", EOS, 0, 0, 0, 0]
    assert row["weights"] == [0, 0, 1, 1, 0, 1, 1, 1, 0, 0, 0, 0]
    assert row["segment_ids"] == [1] * 4 + [2] * 4 + [0] * 4
    assert row["positions"] == [0, 1, 2, 3, 0, 1, 2, 3, 0, 0, 0, 0]
    assert task.info.splits["train"].num_tokens == 8 and task.info.splits["train"].num_bytes == 6


def test_forms_of_a_conversation(tmp_path):
    messages = [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "c"}]
    both = make(tmp_path, [["ab", "c", "what is not answered"], messages])
    row = rows(both)
    assert row["tokens"][0, :4].tolist() == row["tokens"][0, 4:8].tolist() == [*b"ab>c"]


def test_what_is_too_long_is_cut_or_left_out_and_counted(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    talks = [["ab", "c" * 30], ["q" * 30, "c"], ["ab", "c"], ["nobody answers"]]
    task = make(tmp_path, talks)
    said = caplog.text
    assert "1 of 4 train conversations are cut after data.seq_len=12 tokens" in said
    assert (
        "1 of 4 train conversations have no answer in their first data.seq_len=12 tokens and are left out"
        in said
    )
    assert "1 of 4 train conversations have no answer at all and are left out" in said
    found = rows(task)
    assert sorted(found["weights"].sum(1).tolist()) == [2, 10]
    assert EOS not in found["targets"][found["weights"].sum(1) == 10]


def test_every_conversation_once_an_epoch(tmp_path):
    talks = [[f"q{n}", f"{n}"] for n in range(60)]
    task = make(tmp_path, talks, val_fraction=0.5)
    count = task.info.splits["train"].num_examples
    assert count == 14  # ten of two with six tokens, four of up to three with four
    data = task.train(3)
    seen = [
        bytes(row["tokens"][row["segment_ids"] == s].astype(np.uint8)).decode()
        for row in (data[n] for n in range(count))
        for s in range(1, row["segment_ids"].max() + 1)
    ]
    assert sorted(seen) == sorted(f"q{n}>{n}" for n in range(30))
    assert [data[n]["tokens"].tolist() for n in range(count)] != [data[n]["tokens"].tolist() for n in range(count, 2 * count)]  # fmt: skip
    assert make(tmp_path, talks, val_fraction=0.5).info.digest == task.info.digest
    assert make(tmp_path, talks, val_fraction=0.5, chat_template=TEMPLATE.replace(">", "<")).info.digest != task.info.digest  # fmt: skip


def test_what_is_shown(tmp_path, monkeypatch):
    task = make(tmp_path, [["ab", "c"], ["x", "y\nz"]])
    batch = rows(task)
    assert task.show(batch, 1) == (
        "example 0: 9 tokens, 6 scored\n"
        "  conversation 1: 2 of 5 tokens count\n    ab>[[c<eos>]]\n"
        "  conversation 2: 4 of 6 tokens count\n    x>[[y\n    z<eos>]]"
    )
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "ab>\033[1;32mc<eos>\033[0m" in task.show(batch, 1)
    assert task.example("train", 0)[1] == "ab>cx>y\nz"
    assert task.ask("ab") == [*b"ab>"]


@pytest.mark.parametrize(
    "talk, message",
    [
        ([], r"line 1: column 'messages': messages must be a list"),
        ([{"role": "user"}], r"messages\[0\] must have"),
        (None, "messages must be a list"),
    ],
)
def test_a_line_that_is_no_conversation_is_named(tmp_path, talk, message):
    with pytest.raises(ValueError, match=message):
        make(tmp_path, [talk])


def test_wrong_columns_and_nothing_to_learn(tmp_path):
    with pytest.raises(
        ValueError, match=r"has no column 'turns' \(it has messages\); set data.messages_column"
    ):
        make(tmp_path, [["a", "b"]], messages_column="turns")
    with pytest.raises(ValueError, match="no line is left for split 'train'"):
        make(tmp_path, [["a"]])
    with pytest.raises(ValueError, match="data.seq_len=0"):
        make(tmp_path, [["a", "b"]], seq_len=0)


def test_the_template_of_a_folder(tmp_path):
    folder = chatting.write(tmp_path / "model")
    task = make(tmp_path, [["Hi", "Yo"]], tokenizer=str(folder), chat_template="", seq_len=128)
    assert "assistant\n[[Yo<|im_end|>]]" in task.show(rows(task), 1).replace("\n    ", "\n")
    assert chat_templates.of(task.info.tokenizer).source == chatting.CHATML
