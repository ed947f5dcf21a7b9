"""Tensors under other names become parameters and go back: literal layouts, shards, scanned layers, one error for all."""

import tracemalloc
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxlm.interop import mapping, outward
from jaxlm.interop.mapping import Entry

CONFIG = SimpleNamespace(vocab_size=3, num_layers=2)


def entries(config):
    blocks = [
        entry
        for i in range(config.num_layers)
        for entry in (
            Entry(f"stack/block_{i}/q/kernel", f"base.h.{i}.qk", part=(0, 2)),
            Entry(f"stack/block_{i}/k/kernel", f"base.h.{i}.qk", part=(1, 2)),
            Entry(f"stack/block_{i}/out/kernel", f"base.h.{i}.out.weight", transpose=True),
        )
    ]
    return [
        Entry("embed/embedding", "base.wte", vocab_axis=0),
        *blocks,
        Entry("head/kernel", "head.weight", transpose=True, vocab_axis=1),
    ]


FAMILY = SimpleNamespace(
    NAME="Toy", PREFIX="base.", ALIASES=((".weight", ".gamma"),), IGNORED=(r"\.mask$", "^copy$"),
    COPIES={r"^copy$": "embed/embedding"}, OPTIONAL=("head",), HEADS=(r"^score\.",), entries=entries,
)  # fmt: skip


class Held:
    """Arrays in memory that count how often they are read."""

    where = "somewhere"

    def __init__(self, arrays):
        self.arrays, self.reads = arrays, []
        self.shapes = {name: array.shape for name, array in arrays.items()}
        names = {"float32": "F32", "float16": "F16", "int64": "I64", "float64": "F64"}
        self.dtypes = {name: names[str(array.dtype)] for name, array in arrays.items()}

    def read(self, name):
        self.reads.append(name)
        return self.arrays[name]


def numbers(*shape, start=0):
    return (np.arange(np.prod(shape)) + start).reshape(shape).astype(np.float32)


THEIRS = {
    "base.wte": numbers(3, 2),
    **{f"base.h.{i}.qk": numbers(2, 4, start=10 * i) for i in range(2)},
    **{f"base.h.{i}.out.weight": numbers(2, 2, start=100 * i) for i in range(2)},
    "head.weight": numbers(3, 2, start=50),
}


def shapes(scan=False, sharding=None):
    def leaf(*shape):
        return jax.ShapeDtypeStruct(shape, np.float32, sharding=sharding)

    block = {name: {"kernel": (2, 2)} for name in ("q", "k", "out")}
    if scan:
        stack = {"blocks": {name: {"kernel": leaf(2, 2, 2)} for name in block}}
    else:
        stack = {f"block_{i}": {name: {"kernel": leaf(2, 2)} for name in block} for i in range(2)}
    return {"embed": {"embedding": leaf(4, 2)}, "stack": stack, "head": {"kernel": leaf(2, 4)}}


def test_every_layout_by_hand():
    found, matched = mapping.load(FAMILY, CONFIG, Held(THEIRS), shapes())
    assert found["embed/embedding"].tolist() == [[0, 1], [2, 3], [4, 5], [0, 0]]
    assert found["stack/block_1/q/kernel"].tolist() == [[10, 11], [14, 15]]
    assert found["stack/block_1/k/kernel"].tolist() == [[12, 13], [16, 17]]
    assert found["stack/block_1/out/kernel"].tolist() == [[100, 102], [101, 103]]
    assert found["head/kernel"].tolist() == [[50, 52, 54, 0], [51, 53, 55, 0]]
    assert not matched.fresh and not matched.unused
    assert all(leaf.dtype == np.float32 for leaf in found.values())


def test_scanned_layers_are_the_others_stacked():
    one, _ = mapping.load(FAMILY, CONFIG, Held(THEIRS), shapes())
    scanned, _ = mapping.load(FAMILY, CONFIG, Held(THEIRS), shapes(scan=True))
    for name in ("q", "k", "out"):
        expected = np.stack([one[f"stack/block_{i}/{name}/kernel"] for i in range(2)])
        np.testing.assert_array_equal(scanned[f"stack/blocks/{name}/kernel"], expected)


@pytest.mark.parametrize("scan", [False, True])
def test_each_device_gets_its_part(scan):
    mesh = Mesh(np.array(jax.devices()[:2]), ("x",))
    spec = PartitionSpec(None, "x") if scan else PartitionSpec("x")  # an axis of layers before it
    abstract = shapes(scan)
    for name in ("stack", "embed"):
        where = spec if name == "stack" else PartitionSpec("x")
        abstract[name] = jax.tree.map(
            lambda leaf, where=where: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, where)
            ),
            abstract[name],
        )
    found, _ = mapping.load(FAMILY, CONFIG, Held(THEIRS), abstract)
    whole, _ = mapping.load(FAMILY, CONFIG, Held(THEIRS), shapes(scan))
    for path, leaf in mapping.flatten(abstract).items():
        np.testing.assert_array_equal(found[path], whole[path], err_msg=path)
        if leaf.sharding is not None:
            assert found[path].sharding == leaf.sharding
    assert found["embed/embedding"].addressable_shards[1].data.tolist() == [[4, 5], [0, 0]]


@pytest.mark.parametrize("scan", [False, True])
def test_export_gives_back_what_was_loaded(scan):
    found, _ = mapping.load(FAMILY, CONFIG, Held(THEIRS), shapes(scan))
    leaves, tree = jax.tree.flatten(shapes(scan))
    params = jax.tree.unflatten(tree, list(found.values()))
    back = outward.export(FAMILY, CONFIG, params)
    assert set(back) == set(THEIRS)
    for name, (shape, make) in back.items():
        assert shape == THEIRS[name].shape
        np.testing.assert_array_equal(make(), THEIRS[name], err_msg=name)


def test_a_bare_backbone_and_older_spellings_are_found():
    stored = {
        name.removeprefix("base.").replace(".weight", ".gamma"): array
        for name, array in THEIRS.items()
        if not name.startswith("head")
    }
    tensors = Held(stored | {"h.0.mask": numbers(9), "score.weight": numbers(2)})
    found, matched = mapping.load(FAMILY, CONFIG, tensors, shapes())
    assert matched.fresh == ("head/kernel",) and matched.unused == ("score.weight",)
    assert matched.names["stack/block_0/out/kernel"] == "h.0.out.gamma"
    assert "head/kernel" not in found and len(found) == 7


def test_one_error_names_all_that_is_wrong_before_anything_is_read():
    stored = {name: array for name, array in THEIRS.items() if ".1." not in name}
    tensors = Held(stored | {"base.h.7.qk": numbers(2), "base.h.0.out.weight": np.arange(4)})
    with pytest.raises(ValueError) as raised:
        mapping.load(FAMILY, CONFIG, tensors, shapes())
    assert str(raised.value) == (
        "somewhere is not the Toy that its config describes: 2 missing (base.h.1.qk, base.h.1.out.weight); "
        "1 left over (base.h.7.qk); 1 of another shape (base.h.0.out.weight: [4], expected [2, 2]); 1 of a type other than F32, F16, BF16 (base.h.0.out.weight: I64)"
    )
    assert not tensors.reads


def test_other_shapes_are_named_and_many_names_are_counted():
    tensors = Held(THEIRS | {"base.wte": numbers(5, 2), "head.weight": numbers(2, 3)})
    with pytest.raises(ValueError) as raised:
        mapping.load(FAMILY, CONFIG, tensors, shapes())
    assert str(raised.value).endswith(
        "2 of another shape (base.wte: [5, 2], expected [3, 2], head.weight: [2, 3], expected [3, 2])"
    )
    tensors = Held(THEIRS | {f"base.extra.{i}": numbers(1) for i in range(20)})
    with pytest.raises(ValueError, match=r"20 left over \((base\.extra\.\d+, ){8}\.\.\.\)"):
        mapping.load(FAMILY, CONFIG, tensors, shapes())


def test_host_memory_never_holds_a_model_twice(tmp_path):
    """Beside what JAX holds, some tensors are in flight (it frees in the background), not the model's forty-eight."""
    from safetensors.numpy import save_file

    from jaxlm.interop import tensors

    side, count = 512, 48
    many = SimpleNamespace(
        **vars(FAMILY)
        | {"entries": lambda _: [Entry(f"w{i}/kernel", f"t{i}", True) for i in range(count)]}
    )
    array = np.zeros((side, side), np.float16)
    save_file({f"t{i}": array for i in range(count)}, tmp_path / "model.safetensors")
    abstract = {
        f"w{i}": {"kernel": jax.ShapeDtypeStruct((side, side), np.float32)} for i in range(count)
    }
    opened = tensors.open_folder(tmp_path)
    tracemalloc.start()
    found, _ = mapping.load(many, CONFIG, opened, abstract)
    jax.block_until_ready(found)
    _, peak = tracemalloc.get_traced_memory()  # of numpy's arrays
    tracemalloc.stop()
    assert peak < count / 3 * side * side * 4


def test_a_copy_is_believed_only_where_it_is_one():
    theirs = THEIRS | {"copy": THEIRS["base.wte"].copy()}
    mapping.load(FAMILY, CONFIG, Held(theirs), shapes())
    theirs["copy"][2, 1] += 1
    with pytest.raises(ValueError, match="copy is not the copy of base.wte"):
        mapping.load(FAMILY, CONFIG, Held(theirs), shapes())
