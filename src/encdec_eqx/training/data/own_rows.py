"""Batches on a mesh whose devices are those of several processes: which rows each reads, and arrays of them."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from ...params.sharding import batch_sharding


class Share(NamedTuple):
    """Which part of every batch's rows a process reads, in the words of `Epoch.read`.

    Attributes:
        process_index: its number among the parts.
        process_count: how many parts there are: fewer than processes, where several hold the same rows.
    """

    process_index: int
    process_count: int


def own_share(mesh: Mesh) -> Share:
    """The rows that devices of this process hold; all of them where those do not stand together.

    Args:
        mesh: of `make_mesh`.
    """
    # of as many rows as there are devices each holds one at least
    rows = mesh.size
    held = {index for first, last in _held(mesh, rows) for index in range(first, last)}
    first, size = min(held), len(held)
    if max(held) - first + 1 != size or first % size or rows % size:
        return Share(0, 1)
    return Share(first // size, rows // size)


def on_mesh(part: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """The share of a batch that this process has read, as arrays of the whole batch on the mesh.

    Args:
        part: the rows of `own_share(mesh)`.
        mesh: as for `own_share`.

    Raises:
        ValueError: the whole batch's rows cannot be divided among the devices of `data` and `fsdp`.
    """
    share, sharding = own_share(mesh), batch_sharding(mesh)
    number = len(part["labels"])
    rows, skipped = number * share.process_count, number * share.process_index
    parts = len({box[0].start for box in sharding.devices_indices_map((mesh.size,)).values()})
    if rows % parts:
        raise ValueError(
            f"a batch of {rows} rows cannot be divided among the {parts} parts of data x fsdp: make Batches with "
            f"rows_multiple_of={parts}."
        )

    def of_device(value: np.ndarray, box: tuple[slice, ...] | None) -> np.ndarray:
        assert box is not None
        start, end, _ = box[0].indices(rows)
        return value[start - skipped : end - skipped]

    return {
        name: jax.make_array_from_callback(
            (rows, *value.shape[1:]), sharding, lambda box, value=value: of_device(value, box)
        )
        for name, value in part.items()
    }


def _held(mesh: Mesh, rows: int) -> list[tuple[int, int]]:
    """The first row and the one after the last of each device of this process."""
    boxes = batch_sharding(mesh).addressable_devices_indices_map((rows,)).values()
    return [box[0].indices(rows)[:2] for box in boxes if box is not None]
