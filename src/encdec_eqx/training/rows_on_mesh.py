"""Rows of batches on a mesh: into how many parts they are split, which of them a process makes, and where they lie."""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import Mesh

from .. import _processes as processes
from ..params.sharding import batch_sharding
from .data.batches import Part
from .train_config import TrainConfig

ALL = Part(0, 1)
"""All rows of a batch."""


@dataclasses.dataclass(frozen=True)
class RowsOnMesh:
    """How a run's batches lie.

    Attributes:
        mesh: The devices; None: there is one.
    """

    mesh: Mesh | None = None

    @property
    def parts(self) -> int:
        """Into how many equal parts the rows are split: the devices of `data` times those of `fsdp`."""
        return 1 if self.mesh is None else self.mesh.shape.get("data", 1) * self.mesh.shape.get("fsdp", 1)

    def filled(self, rows: int) -> int:
        """The least number of rows, from this one on, that can be split."""
        return -(-rows // self.parts) * self.parts

    @property
    def note(self) -> str | None:
        """What a run says of its mesh."""
        if self.mesh is None:
            return None
        sizes = " x ".join(f"{name}={size}" for name, size in self.mesh.shape.items())
        number, kind = self.mesh.size, self.mesh.devices.flat[0].device_kind
        split = f"every batch is split among {self.parts} of them" if self.parts > 1 else "no batch is split"
        return f"on a mesh of {sizes}: {number} device{'s' * (number > 1)} ({kind}), {split}"

    def check(self, config: TrainConfig) -> None:
        """Raises ValueError for batches whose rows cannot be split; a budget of tokens is met by fewer rows instead.

        And where several processes run and the mesh is not one of all their devices.
        """
        self._check_processes()
        accumulated = config.gradient_accumulation_steps
        multiple = self.parts * accumulated
        if self.mesh is None or config.batch_size is None or config.batch_size % multiple == 0:
            return
        data, fsdp = (self.mesh.shape.get(name, 1) for name in ("data", "fsdp"))
        default = "" if config.per_device_train_batch_size is not None else ", the default,"
        parts = "" if accumulated == 1 else f" and gradient_accumulation_steps={accumulated}"
        raise ValueError(
            f"per_device_train_batch_size={config.batch_size}{default} is the whole batch of a step, which cannot be "
            f"split over a mesh of data={data} x fsdp={fsdp}{parts}: make it a multiple of {multiple}, or give "
            "tokens_per_batch."
        )

    def _check_processes(self) -> None:
        count, devices = processes.count(), jax.devices() if processes.count() > 1 else []
        if count == 1 or (self.mesh is not None and set(self.mesh.devices.flat) == set(devices)):
            return
        what = "no mesh says how" if self.mesh is None else f"the mesh has {self.mesh.size} of their devices"
        raise ValueError(
            f"{count} processes with {len(devices)} devices are to train together, and {what}: pass "
            f"mesh=make_mesh(data={len(devices)}), or any other sizes whose product is {len(devices)}."
        )

    def decisive(self, config: TrainConfig) -> dict[str, int]:
        """What a mesh changes in the batches of a run: how many rows a budget of tokens allows."""
        if config.tokens_per_batch is None or self.parts == 1:
            return {}
        return {"rows of a batch are a multiple of": self.parts * config.gradient_accumulation_steps}

    @functools.cached_property
    def own(self) -> Part:
        """Which rows of each batch this process makes: those that its devices hold, where that is a part of its own.

        With `tensor` over several processes, each of these makes all that they share.
        """
        if self.mesh is None or not self.mesh.is_multi_process:
            return ALL
        held = batch_sharding(self.mesh).addressable_devices_indices_map((self.parts,)).values()
        parts = sorted({(index or (slice(None),))[0].indices(self.parts)[0] for index in held})
        first, number = parts[0], len(parts)
        together = parts == list(range(first, first + number))
        if not together or self.parts % number or first % number:
            return ALL
        return Part(first // number, self.parts // number)

    def put(self, batch: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray | jax.Array]:
        """A batch, or this process's part of it, where the model expects its rows."""
        if self.mesh is None:
            return batch
        sharding = batch_sharding(self.mesh)
        return {name: _placed(rows, sharding, self.own) for name, rows in batch.items()}


ON_ONE_DEVICE = RowsOnMesh()
"""Nothing is split."""


def _placed(rows: np.ndarray, sharding: jax.sharding.NamedSharding, own: Part) -> jax.Array:
    if sharding.is_fully_addressable:
        return jax.device_put(rows, sharding)
    before = own.index * len(rows)

    def held(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None
        begin, end, _ = index[0].indices(len(rows) * own.count)
        return rows[begin - before : end - before]

    return jax.make_array_from_callback((len(rows) * own.count, *rows.shape[1:]), sharding, held)
