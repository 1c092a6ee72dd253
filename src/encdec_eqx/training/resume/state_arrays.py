"""A train state as named arrays on the host and on the disk, and back."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..._trees import path_name
from ...hf.files.safetensors_file import SafetensorsFile, write_file
from ..step import TrainState

Table = dict[str, str]
ARRAYS = "arrays.safetensors"
"""The file that holds all arrays of a state."""


def copy_to_host(state: TrainState) -> dict[str, np.ndarray]:
    """Copies of all that changes from step to step, by name: the state may be donated as soon as this returns."""
    leaves = dict(_leaves(state))
    for leaf in leaves.values():
        leaf.copy_to_host_async()
    return {name: on_host(leaf) for name, leaf in leaves.items()}


def table(state: TrainState) -> Table:
    """Dtype and shape of every array of `copy_to_host(state)`."""
    return {name: described(leaf) for name, leaf in _leaves(state)}


def put_back(like: TrainState, arrays: Mapping[str, np.ndarray]) -> TrainState:
    """The state with the leaves of `arrays`, each placed as its counterpart in `like`; frozen leaves are `like`'s."""
    changing = _changing(like)
    placed = [_placed(arrays[name], leaf) for name, leaf in _leaves(like)]
    return TrainState(frozen=like.frozen, **jax.tree.unflatten(jax.tree.structure(changing), placed))


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
        if not leaf.is_fully_addressable:
            raise NotImplementedError(f"{name} is spread over several processes, which checkpoints do not support.")
        yield name, leaf


def _raw(leaf: jax.Array) -> jax.Array:
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def _placed(host: np.ndarray, like: jax.Array) -> jax.Array:
    """A copy of `host` with the sharding of `like`; tied to devices only if `like` is."""
    raw = _raw(like)
    placed = jax.device_put(host, raw.sharding if raw.committed else None, may_alias=False)
    return placed if raw is like else jax.random.wrap_key_data(placed, impl=jax.random.key_impl(like))


def write(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes the arrays into a new folder."""
    folder.mkdir()
    write_file(folder / ARRAYS, [(name, x.shape, x.dtype, lambda x=x: x) for name, x in arrays.items()])


def read(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of a folder, as views of the file."""
    file = SafetensorsFile(folder / ARRAYS)
    return {name: file.read(name) for name in file.entries}
