"""Linear layers and token tables spread over a mesh: what lies where, and what is moved when one is used.

They hold no more than the plain ones do, so a model keeps its structure; `params.sharding` puts them in.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, Integer

from .._typing import Array
from ..cache import AbstractKV, CrossKV
from .linear import Embedding, Linear

KV = TypeVar("KV", bound=AbstractKV | CrossKV)

ROWS = ("data", "fsdp")
"""The axes of a mesh over which the rows of a batch lie."""

Axes = tuple[str, ...]
"""Axes of a mesh over which one axis of an array lies; none: it is whole on every device."""


@dataclasses.dataclass(frozen=True)
class MeshPlacement:
    """Where a weight lies, axis by axis, on which mesh.

    Attributes:
        mesh: the devices, with axes named `data`, `fsdp` and `tensor`, or some of these.
        weight: axes of the mesh for each axis of the weight of one layer; leading axes of stacked layers are whole.
    """

    mesh: Mesh
    weight: tuple[Axes, ...]

    @property
    def gathered(self) -> tuple[Axes, ...]:
        """The weight as it is multiplied with many rows: whole along `fsdp`, over whose devices the rows lie then."""
        return tuple(tuple(name for name in axes if name != "fsdp") for axes in self.weight)

    def spec(self, *axes: Axes | None) -> PartitionSpec:
        """The axes that this mesh has, as jax wants them; None: whatever suits the compiler."""
        known = [PartitionSpec.UNCONSTRAINED if each is None else self._known(each) for each in axes]
        while known and known[-1] is None:  # as jax writes what it returns: equal layouts are then equal specs
            known.pop()
        return PartitionSpec(*known)

    def put(self, x: Array, *axes: Axes | None) -> Array:
        """The array with its axes laid over the mesh; leading ones that are not told are whole."""
        check_ambient_mesh()
        return jax.lax.with_sharding_constraint(x, self.sharding(x.ndim, *axes))

    def sharding(self, ndim: int, *axes: Axes | None) -> NamedSharding:
        """That of an array of so many axes, whose last ones are laid over the mesh; the leading ones are whole."""
        return NamedSharding(self.mesh, self.spec(*((),) * (ndim - len(axes)), *axes))

    def size(self, axes: Axes) -> int:
        """How many devices lie along these axes."""
        return math.prod(self.mesh.shape.get(name, 1) for name in axes)

    def _known(self, axes: Axes) -> Axes | str | None:
        names = tuple(name for name in axes if self.mesh.shape.get(name, 1) > 1)
        return names if len(names) > 1 else next(iter(names), None)


class ShardedLinear(Linear):
    """`Linear` on a mesh: a weight of which every device holds a part.

    With many rows each device multiplies its own with the weight gathered along `fsdp`, which is dropped at once and
    gathered again for the backward pass; the weight's gradient is summed and scattered as the weight lies. With few
    rows, as in a decoding step, the weight stays where it is and the rows move. It has no forward-mode derivative.
    """

    placement: MeshPlacement = eqx.field(static=True, kw_only=True)

    def __call__(self, x: Float[Array, "*batch in"]) -> Float[Array, "*batch_and_out"]:
        y: Any = _product(_plan(self.placement, x, self.weight.shape), x.astype(self.weight.dtype), self.weight)
        return y if self.bias is None else y + jnp.broadcast_to(self.bias, y.shape)


class ShardedEmbedding(Embedding):
    """`Embedding` on a mesh: each device holds some of the columns of every row, whatever the number of rows.

    So a vocabulary of any size can be spread. With many tokens a tied head divides them among the devices of `tensor`
    too and gathers the table; with few it sums up the logits of each device's columns.
    """

    placement: MeshPlacement = eqx.field(static=True, kw_only=True)

    def __call__(self, ids: Integer[Array, "*batch"]) -> Float[Array, "*batch hidden"]:
        place = self.placement
        few = ids.size // place.size(("data",)) < self.weight.shape[0]
        # few rows: every device looks its columns up for all of them, and the rows are put together; many: the table is
        columns = place.weight[1] if few else place.gathered[1]
        table: Any = _laid(place, self.weight, (place.weight[0], columns))
        plain = Embedding(table, self.padding_idx, self.fixed)
        if ids.ndim < 2 or not _rows_divide(place, ids.shape[0]):
            return plain(ids)
        rows = place.put(plain(place.put(ids, ("data",) if few else ROWS, ())), ("data",) if few else ROWS, (), columns)
        return place.put(rows, ROWS, (), ())

    def attend(self, hidden: Float[Array, "*batch hidden"]) -> Float[Array, "*batch entries"]:
        """See `AbstractEmbedding`."""
        table = jnp.swapaxes(self.weight, 0, 1)
        place = dataclasses.replace(self.placement, weight=self.placement.weight[::-1])
        return _product(_plan(place, hidden, table.shape, wide=True), hidden.astype(table.dtype), table)


@dataclasses.dataclass(frozen=True)
class _Product:
    """How one product is taken: where input and output lie before and after it, and where they and the weight meet.

    Pinned before it too, an input does not tell the compiler to lay out by it all that it was made of.
    """

    place: MeshPlacement
    outer_rows: tuple[Axes | None, ...]
    outer: tuple[Axes, ...]
    rows: tuple[Axes | None, ...]
    weight: tuple[Axes, ...]
    wide: bool

    def meet(self, x: Array, axes: slice) -> Array:
        """An input, or an output's gradient, where it meets the weight; `axes` are those of the weight that it has."""
        x = self.place.put(x, *self.outer_rows, *self.outer[axes])
        return self.place.put(x, *self.rows, *self.weight[axes])

    def part(self, y: Array, axes: slice) -> Array:
        """An output, or an input's gradient, where it goes on."""
        y = self.place.put(y, *self.rows, *self.weight[axes])
        return self.place.put(y, *self.outer_rows, *self.outer[axes])


_IN, _OUT = slice(0, 1), slice(1, None)
"""The axes of a weight that an input has, and those that an output has."""


def _plan(place: MeshPlacement, x: Array, weight: tuple[int, ...], *, wide: bool = False) -> _Product:
    """All is static: by shapes alone."""
    anywhere, whole = (None,) * (x.ndim - 1), ((),) * len(weight)
    of_head = "tensor" in place.weight[0] and "fsdp" in place.weight[0]
    if x.ndim > 2:
        check_rows(place, x.shape[0])
    batch = (ROWS, *((),) * (x.ndim - 2)) if x.ndim > 2 and _rows_divide(place, x.shape[0]) else anywhere
    outer = whole if of_head else place.gathered
    if x.ndim == 2 and not of_head:  # rows of a table, or one token of each row: too few to matter
        return _Product(place, anywhere, outer, anywhere, place.weight, wide)
    if _few(place, x, weight):
        moved = anywhere if batch[0] is None else (("data",), *batch[1:])
        return _Product(place, batch, outer, moved, place.weight, wide)
    spread = _spread(place, x.shape) if of_head else None
    if spread is not None:
        return _Product(place, spread, whole, spread, whole, wide)
    return _Product(place, batch, outer, batch, place.gathered, wide)


def _few(place: MeshPlacement, x: Array, weight: tuple[int, ...]) -> bool:
    """Whether moving the rows costs less than gathering the weight."""
    rows = x.size // x.shape[-1] // place.size(("data",))
    ins, outs = weight[0], math.prod(weight[1:])
    return rows * (ins + outs) < ins * outs


def _spread(place: MeshPlacement, shape: Sequence[int]) -> tuple[Axes, ...] | None:
    """Tokens over the devices of `tensor` too, where there is a whole number for each."""
    if len(shape) == 2:
        every = (*ROWS, "tensor")
        return (every,) if shape[0] % place.size(every) == 0 else None
    divides = _rows_divide(place, shape[0]) and shape[1] % place.size(("tensor",)) == 0
    return (ROWS, ("tensor",), *((),) * (len(shape) - 3)) if divides else None


def _rows_divide(place: MeshPlacement, rows: int) -> bool:
    return rows % place.size(ROWS) == 0


def check_ambient_mesh(model: Any = None) -> None:
    """Raises ValueError where `jax.set_mesh` has set a mesh of `Explicit` axes for a model on a mesh.

    Args:
        model: asked only there whether it lies on a mesh; None: one that does, or is going to.
    """
    if AxisType.Explicit not in jax.sharding.get_abstract_mesh().axis_types:
        return
    if model is None or placement_of(model) is not None:
        raise ValueError(
            "jax.set_mesh has set a mesh whose axes are Explicit, and a model on a mesh is computed with Auto axes: "
            "set the mesh of encdec_eqx.make_mesh instead, whose axes are Auto, as in jax.set_mesh(make_mesh(data=8)). "
            "A program that needs Explicit axes elsewhere calls the model in a function under jax.sharding.auto_axes."
        )


def check_rows(place: MeshPlacement, rows: int) -> None:
    """Raises ValueError for rows that cannot be divided among the devices; a single one is computed by all of them."""
    if rows != 1 and not _rows_divide(place, rows):
        data, fsdp = (place.size((name,)) for name in ROWS)
        raise ValueError(
            f"a batch of {rows} rows cannot be split over a mesh of data={data} x fsdp={fsdp}: make it a multiple of "
            f"{data * fsdp}, for example with rows whose labels are all -100 (they weigh nothing)."
        )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(how: _Product, x: Float[Array, "*batch in"], weight: Float[Array, "in *out"]) -> Array:
    kind = jnp.float32 if how.wide else None
    last_with_first = (((x.ndim - 1,), (0,)), ((), ()))
    used = how.place.put(weight, *how.weight)
    return how.part(jax.lax.dot_general(how.meet(x, _IN), used, last_with_first, preferred_element_type=kind), _OUT)


def _product_forward(how: _Product, x: Array, weight: Array) -> tuple[Array, tuple[Array, Array]]:
    return _product(how, x, weight), (x, weight)


def _product_backward(how: _Product, kept: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, weight = kept
    # a weight that waits for the gradient is gathered for the second time, not kept since the first
    weight, gradient = jax.lax.optimization_barrier((weight, gradient.astype(x.dtype)))
    gradient, used = how.meet(gradient, _OUT), how.place.put(weight, *how.weight)
    rows, last = tuple(range(x.ndim - 1)), tuple(range(x.ndim - 1, gradient.ndim))
    of_x = jax.lax.dot_general(gradient, used, ((last, tuple(range(1, weight.ndim))), ((), ())))
    of_weight = jax.lax.dot_general(how.meet(x, _IN), gradient, ((rows, rows), ((), ())))
    return how.part(of_x, _IN), how.place.put(of_weight, *how.place.weight)


_product.defvjp(_product_forward, _product_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 2))
def _laid(place: MeshPlacement, weight: Array, axes: tuple[Axes, ...]) -> Array:
    """The weight laid out otherwise; its gradient is laid out as the weight itself."""
    return place.put(weight, *axes)


def _laid_forward(place: MeshPlacement, weight: Array, axes: tuple[Axes, ...]) -> tuple[Array, None]:
    return place.put(weight, *axes), None


def _laid_backward(place: MeshPlacement, axes: tuple[Axes, ...], kept: None, gradient: Array) -> tuple[Array]:
    del axes, kept
    return (place.put(gradient, *place.weight),)


_laid.defvjp(_laid_forward, _laid_backward)


def placement_of(tree: Any) -> MeshPlacement | None:
    """Of the first layer that lies on a mesh; None where none does."""
    kinds = (ShardedLinear, ShardedEmbedding)
    nodes = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, kinds))
    return next((node.placement for node in nodes if isinstance(node, kinds)), None)


def whole_beside(layer: Any, tree: Any) -> Any:
    """The tree with its arrays whole on every device of the mesh that a layer lies on, if it does."""
    place = placement_of(layer)
    return tree if place is None else jax.device_put(tree, NamedSharding(place.mesh, PartitionSpec()))


@dataclasses.dataclass(frozen=True)
class HeadPlacement:
    """Where the heads of an attention lie: queries, keys, values and caches have rows first, and then heads.

    Attributes:
        place: the mesh.
        heads: axes of the mesh for the heads of queries.
        kv_heads: those for the heads of keys and values.
    """

    place: MeshPlacement
    heads: Axes
    kv_heads: Axes

    def put_heads(self, x: Array) -> Array:
        """Queries, scores, or what else has rows and heads of queries first."""
        return self._put(x, self.heads)

    def put_kv_heads(self, x: Array) -> Array:
        """Keys or values of one layer, or of several stacked."""
        return self._put(x, self.kv_heads)

    def _put(self, x: Array, heads: Axes) -> Array:
        rows = ROWS if _rows_divide(self.place, x.shape[-4]) else None
        return self.place.put(x, rows, heads, (), ())


def head_placement_of(attention: Any) -> HeadPlacement | None:
    """Of an attention whose projections lie on a mesh; None for another."""
    found = {name: placement_of(getattr(attention, name, None)) for name in ("qkv", "kv", "q", "k")}
    of_queries, of_keys = found["qkv"] or found["q"], found["qkv"] or found["kv"] or found["k"]
    if of_queries is None or of_keys is None:
        return None
    return HeadPlacement(of_queries, of_queries.weight[-2], of_keys.weight[-2])


def place_stream(x: Float[Array, "rows queries hidden"], block: Any) -> Float[Array, "rows queries hidden"]:
    """The residual stream laid over a block's mesh, if it has one: by rows alone.

    What a loop carries has to be told: left alone, the compiler lays a pre-norm decoder's stream over `tensor`, whose
    every sum it then gathers.
    """
    place = placement_of(block)
    if place is None or not _rows_divide(place, x.shape[0]):
        return x
    return place.put(x, ROWS, (), ())


def place_cache(kv: KV, attention: Any) -> KV:
    """Keys and values of this attention, or of the source for it, laid over its mesh, if it has one."""
    heads = head_placement_of(attention)
    return kv if heads is None else jax.tree.map(heads.put_kv_heads, kv)
