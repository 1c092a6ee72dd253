"""A train state as named arrays on the host, and back, however its arrays are spread over devices and processes."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ... import _processes as processes
from ..._trees import path_name
from ..step import TrainState
from .stored_arrays import Box, StoredArrays, block_name, box_of

Table = dict[str, str]
_PIECE_BYTES = 2**26


def copy_to_host(state: TrainState) -> dict[str, np.ndarray]:
    """Copies of what changes from step to step, by name: the state may be donated as soon as this returns.

    In one of several processes they are the blocks that are this one's to write.
    """
    leaves = dict(_leaves(state))
    for leaf in leaves.values():
        leaf.copy_to_host_async()
    if processes.count() == 1:
        return {name: on_host(leaf) for name, leaf in leaves.items()}
    return {block_name(name, box): block for name, leaf in leaves.items() for box, block in _own_blocks(leaf)}


def table(state: TrainState) -> Table:
    """Dtype and shape of every array that changes from step to step."""
    return {name: described(leaf) for name, leaf in _leaves(state)}


def put_back(like: TrainState, stored: StoredArrays) -> TrainState:
    """The state with what is stored, each leaf placed as its counterpart in `like`; frozen leaves are `like`'s."""
    changing = _changing(like)
    placed = [_placed(stored, name, leaf) for name, leaf in _leaves(like)]
    return TrainState(frozen=like.frozen, **jax.tree.unflatten(jax.tree.structure(changing), placed))


def lacking(state: Table, stored: StoredArrays) -> list[str]:
    """The arrays of a state that are not stored, or only in part."""
    return [name for name in state if name not in stored or not stored.is_whole(name)]


def described(leaf: jax.Array) -> str:
    """A leaf's dtype and shape in a few characters."""
    return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"


def on_host(leaf: jax.Array) -> np.ndarray:
    """A copy of a leaf that shares no memory with it; a PRNG key as its data.

    Shard by shard: `np.asarray(leaf)` would be cached by the leaf, and on CPU hold on to the buffer that a step
    wants to reuse.
    """
    raw = _raw(leaf)
    copy = np.empty(raw.shape, raw.dtype)
    for shard in raw.addressable_shards:
        if shard.replica_id == 0:
            copy[shard.index] = np.asarray(shard.data)
    return copy


def in_pieces(leaf: jax.Array) -> Iterator[np.ndarray]:
    """Copies of a leaf's content in order, together all of its bytes.

    What is spread over several processes comes in pieces of some 64 MB, which all processes have to ask for.
    """
    raw = _raw(leaf)
    if raw.is_fully_addressable:
        yield on_host(raw)
        return
    sizes = _piece(raw.shape, max(1, _PIECE_BYTES // raw.dtype.itemsize))
    everywhere = jax.NamedSharding(_mesh(raw), jax.P())
    for number in np.ndindex(*(-(-axis // size) for axis, size in zip(raw.shape, sizes, strict=True))):
        start = np.multiply(number, sizes, dtype=np.int32)
        shape = tuple(np.minimum(sizes, raw.shape - start).tolist())
        yield np.asarray(_cut(everywhere)(raw, start, shape).addressable_data(0))


@functools.cache
def _cut(sharding: jax.NamedSharding) -> Any:
    return jax.jit(jax.lax.dynamic_slice, static_argnums=2, out_shardings=sharding)


def _piece(shape: tuple[int, ...], most: int) -> tuple[int, ...]:
    """The shape of pieces that hold at most so many numbers and follow one another in memory."""
    sizes = [1] * len(shape)
    for axis in reversed(range(len(shape))):
        sizes[axis] = max(1, min(shape[axis], most))
        most //= max(1, shape[axis])
        if sizes[axis] < shape[axis]:
            break
    return tuple(sizes)


def _mesh(raw: jax.Array) -> Any:
    return raw.sharding.mesh  # pyright: ignore[reportAttributeAccessIssue]


def _changing(state: TrainState) -> dict[str, Any]:
    return {"params": state.params, "opt_state": state.opt_state, "step": state.step}


def _leaves(state: TrainState) -> Iterator[tuple[str, jax.Array]]:
    for path, leaf in jax.tree_util.tree_leaves_with_path(_changing(state)):
        name = path_name(path)
        if not isinstance(leaf, jax.Array):
            raise TypeError(
                f"every leaf of a train state must be a jax array, got {type(leaf).__name__} at {name}: make the state "
                "with init_train_state, and keep other values out of the optimiser's state."
            )
        yield name, leaf


def _own_blocks(leaf: jax.Array) -> Iterator[tuple[Box, np.ndarray]]:
    """Copies of the blocks that this process writes: what all hold is the first one's to write."""
    raw = _raw(leaf)
    if raw.is_fully_addressable or raw.is_fully_replicated:
        if processes.is_first():
            # jax (0.10 to 0.12) cannot list the shards of what was put on a mesh with one device for each process
            whole = on_host(raw) if raw.is_fully_addressable else np.array(raw.addressable_data(0))
            yield tuple((0, axis) for axis in raw.shape), whole
        return
    for shard in raw.addressable_shards:
        if shard.replica_id == 0:
            yield box_of(shard.index, raw.shape), np.array(shard.data)


def _raw(leaf: jax.Array) -> jax.Array:
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def _placed(stored: StoredArrays, name: str, like: jax.Array) -> jax.Array:
    """What is stored, with the sharding of `like`; tied to devices only if `like` is.

    Each part is read once, and is on its devices before the next. It is copied there: what aliases the host's memory,
    as `jax.make_array_from_callback` has it on CPU, could not be given away by a step.
    """
    raw = _raw(like)
    placed = _spread(stored, name, raw) if raw.committed else jax.device_put(stored[name], may_alias=False)
    return placed if raw is like else jax.random.wrap_key_data(placed, impl=jax.random.key_impl(like))


def _spread(stored: StoredArrays, name: str, raw: jax.Array) -> jax.Array:
    devices: dict[Box, list[Any]] = {}
    for device, index in raw.sharding.addressable_devices_indices_map(raw.shape).items():
        devices.setdefault(box_of(index or (), raw.shape), []).append(device)
    parts: list[jax.Array] = []
    for box, holders in devices.items():
        part, kind = stored.part(name, box), raw.sharding.memory_kind
        there = [jax.sharding.SingleDeviceSharding(device, memory_kind=kind) for device in holders]
        parts += jax.block_until_ready([jax.device_put(part, one, may_alias=False) for one in there])
    return jax.make_array_from_single_device_arrays(raw.shape, raw.sharding, parts)
