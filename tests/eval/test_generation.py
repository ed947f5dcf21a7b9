"""Texts written in evaluation: scored against the raw lines, by any batch size, in a run, with EMA weights."""

import dataclasses
import json

import flax.linen as nn
import jax
import numpy as np
import pytest
from real_predictions import values

from jaxlm import config, decode, registry
from jaxlm.core.types import TaskInfo
from jaxlm.data.tasks.pairs import PairsTask
from jaxlm.decode.types import Written
from jaxlm.eval import EVALUATORS, predict, translation
from jaxlm.eval.answers import Answers
from jaxlm.eval.generation import streams
from jaxlm.eval.predict import Scorer, check_writes
from jaxlm.eval.translation import Translation
from jaxlm.models.t5 import T5, T5Config
from jaxlm.train import loop

LINES = [f"say {number}\tsag {number} mal etwas, das viel zu lang ist  " for number in range(20)]


@pytest.fixture
def task(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXLM_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "lines.tsv"
    path.write_text("\ufeff" + "\n\n".join(LINES) + "\n", encoding="utf-8")
    return PairsTask(
        PairsTask.Config(path=str(path), source_len=8, target_len=8, val_fraction=0.25)
    )


@dataclasses.dataclass(frozen=True)
class Echo:
    """A way of decoding that writes the source again, and remembers what it was asked."""

    seen: list = dataclasses.field(default_factory=list)

    def write(self, model, params, request):
        self.seen.append(request)
        rows = zip(request.inputs["source"], request.inputs["source_segment_ids"], strict=True)
        tokens = [ids[real > 0].tolist()[:-1] for ids, real in rows]
        return [[Written([*row, 300], "end", 0.0)] for row in tokens]  # 300 is in no text


class Model:
    inputs = ("tokens", "source")
    optional_inputs = ()
    source_inputs = ("source", "source_segment_ids")

    def extend(self):
        """There."""


ECHO = Echo()


class Echoed(Translation):
    writes = {"method": "test_generation:make_echo"}


def make_echo():
    return ECHO


def test_batches_hold_the_raw_lines(task):
    (first, second) = task.eval("val", 3)
    assert first["reference"].tolist() == [line.split("\t")[1] for line in LINES[15:18]]
    assert first["input"].tolist() == ["say 15", "say 16", "say 17"]  # not as the bytes that fit
    assert second["reference"].tolist()[1:] == ["sag 19 mal etwas, das viel zu lang ist  ", ""]
    assert second["id"].tolist() == [3, 4, -1] and second["input"][2] == ""
    train = next(task.eval("train", 2))  # earlier lines, after later ones were read
    assert train["input"].tolist() == ["say 0", "say 1"]
    again = next(task.eval("val", 2))
    assert again["input"].tolist() == ["say 15", "say 16"]
    assert "reference" not in task.train(0)[0]


def test_a_file_that_lost_lines_is_said(task, tmp_path):
    (tmp_path / "lines.tsv").write_text("say 0\tsag 0\n")
    with pytest.raises(ValueError, match="lines.tsv lost lines"):
        next(task.eval("val", 3))


@pytest.fixture
def echo(monkeypatch):
    ECHO.seen.clear()
    monkeypatch.setitem(decode.METHODS, "echo", "unused")
    monkeypatch.setattr(predict.registry, "lookup", lambda registry, kind, what: make_echo)
    return ECHO


@pytest.mark.parametrize("batch_size", [2, 3, 8])
def test_what_is_written_is_scored_against_the_raw_lines(task, echo, batch_size):
    evaluator = Echoed(task.info, 8, "seq2seq")
    scores = Scorer(evaluator, Model(), None, None)({}, task.eval("val", batch_size))
    sources = [line.split("\t")[0] for line in LINES[15:]]
    references = [line.split("\t")[1] for line in LINES[15:]]
    assert values(scores.rows) == values(translation.rows(sources, references))
    assert [one["prediction"] for one in scores.examples] == sources
    assert [one["reference"] for one in scores.examples] == references
    chrf = [translation.rows([a], [b])[1].value for a, b in zip(sources, references, strict=True)]
    assert [one["score"] for one in scores.examples] == pytest.approx(chrf)
    assert sum(len(request.prompts) for request in echo.seen) == 5  # no filling row is written
    assert [seed for request in echo.seen for seed in request.seeds] == [0, 1, 2, 3, 4]
    request = echo.seen[0]
    assert request.prompts[0] == [0] and request.end_ids == (256,) and request.max_tokens == 8
    assert "written by method=test_generation:make_echo|tokenizer=bytes" in scores.rows[0].signature


@pytest.mark.parametrize(
    "name, tokens",
    [
        ("translation", "tok:zh"),
        ("jaxlm.eval.summaries:AnyScriptSummaries", "tok=words"),
    ],
)
def test_evaluators_of_other_scripts_say_so_and_find_what_is_alike(task, name, tokens):
    evaluator = registry.lookup(EVALUATORS, name, "evaluators[0]")(task.info, 8, "seq2seq")
    rows = evaluator.rows(["我们都是好人"], ["我们都是好人"])
    first = rows[0]
    assert tokens in first.signature
    assert first.value == pytest.approx(100.0 if "bleu" in first.name else 1.0)


def test_texts_are_written_once_for_evaluators_that_write_alike(task, echo):
    class Otherwise(Echoed):
        writes = {"method": "echo"}

    class Short(Answers):
        writes = Echoed.writes

    written = {}
    for kind in (Echoed, Short, Otherwise):
        scorer = Scorer(kind(task.info, 8, "seq2seq"), Model(), None, None)
        scorer({}, task.eval("val", 2), written)
    assert len(echo.seen) == 2 * 3  # two ways of writing, three batches


def test_what_can_not_be_scored_is_refused_before_a_run(task):
    evaluator = Translation(task.info, 8, "seq2seq")
    with pytest.raises(ValueError, match="no texts to compare with"):
        check_writes(evaluator, Model(), {"tokens": np.zeros((1, 8))})

    class Encoder:
        inputs = ("tokens",)

    with pytest.raises(ValueError, match=r'Encoder writes none; model.kind=.* "t5" does'):
        check_writes(evaluator, Encoder(), {})
    with pytest.raises(ValueError, match='"answers" scores texts that are written from sources'):
        Answers(task.info, 8, "masked_lm")
    with pytest.raises(ValueError, match="scores texts that are written"):
        Answers(TaskInfo(9, {}, labels=("a", "b")), 8, "classification")


def test_references_as_streams():
    assert streams(["a", ["b", "c"], ["d"]]) == [["a", "b", "d"], [None, "c", None]]


@pytest.mark.slow
def test_a_model_writes_its_likeliest_tokens(task, key):
    """Against the argmax of whole forward passes, one row at a time."""
    model = T5(T5Config(vocab_size=257, num_layers=1, d_model=16, num_heads=2, d_ff=16))
    batch = next(task.eval("val", 8))
    params = nn.unbox(jax.jit(model.init)(key, batch["tokens"], batch["source"]))["params"]

    class Four(Translation):
        writes = {"temperature": 0.0, "max_tokens": 4}

    forward = jax.jit(lambda inputs: model.apply({"params": params}, **inputs).logits())

    def likeliest(row):
        tokens = np.zeros((1, 5), np.int32)
        inputs = {name: batch[name][row : row + 1] for name in model.source_inputs}
        for place in range(4):
            tokens[0, place + 1] = forward(inputs | {"tokens": tokens})[0, place].argmax()
        return task.tokenizer.decode(tokens[0, 1:].tolist())

    scorer = Scorer(Four(task.info, 8, "seq2seq"), model, None, None)
    expected = [likeliest(row) for row in range(5)]
    examples = scorer(params, task.eval("val", 8)).examples
    assert [one["prediction"] for one in examples] == expected


def make_config(task):
    cfg = config.base()
    cfg.model = config.section("model", "t5", num_layers=1, d_model=16, num_heads=2, d_ff=16)
    cfg.data = config.section(
        "data", "pairs", path=task.config.path, source_len=8, target_len=8, val_fraction=0.25
    )
    cfg.objective = config.section("objective", "seq2seq")
    cfg.num_steps, cfg.batch_size, cfg.micro_batch_size, cfg.sample_tokens = 2, 8, 8, 0
    cfg.evaluators = ("perplexity", "translation")
    cfg.step.ema_decay = 0.5
    return cfg


@pytest.mark.slow
def test_a_run_scores_what_its_averaged_weights_write(task, tmp_path):
    summary = loop.run(make_config(task), tmp_path / "run")
    assert summary["val_weights"] == "ema" and summary["val_loss"] > 0
    assert 0 <= summary["val_chrf"] <= 100 and summary["val_ter"] > 0
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    (row,) = (row for row in rows if row["split"] == "val")
    assert row["val_bleu"] == summary["val_bleu"]
    assert (summary["bleu"], summary["bleu_stderr"]) == (row["val_bleu"], row["val_bleu_stderr"])
    how = "written by method=beam, num_beams=4, length_penalty=0.6|tokenizer=bytes"
    assert how in summary["signatures"]["bleu"] == row["signatures"]["bleu"]
    wrong = make_config(task)
    wrong.evaluators = ("classification",)
    with pytest.raises(ValueError, match='"classification" scores classes'):
        loop.run(wrong, tmp_path / "other")
    assert not (tmp_path / "other/config.json").exists()
