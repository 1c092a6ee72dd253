"""Batches on a mesh: arrays of the whole batch, of which a process reads the rows of its own devices."""

import jax
import numpy as np
import pytest

from encdec_eqx import make_mesh
from encdec_eqx.params.sharding import shard_batch
from encdec_eqx.training.data.own_rows import Share, on_mesh, own_share
from models import random_ids


def batch(rows: int):
    return {
        "input_ids": random_ids(0, rows, 5),
        "labels": random_ids(1, rows, 3),
        "attention_mask": random_ids(2, rows, 5) > 4,
    }


@pytest.mark.parametrize("sizes", [(4, 1, 2), (2, 2, 2), (1, 1, 8), (8, 1, 1)], ids=str)
def test_one_process_reads_all_rows_and_places_them_as_shard_batch(sizes: tuple[int, int, int]):
    mesh = make_mesh(*sizes)
    assert own_share(mesh) == Share(0, 1)
    placed, wanted = on_mesh(batch(8), mesh), shard_batch(batch(8), mesh)
    assert placed.keys() == wanted.keys()
    for name, value in placed.items():
        np.testing.assert_array_equal(value, wanted[name])
        assert (value.sharding, value.dtype) == (wanted[name].sharding, wanted[name].dtype)


@pytest.mark.parametrize(
    ("sizes", "devices", "share"),
    [
        ((8, 1, 1), range(2, 4), (1, 4)),
        ((2, 2, 2), range(4, 8), (1, 2)),  # half of the rows
        ((1, 2, 4), range(4), (0, 2)),
        ((2, 1, 4), range(2, 4), (0, 2)),  # rows that another process has too
        ((1, 1, 8), range(4), (0, 1)),
        ((8, 1, 1), range(1, 3), (0, 1)),  # no part that `Epoch.read` knows
        ((8, 1, 1), range(0, 8, 2), (0, 1)),
    ],
    ids=str,
)
def test_a_process_reads_the_rows_of_its_devices(monkeypatch: pytest.MonkeyPatch, sizes, devices, share):
    own = {jax.devices()[at] for at in devices}
    boxes = jax.sharding.NamedSharding.devices_indices_map
    monkeypatch.setattr(
        jax.sharding.NamedSharding,
        "addressable_devices_indices_map",
        lambda self, shape: {device: box for device, box in boxes(self, shape).items() if device in own},
    )
    assert own_share(make_mesh(*sizes)) == Share(*share)


def test_rows_that_do_not_divide_are_told():
    with pytest.raises(ValueError, match=r"8 rows cannot be divided among the 3 parts .* rows_multiple_of=3"):
        on_mesh(batch(8), make_mesh(3, devices=jax.devices()[:3]))
