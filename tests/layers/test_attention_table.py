"""docs/attention.md says what is true: it is what the command writes, and every "yes" is run by a test."""

import sys

import attention_table
import bench_attention
import test_attention_backends as ran


def test_the_page_is_what_the_command_would_write_now():
    assert attention_table.PAGE.read_text() == attention_table.page()


def test_every_yes_was_run_against_the_reference():
    header, _, *rows = attention_table.table().split("\n\n")[0].splitlines()
    backends = [cell.strip() for cell in header.split("|")[2:-1]]
    forms = {"xla": {"xla"}, "blockwise": {"loops", "unrolled"}, "splash": {"splash"}}
    assert backends == ["xla", "blockwise", "cudnn", "splash"]
    for row in rows:
        name, *cells = (cell.strip() for cell in row.split("|")[1:-1])
        for backend, cell in zip(backends, cells, strict=True):
            if backend == "cudnn":
                assert cell == "allowed, not run here" or cell.startswith("refused")
            elif cell == "yes":
                assert all(name in ran.names_of(form) for form in forms[backend])
            else:
                assert (name, backend) in ran.REFUSED


def test_the_benchmark_prints_its_table(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench_attention.py", "--lengths", "16", "--rounds", "1"])
    bench_attention.main()
    header, _, row = capsys.readouterr().out.splitlines()
    assert header == "| T | xla, ms | blockwise, ms | xla, MiB | blockwise, MiB |"
    assert row.startswith("| 16 | ")
