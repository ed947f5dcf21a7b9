"""Meshes, batch rules, and the cluster's environment."""

import jax
import numpy as np
import pytest

from jaxlm.train import parallel
from jaxlm.train.parallel import Config


def test_minus_one_takes_the_rest_of_the_devices():
    assert dict(parallel.make_mesh(Config()).shape) == {
        "data": 8,
        "fsdp": 1,
        "expert": 1,
        "tensor": 1,
    }
    assert dict(parallel.make_mesh(Config(data=2, fsdp=-1, tensor=2)).shape) == {
        "data": 2,
        "fsdp": 2,
        "expert": 1,
        "tensor": 2,
    }


@pytest.mark.parametrize(
    "config",
    [
        Config(data=3),
        Config(data=-1, fsdp=-1),
        Config(data=16),
        Config(data=-1, fsdp=3),
        Config(data=0),
    ],
)
def test_a_mesh_that_does_not_fit_the_machine_is_refused(config):
    with pytest.raises(ValueError, match="mesh.data"):
        parallel.make_mesh(config)


def test_batches_are_whole_micro_batches_of_whole_shards():
    mesh = parallel.make_mesh(Config(data=4, fsdp=2))
    parallel.check_batch(32, 16, mesh)
    with pytest.raises(ValueError, match="batch_size=30 must be a multiple of micro_batch_size=16"):
        parallel.check_batch(30, 16, mesh)
    with pytest.raises(ValueError, match="micro_batch_size=4 must be a multiple of"):
        parallel.check_batch(32, 4, mesh)


def test_a_placed_batch_is_split_by_rows():
    mesh = parallel.make_mesh(Config(data=4, fsdp=2))
    rows = np.arange(16 * 3, dtype=np.int32).reshape(16, 3)
    placed = parallel.placer(mesh)({"tokens": rows})["tokens"]
    assert [shard.data.shape for shard in placed.addressable_shards] == [(2, 3)] * 8
    np.testing.assert_array_equal(placed, rows)


def test_no_cluster_in_the_environment_changes_nothing(monkeypatch):
    monkeypatch.delenv("JAX_COORDINATOR_ADDRESS", raising=False)
    monkeypatch.delenv("SLURM_NTASKS", raising=False)
    parallel.initialize_distributed()
    assert jax.process_count() == 1
