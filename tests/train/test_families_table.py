"""The table of families: budgets in steps, rows that fail, are cut off, resume and are skipped, and what people read."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxlm import compare, config
from jaxlm.eval import families as tables
from jaxlm.train import assembly, families
from jaxlm.train.families import Budget, Corpus

NGRAM = """
from jaxlm import config
def get_config():
    cfg = config.base()
    cfg.model = config.section("model", "ngram", order=3)
    cfg.data = config.section("data", "stream_text", seq_len=8, num_streams=1)
    cfg.step = config.section("step", "counting")
    cfg.batch_size = 64
    return cfg
"""


@pytest.fixture
def corpus(tmp_path):
    (tmp_path / "text.txt").write_text("the cat sat on the mat.\n" * 50)
    return Corpus(str(tmp_path / "text.txt"), seq_len=8, eval_examples=0)


@pytest.fixture
def ngram(tmp_path):
    (tmp_path / "ngram.py").write_text(NGRAM)
    return str(tmp_path / "ngram.py")


@pytest.mark.parametrize(
    ("text", "budget"),
    [("5m", Budget(5_000_000)), ("1.5k", Budget(1500)), ("70", Budget(70)), ("180s", Budget(0, 180.0))],
)  # fmt: skip
def test_a_budget_is_tokens_or_seconds(text, budget):
    assert Budget.parse(text) == budget


@pytest.mark.parametrize("text", ["", "5 minutes", "0", "-3m", "m"])
def test_anything_else_is_no_budget(text):
    with pytest.raises(ValueError, match="expected tokens, such as 5m"):
        Budget.parse(text)


def configured(spec, corpus):
    cfg = config.load(spec)
    for key, value in corpus.overrides(cfg).items():
        config.override(cfg, key, value)
    return cfg


def test_a_budget_in_steps(ngram, corpus):
    cfg = configured(ngram, corpus)  # 1,080 training characters: 135 windows of 8
    assert families.fitted(cfg, Budget(1024)) == {"batch_size": 64, "num_steps": 2}
    assert families.fitted(cfg, Budget(100)) == {"batch_size": 4, "num_steps": 3}
    found = families.fitted(cfg, Budget(600))  # 75 windows of 8: not 64 of them
    assert found == {"batch_size": 8, "num_steps": 9}
    found = families.fitted(cfg, Budget(10**6))  # counted once
    assert found == {"batch_size": 8, "num_steps": 17}
    em = configured("experiments/families/hmm.py", corpus)
    assert families.fitted(em, Budget(1024)) == {"batch_size": 16, "num_steps": 8}
    em.step.batches_per_update = 0  # an epoch of 1,079 tokens: 5 batches of 27 x 8
    em.batch_size = 27
    assert families.fitted(em, Budget(3000)) == {"batch_size": 27, "num_steps": 10}
    assert families.fitted(em, Budget(seconds=1)) == {"batch_size": 27, "num_steps": 20}
    assert families.fitted(em, Budget(seconds=1), 1.0) == {"batch_size": 27, "num_steps": 5}
    with pytest.raises(ValueError, match="budget of 1000 tokens is 4 batches, and EM .* of 5"):
        families.fitted(em, Budget(1000))
    gpt = configured("experiments/families/transformer.py", corpus)
    assert families.fitted(gpt, Budget(10**6)) == {"batch_size": 16, "num_steps": 10**6 // 128}
    assert families.fitted(gpt, Budget(seconds=10), 0.5) == {"batch_size": 16, "num_steps": 20}
    assert gpt.model.max_len == gpt.data.seq_len == 8


def test_vectors_of_words_keep_their_words_and_count_those_of_the_text(tmp_path):
    (tmp_path / "text.txt").write_text("the cat sat on the mat.\n" * 500)
    corpus = Corpus(str(tmp_path / "text.txt"), seq_len=8)
    for name in ("skipgram", "glove"):
        cfg = configured(f"experiments/families/{name}.py", corpus)
        assert cfg.data.tokenizer == "words:30000,min_count=5" and cfg.data.seq_len == 1024
        task = assembly.make_task(cfg)
        epoch = task.info.splits["train"]
        found = families.fitted(cfg, Budget(1000 * epoch.num_tokens))
        rows = found["num_steps"] * found["batch_size"]
        assert rows == pytest.approx(1000 * epoch.num_examples, abs=found["batch_size"])
    asked = Corpus(corpus.path, "words:9")
    assert configured("experiments/families/skipgram.py", asked).data.tokenizer == "words:9"


def test_where_words_of_a_text_end_is_chosen_by_its_script(tmp_path):
    (tmp_path / "text.txt").write_text("学而时习之，不亦说乎？\n" * 50)
    cfg = configured("experiments/families/cbow.py", Corpus(str(tmp_path / "text.txt")))
    assert cfg.data.tokenizer == "words:30000,min_count=5,language=chinese"


def test_a_family_is_trained_scored_and_not_trained_again(ngram, corpus, tmp_path, monkeypatch):
    options = [
        "--corpus",
        corpus.path,
        "--budget",
        "1k",
        "--seq_len",
        "8",
        "--out",
        str(tmp_path / "out"),
    ]
    assert compare.main([ngram, str(tmp_path / "none.py"), *options]) == 0
    found = json.loads((tmp_path / "out" / "families.json").read_text())
    good, bad = found["rows"]
    assert (
        good["family"] == "ngram" and 0 < good["bits_per_byte"] < 2 and good["status"] == "finished"
    )
    assert good["tokens_seen"] == 960 and good["num_params"] > 20 and good["sample"]
    assert (
        bad["status"] == "failed" and "no file" in bad["note"] and bad.get("bits_per_byte") is None
    )
    assert (tmp_path / "out" / "families.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(families, "_launch", lambda *_: pytest.fail("it is finished"))
    assert families.run(ngram, families.Corpus(corpus.path, seq_len=8), Budget(1000), tmp_path / "out" / "rows") == {
        key: value for key, value in good.items()
    }  # fmt: skip


def test_a_row_that_was_cut_off_says_so_and_goes_on(ngram, corpus, tmp_path, monkeypatch):
    finishes = [True, False]

    def launch(spec, corpus, folder, found, limit=None):
        summary = {"train_seconds": 2.0, "final_step": 20, "num_params": 1, "tokens_seen": 8}
        summary |= {"tokens_per_second": 4.0, "train_flops": 0.0, "device": "cpu"}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "summary.json").write_text(json.dumps(summary))
        launched.append((folder.name, found["num_steps"], limit))
        return finishes.pop(0)

    launched = []
    monkeypatch.setattr(families, "_launch", launch)
    budget = Budget(seconds=0.2)
    row = families.run(ngram, corpus, budget, tmp_path / "rows")
    assert row["status"] == "cut off" and "the same command goes on" in row["note"]
    assert launched == [("ngram.pilot", 3, None), ("ngram", 2, 0.6 + families.GRACE)]
    finishes.append(True)
    row = families.run(ngram, corpus, budget, tmp_path / "rows")  # no second pilot
    assert row["status"] == "finished" and launched[2:] == [("ngram", 2, 0.6 + families.GRACE)]
    assert row["note"] == "gives no probability of text"
    finishes.append(True)
    row = families.run("experiments/families/glove.py", corpus, Budget(100), tmp_path / "rows")
    assert row["note"].endswith("of text; its tokens are words: words:30000,min_count=5")


def test_what_a_failing_run_said_last_is_its_note(corpus, tmp_path):
    (tmp_path / "broken.py").write_text(
        NGRAM.replace('"counting"', '"counting"').replace("order=3", "order=9")
    )
    row = families.run(str(tmp_path / "broken.py"), corpus, Budget(100), tmp_path / "rows")
    assert row["status"] == "failed" and "model.order=9 must be from 1 to 6" in row["note"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a.py", "b.json"], "all must be of one kind"),
        (["a.py"], "--corpus is missing"),
        (["a.json"], "1 results: two are compared"),
        (["a.json", "b.json", "--budget", "5m"], "--budget is for experiments"),
    ],
)
def test_inputs_that_do_not_fit_together_are_refused(arguments, said, capsys):
    assert compare.main(arguments) == 2
    assert said in capsys.readouterr().err


def test_the_table_has_the_best_first_and_says_who_was_scored_otherwise():
    def row(family, bits, signature="windows=8"):
        shown = {"family": family, "status": "finished", "note": "", "bits_per_byte": bits}
        return shown | {"bits_per_byte_stderr": 0.01, "signature": signature, "num_params": 10}

    rows = [row("b", 2.0), row("none", None, ""), row("a", 1.0, "bound"), row("c", 3.0)]
    found = tables.noted(tables.ordered(rows))
    assert [one["family"] for one in found] == ["a", "b", "c", "none"]
    assert [one["note"] for one in found] == ["scored otherwise: bound", "", "", ""]
    about = {"corpus": "x", "budget": "5m", "device": "cpu", "versions": "-", "date": "-"}
    lines = tables.markdown(found, about).splitlines()
    assert lines[4].startswith("| a | 1.000 ± 0.010 | 10 |")
    assert lines[-1].startswith("| none | - |")


@pytest.mark.slow
def test_a_table_that_is_stopped_stops_its_row_which_saves_itself(ngram, corpus, tmp_path):
    """By SIGTERM to the table's process alone, as a batch system sends it; nobody is left training."""
    longer = Path(ngram).read_text().replace('"ngram", order=3', '"rnn", d_model=8, num_layers=1')
    longer = longer.replace("num_streams=1", "num_streams=0")
    (tmp_path / "rnn.py").write_text(longer.replace('"counting"', '"gradient"'))
    command = [sys.executable, "-m", "jaxlm.compare", str(tmp_path / "rnn.py"), "--seq_len=8"]
    command += [f"--corpus={corpus.path}", "--budget=1000m", f"--out={tmp_path / 'out'}"]
    log = tmp_path / "out" / "rows" / "rnn.log"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as table:
        for _ in range(600):
            if log.is_file() and "compiled" in log.read_text():
                break
            time.sleep(0.1)
        table.terminate()
        assert table.wait(120) == 128 + signal.SIGTERM
    said = log.read_text()
    assert "saved in" in said and "the same command goes on" in said
