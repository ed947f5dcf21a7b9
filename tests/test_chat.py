"""Talking from the command line: turns, streaming, commands, a full context, Ctrl-C, mistakes."""

import io
import os
import pty
import sys
from typing import NamedTuple

import pytest

from jaxlm import api, chat


class Said(NamedTuple):
    finish: str


class Echo:
    """A model whose tokens are characters; it answers the last message in capitals, by two characters at a time."""

    max_len = 40

    def __init__(self):
        self.asked, self.interrupt_after = [], None

    def chat_ids(self, messages):
        if any(message["content"] == "refuse" for message in messages):
            raise ValueError("the template refuses these messages")
        self.messages = [dict(message) for message in messages]
        return list("".join(message["content"] + "|" for message in messages))

    def write(self, prompts, *, on_text, max_tokens, **how):
        self.asked.append(("".join(prompts[0]), how))
        answer = self.messages[-1]["content"].upper()[:max_tokens]
        for start in range(0, len(answer), 2):
            if self.interrupt_after is not None and start >= self.interrupt_after:
                raise KeyboardInterrupt
            on_text(0, answer[start : start + 2])
        return [[Said("length" if len(answer) == max_tokens else "end")]]


@pytest.fixture
def echo(monkeypatch):
    made = Echo()
    monkeypatch.setattr(api, "load", lambda path: made)
    return made


def typed(monkeypatch, text, *options):
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    return chat.main(["--model", "m", *options])


def test_lines_of_a_pipe_are_turns_with_a_history(echo, monkeypatch, capsys):
    options = ["--system", "S", "--top_p", "0.5", "--seed", "7", "--max_tokens", "9"]
    assert typed(monkeypatch, "ab\n\n  cd \n/reset\nef\n/exit\ngh\n", *options) == 0
    assert capsys.readouterr().out == "AB\nCD\nEF\n"
    assert echo.asked == [
        ("S|ab|", {"top_p": 0.5, "seed": 7}),
        ("S|ab|AB|cd|", {"top_p": 0.5, "seed": 8}),
        ("S|ef|", {"top_p": 0.5, "seed": 9}),
    ]


def test_a_full_context_drops_the_oldest_turns_and_says_so(echo, monkeypatch, capsys):
    # 40 positions, of which 8 are for the answer: the prompt may have 32
    turns = "aaaaa\nbbbbb\nccccc\ndddddddd\n" + "x" * 31 + "\ne\n"
    assert typed(monkeypatch, turns, "--system", "SS", "--max_tokens", "8") == 0
    out, err = capsys.readouterr()
    assert [prompt for prompt, _ in echo.asked] == [
        "SS|aaaaa|",
        "SS|aaaaa|AAAAA|bbbbb|",
        "SS|bbbbb|BBBBB|ccccc|",  # with aaaaa it has 33
        "SS|ccccc|CCCCC|dddddddd|",
        "SS|dddddddd|DDDDDDDD|e|",
    ]
    assert err.splitlines() == [
        "[the context is full: the oldest turn is forgotten]",
        "[the context is full: the oldest turn is forgotten]",
        "[stopped after --max_tokens 8]",
        "[not sent, being too long: 35 tokens; 32 leave room for an answer]",
        "[the context is full: the oldest turn is forgotten]",
    ]
    assert out.splitlines() == ["AAAAA", "BBBBB", "CCCCC", "DDDDDDDD", "E"]


def test_ctrl_c_ends_an_answer_and_what_was_said_of_it_is_kept(echo, capsys):
    talk = chat.Conversation(echo, None, 9, 0, {})
    echo.interrupt_after = 4
    talk.answer("abcdef", may_be_stopped=True)
    assert talk.messages[-1] == {"role": "assistant", "content": "ABCD"}
    echo.interrupt_after = 0
    talk.answer("before a word", may_be_stopped=True)
    assert len(talk.messages) == 2 and capsys.readouterr().out == "ABCD\n\n"
    with pytest.raises(KeyboardInterrupt):
        talk.answer("in a pipe")


@pytest.mark.parametrize(
    "options, message",
    [
        (["--system", "refuse"], "jaxlm: error: the template refuses these messages"),
        (["--temprature", "1"], 'no such option --temprature (did you mean "--temperature"?)'),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_read(echo, monkeypatch, capsys, options, message):
    try:
        code = typed(monkeypatch, "", *options)
    except SystemExit as error:
        code = error.code
    assert code == 2 and not echo.asked
    assert message in capsys.readouterr().err


def test_a_terminal_has_commands_and_ctrl_d(echo, monkeypatch, capsys):
    """A pseudo-terminal in place of standard input."""
    outer, inner = pty.openpty()
    os.write(outer, b"/help\nab\n/what\n/reset\ncd\n\x04")
    with os.fdopen(inner) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        assert chat.main(["--model", "m"]) == 0
    os.close(outer)
    out, err = capsys.readouterr()
    assert (
        "AB\n" in out and "CD\n" in out and [prompt for prompt, _ in echo.asked] == ["ab|", "cd|"]
    )
    assert err.count("/reset   forget the conversation") == 2  # /help, and /what is no command
