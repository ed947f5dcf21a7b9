"""Images and captions: literal batches, pictures for people, and every line that can't be read named."""

import json
import logging

import numpy as np
import pytest

from jaxlm import config
from jaxlm.data import images
from jaxlm.data.tasks.captions import CaptionsTask
from jaxlm.eval.answers import Answers
from jaxlm.eval.predict import check_writes
from jaxlm.models.vlm import VLM, VLMConfig
from jaxlm.train import assembly

EOS = 256  # of bytes
LINES = [
    {"pixels": [0, 5, 10, 10], "caption": "ab"},
    {"pixels": [[10, 0], [0, 10]], "caption": "wxyz"},
    {"pixels": [[[1], [2]], [[3], [4]]], "caption": "c"},
    {"pixels": [0, 0, 0, 10], "caption": "é, as it stands", "id": 7},
]


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXLM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def make(tmp_path):
    def task(lines=LINES, **fields):
        path = tmp_path / "images.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        small = {"image_size": 2, "pixel_max": 10, "target_len": 4, "val_fraction": 0.25}
        return CaptionsTask(CaptionsTask.Config(path=str(path), **small | fields))

    return task


def test_a_batch_literally(make, caplog):
    with caplog.at_level(logging.INFO, "jaxlm"):
        task = make()
    batch = next(task.eval("train", 4))
    assert batch["image"].dtype == np.float32 and batch["image"].shape == (4, 2, 2, 1)
    expected = [[0, 0.5, 1, 1], [1, 0, 0, 1], [0.1, 0.2, 0.3, 0.4], [0, 0, 0, 0]]
    np.testing.assert_allclose(batch["image"].reshape(4, 4), expected)
    assert batch["targets"].tolist() == [
        [97, 98, EOS, 0],
        [119, 120, 121, EOS],  # cut
        [99, EOS, 0, 0],
        [0] * 4,
    ]
    assert batch["tokens"].tolist() == [[0, 97, 98, 0], [0, 119, 120, 121], [0, 99, 0, 0], [0] * 4]
    assert batch["weights"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0], [0] * 4]
    assert batch["id"].tolist() == [0, 1, 2, -1]
    assert "2 of 4 lines are longer than data.target_len=4" in caplog.text
    assert task.splits["train"].table.columns["image"][0].dtype == np.uint8
    assert task.info.splits["train"].num_tokens == 3 + 4 + 2
    assert next(iter(task.train(0)))["image"].shape == (2, 2, 1)


def test_raw_captions_and_pictures_are_for_people_and_scores(make):
    task = make()
    (batch,) = task.eval("val", 2)
    assert batch["reference"].tolist() == ["é, as it stands", ""]  # uncut; "" in a filling row
    assert batch["input"].tolist() == ["\n  @@", ""]
    model = VLM(VLMConfig(image_size=2, patch_size=1, num_channels=1, max_len=16))
    check_writes(Answers(task.info, 4, "image_to_text"), model, batch)
    train = next(task.eval("train", 1))
    assert task.show(train, 1, train["targets"]).splitlines() == [
        "example 0: 4 tokens, 3 scored",
        "    ==",  # half of ten steps
        "  @@@@",
        "  caption   'ab<eos>'",
        "  predicted 'ab<eos>'",
    ]
    assert task.example("val", 0)[1] == "é, as it stands"


def test_what_images_are_is_part_of_the_datas_digest(make):
    digests = {make(**fields).info.digest for fields in ({}, {"pixel_max": 20}, {"target_len": 5})}
    assert len(digests) == 3


def test_a_picture_of_a_large_image_is_coarse():
    image = np.zeros((64, 96, 3), np.float32)
    image[:, :48] = 1.0
    lines = images.picture(image).split("\n")
    assert len(lines) == 22 and set(lines) == {
        "@@" * 16
    }  # every third pixel; dark ends of lines are left out


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (
            [0] * 5,
            r"line 2: column 'pixels' has 5 pixels: expected 4, 2 x 2 x 1 \(data.image_size=2, ",
        ),
        ([[0, 0, 0, 0]], "is 1 x 4: expected a flat list or 2 x 2 x 1"),
        ([[0, 0], [0]], "has rows of different lengths: expected 2 x 2 x 1"),
        ([0, 0, 0, 11], "holds 11: expected 0..10, data.pixel_max"),
        ([0, -1, 0, 1], "holds -1: expected 0..10"),
        ([0, 0.5, 0, 1], "holds 0.5: expected whole numbers 0..10"),
        ([0, None, 0, 1], "holds None: expected whole numbers"),
        ([0, "1", 0, 1], "holds '1': expected whole numbers"),
        ([True, False, True, True], "holds True: expected whole numbers"),
        ([0, 2**64, 0, 1], "holds 18446744073709551616: expected whole numbers"),
        ([-1, 2**63, 0, 1], "holds 9223372036854775808: expected whole numbers"),
        ("a.png", "is str, not a list of pixels"),
    ],
)
def test_an_image_that_can_not_be_read_is_named_by_its_line(make, pixels, message):
    with pytest.raises(ValueError, match=message) as caught:
        make([LINES[0], {"pixels": pixels, "caption": "b"}])
    assert "images.jsonl line 2" in str(caught.value) and "\n" not in str(caught.value)


def test_missing_fields_name_their_options(make, tmp_path):
    with pytest.raises(ValueError, match="has no column 'pixels' .*; set data.image_column"):
        make([{"caption": "a"}])
    with pytest.raises(ValueError, match="has no column 'text' .*; set data.caption_column"):
        make(caption_column="text")
    (tmp_path / "a.tsv").write_text("a\tb\n")
    with pytest.raises(ValueError, match=r"line 1: images are read from \*.jsonl files, not"):
        CaptionsTask(CaptionsTask.Config(path=str(tmp_path / "a.tsv")))
    with pytest.raises(ValueError, match="data.pixel_max=0 must be at least 1"):
        CaptionsTask.Config(pixel_max=0)


def test_deep_colours_need_more_than_bytes(make):
    lines = [{"pixels": [0, 70_000, 1, 2] * 3, "caption": "a"}] * 4
    task = make(lines, num_channels=3, pixel_max=100_000)
    batch = next(task.eval("train", 1))
    assert batch["image"].shape == (1, 2, 2, 3) and batch["image"].max() == np.float32(0.7)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("a.npy", np.full((3, 2, 2), 5), None),
        ("a.npy", np.full((2, 2), 0.5), None),
        ("a.npy", np.full((1, 2, 2, 1), 0.5), None),
        ("a.npy", np.zeros((3, 2)), "a.npy: 3 x 2, expected images of 2 x 2 x 1"),
        ("a.npy", np.zeros((2, 3, 2, 2)), "2 x 3 x 2 x 2, expected images"),
        ("a.npy", np.full((2, 2), 2.0), r"values from 2.0 to 2.0 \(float64\), expected 0..1"),
        ("a.npy", np.full((2, 2), np.nan), "values from nan to nan"),
        ("a.npy", np.full((2, 2), 11), "values from 11 to 11 .*, expected 0..10"),
        (
            "a.npy",
            np.full((2, 2), True),
            "a.npy: bool, expected whole numbers 0..10 or floats 0..1",
        ),
        ("a.npy", np.full((2, 2), "x"), "a.npy: <U1, expected whole numbers 0..10 or floats"),
        ("a.npy", np.array(5), "a.npy: one number, expected images of 2 x 2 x 1"),
        ("a.npy", np.zeros((0, 2, 2)), "a.npy has no image in it"),
        ("a.png", np.zeros((2, 2)), r"a.png: expected images as \*.jsonl or \*.npy"),
    ],
)
def test_files_of_images(tmp_path, name, array, message):
    path = str(tmp_path / name)
    with open(path, "wb") as file:
        np.save(file, array)
    form = images.Form(2, 1, 10)
    if message:
        with pytest.raises(ValueError, match=message):
            images.read(path, form, "pixels")
        return
    found = images.read(path, form, "pixels")
    assert found.shape == (array.size // 4, 2, 2, 1) and found.dtype == np.float32
    assert np.unique(found).tolist() == [0.5]


def test_an_empty_file_holds_no_array(tmp_path):
    (tmp_path / "a.npy").touch()
    with pytest.raises(ValueError, match="a.npy is no .npy file of numbers$"):
        images.read(str(tmp_path / "a.npy"), images.Form(2, 1, 10), "pixels")


def test_lines_of_images_need_no_caption(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"x": [0, 1, 2, 10]}\n')
    found = images.read(str(path), images.Form(2, 1, 10), "x")
    np.testing.assert_allclose(found.reshape(-1), [0, 0.1, 0.2, 1.0])
    path.write_text('{"x": [0, 1, 2]}\n')
    with pytest.raises(ValueError, match="a.jsonl line 1: column 'x' has 3 pixels: expected 4"):
        images.read(str(path), images.Form(2, 1, 10), "x")


def test_a_model_of_other_images_is_refused_before_compiling(make):
    task = make()
    cfg = config.base()
    cfg.model = config.section(
        "model", "vlm", image_size=4, patch_size=2, num_channels=1, num_layers=1, d_model=16
    )
    cfg.model.num_heads, cfg.model.vocab_size = 2, 257
    cfg.objective = config.section("objective", "image_to_text")
    shapes = assembly.global_shapes(next(task.eval("train", 8)), 8)
    batch = {name: shapes[name] for name in ("image", "tokens", "targets", "weights")}
    cfg.micro_batch_size = cfg.batch_size = 8
    with pytest.raises(
        ValueError, match="images are 2 x 2 x 1 .* reads 4 x 4 x 1: model.image_size"
    ):
        assembly.assemble(cfg, task, batch)
