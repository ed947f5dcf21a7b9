"""The command line: where prompts come from, text in a terminal and JSON Lines elsewhere, one clear line for a mistake."""

import io
import json
import sys
from types import SimpleNamespace

import pytest

from jaxlm import api, decode, generate
from jaxlm.decode.infilling import Filled
from jaxlm.decode.texts import Text
from jaxlm.registry import load_object


class Echo:
    """Writes its prompt in capitals, and remembers what it was asked."""

    def __init__(self, source=False):
        self.model = SimpleNamespace(inputs=("tokens", "source") if source else ("tokens",))
        self.asked = []

    def write(self, prompts, on_text=None, **asked):
        self.asked.append((list(prompts), asked))
        for number, prompt in enumerate(prompts):
            if on_text is not None:
                for letter in prompt.upper():
                    on_text(number, letter)
        best = asked.get("num_return", 1)
        return [
            [Text(p.upper(), [*range(len(p))], "end", -0.5 * n) for n in range(best)]
            for p in prompts
        ]

    def fill(self, texts, on_text=None, blank="[MASK]", **asked):
        self.asked.append((list(texts), {"blank": blank, **asked}))
        if on_text is not None:
            for piece in texts[0].partition(blank):
                on_text(0, "x" if piece == blank else piece)
        filling = Text("x", [5], "length", -0.5)
        return [Filled(text.replace(blank, "x"), [filling] * text.count(blank)) for text in texts]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def lm(monkeypatch):
    lm = Echo()
    monkeypatch.setattr(api, "load", lambda path, best=False: lm)
    monkeypatch.setattr(sys, "stdin", Terminal())
    return lm


def run(capsys, *arguments):
    """(exit code, objects on stdout, lines on stderr)."""
    try:
        code = generate.main(["--workdir", "DIR", *map(str, arguments)])
    except SystemExit as error:
        code = error.code
    out, err = capsys.readouterr()
    return code, [json.loads(line) for line in out.splitlines()], err.splitlines()


def row(prompt, seed=0, **changes):
    return {
        "prompt": prompt, "text": prompt.upper(), "finish": "end", "num_tokens": len(prompt),
        "score": 0.0, "seed": seed, "method": "sample",
    } | changes  # fmt: skip


def test_prompts_come_from_arguments_files_or_standard_input(lm, capsys, monkeypatch, tmp_path):
    code, rows, err = run(capsys, "--prompt", "ab", "--prompt", "é\n", "--seed", 7)
    assert code == 0 and rows == [row("ab", 7), row("é\n", 8)]
    assert len(err) == 1 and err[0].startswith("compile 0.00 s (0 programs)")
    (tmp_path / "some.txt").write_text("one\n\ntwo", encoding="utf-8")
    assert run(capsys, "--prompts_file", tmp_path / "some.txt")[1] == [
        row("one"), row("", 1), row("two", 2),
    ]  # fmt: skip
    (tmp_path / "some.jsonl").write_text('{"prompt": "a\\nb", "id": 1}\n{"prompt": "c"}\n')
    both = run(capsys, "--prompt", "x", "--prompts_file", tmp_path / "some.jsonl")[1]
    assert both == [row("x"), row("a\nb", 1), row("c", 2)]
    monkeypatch.setattr(sys, "stdin", io.StringIO("from\nstdin\n"))
    assert run(capsys)[1] == [row("from"), row("stdin", 1)]
    monkeypatch.setattr(sys, "stdin", io.StringIO("more\n"))
    assert run(capsys, "--prompt", "a", "--prompt", "-")[1] == [row("a"), row("more", 1)]


def test_a_terminal_gets_the_text_of_one_prompt_as_it_comes(lm, capsys, monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    assert generate.main(["--workdir", "DIR", "--prompt", "abc "]) == 0
    assert screen.getvalue() == "abc ABC \n"
    lm.model.inputs = ("tokens", "source")
    assert generate.main(["--workdir", "DIR", "--prompt", "abc"]) == 0
    assert screen.getvalue() == "abc ABC \nABC\n"  # what it is written from is no part of it
    assert generate.main(["--workdir", "DIR", "--prompt", "a", "--prompt", "b"]) == 0
    assert [json.loads(line)["text"] for line in screen.getvalue().splitlines()[2:]] == ["A", "B"]


def test_results_are_written_a_group_of_batches_at_a_time(lm, capsys, tmp_path):
    words = [f"w{number}" for number in range(70)]
    (tmp_path / "in.txt").write_text("\n".join(words))
    arguments = ["--prompts_file", tmp_path / "in.txt", "--batch_size", 2, "--seed", 5]
    code, rows, _ = run(capsys, *arguments, "--output", tmp_path / "out.jsonl")
    assert code == 0 and rows == []
    written = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in written] == [row(w, 5 + n) for n, w in enumerate(words)]
    assert [len(prompts) for prompts, _ in lm.asked] == [32, 32, 6]
    assert [asked["seed"] for _, asked in lm.asked] == [5, 37, 69]


def test_gaps_of_prompts_are_filled(lm, capsys, monkeypatch):
    one = {"text": "x", "finish": "length", "num_tokens": 1, "score": -0.5}
    code, rows, _ = run(capsys, "--infill", "--prompt", "a[MASK]b[MASK]", "--prompt", "[MASK]")
    assert code == 0 and rows == [
        {"prompt": "a[MASK]b[MASK]", "text": "axbx", "fillings": [one] * 2, "seed": 0, "method": "sample"},
        {"prompt": "[MASK]", "text": "x", "fillings": [one], "seed": 1, "method": "sample"},
    ]  # fmt: skip
    assert lm.asked.pop()[1] == {"blank": "[MASK]", "seed": 0, "constraint": None}
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    arguments = [
        "--workdir",
        "DIR",
        "--infill",
        "--blank",
        "_",
        "--max_tokens",
        "3",
        "--prompt",
        "a_b",
    ]
    assert generate.main(arguments) == 0 and screen.getvalue() == "axb\n"
    assert lm.asked.pop()[1]["max_tokens"] == 3


def test_only_what_is_given_is_passed_on(lm, capsys, tmp_path):
    run(capsys, "--prompt", "a")
    assert lm.asked.pop() == (["a"], {"seed": 0, "constraint": None})
    run(
        capsys, "--prompt", "a", "--method", "beam", "--num_beams", 4, "--num_return", 2,
        "--early_stopping", "true", "--stop", "x", "--stop", "y", "--max_tokens", 3, "--regex", "b",
    )  # fmt: skip
    assert lm.asked.pop()[1] == {
        "method": "beam", "num_beams": 4, "num_return": 2, "early_stopping": True, "seed": 0,
        "stop": ["x", "y"], "max_tokens": 3, "constraint": {"regex": "b"},
    }  # fmt: skip
    (tmp_path / "schema.json").write_text('{"type": "integer"}')
    for schema in ('{"type": "integer"}', tmp_path / "schema.json"):
        run(capsys, "--prompt", "a", "--json_schema", schema, "--draft", "SMALL")
        asked = lm.asked.pop()[1]
        assert asked["constraint"] == {"json_schema": '{"type": "integer"}'}
        assert asked["draft"] is lm
    run(capsys, "--prompt", "a", "--choices", "b", "--choices", "c", "--temperature", 0)
    assert lm.asked.pop()[1]["constraint"] == {"choices": ["b", "c"]}


def test_every_setting_of_every_method_is_an_option():
    fields = {
        field
        for path in (*decode.METHODS.values(), decode.SPECULATIVE)
        for field in load_object(path).__dataclass_fields__
    }
    assert fields == set(generate.SETTINGS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no prompt: give --prompt TEXT, --prompts_file FILE or pipe them in"),
        (
            ["--prompt", "a", "--temprature", "0"],
            'no such option --temprature (did you mean "--temperature"?)',
        ),
        (["--prompt", "a", "--top_k", "many"], "argument --top_k: invalid int value: 'many'"),
        (["--prompt", "a", "--early_stopping", "so"], "invalid choice: 'so'"),
        (["--prompt", "a", "--regex", "a", "--choices", "b"], "--choices and --regex: name one"),
        (["--prompt", "a_b", "--blank", "_"], "--blank goes with --infill"),
        (["--prompts_file", "no.txt"], "No such file"),
        (["--prompts_file", "bad.jsonl"], 'bad.jsonl:2 has no text under "prompt"'),
        (["--prompts_file", "worse.jsonl"], "worse.jsonl:1 is no JSON"),
        (["--prompts_file", "empty.txt"], "no prompt: the file or standard input is empty"),
        (["--prompts_file", "latin.txt"], "latin.txt is not UTF-8"),
    ],
)
def test_a_mistake_is_one_line(lm, capsys, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a"}\n{"text": "b"}\n')
    (tmp_path / "worse.jsonl").write_text("prompt")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "latin.txt").write_bytes("abc\né".encode("latin-1"))
    code, rows, err = run(capsys, *arguments)
    assert (code, rows, len(err)) == (2, [], 1) and message in err[0]
    assert lm.asked == []


def test_empty_standard_input_is_no_prompt(lm, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    code, _, err = run(capsys)
    assert code == 2 and "standard input is empty" in err[0]


def test_a_column_of_a_file_gives_the_prompts(lm, capsys, tmp_path):
    (tmp_path / "plain.tsv").write_text("one\teins\n\ntwo\tzwei\n")
    (tmp_path / "named.tsv").write_text("id\ttext\n1\tone\n2\ttwo\n")
    (tmp_path / "rows.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    for name, column in (("plain.tsv", []), ("named.tsv", ["text"]), ("rows.jsonl", ["text"])):
        options = [option for one in column for option in ("--column", one)]
        code, rows, _ = run(capsys, "--prompts_file", tmp_path / name, *options)
        assert (code, [row["text"] for row in rows]) == (0, ["ONE", "TWO"])
    code, _, errors = run(capsys, "--prompts_file", tmp_path / "named.tsv", "--column", "txt")
    assert code == 2 and "named.tsv:1 names no column 'txt': id, text" in errors[-1]
    code, _, errors = run(capsys, "--prompt", "x", "--column", "text")
    assert code == 2 and "--column goes with a --prompts_file" in errors[-1]


def test_resume_goes_on_behind_what_is_written(lm, capsys, tmp_path, monkeypatch):
    """Texts as if it had never been stopped, in the middle of a line and between a prompt's two texts."""
    monkeypatch.setattr(generate, "GROUP", 1)
    (tmp_path / "prompts.txt").write_text("one\ntwo\nthree\nfour\n")
    output = tmp_path / "out.jsonl"
    asked = ["--prompts_file", tmp_path / "prompts.txt", "--output", output, "--batch_size", 2]
    asked += ["--method", "beam", "--num_beams", 2, "--num_return", 2, "--resume"]
    assert run(capsys, *asked)[0] == 0
    whole = output.read_text()
    assert [json.loads(line)["seed"] for line in whole.splitlines()] == [0, 0, 1, 1, 2, 2, 3, 3]
    lines = whole.splitlines(keepends=True)
    parts = {"".join(lines[:3]): 1, "".join(lines[:4]) + lines[4][:9]: 2, "": 0, whole: 4}
    for left, done in parts.items():
        output.write_text(left)
        lm.asked.clear()
        assert run(capsys, *asked)[0] == 0
        assert output.read_text() == whole
        written = [prompt for prompts, _ in lm.asked for prompt in prompts]
        assert written == ["one", "two", "three", "four"][done:]
    (tmp_path / "prompts.txt").write_text("other\ntwo\n")
    code, _, errors = run(capsys, *asked)
    assert code == 2 and "has texts of other prompts" in errors[-1]
    assert run(capsys, "--prompt", "x", "--resume")[0] == 2
