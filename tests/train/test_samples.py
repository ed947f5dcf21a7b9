"""Samples of models that answer in place, and of those that write from a source; the fill rate; the plan of two inputs."""

from types import SimpleNamespace
from typing import ClassVar

import flax.linen as nn
import flax.struct
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import config
from jaxlm.core.outputs import NeuralOutput
from jaxlm.core.types import Array, SplitInfo, TaskInfo
from jaxlm.eval import Row
from jaxlm.train import parallel, plan, report, samples
from jaxlm.train.samples import Sampler


class Letters:
    """Id 1 is "a", 2 is "b", ...; 0 is the start and the end."""

    eos_id, vocab_size = 0, 9

    def decode(self, ids):
        return "".join(chr(ord("a") + int(id) - 1) for id in ids)

    def spellings(self, begins):
        return [b"", *(bytes([ord("a") + id]) for id in range(8))]


class Next(nn.Module):
    """Answers every token with the next letter."""

    inputs: ClassVar[tuple[str, ...]] = ("tokens",)
    optional_inputs: ClassVar[tuple[str, ...]] = ("segment_ids",)

    def __call__(self, tokens, segment_ids=None, *, train=False):
        return letters(tokens + 1)


@flax.struct.dataclass
class CopyCache:
    source_BS: Array
    lengths_B: Array


class Copy(nn.Module):
    """Writes its source again, a letter at a time."""

    inputs: ClassVar[tuple[str, ...]] = ("tokens", "source")
    optional_inputs: ClassVar[tuple[str, ...]] = ("source_segment_ids",)
    source_inputs: ClassVar[tuple[str, ...]] = ("source", "source_segment_ids")

    def init_cache(self, params, batch_size, max_len, source, source_segment_ids):
        return CopyCache(source * source_segment_ids, jnp.zeros(batch_size, jnp.int32))

    def extend(self, params, cache, tokens_BT, lengths_B):
        places_BT = cache.lengths_B[:, None] + jnp.arange(tokens_BT.shape[1])[None]
        source_BS = jnp.pad(cache.source_BS, ((0, 0), (0, 200)))
        picked = jnp.take_along_axis(source_BS, places_BT, axis=1)
        return letters(picked), cache.replace(lengths_B=cache.lengths_B + lengths_B)


def letters(ids):
    return NeuralOutput(jnp.eye(9)[ids], jnp.eye(9), {}, vocab_size=9)


class OneBatch:
    """A validation split of two rows and filling."""

    info = TaskInfo(9, {"val": SplitInfo(2, 6, 6)}, Letters())

    def __init__(self, **batch):
        self.batch = {name: np.asarray(values) for name, values in batch.items()}

    def eval(self, split, batch_size):
        assert split == "val"
        yield {
            name: np.pad(values, ((0, batch_size - 2), *[(0, 0)] * (values.ndim - 1)))
            for name, values in self.batch.items()
        }

    def show(self, batch, num_examples, predictions=None):
        return str(predictions[:num_examples].tolist())


def sample(model, task, sample_tokens=20, evaluators=()):
    cfg = SimpleNamespace(sample_tokens=sample_tokens, seed=0)
    mesh = parallel.make_mesh(parallel.Config(data=8))
    parts = SimpleNamespace(
        model=model, task=task, mesh=mesh, evaluators=evaluators, objective=None
    )
    return Sampler(cfg, parts)({}, 10)


def test_a_model_that_can_not_write_on_answers_validation_examples():
    task = OneBatch(
        tokens=[[1, 2, 3], [4, 5, 0]],
        segment_ids=[[1, 1, 1], [1, 1, 0]],
        targets=[[2, 3, 4], [5, 6, 0]],
        weights=[[1.0, 1, 1], [1, 1, 0]],
        id=[0, 1],
    )
    assert sample(Next(), task) == "[[2, 3, 4], [5, 6, 1]]"  # no filling rows
    assert sample(Next(), task, sample_tokens=0) == ""


def test_data_without_targets_have_no_answers_to_show():
    assert sample(Next(), OneBatch(tokens=[[1, 2, 3], [4, 5, 6]])) == ""


class Blank(Letters):
    """Has no token for a line break."""

    def encode(self, text):
        return np.array([], np.int32)


class WritesOn(Next):
    def init_cache(self, params, batch_size, max_len):
        return jnp.zeros(batch_size)

    def extend(self, params, cache, tokens_BT, lengths_B):
        output = letters(tokens_BT + 1)
        return output.replace(hidden=99 * output.hidden), cache


def test_a_sample_without_prompt_begins_where_a_text_does():
    cfg = config.base()
    cfg.sample_tokens, cfg.data.seq_len = 3, 16
    task = SimpleNamespace(info=TaskInfo(9, {}, Blank()), eval=lambda split, size: iter([{}]))
    mesh = parallel.make_mesh(parallel.Config(data=8))
    parts = SimpleNamespace(model=WritesOn(), task=task, mesh=mesh, objective=None)
    assert Sampler(cfg, parts)({}, 10) == "\nabc"


def test_a_sample_looks_back_as_far_as_data_or_model_say():
    cfg = config.base()
    cfg.model.max_len, cfg.data.seq_len = 64, 32
    assert samples.context_length(cfg) == 32
    cfg.data = config.section("data", "pairs")
    assert samples.context_length(cfg) == 64


def test_an_encoder_decoder_writes_from_validation_sources():
    task = OneBatch(
        tokens=[[0, 3, 4], [0, 2, 0]],
        targets=[[3, 4, 7], [2, 0, 6]],  # of several texts, each behind an end, the first is shown
        weights=[[1.0, 1, 0], [1, 1, 1]],
        source=[[3, 4], [5, 8]],
        source_segment_ids=[[1, 1], [1, 0]],
        id=[0, 1],
    )
    assert sample(Copy(), task).splitlines() == [
        "source      'cd'",
        "target      'cd'",
        "prediction  'cd'",
        "source      'e'",
        "target      'b'",
        "prediction  'e'",
    ]
    short = SimpleNamespace(writes={"method": "beam", "num_beams": 2, "max_tokens": 1})
    scored_otherwise = SimpleNamespace(outputs=None)
    shown = sample(Copy(), task, evaluators=[scored_otherwise, short]).splitlines()
    assert shown[2::3] == ["prediction  'c'", "prediction  'e'"]  # as it is scored


class Seen(Copy):
    """Writes the first column of pixels."""

    inputs: ClassVar[tuple[str, ...]] = ("tokens", "image")
    source_inputs: ClassVar[tuple[str, ...]] = ("image",)

    def init_cache(self, params, batch_size, max_len, image):
        return super().init_cache(params, batch_size, max_len, image[:, :, 0].astype(int), 1)


def test_an_image_is_shown_as_its_data_show_it():
    batch = {
        "tokens": [[0, 3], [0, 2]],
        "targets": [[3, 4], [2, 0]],
        "weights": [[1.0, 1], [1, 0]],
        "image": [[[3.0, 9], [4, 9]], [[5, 9], [0, 9]]],
        "id": [0, 1],
    }
    assert sample(Seen(), OneBatch(**batch, input=["#.\n@.", ":."])).splitlines() == [
        "source      ",
        "#.",
        "@.",
        "target      'cd'",
        "prediction  'cd'",
        "source      ",
        ":.",
        "target      'b'",
        "prediction  'e'",
    ]
    assert sample(Seen(), OneBatch(**batch)).startswith("source      (not shown)\n")


def test_fill_counts_what_is_no_filling_in_source_and_target():
    ids = np.array([[1, 1, 2, 0]])
    assert report._fill({"tokens": ids}) == {}
    assert report._fill({"segment_ids": ids}) == {"fill": 3 / 4}
    both = {"segment_ids": ids, "source_segment_ids": np.array([[1, 0], [0, 0]])}
    assert report._fill(both) == {"fill": 4 / 8}


def test_a_source_counts_as_well_as_what_is_written_from_it():
    batch = {"tokens": np.zeros((4, 3)), "source": np.zeros((4, 8)), "targets": np.zeros((4, 3))}
    assert plan.lengths_of(batch, Copy()) == (3, 8)
    assert plan.row(Copy(), (3, 8)) == "(8 source + 3 target)"
    assert plan.row(Next(), (3,)) == "3"
    model = SimpleNamespace(flops_per_token=lambda params, target, source: 10 * target + source)
    assert plan.flops_per_token(model, {}, (3, 8))[0] == 38


def test_the_plan_names_micro_batches_where_there_are_several():
    some = SimpleNamespace(num_trained=5, num_params=1000)
    tuning = SimpleNamespace(describe=lambda: "adapters")
    line = "trains     5 of 1,000 parameters (0.50%): adapters"
    assert plan.trains(tuning, some, "bert") == [line]
    noise = "; the rest stays as it was drawn at random: init_from is empty"
    assert plan.trains(tuning, some, "") == [line + noise]
    assert plan.trains(SimpleNamespace(describe=lambda: ""), some, "") == []
    assert plan.micro_batches(16, 16) == ""
    assert plan.micro_batches(16, 8) == ", 2 micro-batches of 8"
    assert plan.micro_batches(16, 1) == ", 16 micro-batches of 1"


@pytest.mark.parametrize(("row_tokens", "expected"), [(10, 16), (100, 4)])
def test_the_micro_batch_is_chosen_by_all_tokens_of_a_row(monkeypatch, row_tokens, expected):
    monkeypatch.setattr(plan.devices, "memory_bytes", lambda: 1000 / 0.9)
    model = SimpleNamespace(activation_bytes=lambda num_tokens: 2.0 * num_tokens)
    mesh = SimpleNamespace(shape={"data": 1, "fsdp": 1, "expert": 1, "tensor": 1})
    assert plan.choose_micro_batch(16, model, {}, {}, row_tokens, mesh) == expected
    teacher = {"w": np.zeros(150, np.float32)}  # 600 of 1000 bytes
    assert plan.choose_micro_batch(16, model, {}, {}, 20, mesh, others=teacher) == 8


@pytest.mark.parametrize(
    ("settings", "expected"),
    [((1, 1, 1), 16), ((8, 1, 1), 4), ((8, 1, 4), 16), ((2, 3, 8), 16), ((1, 1, 8), 16)],
)
def test_the_micro_batch_counts_the_completions_of_a_prompt(monkeypatch, settings, expected):
    """Room for 50 rows: of 8 completions each it is 4 prompts'; of 16 and 4 updates an epoch 32 rows each."""
    monkeypatch.setattr(plan.devices, "memory_bytes", lambda: 1000 / 0.9)
    model = SimpleNamespace(activation_bytes=lambda num_tokens: 2.0 * num_tokens)
    mesh = SimpleNamespace(shape={"data": 1, "fsdp": 1, "expert": 1, "tensor": 1})
    found = plan.choose_micro_batch(16, model, {}, {}, 10, mesh, plan.Work(*settings))
    assert found == expected


def test_the_summary_has_the_last_scores_by_their_own_names_too():
    val = report._summary("val", [Row("bleu", 20.0, "of 100", 0.5, "sacrebleu|a")])
    assert val == {
        "val_bleu": 20.0, "val_bleu_stderr": 0.5, "bleu": 20.0, "bleu_stderr": 0.5,
        "signatures": {"bleu": "sacrebleu|a"},
    }  # fmt: skip
    both = val | report._summary("test", [Row("bleu", 21.0, "of 100", 0.6, "sacrebleu|a")])
    assert (both["val_bleu"], both["test_bleu"], both["bleu"]) == (20.0, 21.0, 21.0)
