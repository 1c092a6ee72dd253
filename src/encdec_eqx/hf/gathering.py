"""Saving a model that is spread over devices and processes: an array at a time is gathered, and one process writes."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from .. import _processes
from .files.safetensors_file import Tensor, in_file_order


def gathered(array: jax.Array) -> np.ndarray:
    """An array as it is whole, on this host; all processes that hold a part of it must ask at the same time.

    The array does not keep the copy, as it would that of `np.asarray`: the host would have all of a model in the end.
    """
    if array.is_fully_replicated:
        return _copied(array.addressable_data(0))
    if not array.is_fully_addressable:
        return np.asarray(multihost_utils.process_allgather(array, tiled=True))
    whole = np.empty(array.shape, array.dtype)
    for shard in array.addressable_shards:
        if shard.replica_id == 0:
            whole[shard.index] = _copied(shard.data)
    return whole


def _copied(part: jax.Array) -> np.ndarray:
    """What a device holds. On CPUs that is no copy; elsewhere the copy is one of an array that is dropped."""
    on_cpu = all(device.platform == "cpu" for device in part.devices())
    return np.asarray(part if on_cpu else jnp.copy(part))


def spans_processes(model: Any) -> bool:
    """Whether a model is spread over several processes, which then must save it together."""
    return any(not leaf.is_fully_addressable for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_array)))


def is_written_here(model: Any) -> bool:
    """Whether this process writes a model: the first does, if it is spread over several, and else any that is asked."""
    return not spans_processes(model) or _processes.is_first()


@contextlib.contextmanager
def together_if_spread(model: Any, purpose: str) -> Iterator[_processes.Told]:
    """`_processes.together`, of the processes that a model is spread over; what another does by itself is its own."""
    if spans_processes(model):
        with _processes.together(purpose) as told:
            yield told
        return
    told = _processes.Told()
    yield told
    told.all = (told.mine,)


def write_together(
    files: Mapping[str, Sequence[Tensor]], write: Callable[[Mapping[str, Sequence[Tensor]]], None]
) -> None:
    """Have the first process write files of tensors, and all take part in gathering each of them, in one order.

    Raises:
        OtherProcessError: in the others, if writing fails in the first.
    """
    with _processes.together("saving a model"):
        left = iter([make for tensors in files.values() for *_, make in in_file_order(tensors)])
        try:
            if _processes.is_first():
                write({name: [(*it[:3], lambda: next(left)()) for it in tensors] for name, tensors in files.items()})
        finally:
            for make in left:  # the others wait for every tensor, also if the disk is full
                make()
