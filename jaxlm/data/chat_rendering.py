"""Runs a chat template: Jinja2 in the sandbox, with the names and tags that transformers gives it."""

from __future__ import annotations

import datetime
import functools
import json
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

BEGIN, END = "generation_begins", "generation_ends"
"""Names whose values stand around what `{% generation %}...{% endgeneration %}` holds; without values, nothing does."""


def render(source: str, **names: Any) -> str:
    """What a template writes with these names.

    Raises:
      jinja2.TemplateError, or anything else: a template is somebody's program.
    """
    return _compiled(source).render(**names)


def check(source: str, where: str) -> None:
    """Raise ValueError where it is no Jinja2."""
    try:
        _compiled(source)
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"{where}, line {error.lineno}: {error.message}") from error


def literals(source: str) -> str:
    """What a template itself writes, joined so that nothing can match across two of its parts."""
    parsed = _environment().parse(source)
    texts = [node.data for node in parsed.find_all(jinja2.nodes.TemplateData)]
    values = [node.value for node in parsed.find_all(jinja2.nodes.Const)]
    return "\0".join(texts + [value for value in values if isinstance(value, str)])


def marks_answers(source: str) -> bool:
    """Whether a template says itself which parts are the model's, by `{% generation %}`."""
    names = _environment().parse(source).find_all(jinja2.nodes.Name)
    return any(node.name == BEGIN for node in names)


class _Generation(jinja2.ext.Extension):
    """`{% generation %}...{% endgeneration %}` says which part is the model's."""

    tags = {"generation"}

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)

        def value(name: str) -> jinja2.nodes.Output:
            return jinja2.nodes.Output([jinja2.nodes.Name(name, "load")], lineno=line)

        return [value(BEGIN), *body, value(END)]


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
