"""Chat templates: a conversation as the tokens that a chat model was trained to answer, and where a template is kept.

A tokenizer has its template, as `chat_template`, and saves it: so a run that starts from a chat model stays one. What
people typed is only ever text: a special token that is spelt out in a message never becomes one. What of a conversation
is trained on is in conversations.py; talking is for language_model.py and chat.py.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxlm.data import chat_tokens

if TYPE_CHECKING:  # jax is not needed to read a tokenizer
    from jaxlm.core.types import Tokenizer

FILE, CONFIG = "chat_template.jinja", "tokenizer_config.json"
Messages = Sequence[Mapping[str, Any]]
"""[{"role": "user", "content": "Hello"}, ...], as everywhere."""


@dataclasses.dataclass(frozen=True)
class ChatTemplate:
    """A template and the names of special tokens that it may use.

    Attributes:
      source: Jinja2.
      tokens: "bos_token", "eos_token", ... -> how they are spelt.
      where: what messages call it.
    """

    source: str
    tokens: Mapping[str, str] = dataclasses.field(default_factory=dict)
    where: str = "the chat template"

    def render(
        self,
        messages: Messages,
        *,
        add_generation_prompt: bool = True,
        go_on: bool = False,
        **names: Any,
    ) -> str:
        """A conversation as the text that a model reads.

        Args:
          messages: each has "role" and "content", both texts; what else a template reads may be with them.
          add_generation_prompt: end with what stands before an answer.
          go_on: end inside the last message, which the model then continues (transformers' `continue_final_message`).
          names: what else the template may read.

        Raises:
          ValueError: a message without role or content, or one that the template refuses.
        """
        messages = checked(messages)
        if go_on:
            text = json.dumps(messages, ensure_ascii=False) + self.source
            (end,) = chat_tokens.unused(text, 1)
            last = messages[-1]
            messages = [*messages[:-1], last | {"content": last["content"] + end + " "}]
        text = self._render(messages, add_generation_prompt, names)
        if not go_on:
            return text
        place = text.rfind(end)
        if place < 0:
            raise ValueError(f"{self.where} leaves out the last message: it can't be gone on with")
        return text[:place] if text[place + 1 : place + 2] == " " else text[:place].rstrip()

    def encode(
        self,
        tokenizer: Tokenizer,
        messages: Messages,
        *,
        add_generation_prompt: bool = True,
        go_on: bool = False,
    ) -> list[int]:
        """The tokens of `render`; special tokens are those that the template writes, none of a message.

        As transformers' `apply_chat_template(..., sanitize_control_tokens=True)`.

        Raises:
          ValueError: as `render`.
        """
        messages = checked(messages)
        marks, encoder = self.marks(tokenizer, messages), chat_tokens.encoder(tokenizer)
        text = self.render(
            marks.put(messages), add_generation_prompt=add_generation_prompt, go_on=go_on
        )
        return marks.encode(encoder, text)

    def marks(self, tokenizer: Tokenizer, messages: list[dict[str, Any]]) -> chat_tokens.Marks:
        """What keeps the special tokens that are spelt in these messages apart from the template's own."""
        from jaxlm.data import chat_rendering

        self.check()
        control = chat_tokens.encoder(tokenizer).control(chat_rendering.literals(self.source))
        return chat_tokens.Marks(control, json.dumps(messages, ensure_ascii=False) + self.source)

    def check(self) -> None:
        """Raise ValueError where it is no Jinja2."""
        from jaxlm.data import chat_rendering

        chat_rendering.check(self.source, self.where)

    def _render(
        self, messages: list[dict[str, Any]], add_generation_prompt: bool, names: Mapping[str, Any]
    ) -> str:
        from jaxlm.data import chat_rendering

        self.check()
        known = {"messages": messages, "tools": None, "documents": None}
        known["add_generation_prompt"] = add_generation_prompt
        try:
            return chat_rendering.render(self.source, **known, **self.tokens, **names)
        except Exception as error:  # a template is somebody's program: anything may go wrong in it
            raise ValueError(f"{self.where} refuses these messages: {error}") from error


def checked(messages: Messages) -> list[dict[str, Any]]:
    """Messages as plain JSON values, copied; entries that are None are left out.

    Raises:
      ValueError: none, or one without "role" and "content".
    """
    if isinstance(messages, str) or not isinstance(messages, Sequence) or not messages:
        raise ValueError('messages must be a list, [{"role": "user", "content": "..."}, ...]')
    for number, message in enumerate(messages):
        texts = [message.get(key) for key in ("role", "content")] if hasattr(message, "get") else []
        if len(texts) != 2 or not all(isinstance(text, str) for text in texts):
            raise ValueError(f'messages[{number}] must have "role" and "content", both texts')
    try:
        plain = json.loads(json.dumps([dict(message) for message in messages]))
    except (TypeError, ValueError) as error:
        raise ValueError(f"messages: {error}") from error
    return [{k: v for k, v in message.items() if v is not None} for message in plain]


def of(tokenizer: Any) -> ChatTemplate | None:
    """A tokenizer's template; None without one."""
    return getattr(tokenizer, "chat_template", None)


def attached(tokenizer: Any, template: ChatTemplate | None) -> Any:
    """The tokenizer with a template, or without any; encodings and digest stay as they were."""
    tokenizer = copy.copy(tokenizer)
    tokenizer.chat_template = template
    return tokenizer


def read(folder: Any) -> ChatTemplate | None:
    """The template of a folder: chat_template.jinja, else what tokenizer_config.json says; None without one.

    Raises:
      ValueError: a file is damaged, or has several templates and none that is the default.
    """
    facts, where = (
        _json(folder / "special_tokens_map.json") | _json(folder / CONFIG),
        folder / CONFIG,
    )
    if (folder / FILE).is_file():
        where = folder / FILE
        facts["chat_template"] = where.read_text(encoding="utf-8")
    source = facts.get("chat_template")
    if isinstance(source, list):
        named = {one.get("name"): one.get("template") for one in source if isinstance(one, Mapping)}
        source = named.get("default")
        if source is None:
            names = ", ".join(map(str, named)) or "none"
            raise ValueError(f"{where}: chat_template has no default among its templates ({names})")
    if source is None:
        return None
    if not isinstance(source, str):
        raise ValueError(f"{where}: chat_template must be a text")
    return ChatTemplate(source, _special_tokens(facts), f"the chat template of {where}")


def given(path: str, option: str, tokenizer: Tokenizer) -> ChatTemplate:
    """The template of a file that holds nothing else.

    Args:
      path: the file; or the template itself, which has braces.
      option: what named it, for messages.
      tokenizer: its own template says how special tokens are called; without one, eos_token is what ends its texts.

    Raises:
      ValueError: there is no such file, or it is no template.
    """
    is_template = "{{" in path or "{%" in path
    try:
        source = path if is_template else Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{option} {path} can't be read: {error}") from error
    like, names = of(tokenizer), {i: name for name, i in tokenizer.special_ids().items()}
    tokens = {"eos_token": names[tokenizer.eos_id]} if tokenizer.eos_id in names else {}
    tokens = tokens if like is None else like.tokens
    template = ChatTemplate(source, tokens, option if is_template else f"{option} {path}")
    template.check()
    return template


def needed(template: ChatTemplate | None, option: str = "--template FILE") -> ChatTemplate:
    """The template.

    Raises:
      ValueError: there is none; `option` is where to give one.
    """
    if template is None:
        raise ValueError(
            "this model has no chat template (chat_template.jinja, or chat_template in tokenizer_config.json or "
            f"a .gguf), so how it was trained to answer is not known: give one with {option}"
        )
    return template


def save(template: ChatTemplate, folder: Any) -> None:
    """Write it into a folder in the Hugging Face layout, beside what stands there."""
    (folder / FILE).write_text(template.source, encoding="utf-8")
    facts = json.dumps({**template.tokens, **_json(folder / CONFIG)}, indent=2, ensure_ascii=False)
    (folder / CONFIG).write_text(facts + "\n", encoding="utf-8")


def _special_tokens(facts: Mapping[str, Any]) -> dict[str, str]:
    """What a tokenizer_config.json calls "bos_token", ..., as texts."""
    found = {}
    for name, value in facts.items():
        value = value.get("content") if isinstance(value, Mapping) else value
        if name.endswith("_token") and isinstance(value, str):
            found[name] = value
    return found


def _json(path: Any) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged: it is no object")
    return found
