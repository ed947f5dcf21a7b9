"""Who may import whom: every file of jaxlm/ against a table (docs/architecture.md, section 1)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "jaxlm"

# A unit is a folder or file right under jaxlm/; "jaxlm" is its __init__.py. Adding an edge is a design decision.
ALLOWED = {
    "jaxlm": set(),  # lazy: by name, at first use
    "core": set(),
    "registry": set(),
    "config": {"registry"},  # sections by name, at first use
    "cli": {"registry"},
    "layers": {"core"},
    "models": {"layers", "core"},
    "objectives": {"core"},
    "data": {"core", "registry"},
    "decode": {"core", "registry"},
    "interp": {"core"},
    "eval": {"decode", "core", "registry"},
    "eval.suites.data": {"data"},  # the one file of eval that reads corpora
    "retrieval": {"data", "core", "registry"},
    "retrieval.readers": {"eval"},
    "eval.suites.retrieval": {"data", "retrieval"},
    "interop": {"registry", "core"},  # models by name, at first use
    "interop.lm_eval": {"api", "eval", "data"},
    "interop.lm_eval_texts": {"data"},
    "interop.lm_eval_tasks.documents": {"data"},
    "train.tuning.prompt": {"layers"},  # which makes a module of a module
    "train": {
        "models", "objectives", "data", "eval", "decode", "interop", "config", "registry", "core",
    },
    "language_model": {"train", "interop", "decode", "eval", "data", "config", "core"},
    "api": {"language_model", "train", "interop", "decode", "eval", "data", "config", "core"},
    "serve": {"api"},
    # command lines
    "launch": {"cli", "config", "train"},
    "generate": {"cli", "api"},
    "interpolate": {"cli", "api", "decode"},
    "chat": {"cli", "api"},
    "predict": {"cli", "api"},
    "evaluate": {"cli", "api", "eval"},
    "retrieve": {"cli", "api", "retrieval"},
    "word_vectors": {"api", "interop", "eval", "data", "core"},
    "neighbours": {"cli", "word_vectors", "interop", "eval"},
    "answer": {"cli", "api", "retrieval", "retrieve"},
    "compare": {"cli", "eval", "train"},
    "lm_eval": {"cli", "interop"},
    "convert": {"cli", "api", "train", "interop", "data", "config"},
    "prepare": {"cli", "data"},
    "train_tokenizer": {"cli", "data"},
}  # fmt: skip

# Libraries that a unit must not touch itself.
BANNED_LIBRARIES = {
    **dict.fromkeys(
        ["jaxlm", "registry", "config", "cli"], {"jax", "flax", "optax", "orbax", "grain"}
    ),
    "data": {"jax", "flax", "optax", "orbax"},  # numpy only
    **dict.fromkeys(["core", "layers", "models", "objectives", "decode"], {"grain", "orbax"}),
    "eval": {"grain", "orbax", "optax"},
}

FILES = sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    """jaxlm/data/tasks/__init__.py as "jaxlm.data.tasks"."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str, module: str, is_package: bool) -> set[str]:
    """Dotted names that a file imports, anywhere in it, relative ones resolved."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = module.split(".")
                up = up[: len(up) - node.level + is_package]
                base = ".".join([*up, *filter(None, [base])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def unit(name: str) -> str | None:
    """The unit of jaxlm that a dotted name lies in; None for other libraries."""
    first, *rest = name.split(".")
    if first != "jaxlm":
        return None
    is_unit = rest and ((PACKAGE / rest[0]).is_dir() or (PACKAGE / f"{rest[0]}.py").is_file())
    return rest[0] if is_unit else "jaxlm"


def edges(path: Path) -> set[str]:
    """Units of jaxlm that a file imports, its own left out."""
    module = module_name(path)
    found = {unit(name) for name in imports(path.read_text(), module, path.name == "__init__.py")}
    return found - {None, unit(module)}


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_only_what_the_table_allows(path):
    module = module_name(path)
    own = unit(module)
    assert own in ALLOWED, f"{own} is new: give it a row in ALLOWED and in docs/architecture.md"
    allowed = ALLOWED[own] | ALLOWED.get(module.removeprefix("jaxlm."), set())
    assert edges(path) <= allowed, f"{module} must not import {sorted(edges(path) - allowed)}"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_libraries(path):
    module = module_name(path)
    names = imports(path.read_text(), module, path.name == "__init__.py")
    used = {name.split(".")[0] for name in names}
    banned = used & BANNED_LIBRARIES.get(unit(module), set())
    assert not banned, f"{module} must not import {sorted(banned)}"


def test_nothing_imports_tests_or_tools():
    for path in FILES:
        names = imports(path.read_text(), module_name(path), path.name == "__init__.py")
        assert not {name.split(".")[0] for name in names} & {"tests", "tools", "experiments"}, path


def test_table_has_no_cycle():
    """The table itself is a one-way street."""
    done: set[str] = set()
    while left := set(ALLOWED) - done:
        free = {name for name in left if ALLOWED[name] <= done}
        assert free, f"a cycle among {sorted(left)}"
        done |= free


def test_the_parser_sees_every_form():
    source = """
import jaxlm.train.loop as loop
from jaxlm import config, data
from ..core import types
from . import heads
def late():
    if True:
        from jaxlm.eval.perplexity import Perplexity
"""
    names = imports(source, "jaxlm.models.gpt", is_package=False)
    assert names == {
        "jaxlm.train.loop",
        "jaxlm.config",
        "jaxlm.data",
        "jaxlm.core.types",
        "jaxlm.models.heads",
        "jaxlm.eval.perplexity.Perplexity",
    }
    assert imports("from . import gpt", "jaxlm.models", is_package=True) == {"jaxlm.models.gpt"}
    assert unit("jaxlm.data.tasks.text") == "data" and unit("jaxlm.load") == "jaxlm"
    assert unit("numpy.random") is None
