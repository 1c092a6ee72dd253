"""Generating on a mesh of devices: rows that divide among them, and a state that goes on as it lies."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Float, Int32

from .._typing import Array
from ..cache import AbstractKV, CrossKV
from ..layers.sharded import ROWS, MeshPlacement, check_ambient_mesh, placement_of
from ..params.sharding import checked_mesh, mesh_of, with_mesh

State = TypeVar("State")

Layout = Any
"""A tree like a state, with a `NamedSharding` for each of its arrays."""

_ROWS: ContextVar[NamedSharding | None] = ContextVar("_ROWS", default=None)
"""Where the rows of the search lie whose step is being traced."""


def model_on(model: Any, mesh: Mesh | None) -> Any:
    """The model spread over the mesh, unless there is none or it lies there already.

    Raises:
        TypeError: as `with_mesh`.
        ValueError: as `with_mesh`, or `jax.set_mesh` has set a mesh of `Explicit` axes for a model on a mesh.
    """
    spread = model if mesh is None or mesh_of(model) == checked_mesh(mesh) else with_mesh(model, mesh)
    check_ambient_mesh(spread)
    return spread


def beside(assistant: Any, model: Any) -> Any:
    """An assistant on the mesh that the model lies on, if there are both."""
    return assistant if assistant is None else model_on(assistant, mesh_of(model))


def parts_of_rows(decoder: Any) -> int:
    """How many devices the rows of a batch are divided among."""
    place = placement_of(decoder)
    return 1 if place is None else place.size(ROWS)


def spread_state(state: State, place: MeshPlacement, sources: int) -> State:
    """A search's first state with its rows over the decoder's mesh.

    Keys and values stay where the program that opened the cache has put them. Of all other arrays that have a row, or
    several, for each of so many source sequences, rows come first.
    """

    def put(leaf: Any) -> Any:
        if isinstance(leaf, AbstractKV | CrossKV):
            return leaf
        rows = leaf.ndim > 0 and leaf.shape[0] % sources == 0
        # from the host, where it was made: between devices jax would compile a program for each shape
        made = np.asarray(leaf) if len(leaf.sharding.device_set) == 1 else leaf
        return jax.device_put(made, NamedSharding(place.mesh, place.spec(ROWS) if rows else place.spec()))

    return jax.tree.map(put, state, is_leaf=lambda node: isinstance(node, AbstractKV | CrossKV))


def layout_of(state: Any) -> Layout:
    """Where the arrays of a state on a mesh lie."""
    return jax.tree.map(lambda leaf: leaf.sharding, state)


def kept(state: State, layout: Layout | None) -> State:
    """The state as it lay: a loop's programs then are the same at every call, and nothing moves between two steps."""
    return state if layout is None else jax.lax.with_sharding_constraint(state, layout)


@contextlib.contextmanager
def rows_of(decoder: Any) -> Iterator[None]:
    """While a step with this decoder is traced, `top_k` knows where rows are."""
    place = placement_of(decoder)
    token = _ROWS.set(None if place is None else NamedSharding(place.mesh, place.spec(ROWS)))
    try:
        yield
    finally:
        _ROWS.reset(token)


def top_k(scores: Float[Array, "rows some"], count: int) -> tuple[Float[Array, "rows k"], Int32[Array, "rows k"]]:
    """`jax.lax.top_k`, on a mesh by each device for its own rows: XLA would gather all rows on every device."""
    rows = _ROWS.get()
    if rows is None or not rows.spec:
        found, at = jax.lax.top_k(scores, count)
        return found, at
    own = jax.shard_map(lambda x: jax.lax.top_k(x, count), mesh=rows.mesh, in_specs=rows.spec, out_specs=rows.spec)
    found, at = own(scores)
    return found, at
