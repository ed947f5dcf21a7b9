"""safetensors: literal bytes, torn files, false headers, shards, no pickle; the trusted package reads what we write."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxlm.interop import tensors
from jaxlm.interop.tensors import Outgoing

HEADER = {
    "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
    "b": {"dtype": "BF16", "shape": [3], "data_offsets": [16, 22]},
}
A = np.array([[1.0, 2.0], [3.0, -0.0]], np.float32)
B = np.array([0x3F80, 0xC000, 0x7F80], np.uint16)  # 1, -2, infinity


def write(path, header=HEADER, data=None):
    text = json.dumps(header).encode()
    data = A.tobytes() + B.tobytes() if data is None else data
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def opened(folder):
    return tensors.open_folder(folder)


def test_a_file_byte_by_byte(tmp_path):
    write(tmp_path / "model.safetensors")
    found = opened(tmp_path)
    assert found.shapes == {"a": (2, 2), "b": (3,)} and found.dtypes == {"a": "F32", "b": "BF16"}
    np.testing.assert_array_equal(found.read("a"), A)
    assert found.read("b").astype(np.float32).tolist() == [1.0, -2.0, np.inf]


def test_nothing_is_copied(tmp_path):
    write(tmp_path / "model.safetensors")
    array = opened(tmp_path).read("a")
    while not isinstance(array, np.memmap):
        array = array.base
        assert array is not None, "a copy"


@pytest.mark.parametrize("size", [0, 5, 8, 40, -1, -22])
def test_a_torn_file_is_named(tmp_path, size):
    path = write(tmp_path / "model.safetensors")
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match="model.safetensors.* (truncated|damaged)"):
        opened(tmp_path)


def header_with(**changes):
    return {name: one | changes.get(name, {}) for name, one in HEADER.items()}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (header_with(a={"shape": [2, 3]}), "damaged: a, F32"),
        (header_with(b={"data_offsets": [12, 18]}), "damaged: b"),
        (header_with(b={"data_offsets": [20, 26]}), "damaged: b"),
        (header_with(b={"dtype": "F4"}), "b is of type F4"),
        (header_with(b={"shape": [-3]}), "damaged: b"),
        (header_with(b={"shape": "three"}), "header is damaged"),
        ({"a": HEADER["a"]}, "describes"),
        ([1, 2], "header is damaged"),
    ],
)
def test_a_false_header_is_named(tmp_path, header, message):
    write(tmp_path / "model.safetensors", header)
    with pytest.raises(ValueError, match=message):
        opened(tmp_path)


def random_arrays():
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.standard_normal(shape).astype(dtype)
        for name, shape, dtype in [
            ("half", (3, 5), np.float16),
            ("brain", (7,), ml_dtypes.bfloat16),
            ("single", (2, 3, 4), np.float32),
            ("scalar", (), np.float32),
            ("none", (0, 4), np.float32),
        ]
    }
    return arrays | {"whole": np.arange(4)}


def test_the_package_reads_what_we_write_and_we_what_it_writes(tmp_path):
    arrays = random_arrays()
    types = {"half": "F16", "brain": "BF16", "whole": "I64"}
    outgoing = {
        name: Outgoing(types.get(name, "F32"), array.shape, lambda array=array: array)
        for name, array in arrays.items()
    }
    assert tensors.save_folder(tmp_path, outgoing) == ["model.safetensors"]
    theirs = load_file(tmp_path / "model.safetensors")
    save_file(arrays, tmp_path / "model.safetensors")
    ours = opened(tmp_path)
    for name, array in arrays.items():
        for found in (theirs[name], ours.read(name)):
            assert found.dtype == array.dtype and found.shape == array.shape
            assert found.tobytes() == array.tobytes()


def test_shards_hold_what_fits_and_the_index_finds_it(tmp_path):
    arrays = {f"t{i}": np.full(10, i, np.float32) for i in range(5)}
    outgoing = {n: Outgoing("F32", a.shape, lambda a=a: a) for n, a in arrays.items()}
    files = tensors.save_folder(tmp_path, outgoing, max_shard_bytes=90)
    assert files == [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 200 and index["weight_map"]["t4"] == files[2]
    found = opened(tmp_path)
    assert all(found.read(name).tolist() == array.tolist() for name, array in arrays.items())


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "model-1.safetensors", "b": "model-2.safetensors"}, "model-2.safetensors, which is not"),
        ({"a": "model-1.safetensors", "c": "model-1.safetensors"}, "another file for c"),
        ({"a": "../model-1.safetensors"}, "no file of its own folder"),
        ("everything", "no readable weight_map"),
    ],
)  # fmt: skip
def test_a_false_index_is_named(tmp_path, weight_map, message):
    write(tmp_path / "model-1.safetensors")
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ValueError, match=message):
        opened(tmp_path)


def test_pickled_weights_are_not_opened(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04cposix\nsystem\n")
    with pytest.raises(ValueError, match=r"pytorch_model.bin only.*[Cc]onvert it to safetensors"):
        opened(tmp_path)
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(ValueError, match="holds no weights"):
        opened(tmp_path)
