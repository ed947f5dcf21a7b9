"""What a config is told by its data: the number of classes; and data, model and evaluators that do not fit."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxlm import config
from jaxlm.core.types import TaskInfo
from jaxlm.data.tasks import MADE_FOR, TASKS
from jaxlm.models.bert import BERT, BERTConfig
from jaxlm.objectives import OBJECTIVES
from jaxlm.objectives.classification import Classification, Config
from jaxlm.train import assembly, resolve

TASK = SimpleNamespace(info=TaskInfo(10, {}, labels=("even", "odd")))


def make_config(**model):
    cfg = config.base()
    cfg.model = config.section("model", "bert", head="sequence", **model)
    return cfg


def test_the_number_of_classes_comes_from_the_data():
    assert resolve.resolve(make_config(), TASK).model.num_labels == 2
    assert resolve.resolve(make_config(num_labels=2), TASK).model.num_labels == 2
    text = SimpleNamespace(info=TaskInfo(10, {}))
    assert resolve.resolve(make_config(num_labels=5), text).model.num_labels == 5


def test_another_number_is_refused():
    with pytest.raises(ValueError, match="model.num_labels=3, but the data has 2 classes"):
        resolve.resolve(make_config(num_labels=3), TASK)


def test_an_objective_that_asks_is_told_how_long_the_run_is():
    cfg = config.base()
    cfg.model = config.section("model", "vae")
    cfg.objective, cfg.num_steps = config.section("objective", "elbo"), 7
    text = SimpleNamespace(info=TaskInfo(10, {}))
    assert resolve.resolve(cfg, text).objective.num_steps == 7
    cfg.objective.num_steps = 9
    with pytest.raises(ValueError, match="objective.num_steps=9, but num_steps=7: leave it 0"):
        resolve.resolve(cfg, text)


def test_layers_of_no_model_are_refused():
    cfg = make_config()
    cfg.init_layers = (0, 1)
    with pytest.raises(ValueError, match="init_layers=.0, 1. are layers of a model: name it in"):
        resolve.resolve(cfg, TASK)


def test_a_model_without_classes_is_refused():
    with pytest.raises(ValueError, match='2 classes, and model.kind="gpt" has no head for them'):
        resolve.resolve(config.base(), TASK)


def test_a_head_that_is_not_one_of_classes_is_refused():
    model = BERT(BERTConfig(vocab_size=10, head="mlm", num_labels=2))
    with pytest.raises(ValueError, match='model.head="sequence" or "token", not "mlm"'):
        Classification(Config(), model)


@pytest.mark.parametrize(
    ("data", "objective", "made_for"),
    [
        ("text", "masked_lm", "causal_lm"),  # a model that sees both sides would read its targets
        ("masked_text", "causal_lm", "masked_lm"),
        ("tagged", "masked_lm", "classification"),
        ("text", "classification", "causal_lm"),
    ],
)
def test_data_made_for_another_objective_are_refused(data, objective, made_for):
    cfg = config.base()
    cfg.data, cfg.objective = config.section("data", data), config.section("objective", objective)
    message = f'objective.kind="{objective}" does not fit data.kind="{data}", .* "{made_for}"'
    with pytest.raises(ValueError, match=message):
        resolve.resolve(cfg, SimpleNamespace(info=TaskInfo(10, {})))


def test_every_task_says_what_its_targets_are_for():
    assert set(MADE_FOR) == set(TASKS) and {
        one for some in MADE_FOR.values() for one in some
    } == set(OBJECTIVES)


def test_a_decoder_starts_as_its_data_do():
    cfg = config.base()
    cfg.model = config.section("model", "t5", decoder_start_id=7)
    cfg.data, cfg.objective = (
        config.section("data", "pairs"),
        config.section("objective", "seq2seq"),
    )
    with pytest.raises(ValueError, match='model.decoder_start_id=7, but data.kind="pairs" .* 0'):
        resolve.resolve(cfg, SimpleNamespace(info=TaskInfo(10, {})))


@pytest.mark.parametrize("wrong", [-1, 2])
def test_a_target_that_is_no_class_is_refused(wrong):
    batch = {"targets": np.array([[0], [1], [wrong]]), "weights": np.ones((3, 1), np.float32)}
    with pytest.raises(ValueError, match=f"targets from .*{wrong}.*: accepted are 0 to 1"):
        assembly.check_targets(batch, TASK.info)
    batch["weights"][2] = 0  # ignored: it may be anything
    assembly.check_targets(batch, TASK.info)


class Masked:
    """A tokenizer of which only the special tokens are asked for."""

    def __init__(self, **ids):
        self.special_ids = lambda: {f"[{name}]": number for name, number in ids.items()}


@pytest.mark.parametrize("given", [-1, 7])
def test_a_model_is_told_what_stands_for_a_blank(given):
    assert blank_config(given, Masked(MASK=7)).model.mask_id == 7


def test_a_tokenizer_without_mask_is_one_for_texts_without_blanks():
    assert blank_config(-1, Masked(SEP=3)).model.mask_id == -1
    assert blank_config(-1, None).model.mask_id == -1
    with pytest.raises(
        ValueError, match="model.mask_id=7, but the tokenizer has none: leave it -1"
    ):
        blank_config(7, Masked(SEP=3))
    with pytest.raises(ValueError, match="model.mask_id=7, but the tokenizer has 5: leave it -1"):
        blank_config(7, Masked(MASK=5))


def blank_config(mask_id, tokenizer):
    cfg = config.base()
    cfg.model = config.section("model", "glm", mask_id=mask_id)
    cfg.data = config.section("data", "blank_text")
    cfg.objective = config.section("objective", "blank_infilling")
    return resolve.resolve(cfg, SimpleNamespace(info=TaskInfo(10, {}, tokenizer)))


@pytest.mark.parametrize(
    ("model", "objective", "data", "images", "message"),
    [
        ("glm", "causal_lm", "text", {}, "needs a model that is causal, and GLM is encoder_decod"),
        (
            "t5",
            "image_to_text",
            "captions",
            {"image": (8, 8, 1)},
            "reads images, and T5 reads none",
        ),
    ],
)
def test_a_model_without_its_source_is_refused_for_the_objective(
    model, objective, data, images, message
):
    """And not for the shapes of its parameters, which nothing gives."""
    cfg = config.base()
    cfg.model = config.section("model", model, vocab_size=5)
    cfg.objective = config.section("objective", objective)
    cfg.data = config.section("data", data)
    shapes = dict.fromkeys(("tokens", "targets", "weights"), (4,)) | images
    batch = {name: jax.ShapeDtypeStruct((2, *shape), "int32") for name, shape in shapes.items()}
    with pytest.raises(ValueError, match=message):
        assembly.fix_micro_batch(cfg, batch)
