"""A train state as named arrays on the host and on the disk, and back."""

import contextlib
import importlib.util
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..._installing import install
from ..._trees import path_name
from ..step import TrainState

Table = dict[str, str]


def taken(state: TrainState) -> dict[str, np.ndarray]:
    """Copies of all that changes from step to step, by name: the state may be donated as soon as this returns."""
    leaves = dict(_leaves(state))
    for leaf in leaves.values():
        leaf.copy_to_host_async()
    return {name: on_host(leaf) for name, leaf in leaves.items()}


def table(state: TrainState) -> Table:
    """Dtype and shape of every array of `taken(state)`."""
    return {name: described(leaf) for name, leaf in _leaves(state)}


def blank(like: TrainState) -> dict[str, np.ndarray]:
    """Arrays of the names, shapes and dtypes of `taken(like)`, with nothing in them."""
    raw = {name: _raw(leaf) for name, leaf in _leaves(like)}
    return {name: np.empty(leaf.shape, leaf.dtype) for name, leaf in raw.items()}


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


_SETTLING = 0.3  # seconds in which writes that orbax has abandoned come to their end


def check_installed() -> None:
    """Refuses at the start of a run what would otherwise fail at its first checkpoint."""
    try:
        found = importlib.util.find_spec("orbax.checkpoint")
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise ImportError(f"checkpoints of a run need orbax-checkpoint, which is not installed: {install('train')}")


def write(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes the arrays into a new folder. Empty ones have nothing to be written."""
    import orbax.checkpoint as ocp

    item = {name: array for name, array in arrays.items() if array.size}
    with _quiet(), ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        checkpointer.save(folder.absolute(), args=ocp.args.StandardSave(item))


def read(folder: Path, like: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Reads the arrays whose names, shapes and dtypes are those of `like`."""
    import orbax.checkpoint as ocp

    item = {name: array for name, array in like.items() if array.size}
    with _quiet(), ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        return {**like, **checkpointer.restore(folder.absolute(), args=ocp.args.StandardRestore(item))}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Mutes orbax while it works: it logs every move, and speaks of a failure many times before it raises it once."""
    logger, hook = logging.getLogger("absl"), sys.unraisablehook

    def unless_abandoned(unraisable: Any) -> None:
        # of several writes that fail together, orbax awaits the first and closes the event loop of the others
        if not (isinstance(unraisable.exc_value, RuntimeError) and "loop is closed" in str(unraisable.exc_value)):
            hook(unraisable)

    logger.addFilter(_worth_saying)
    sys.unraisablehook = unless_abandoned
    try:
        yield
    except Exception:
        time.sleep(_SETTLING)
        raise
    finally:
        if sys.unraisablehook is unless_abandoned:
            sys.unraisablehook = hook
        logger.removeFilter(_worth_saying)


def _worth_saying(record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname or record.levelno == logging.WARNING
