"""Teachers and references: which models may stand beside the one that trains, what messages call them, and where they come from."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
import stored

from jaxlm import config
from jaxlm.models.gpt import GPT, GPTConfig
from jaxlm.train import origin, others
from jaxlm.train.steps import gradient

LAYERS = GPT(GPTConfig(vocab_size=24, num_layers=1, d_model=8, num_heads=2, max_len=4))


@pytest.fixture
def cfg():
    cfg = config.base()
    cfg.objective = config.section("objective", "distillation")
    return cfg


@pytest.mark.parametrize(("path", "whole"), [("", {"a": 1, "b": 2}), ("other", {"b": 3})])
def test_only_a_reference_that_is_the_run_s_own_is_joined_with_what_does_not_train(path, whole):
    """As under LoRA: of the run's own model the rest lies in `base`, and one from a path is whole already."""
    objective = SimpleNamespace(
        others=("reference",), own=("reference",), config=SimpleNamespace(reference=path)
    )
    frozen = {"base": {"a": 1}, "reference": {"b": 3 if path else 2}}
    assert gradient.others(objective, frozen) == {"reference": whole}


def test_a_teacher_that_reads_the_other_way_is_refused(cfg, tmp_path):
    """A BERT sees the token that a GPT is to predict."""
    cfg.objective.teacher = str(
        stored.write(tmp_path / "bert", stored.bert_config(), stored.bert_tensors())
    )
    with pytest.raises(
        ValueError, match="bert is a BERT, which is bidirectional, and the model is causal"
    ):
        others.open_all(cfg, LAYERS)


def test_a_teacher_without_a_checkpoint_is_called_by_its_own_key(cfg, tmp_path):
    config.save(cfg, tmp_path / "config.json")
    cfg.objective.teacher = str(tmp_path)
    (other,) = others.open_all(cfg, LAYERS)
    with pytest.raises(ValueError, match="^objective.teacher=.* holds no checkpoint yet"):
        other.weights({})
    with pytest.raises(ValueError, match="^init_from=.* holds no checkpoint yet"):
        origin.open_source(str(tmp_path)).weights(None, {})


def test_classes_in_another_order_are_refused_and_other_words_for_them_are_not(cfg, tmp_path):
    names = stored.bert_config(id2label={"0": "no", "1": "yes"})
    path = str(stored.write(tmp_path / "bert", names, stored.bert_tensors()))
    other = others.Other("teacher", path, None, None, origin.open_source(path))
    others._check_labels(other, ("no", "yes"))
    others._check_labels(other, ("0", "1"))
    with pytest.raises(ValueError, match="2 other classes than this run's 2 .the same in another"):
        others._check_labels(other, ("yes", "no"))


def test_rows_of_several_texts_may_be_longer_than_its_positions():
    batch = {"tokens": jax.ShapeDtypeStruct((2, 9), np.int32)}
    shapes = others.Other("reference", "path", LAYERS, LAYERS.config, None).shapes(batch)
    assert jax.tree.leaves(shapes)
