"""A prompt and what completes it as the tokens that a model reads: by a chat template, or as two texts that stand as they are.

The one place that says so, for all that compare, judge or write completions (tasks/preferences.py, verdicts.py, prompts.py):
a reward model reads what it was trained on. Whole conversations are for conversations.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxlm.data import chat_templates, conversations, prompts, reading, special_tokens


class Completed(NamedTuple):
    """Prompt, completion and what ends it."""

    ids: Sequence[int]
    start: int  # where the completion begins
    num_bytes: int  # UTF-8, of the completion


class Completions:
    """Reads prompts and completions.

    With a chat template prompts are what the user says and completions what the assistant does: texts, or lists of messages
    (texts by turns do as well), of which the last is the completion; the end of the assistant's turn ends it. Without
    one, all are texts, completions with the space before them, and <eos> ends them.

    Args:
      name: data.tokenizer.
      template: data.chat_template; "": the tokenizer's own, where it has one.

    Raises:
      ValueError: no such tokenizer, or a template that does not say which tokens are the assistant's.
    """

    def __init__(self, name: str, template: str):
        self.tokenizer = conversations.open_tokenizer(name, template)
        special_tokens.require_eos(self.tokenizer, name)
        self.reader = None
        if chat_templates.of(self.tokenizer) is not None:
            self.reader = conversations.Reader(self.tokenizer)

    def read(self, prompt: Any, completion: Any) -> Completed:
        """Both as tokens; a prompt that is [] is in the completion.

        Raises:
          ValueError: messages without a template, or a completion that is no answer to something.
        """
        if self.reader is None:
            return self._plain(prompt, completion)
        messages = [] if prompt == [] else conversations.messages_of(prompt)
        messages += conversations.messages_of(completion, conversations.ASSISTANT)
        if messages[-1]["role"] != conversations.ASSISTANT or len(messages) < 2:
            raise ValueError("a completion must be the assistant's answer to something")
        read = self.reader.read(messages)
        roles = [message["role"] for message in messages[1:]]
        if len(read.answers) < roles.count(conversations.ASSISTANT):
            raise ValueError("an answer is empty, and the chat template writes no end behind it")
        start, stop = read.answers[-1]
        return Completed(read.ids[:stop], start, len(messages[-1]["content"].encode()))

    def _plain(self, prompt: Any, completion: Any) -> Completed:
        if isinstance(prompt, list) or isinstance(completion, list):
            raise ValueError(
                "messages need a chat template, and the tokenizer has none: give one by data.chat_template=FILE"
            )
        encode, eos_id = self.tokenizer.encode, self.tokenizer.eos_id
        if prompt.strip():
            before, own = prompts.encode_pair(encode, prompt, completion)
        else:
            before, own = [eos_id], encode(prompt + completion).tolist()
        return Completed([*before, *own, eos_id], len(before), len(completion.encode()))

    def ask(self, text: str) -> list[int]:
        """What a model is given to complete a prompt."""
        if self.reader is None:
            return self.tokenizer.encode(text).tolist()
        return self.reader.prompt(conversations.messages_of(text))

    def end_id(self) -> int:
        """The token that ends a completion.

        Raises:
          ValueError: a chat template that ends answers with no special token: a model could not say that it is done.
        """
        if self.reader is None:
            return self.tokenizer.eos_id
        found = conversations.end_of_answer(self.tokenizer)
        if found is None:
            raise ValueError(
                f"{self.reader.template.where} ends an answer with no special token, so a model can't say that it is done: "
                "give a template that does, data.chat_template=FILE"
            )
        return found

    def identity(self) -> list[Any]:
        """What, besides the tokenizer's vocabulary, determines the tokens, as JSON values."""
        return conversations.identity(self.tokenizer)


def given(row: dict[str, Any], column: str, where: str, option: str) -> Any:
    """The text or the messages of a line; raises ValueError as reading.record_text, and for null."""
    value = reading.record_column(row, column, where, option)
    if value is None:
        raise ValueError(f"{where}: column {column!r} is null: expected a text or messages")
    return value if isinstance(value, list) else reading.record_text(row, column, where, option)
