"""Linear layers and token tables of eight bits: int8 weights per output channel, int8 activations per row, for CPUs."""

import dataclasses
import math
from typing import Any, NoReturn, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int8, Integer

from .._trees import path_name
from .._typing import Array
from .linear import AbstractEmbedding, AbstractLinear, Embedding, Linear, WithLoRA

_Tree = TypeVar("_Tree")

LARGEST = 127
"""The largest of the integers: the range is symmetric, so that zero is zero and no sum needs correcting."""


class Int8Linear(AbstractLinear):
    """y = x W + b, where rows of x and output channels of W are integers of eight bits, each with a scale.

    The weight is stored (*out, in): with the input first XLA's CPU backend takes up to seven times as long.

    Attributes:
        weight: the integers.
        scale: of each output channel: what the integer 1 stands for.
        bias: added to the products.
    """

    weight: Int8[Array, "*out in"]
    scale: Float[Array, "*out"]
    bias: Float[Array, "*out"] | None

    def __call__(self, x: Float[Array, "*batch in"]) -> Float[Array, "*batch_and_out"]:
        out_shape = self.weight.shape[:-1]
        flat = self.weight.reshape(math.prod(out_shape), self.weight.shape[-1])
        y = _product(x.reshape(-1, x.shape[-1]), flat, self.scale.reshape(-1))
        if self.bias is not None:
            y = y + jnp.broadcast_to(self.bias.reshape(-1).astype(y.dtype), y.shape)
        return y.astype(self.scale.dtype).reshape(*x.shape[:-1], *out_shape)

    @classmethod
    def of(cls, linear: Linear) -> "Int8Linear":
        """The layer with its weight rounded; one whose arrays another piece holds stays empty."""
        if linear.weight is None:
            return _emptied(cls(*_stand_ins(), linear.bias))
        weight, scale = _compiled(jnp.moveaxis(linear.weight, 0, -1))
        bias = None if linear.bias is None else linear.bias.astype(jnp.float32)
        return cls(weight, scale, bias)


class Int8Embedding(AbstractEmbedding):
    """A token table of integers, with a scale per row; a tied head multiplies with the integers themselves.

    Attributes:
        weight: the integers.
        scale: of each row.
        padding_idx: as in `Embedding`; nothing here has a gradient.
    """

    weight: Int8[Array, "entries hidden"]
    scale: Float[Array, " entries"]
    padding_idx: int | None = eqx.field(static=True, default=None)

    @property
    def dtype(self) -> jnp.dtype:
        """Of the rows that are looked up."""
        return self.scale.dtype

    def __call__(self, ids: Integer[Array, "*batch"]) -> Float[Array, "*batch hidden"]:
        rows = jnp.take(self.weight, ids, axis=0, mode="clip").astype(self.dtype)
        scales = jnp.take(self.scale, ids, axis=0, mode="clip")
        return rows * jnp.broadcast_to(scales[..., None], rows.shape)

    def attend(self, hidden: Float[Array, "*batch hidden"]) -> Float[Array, "*batch entries"]:
        """See `AbstractEmbedding`."""
        logits = _product(hidden.reshape(-1, hidden.shape[-1]), self.weight, self.scale)
        return logits.reshape(*hidden.shape[:-1], self.weight.shape[0])

    @classmethod
    def of(cls, table: Embedding) -> "Int8Embedding":
        """The table with its rows rounded; one that another piece holds stays empty."""
        if table.weight is None:
            weight, scale = _stand_ins()
            return _emptied(cls(weight=weight, scale=scale, padding_idx=table.padding_idx))
        weight, scale = _compiled(table.weight)
        return cls(weight=weight, scale=scale, padding_idx=table.padding_idx)


def quantize_rows(x: Float[Array, "*rows size"]) -> tuple[Int8[Array, "*rows size"], Float[Array, "*rows"]]:
    """Integers from -127 to 127 and the float32 scale of each row, whose largest entry becomes 127 or -127.

    An entry is off by half a scale at most. Rows of zeros stay zeros; NaN and infinities make their row's scale one.
    """
    wide = x.astype(jnp.float32)
    largest = jnp.max(jnp.abs(wide), axis=-1)
    inverse = jnp.where(largest > 0, LARGEST / largest, 0.0)
    rounded = jnp.round(wide * jnp.broadcast_to(inverse[..., None], wide.shape))
    return rounded.astype(jnp.int8), largest / LARGEST


_compiled = jax.jit(quantize_rows)


def _stand_ins() -> tuple[Int8[Array, "1 1"], Float[Array, " 1"]]:
    """Where another piece holds the arrays, until the slots are emptied: modules are made of arrays."""
    return jnp.zeros((1, 1), jnp.int8), jnp.zeros((1,))


def _emptied(module: _Tree) -> _Tree:
    return eqx.tree_at(lambda it: (it.weight, it.scale), module, (None, None))


@jax.custom_jvp
def _product(
    x: Float[Array, "rows in"], weight: Int8[Array, "out in"], scale: Float[Array, " out"]
) -> Float[Array, "rows out"]:
    """Products of rounded rows with the weight's, in float32."""
    integers, row_scale = quantize_rows(x)
    sums = _dot(integers, weight).astype(jnp.float32)
    scales = jnp.broadcast_to(scale.astype(jnp.float32), sums.shape)
    return sums * jnp.broadcast_to(row_scale[:, None], sums.shape) * scales


@_product.defjvp
def _no_gradient(primals: Any, tangents: Any) -> NoReturn:
    raise TypeError("an int8 model has no gradients, as rounding has none: train the float32 model, then quantize it.")


def _dot(x: Int8[Array, "rows in"], weight: Int8[Array, "out in"]) -> Integer[Array, "rows out"]:
    """Exact sums, in int32. A single row is given a second one: alone XLA's CPU backend takes ten times as long."""
    rows = x.shape[0]
    if rows == 1:
        x = jnp.concatenate([x, jnp.zeros_like(x)])
    both_last = (((1,), (1,)), ((), ()))
    return jax.lax.dot_general(x, weight, both_last, preferred_element_type=jnp.int32)[:rows]


def is_int8(tree: Any) -> bool:
    """Whether any part of a model is of int8."""
    return any(isinstance(node, Int8Linear | Int8Embedding) for node in _nodes(tree))


def is_partly_int8(tree: Any) -> bool:
    """Whether it has linear layers that are not."""
    return is_int8(tree) and any(isinstance(node, Linear | WithLoRA) for node in _nodes(tree))


def to_int8(model: _Tree) -> _Tree:
    """The module with every linear layer and every token table rounded; its stacks must be unrolled.

    The encoder of a pair has no scales where it shares arrays, as it has no weights there.
    """

    def rounded(path: tuple[Any, ...], node: Any) -> Any:
        if isinstance(node, Linear):
            return Int8Linear.of(node)
        # tables of positions and types are added to it: rounding them would save nothing
        if isinstance(node, Embedding) and path_name(path[-1:]) == "tokens":
            return Int8Embedding.of(node)
        return node

    whole = jax.tree_util.tree_map_with_path(rounded, model, is_leaf=_is_part)
    ties = getattr(model, "ties", ())
    if not ties:
        return whole
    paths = {path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(whole.decoder)}
    scales = {f"{tie.removesuffix('.weight')}.scale" for tie in ties if tie.endswith(".weight")}
    return dataclasses.replace(whole, ties=tuple(sorted({*ties, *(scales & paths)})))


def _is_part(node: Any) -> bool:
    return isinstance(node, Linear | WithLoRA | Embedding | Int8Linear | Int8Embedding)


def _nodes(tree: Any) -> list[Any]:
    return jax.tree.leaves(tree, is_leaf=_is_part)
