"""Every experiment loads, builds and runs two shrunken steps on CPU, and every config key is read by something.

An experiment's docstring shows its commands; the variants that they name (FILE.py:variant) are tested too.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import json
import re
from pathlib import Path

import pytest

import jaxlm
from jaxlm import config as configs
from jaxlm import registry
from jaxlm.data import records, sources
from jaxlm.data.tasks import MADE_FOR

REPO = Path(__file__).resolve().parent.parent
EXPERIMENTS = sorted((REPO / "experiments").rglob("*.py"))
NETWORK = ("hf:", "tfds:")

# What makes any experiment small; a key that a section does not have is left out.
TINY = {
    "": {
        "num_steps": 2, "batch_size": 16, "micro_batch_size": 8, "log_every": 1, "eval_every": 0,
        "checkpoint_every": 0, "sample_every": 0, "sample_tokens": 4,
    },
    "model": {
        "num_layers": 1, "d_model": 16, "d_hidden": 16, "num_heads": 2, "num_kv_heads": None, "head_dim": None,
        "d_ff": None, "expert_d_ff": None, "num_decoder_layers": None, "moe_every": 1, "max_len": 16, "patch_size": 4,
    },
    "data": {
        "seq_len": 16, "source_len": 16, "target_len": 10, "val_fraction": 0.1, "eval_examples": 2,
        "min_count": 1, "stride": 0, "block": 8,
    },
    "step": {"batches_per_update": 1},
}  # fmt: skip
ANSWERED = ("tagged", "multi_labelled", "scored", "choices", "spans")
FILE_OF = {
    "labelled": "labelled",
    "lines": "labelled",
    "pairs": "pairs",
    "packed_pairs": "pairs",
    "captions": "images",
}
FILE_OF |= dict.fromkeys(ANSWERED, "answered") | {"text_pairs": "texts"}
COMPARED = ("preferences", "verdicts")
FILE_OF |= dict.fromkeys(("chat", "prompts", *COMPARED), "talks")
"""Kind of data -> the file that it is shrunken to; others are made of text."""
BUILT = ("preferences/train.jsonl", "sentiment.jsonl")
"""Paths of what a tool makes, or a user has, which the experiment names."""
TURNS = "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"


def variants(path: Path) -> list[str]:
    """The plain experiment, and the variants that its docstring names."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    return ["", *sorted(set(re.findall(rf"{path.name}:(\w+)", text)))]


SPECS = [f"{path}:{name}".removesuffix(":") for path in EXPERIMENTS for name in variants(path)]


def spec_id(spec: str) -> str:
    return configs.experiment_name(spec)


def parts(data) -> list:
    """A data section; of a mixture those of its tasks."""
    return list(data.tasks.values()) if data.kind == "mixture" else [data]


def shrink(cfg, files: dict[str, Path]):
    """The same experiment on a short file, in numbers that two CPU cores run in seconds."""
    for name, values in TINY.items():
        for node in [cfg[name] if name else cfg, *(parts(cfg.data) if name == "data" else ())]:
            for key, value in values.items():
                if key in node and not (key == "seq_len" and node is not cfg.data):
                    node[key] = value
    if "num_future" in cfg.model and cfg.model.num_future > 1:
        cfg.model.num_layers = cfg.model.num_future = 2
    if cfg.data.tokenizer.startswith("bpe:"):
        cfg.data.tokenizer = "bpe:300"
    for part in parts(cfg.data):
        if not part.path.startswith("arithmetic:"):
            part.path = str(files[FILE_OF.get(part.kind, "text")])
    if cfg.data.kind == "mixture":  # one with files of its own for validation
        for part in parts(cfg.data):
            part.val_path = part.test_path = ""
    if cfg.data.tokenizer == "init_from":
        cfg.data.tokenizer, cfg.init_layers = "bytes", ()
    if cfg.step.kind == "sparse":
        cfg.micro_batch_size, cfg.step.num_minibatches = 0, 2
    if getattr(configs.implementation(cfg, "objective"), "coupled", False):
        cfg.micro_batch_size = 0
    if "chat_template" in cfg.data and not cfg.data.path.startswith("arithmetic:"):
        cfg.data.chat_template, cfg.data.val_path = TURNS, ""
    if "reward_model" in cfg.objective and not cfg.step.reward:  # there is none yet
        cfg.step.reward = "exact_match"
    return cfg


def taught(cfg, folder: Path):
    """The experiment with a teacher of its model's shape."""
    own = cfg.copy_and_resolve_references()
    with own.unlocked():
        own.objective = configs.section("objective", MADE_FOR[cfg.data.kind][0])
        own.step = configs.section("step", "gradient")
    jaxlm.run(own, folder)
    cfg.objective.teacher = str(folder)
    return cfg


def answered(n: int) -> dict:
    """A line with whatever the tasks of ANSWERED ask for."""
    return {
        "text": f"{n} is it", "sentence1": f"{n}", "sentence2": f"{n % 7}", "label": n % 5, "score": n % 5,
        "labels": [name for name, by in (("even", 2), ("three", 3)) if n % by == 0],
        "tokens": [f"{n}", "is", "now", f"{n * n}"], "tags": ["B-PER" if n % 2 else "O", "O", "O", "O"],
        "question": f"is {n} even, or {n * n}?", "choices": ["yes", "no"], "answer": n % 2,
        "context": f"it is {n} today", "answers": [f"{n}"] if n % 3 else [], "starts": [6] if n % 3 else [],
    }  # fmt: skip


@pytest.fixture
def files(tmp_path) -> dict[str, Path]:
    """A short file of each form."""
    lines = [f"{n} is {n} times one, and {n * n} is {n} squared." for n in range(200)]
    forms = {
        "text.txt": lines,
        "labelled.tsv": [f"{line}\t{('even', 'odd')[n % 2]}" for n, line in enumerate(lines)],
        "pairs.tsv": [f"{n} is {n}\t{n} ist {n}" for n in range(200)],
        "images.jsonl": [
            json.dumps({"pixels": [n % 17] * 64, "caption": f"grey {n % 17}"}) for n in range(200)
        ],
        "answered.jsonl": [json.dumps(answered(n)) for n in range(200)],
        "talks.jsonl": [
            json.dumps(
                {
                    "turns": [f"{n}?", f"{n}!"],
                    "prompt": f"{n}?",
                    "chosen": f"{n}!",
                    "rejected": "no",
                }
            )
            for n in range(200)
        ],
        "texts.jsonl": [
            json.dumps(
                {"question": f"is {n}?", "answer": f"{n}", "synopsis": f"{n}", "description": line}
            )
            for n, line in enumerate(lines)
        ],
    }
    for name, content in forms.items():
        (tmp_path / name).write_text("".join(f"{line}\n" for line in content))
    return {name.partition(".")[0]: tmp_path / name for name in forms}


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_header_and_imports(path):
    tree = ast.parse(path.read_text())
    command = f"python -m jaxlm.launch --config {path.relative_to(REPO)}"
    assert command in (ast.get_docstring(tree) or ""), f"its docstring must show `{command}`"
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None) or node.names[0].name
            assert module.split(".")[0] == "jaxlm", (
                f"line {node.lineno}: only jaxlm is imported here"
            )


@pytest.mark.parametrize("spec", SPECS, ids=spec_id)
def test_loads_builds_and_finds_its_data(spec):
    cfg = configs.load(spec)
    assert cfg.is_locked
    for name in configs.SECTIONS:
        configs.build(cfg, name)
        if name in ("model", "objective", "data", "step"):
            assert callable(configs.implementation(cfg, name))
    paths = [part.path for part in parts(cfg.data)]
    if cfg.data.kind == "mixture":  # others lie in data.folder, which is the user's
        paths = [path for path in paths if path.startswith("bundled:")]
    for part in sources.parse(",".join(paths)):
        if not part.path.startswith(NETWORK) and part.path not in BUILT:
            if "text_column" in cfg.data and cfg.data.kind != "lines":
                source = sources.open_source(part.path, cfg.data.text_column.split("+")[0])
            else:
                source = records.Source("data.path", part.path, parse=None, kind=())
            assert source.scan()[1] > 0


FILLED = (
    "labelled",
    "mixture",
    "packed_text",
    "packed_pairs",
    "pairs",
    "blank_text",
    "text_pairs",
    "word_windows",
    "chat",
    *COMPARED,
    *ANSWERED,
)
"""Kinds of data whose rows are filled up, by how much stands in the log."""
SHOWN = dict.fromkeys(
    ("span_text", "blank_text", "pairs", "packed_pairs", "captions"), "prediction "
)
SHOWN |= {"masked_text": "(predicted", "labelled": "predicted ", "tagged": "tags ", "choices": ">"}
SHOWN |= dict.fromkeys(("multi_labelled", "scored", "spans"), "predicted ")
SHOWN |= {"mixture": "predict", "prompts": "prediction "}
"""Kind of data -> what its samples say."""


LIKE_ANOTHER = (
    "closed_book_qa",
    "embed",
    "finetune_choice",
    "finetune_labels",
    "finetune_scores",
    "grpo_arithmetic",
    "multi_task",
    "rlhf",
    "summarize",
    "vae_sentences",
)
"""Experiments whose parts others run, or tests of their own; these are slow tests, as those of families/ are."""


def by_default(spec: str) -> bool:
    """Shrunken, the variants of an experiment are little else than one of them: tiny, packed or the plain one."""
    path = Path(spec.partition(".py")[0])
    if path.name in LIKE_ANOTHER or path.parent.name == "families":
        return False
    file, _, variant = spec.partition(".py")
    names = [
        other.removeprefix(f"{file}.py").strip(":")
        for other in SPECS
        if other.startswith(f"{file}.py")
    ]
    return variant.strip(":") == next(name for name in ("tiny", "packed", "") if name in names)


@pytest.mark.parametrize(
    "spec",
    [spec if by_default(spec) else pytest.param(spec, marks=pytest.mark.slow) for spec in SPECS],
    ids=spec_id,
)
def test_two_steps_run(spec, files, tmp_path, quick_compiling):
    cfg = shrink(configs.load(spec), files)
    if "teacher" in cfg.objective:
        cfg = taught(cfg, tmp_path / "teacher")
    summary = jaxlm.run(cfg, tmp_path / "run")
    assert summary["final_step"] == 2
    if "perplexity" in cfg.evaluators:
        assert 0 < summary["val_loss"] < 20
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    trained = {name for row in rows if row["split"] == "train" for name in row}
    kind = cfg.data.kind
    of_classes = any(part.kind in ("labelled", *ANSWERED) for part in parts(cfg.data))
    no_text = (
        of_classes
        or kind in ("text_pairs", *COMPARED)
        or cfg.step.kind in ("policy", "counting", "sparse")
    )
    assert ("bits_per_byte" in trained) != no_text
    if of_classes:
        lines = (tmp_path / "run" / "predictions_val.jsonl").read_text().splitlines()
        assert {"id", "input", "prediction", "reference", "score"} <= json.loads(lines[0]).keys()
    assert ("fill" in trained) == (kind in FILLED)
    if kind != "text_pairs":  # a vector is nothing to show
        assert SHOWN.get(kind, "=== step 2") in (tmp_path / "run" / "samples.txt").read_text()


# --- every key is read ---------------------------------------------------------------------------------------------


@functools.cache
def names_read() -> frozenset[str]:
    """Attributes that jaxlm reads and strings that it holds, checks in `__post_init__` and docstrings left out.

    An `x.name` where a section is overridden or written is no reading; nor is the name of a keyword argument.
    """
    found = set()
    for path in (REPO / "jaxlm").rglob("*.py"):
        found |= _names(path.read_text())
    return frozenset(found)


def _names(source: str) -> set[str]:
    found, stack = set(), [ast.parse(source)]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.FunctionDef) and node.name == "__post_init__":
            continue
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            found.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
        stack.extend(ast.iter_child_nodes(node))
    return found


def test_every_top_level_key_is_read():
    unread = {key for key in configs.base() if key not in configs.SECTIONS} - names_read()
    assert not unread, f"config.base() has keys that nothing reads: {sorted(unread)}"


def section_classes():
    """(section.kind, Config) of everything that is registered."""
    for section, target in configs.SECTIONS.items():
        found = registry.load_object(target)
        for kind in found if isinstance(found, dict) else [""]:
            yield f"{section}.{kind}".rstrip("."), configs._config_class(section, kind)


@pytest.mark.parametrize(("name", "cls"), list(section_classes()), ids=lambda item: str(item))
def test_every_field_is_read(name, cls):
    unread = {field.name for field in dataclasses.fields(cls)} - names_read()
    assert not unread, f"{name} has fields that nothing reads: {sorted(unread)}"


def test_the_reader_tells_reading_from_writing_and_checking():
    source = '''
class C:
    """docstring"""
    unread: int = 0
    def __post_init__(self):
        self.checked + 1
def f(c, call):
    c.written = c.used
    call(keyword=1)
    return getattr(c, "by_name")
'''
    names = _names(source)
    assert {"used", "by_name"} <= names
    assert not names & {"unread", "checked", "written", "keyword"}
