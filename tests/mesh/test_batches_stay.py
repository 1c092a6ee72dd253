"""A batch that lies on a mesh is checked where it lies: it does not come back to one device on its way into a step."""

import numpy as np
import pytest

from encdec_eqx import make_mesh
from encdec_eqx.params.sharding import batch_sharding, shard_batch
from encdec_eqx.training.batch import checked_batch
from models import random_ids, tiny_pair


def batch():
    return {
        "input_ids": random_ids(0, 8, 5).astype(np.int64),
        "attention_mask": np.ones((8, 5), np.int32),
        "labels": random_ids(1, 8, 3),
    }


def test_its_rows_stay_on_their_devices():
    mesh = make_mesh(4, 1, 2)
    checked = checked_batch(shard_batch(batch(), mesh), tiny_pair())
    for name, value in checked.items():
        np.testing.assert_array_equal(value, batch()[name])
        assert value.sharding.is_equivalent_to(batch_sharding(mesh), value.ndim), name
    assert checked["input_ids"].dtype == np.int32


@pytest.mark.parametrize(
    ("name", "value", "words"), [("input_ids", 10**6, "1000000"), ("attention_mask", 3, "holds 3")]
)
def test_what_is_wrong_is_told_all_the_same(name: str, value: int, words: str):
    given = batch()
    given[name][7, 0] = value
    with pytest.raises(ValueError, match=words):
        checked_batch(shard_batch(given, make_mesh(8)), tiny_pair())
