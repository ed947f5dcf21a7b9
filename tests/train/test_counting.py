"""Counting through the loop: the same tables whatever the batches, killed runs go on, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from jaxlm import config
from jaxlm.data.tasks.stream import StreamTask
from jaxlm.models.ngram import NGram, NGramConfig
from jaxlm.train import loop, weights
from jaxlm.train.checkpoint import Checkpointer

TEXT = ("the cat sat on the mat. the dog sat on the log.\n" * 12)[:-1]


@pytest.fixture
def make(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)

    def made(batch_size=8, num_steps=8, **changes):
        cfg = config.base()
        cfg.model = config.section("model", "ngram", order=3)
        cfg.data = config.section(
            "data",
            "stream_text",
            path=str(tmp_path / "text.txt"),
            tokenizer="chars",
            seq_len=8,
            num_streams=1,
        )
        cfg.step = config.section("step", "counting")
        cfg.batch_size, cfg.num_steps, cfg.sample_tokens = batch_size, num_steps, 0
        for key, value in changes.items():
            config.override(cfg, key.replace("__", "."), value)
        return cfg

    return made


def tables(cfg, workdir):
    """The run's tables."""
    checkpoints = Checkpointer(workdir / "checkpoints", config.build(cfg, "checkpoint"))
    resolved = config.read(workdir / "config.json")
    return weights.load(resolved, checkpoints)[0]


def leaves(tree, prefix=""):
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}/")
        else:
            yield prefix + name, np.asarray(value)


def test_many_batches_count_what_one_does(make, tmp_path):
    one = make(batch_size=64, num_steps=2)
    first = loop.run(one, tmp_path / "one")
    many = make(batch_size=8, num_steps=9)
    second = loop.run(many, tmp_path / "many")
    found, wanted = (
        dict(leaves(tables(cfg, tmp_path / name))) for cfg, name in ((many, "many"), (one, "one"))
    )
    assert found.keys() == wanted.keys()
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)
    assert first["val_loss"] == second["val_loss"] < 1.0
    assert first["num_params"] == sum(value.size for value in wanted.values())
    # And it is what the model makes of the text itself.
    task = StreamTask(config.build(one, "data"))
    ids = task.tokenizer.encode(TEXT)[: task.info.splits["train"].num_tokens]
    settings = {"vocab_size": task.info.vocab_size, "separator": task.tokenizer.eos_id}
    model = NGram(NGramConfig(order=3, **settings))
    counted = model.counted(None, ids, np.arange(len(ids)) > 0)
    for name, value in leaves(model.estimated(counted)[0]):
        np.testing.assert_array_equal(wanted[name], value, err_msg=name)


def test_a_run_that_was_killed_goes_on_to_the_same_tables(make, tmp_path, monkeypatch):
    cfg = make(num_steps=6, checkpoint_every="2")
    whole = loop.run(cfg, tmp_path / "whole")
    from jaxlm.train.steps.counting import Counting

    learn, done = Counting.learn, []

    def killed(self, state, batch):
        done.append(1)
        if len(done) == 4:
            raise KeyboardInterrupt
        return learn(self, state, batch)

    monkeypatch.setattr(Counting, "learn", killed)
    with pytest.raises(KeyboardInterrupt):
        loop.run(cfg, tmp_path / "killed")
    monkeypatch.undo()
    again = loop.run(cfg, tmp_path / "killed")
    assert again["state_sha256"] == whole["state_sha256"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data__num_streams": "2"}, r"data\.num_streams=1"),
        ({"data__carry": "false"}, r"data\.carry=True"),
        ({"num_steps": 10}, r"num_steps=10 .* is counted once: set num_steps to at most 9"),
        ({"optim__learning_rate": "0.5"}, r"no optimizer, so optim\.learning_rate=0\.5 would do"),
        ({"objective__z_loss": "0.1"}, r'objective\.z_loss=0\.1 means nothing to step\.kind="cou'),
        ({"model__smoothing": "stupid_backoff"}, r'evaluators\[0\]="perplexity".*no probabilities'),
    ],
)
def test_what_can_not_be_counted_is_refused_before_anything_is(make, tmp_path, changes, said):
    with pytest.raises(ValueError, match=said):
        loop.run(make(**changes), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_words_and_subwords_are_counted_as_characters_are(make, tmp_path):
    for number, tokenizer in enumerate(("words:20", "bpe:260")):
        summary = loop.run(make(num_steps=1, data__tokenizer=tokenizer), tmp_path / f"{number}")
        assert 0 < summary["val_loss"] < 2.5, tokenizer


def test_scores_that_are_no_probabilities_are_compared_by_accuracy(make, tmp_path):
    cfg = make(num_steps=9, model__smoothing="stupid_backoff")
    cfg.evaluators = ("accuracy",)
    cfg.checkpoint.best_metric = "accuracy"
    assert loop.run(cfg, tmp_path / "run")["val_accuracy"] > 0.7


def test_models_without_counts_are_refused(make, tmp_path):
    cfg = make()
    cfg.model = config.section("model", "gpt", num_layers=1, d_model=8, num_heads=1, max_len=8)
    with pytest.raises(ValueError, match="reads|models of counts"):
        loop.run(cfg, tmp_path / "run")
