"""Conversations as tokens, and which of them the model itself is to write: the assistant's text and what ends it.

What stands before an answer, its header, is never among them. Templates are in chat_templates.py.
"""

from __future__ import annotations

import datetime
import functools
import itertools
import re
from typing import Any, NamedTuple

import numpy as np

from jaxlm.core.types import Tokenizer
from jaxlm.data import chat_rendering, chat_templates, chat_tokens, tokenizers
from jaxlm.data.chat_templates import Messages

ASSISTANT = "assistant"
TODAY = datetime.date(2024, 7, 26)
"""What a template that writes the date is given, so that the data of a run are the same on every day."""
PROBE = [
    {"role": "user", "content": "Hello"},
    {"role": ASSISTANT, "content": "Hi"},
    {"role": "user", "content": "And?"},
    {"role": ASSISTANT, "content": "Bye"},
]


class Read(NamedTuple):
    """A conversation as tokens."""

    ids: np.ndarray  # int32 [N]
    answers: list[tuple[int, int]]  # first and last + 1 token of every answer

    @property
    def trained(self) -> np.ndarray:
        """Bool [N], true for the assistant's own tokens."""
        found = np.zeros(len(self.ids), bool)
        for start, stop in self.answers:
            found[start:stop] = True
        return found


class Reader:
    """Reads conversations with a tokenizer and its chat template.

    A template says by `{% generation %}` which parts are the assistant's. Of one that doesn't, an answer is what is written
    of it behind the generation prompt, up to and with the special token that ends it. Answers are encoded apart from what
    stands before them, as a model reads a prompt and writes on from there.

    Args:
      tokenizer: has a template.
      option: where to give one, for messages.

    Raises:
      ValueError: it has none, or one of which can't be told which tokens are the assistant's.
    """

    def __init__(self, tokenizer: Tokenizer, option: str = "data.chat_template=FILE"):
        self.tokenizer = tokenizer
        self.template = chat_templates.needed(chat_templates.of(tokenizer), option)
        self.template.check()
        self._encoder = chat_tokens.encoder(tokenizer)
        self._marked = chat_rendering.marks_answers(self.template.source)
        self._check()

    def read(self, messages: Messages) -> Read:
        """A conversation as tokens; special tokens are those that the template writes, none of a message.

        An answer that is the first message is an answer to nothing, and not among the answers.

        Raises:
          ValueError: messages that the template refuses, or writes otherwise than it would have to be answered.
        """
        messages = chat_templates.checked(messages)
        marks = self.template.marks(self.tokenizer, messages)
        parts = self._parts(marks, marks.put(messages))
        ids: list[int] = []
        answers = []
        for number, part in enumerate(parts):
            start = len(ids)
            ids += marks.encode(self._encoder, part, begins=not ids)
            if number % 2 and len(ids) > start:
                answers.append((start, len(ids)))
        return Read(np.array(ids, np.int32), answers)

    def prompt(self, messages: Messages) -> list[int]:
        """A conversation up to where an answer begins, as tokens."""
        return self.template.encode(self.tokenizer, messages)

    def _parts(self, marks: chat_tokens.Marks, messages: list[dict[str, Any]]) -> list[str]:
        """What the template writes, cut: by turns what others say and what the assistant does."""
        if self._marked:
            begin, end = marks.around
            names = {chat_rendering.BEGIN: begin, chat_rendering.END: end}
            parts = re.split(f"[{begin}{end}]", self._render(messages, **names))
            if messages[0]["role"] == ASSISTANT:  # an answer to nothing
                parts = ["".join(parts[:3]), *parts[3:]]
            return parts
        whole = self._render(messages)
        parts, done = [], 0
        for number, message in enumerate(messages[1:], 1):
            if message["role"] != ASSISTANT:
                continue
            before = self._render(messages[:number], add_generation_prompt=True)
            behind = self._render(messages[: number + 1])
            if not (behind.startswith(before) and whole.startswith(behind)):
                raise ValueError(
                    f"{self.template.where} is not prefix-stable: what it writes of a conversation changes with what "
                    f"follows. {_REMEDY}"
                )
            size = self._answer_size(marks, behind[len(before) :], message["content"].strip())
            parts += [whole[done : len(before)], behind[len(before) :][:size]]
            done = len(before) + size
        return [*parts, whole[done:]]

    def _answer_size(self, marks: chat_tokens.Marks, written: str, content: str) -> int:
        """How many characters of what is written behind a generation prompt are the assistant's own."""
        start = written.find(content)
        if start < 0:
            raise ValueError(
                f"{self.template.where} rewrites what the assistant says, so its answer can't be told. {_REMEDY}"
            )
        if header := written[:start].strip():
            raise ValueError(
                f"{self.template.where} has no generation prompt: it writes {header!r} before an answer only where there "
                f"is one, which would be trained as if the model had to write it. {_REMEDY}"
            )
        start += len(content)
        end = marks.control_end(written[start:])
        return len(written) if end is None else start + end

    def _render(
        self, messages: list[dict[str, Any]], add_generation_prompt: bool = False, **names: str
    ) -> str:
        return self.template.render(
            messages,
            add_generation_prompt=add_generation_prompt,
            strftime_now=TODAY.strftime,
            **names,
        )

    def _check(self) -> None:
        """That a model is trained to answer where it is asked to."""
        marks = self.template.marks(self.tokenizer, PROBE)
        before, *parts = self._parts(marks, PROBE)
        if len(parts) != len(PROBE):
            raise ValueError(f"{self.template.where} marks no answer, or one twice. {_REMEDY}")
        prompt = self._render(PROBE[:1], add_generation_prompt=True)
        if prompt.rstrip() != before.rstrip():
            raise ValueError(
                f"{self.template.where}: its generation prompt ends with {prompt[-24:]!r}, but before an answer that it marks "
                f"stands {before[-24:]!r}: a model would be asked otherwise than it was trained"
            )


_REMEDY = (
    "Give a template with {% generation %}...{% endgeneration %} around what the assistant says, "
    "in a file: data.chat_template=FILE"
)


@functools.lru_cache(maxsize=8)
def end_of_answer(tokenizer: Any) -> int | None:
    """The special token with which an answer ends; None without a template, or where it can't be told."""
    if chat_templates.of(tokenizer) is None:
        return None
    try:
        found = Reader(tokenizer).read(PROBE[:2])
    except ValueError:
        return None
    last = int(found.ids[found.answers[0][1] - 1])
    return last if last in tokenizer.special_ids().values() else None


def open_tokenizer(name: str, template: str) -> Any:
    """The tokenizer of data that are conversations, with its own chat template or that of a file.

    Args:
      name: data.tokenizer.
      template: data.chat_template; "": the tokenizer's own.

    Raises:
      ValueError: a vocabulary that would be made of the data, or a file that is no template.
    """
    if tokenizers.made_of_text(name):
        raise ValueError(
            f"data.tokenizer={name} is made of a text, and these data are conversations: make it with "
            "jaxlm.train_tokenizer and name its file, or start from a model, by init_from and data.tokenizer=init_from"
        )
    tokenizer = tokenizers.build(name)
    if not template:
        return tokenizer
    found = chat_templates.given(template, "data.chat_template", tokenizer)
    return chat_templates.attached(tokenizer, found)


def messages_of(value: Any, role: str = "user") -> list[dict[str, Any]]:
    """What a record holds of a conversation as messages.

    Args:
      value: one text, of `role`; texts, of user and assistant by turns; or messages.
      role: who says a text that stands alone.

    Raises:
      ValueError: it is none of these.
    """
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        roles = itertools.cycle(("user", ASSISTANT))
        return [{"role": who, "content": text} for who, text in zip(roles, value, strict=False)]
    return chat_templates.checked(value)


def identity(tokenizer: Any) -> list[Any]:
    """What a tokenizer's chat template adds to what determines tokens, as JSON values."""
    template = chat_templates.of(tokenizer)
    return [] if template is None else [template.source, dict(template.tokens), str(TODAY)]
