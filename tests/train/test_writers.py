"""Every file and line that a run shows, read back as a person or a program would."""

import dataclasses
import io
import json
import math
import sys

from jaxlm.train import writers
from jaxlm.train.writers import Writer


@dataclasses.dataclass
class Score:
    name: str
    value: float
    unit: str
    stderr: float
    signature: str


ROW = {
    "loss": 2.10341,
    "bits_per_byte": 3.0349,
    "lr": 0.001,
    "grad_norm": 0.519,
    "step_seconds": 0.0942,
    "data_wait": 0.0031,
    "tokens_per_second": 43616.2,
    "mfu": 0.1234,
    "eta_seconds": 165.0,
}


def read_rows(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_train_line():
    assert writers.train_line(250, 2000, ROW) == (
        " 12.5%  step  250/2000  loss 2.1034  3.035 bits/byte  lr 1.00e-03  grad 0.52  94 ms  "
        "wait 0.3%  43,616 tok/s  MFU 12.3%  ETA 2m 45s"
    )
    assert writers.train_line(2000, 2000, {"loss": math.nan}) == "100.0%  step 2000/2000  loss nan"
    assert writers.train_line(1, 10, {"eta_seconds": 7500.0}).endswith("ETA 2h 05m")
    assert writers.train_line(1, 10, {"eta_seconds": math.inf}).endswith("ETA unknown")


def test_a_run_on_a_pipe(tmp_path, capsys):
    writer = Writer(tmp_path / "run", 20)
    writer.log("device     cpu")
    writer.resume(0)
    writer.train(10, ROW)
    writer.eval(10, [Score("loss", 1.5, "nats/token", 0.01, "windows=64")], "ema")
    writer.samples(10, "To be, or not")
    writer.train(20, {**ROW, "loss": math.nan})
    writer.finish({"val_loss": 1.5, "mfu": None, "val_perplexity": math.inf})
    writer.close()
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert err == ""
    assert lines[:2] == ["device     cpu", writers.train_line(10, 20, ROW)]
    assert lines[2] == "eval       step 10  loss 1.5000 ± 0.0100 nats/token  (ema weights)"
    assert lines[3:5] == ["sample     step 10", "  | To be, or not"]
    summary = {"val_loss": 1.5, "mfu": None, "val_perplexity": None}
    assert json.loads(lines[-1]) == summary
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == summary
    assert (tmp_path / "run" / "log.txt").read_text().splitlines() == lines[:-1]
    assert (tmp_path / "run" / "samples.txt").read_text() == "=== step 10 ===\nTo be, or not\n\n"
    rows = read_rows(tmp_path / "run")
    assert rows[0] == {"step": 10, "split": "train", **ROW}
    assert rows[1] == {
        "step": 10,
        "split": "val",
        "weights": "ema",
        "val_loss": 1.5,
        "val_loss_stderr": 0.01,
        "units": {"loss": "nats/token"},
        "signatures": {"loss": "windows=64"},
    }
    assert rows[2]["loss"] is None  # strict JSON
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))
    assert (tmp_path / "run" / "plots" / "loss.png").read_bytes()[:4] == b"\x89PNG"


def test_what_a_step_has_none_of_is_left_out_and_a_lost_loss_is_not():
    line = writers.train_line(1, 2, {"loss": math.nan, "reward": math.nan, "judge_loss": math.nan})
    assert line.endswith("loss nan")


def test_a_score_of_all_examples_at_once_shows_no_error(tmp_path, capsys):
    writer = Writer(tmp_path, 10)
    writer.eval(10, [Score("self_bleu", 8.7, "of 100", math.nan, "")])
    writer.close()
    assert "self_bleu 8.7000 of 100" in capsys.readouterr().out
    assert read_rows(tmp_path)[0]["val_self_bleu_stderr"] is None


def test_rows_are_on_disk_at_once(tmp_path):
    writer = Writer(tmp_path, 10)
    writer.train(1, ROW)
    writer.samples(1, "text")
    assert read_rows(tmp_path)[0]["step"] == 1
    assert "=== step 1 ===" in (tmp_path / "samples.txt").read_text()
    writer.close()


def test_resume_takes_back_later_rows_and_samples(tmp_path, capsys):
    first = Writer(tmp_path, 50)
    for step in (10, 20, 30):
        first.train(step, ROW)
        first.eval(step, [Score("loss", 1.0, "", 0.0, "")])
        first.samples(step, f"sample {step}")
    first.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')  # killed in mid-write
    second = Writer(tmp_path, 50)
    second.resume(20)
    assert [row["step"] for row in read_rows(tmp_path)] == [10, 10, 20, 20]
    second.train(30, {"loss": 9.0})
    second.samples(30, "again")
    second.close()
    rows = read_rows(tmp_path)
    assert [row["step"] for row in rows] == [10, 10, 20, 20, 30] and rows[-1]["loss"] == 9.0
    text = (tmp_path / "samples.txt").read_text()
    assert "sample 20" in text and "sample 30" not in text and text.endswith("again\n\n")


def test_a_torn_last_line_alone_is_dropped(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 10, "loss": 1.0}\n{"step": 11, "loss": 1.')
    writer = Writer(tmp_path, 50)
    writer.resume(11)
    writer.train(12, {"loss": 2.0})
    writer.close()
    assert [row["step"] for row in read_rows(tmp_path)] == [10, 12]


def test_starting_over_drops_all_rows(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    writer = Writer(tmp_path, 50)
    writer.resume(0)
    writer.close()
    assert read_rows(tmp_path) == []


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def test_on_a_terminal_a_bar_and_lines_above_it(tmp_path, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    writer = Writer(tmp_path, 20)
    writer.train(10, ROW)
    writer.log("[brackets] " + "x" * 150)
    writer.train(20, ROW)
    writer.finish({"val_loss": 1.0})
    writer.close()
    shown = terminal.getvalue()
    assert "step 10/20" in shown and "━" in shown
    assert "[brackets] " + "x" * 150 in shown  # no markup, not cut
    assert json.loads(shown.splitlines()[-1]) == {"val_loss": 1.0}
    assert "step 20/20" in (tmp_path / "log.txt").read_text()


def test_other_processes_are_silent(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(writers.jax, "process_index", lambda: 1)
    writer = Writer(tmp_path / "run", 20)
    writer.log("x")
    writer.resume(0)
    writer.train(1, ROW)
    writer.eval(1, [])
    writer.samples(1, "x")
    writer.finish({})
    writer.close()
    assert capsys.readouterr() == ("", "")
    assert not (tmp_path / "run").exists()


def test_tensorboard_holds_the_figures(tmp_path):
    from tensorboardX.proto import event_pb2

    writer = Writer(tmp_path, 20)
    writer.resume(5)
    writer.train(6, {"loss": 2.5})
    writer.close()
    (path,) = (tmp_path / "tensorboard").glob("events*")
    content, at, found = path.read_bytes(), 0, {}
    while at < len(content):  # length, its checksum, the event, its checksum
        size = int.from_bytes(content[at : at + 8], "little")
        event = event_pb2.Event.FromString(content[at + 12 : at + 12 + size])
        found |= {v.tag: (event.step, v.simple_value) for v in event.summary.value}
        at += 12 + size + 4
    assert found["train/loss"] == (6, 2.5)


def test_a_failing_plot_does_not_stop_the_run(tmp_path, monkeypatch, capsys):
    def failing(*_):
        raise RuntimeError("no fonts")

    monkeypatch.setattr(writers, "plot_loss", failing)
    writer = Writer(tmp_path, 20)
    writer.train(1, ROW)
    writer.finish({"a": 1})
    writer.close()
    lines = capsys.readouterr().out.splitlines()
    assert "was not drawn: RuntimeError: no fonts" in lines[-2] and lines[-1] == '{"a": 1}'
