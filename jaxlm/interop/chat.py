"""Chat templates: a conversation as the tokens that a chat model was trained to answer.

A template is Jinja2, run in the sandbox and with the names that transformers gives it. What people typed is only ever
text: a special token that is spelt out in a message never becomes one. Talking is for language_model.py and chat.py.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from jaxlm.core.types import Tokenizer
from jaxlm.interop import chat_tokens
from jaxlm.interop.huggingface import Source

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
        self, messages: Messages, *, add_generation_prompt: bool = True, go_on: bool = False
    ) -> str:
        """A conversation as the text that a model reads.

        Args:
          messages: each has "role" and "content", both texts; what else a template reads may be with them.
          add_generation_prompt: end with what stands before an answer.
          go_on: end inside the last message, which the model then continues (transformers' `continue_final_message`).

        Raises:
          ValueError: a message without role or content, or one that the template refuses.
        """
        messages = checked(messages)
        if go_on:
            end = _unused(json.dumps(messages, ensure_ascii=False) + self.source)
            last = messages[-1]
            messages = [*messages[:-1], last | {"content": last["content"] + end + " "}]
        text = self._render(messages, add_generation_prompt)
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
        self.check()
        messages, encoder = checked(messages), chat_tokens.encoder(tokenizer)
        marks = chat_tokens.Marks(
            encoder.control(self._literals()),
            json.dumps(messages, ensure_ascii=False) + self.source,
        )
        text = self.render(
            marks.put(messages), add_generation_prompt=add_generation_prompt, go_on=go_on
        )
        return marks.encode(encoder, text)

    def check(self) -> None:
        """Raise ValueError where it is no Jinja2."""
        try:
            _compiled(self.source)
        except jinja2.TemplateSyntaxError as error:
            raise ValueError(f"{self.where}, line {error.lineno}: {error.message}") from error

    def _literals(self) -> str:
        """What the template itself writes, joined so that nothing can match across two of its parts."""
        parsed = _environment().parse(self.source)
        texts = [node.data for node in parsed.find_all(jinja2.nodes.TemplateData)]
        values = [node.value for node in parsed.find_all(jinja2.nodes.Const)]
        return "\0".join(texts + [value for value in values if isinstance(value, str)])

    def _render(self, messages: list[dict[str, Any]], add_generation_prompt: bool) -> str:
        self.check()
        try:
            return _compiled(self.source).render(
                messages=messages,
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self.tokens,
            )
        except Exception as error:  # a template is somebody's program: anything may go wrong in it
            raise ValueError(f"{self.where} refuses these messages: {error}") from error


def checked(messages: Messages) -> list[dict[str, Any]]:
    """Messages as plain JSON values, copied; entries that are None are left out.

    Raises:
      ValueError: none, or one without "role" and "content".
    """
    if isinstance(messages, str | Mapping) or not messages:
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


def of_source(source: Source) -> ChatTemplate | None:
    """The template of a folder in the Hugging Face layout or of a .gguf file; None without one."""
    if source.path.is_dir():
        return read(source.path)
    return _of_facts(json.loads(source.tokenizer.get(CONFIG, b"{}")), source.path)


def read(folder: Path) -> ChatTemplate | None:
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
    return _of_facts(facts, where)


def _of_facts(facts: dict[str, Any], where: Path) -> ChatTemplate | None:
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


def from_file(path: str, like: ChatTemplate | None, tokenizer: Tokenizer) -> ChatTemplate:
    """The template of a file that holds nothing else.

    Args:
      path: the file.
      like: the model's own, which says how special tokens are called; None: eos_token is the tokenizer's.

    Raises:
      ValueError: there is no such file, or it is no template.
    """
    try:
        source = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"template {path} can't be read: {error}") from error
    names = {i: name for name, i in tokenizer.special_ids().items()}
    tokens = {"eos_token": names[tokenizer.eos_id]} if tokenizer.eos_id in names else {}
    template = ChatTemplate(source, tokens if like is None else like.tokens, f"template {path}")
    template.check()
    return template


def needed(template: ChatTemplate | None) -> ChatTemplate:
    """The template.

    Raises:
      ValueError: there is none.
    """
    if template is None:
        raise ValueError(
            "this model has no chat template (chat_template.jinja, or chat_template in tokenizer_config.json or "
            "a .gguf), so how it was trained to answer is not known: give one with --template FILE"
        )
    return template


def save(template: ChatTemplate, folder: Path) -> None:
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


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged: it is no object")
    return found


class _Generation(jinja2.ext.Extension):
    """`{% generation %}...{% endgeneration %}` says which part is the model's; here it is only a part."""

    tags = {"generation"}

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(["name:endgeneration"], drop_needle=True)


@functools.cache
def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda how: datetime.datetime.now().strftime(how)
    return environment


@functools.lru_cache(maxsize=16)
def _compiled(source: str) -> jinja2.Template:
    return _environment().from_string(source)


def _tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
    """Jinja's own escapes characters of HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _unused(text: str) -> str:
    """A character that is not in a text."""
    return chat_tokens.unused(text, 1)[0]
