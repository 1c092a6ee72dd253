"""The smallest layers: affine maps, LoRA beside them (Hu et al. 2021), embeddings looked up by id, and dropout."""

import functools
import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Float, Integer

from .._typing import Array, PRNGKey


class AbstractLinear(eqx.Module):
    """Anything that maps the last axis affinely: a plain matrix, one with LoRA, an int8 one.

    Every projection of a model is a field of this type; it is called, never unpacked.
    """

    @abstractmethod
    def __call__(self, x: Float[Array, "*batch in"]) -> Float[Array, "*batch_and_out"]:
        """Map the last axis of `x` to the output axes."""


class Linear(AbstractLinear):
    """y = x W + b, with W stored as (in, *out).

    The output may have several axes, such as (parts, heads, head_dim) of fused queries, keys and values, so that a
    part or a head can be addressed. The input axis comes first because small batches times such a matrix read it
    faster on CPU than its transpose.
    """

    weight: Float[Array, "in *out"]
    bias: Float[Array, "*out"] | None

    def __call__(self, x: Float[Array, "*batch in"]) -> Float[Array, "*batch_and_out"]:
        out_shape = self.weight.shape[1:]
        flat = self.weight.reshape(self.weight.shape[0], math.prod(out_shape))
        # rows in one axis: with more, XLA's CPU backend copies and transposes them for the weight's gradient
        y = _rows_times(jnp.matmul, x.astype(flat.dtype).reshape(-1, x.shape[-1]), flat)
        if self.bias is not None:
            y = y + jnp.broadcast_to(self.bias.reshape(-1), y.shape)
        return y.reshape(*x.shape[:-1], *out_shape)

    @classmethod
    def init(cls, in_size: int, *out_shape: int, scale: float, bias: bool = True, key: PRNGKey) -> "Linear":
        """Normal weights of standard deviation `scale` and zero biases."""
        weight = scale * jax.random.normal(key, (in_size, *out_shape))
        return cls(weight, jnp.zeros(out_shape) if bias else None)


def float32_product(subscripts: str, a: Float[Array, "*a"], b: Float[Array, "*b"]) -> Float[Array, "*out"]:
    """`einsum` of two arrays of one dtype, summed and returned in float32; its gradients are products in their dtype.

    By itself jax would multiply the float32 gradient of the result with the other array widened to float32: on a GPU
    a product at the speed of TF32 where bfloat16 was asked for, of an operand twice as large.
    """
    if a.dtype.itemsize < 4:
        return _half_product(subscripts, a, b)
    return jnp.einsum(subscripts, a, b, preferred_element_type=jnp.float32)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _half_product(subscripts: str, a: Array, b: Array) -> Array:
    return jnp.einsum(subscripts, a, b, preferred_element_type=jnp.float32)


def _half_product_jvp(subscripts: str, primals: tuple[Array, Array], tangents: tuple[Any, Any]) -> tuple[Array, Any]:
    (a, b), (da, db) = primals, tangents
    out = _half_product(subscripts, a, b)
    # in the dtype of the operands: what this turns into backwards is what matters
    parts = [jnp.einsum(subscripts, *pair).astype(out.dtype) for pair in ((da, b), (a, db)) if _moves(*pair)]
    return out, functools.reduce(jnp.add, parts) if parts else SymbolicZero(jax.typeof(out).to_tangent_aval())


def _moves(*pair: Any) -> bool:
    return not any(isinstance(each, SymbolicZero) for each in pair)


_half_product.defjvp(_half_product_jvp, symbolic_zeros=True)


class AbstractEmbedding(eqx.Module):
    """A matrix whose rows are looked up by integer ids, and which a tied head multiplies with."""

    weight: eqx.AbstractVar[Array]
    padding_idx: eqx.AbstractVar[int | None]

    @property
    @abstractmethod
    def dtype(self) -> jnp.dtype:
        """Of the rows that are looked up."""

    @abstractmethod
    def __call__(self, ids: Integer[Array, "*batch"]) -> Float[Array, "*batch hidden"]:
        """The rows of these ids."""

    @abstractmethod
    def attend(self, hidden: Float[Array, "*batch hidden"]) -> Float[Array, "*batch entries"]:
        """Products with every row, in float32."""


class Embedding(AbstractEmbedding):
    """A matrix of floating-point numbers, looked up by row.

    `padding_idx` names a row that receives no gradient from lookups, as in `torch.nn.Embedding`; `fixed`, that the
    matrix holds constants: no row receives any.
    """

    weight: Float[Array, "entries hidden"]
    padding_idx: int | None = eqx.field(static=True, default=None)
    fixed: bool = eqx.field(static=True, default=False)

    @property
    def dtype(self) -> jnp.dtype:
        """Of the rows that are looked up."""
        return self.weight.dtype

    def __call__(self, ids: Integer[Array, "*batch"]) -> Float[Array, "*batch hidden"]:
        rows = jnp.take(self.weight, ids, axis=0, mode="clip")
        if self.fixed:
            return jax.lax.stop_gradient(rows)
        if self.padding_idx is None:
            return rows
        return jnp.where((ids == self.padding_idx)[..., None], jax.lax.stop_gradient(rows), rows)

    def attend(self, hidden: Float[Array, "*batch hidden"]) -> Float[Array, "*batch entries"]:
        """See `AbstractEmbedding`."""
        # rows in one axis, as in `Linear`: the table's gradient then needs no transposed copy of the logits' gradient
        rows = hidden.astype(self.dtype).reshape(-1, hidden.shape[-1])
        logits = _rows_times(_times_rows, rows, self.weight)
        return logits.reshape(*hidden.shape[:-1], self.weight.shape[0])

    @classmethod
    def init(
        cls, entries: int, size: int, *, scale: float, padding_idx: int | None = None, key: PRNGKey
    ) -> "Embedding":
        """Normal rows of standard deviation `scale`; the row of `padding_idx` is zero."""
        weight = scale * jax.random.normal(key, (entries, size))
        if padding_idx is not None:
            weight = weight.at[padding_idx].set(0.0)
        return cls(weight, padding_idx)


class LowRank(AbstractLinear):
    """y = scale · x A B.

    A fused output, such as (parts, heads, head_dim) of queries, keys and values, has one A for all its parts: the rank
    is that of the whole matrix.
    """

    a: Float[Array, "in rank"]
    b: Float[Array, "rank *out"]
    scale: float = eqx.field(static=True)

    def __call__(self, x: Float[Array, "*batch in"]) -> Float[Array, "*batch_and_out"]:
        flat = self.b.reshape(self.b.shape[0], -1)
        y = jnp.matmul(jnp.matmul(x.astype(self.a.dtype).reshape(-1, x.shape[-1]), self.a), flat) * self.scale
        return y.reshape(*x.shape[:-1], *self.b.shape[1:])

    def product(self) -> Float[Array, "*axes"]:
        """The matrix that it stands for; of each layer, where the arrays of layers are stacked."""
        layers = self.a.shape[:-2]
        flat = self.b.reshape(*self.b.shape[: len(layers) + 1], -1)
        return (jnp.matmul(self.a, flat) * self.scale).reshape(*self.a.shape[:-1], *self.b.shape[len(layers) + 1 :])

    @classmethod
    def init(cls, in_size: int, *out_shape: int, rank: int, scale: float, key: PRNGKey) -> "LowRank":
        """A is uniform within 1/√in either way, B is zero: it begins as nothing."""
        width = 1.0 / math.sqrt(in_size)
        a = jax.random.uniform(key, (in_size, rank), minval=-width, maxval=width)
        return cls(a, jnp.zeros((rank, *out_shape)), scale)


class WithLoRA(AbstractLinear):
    """The sum of a linear layer and a low-rank one, in the dtype of the first."""

    base: Linear
    lora: LowRank

    def __call__(self, x: Float[Array, "*batch in"]) -> Float[Array, "*batch_and_out"]:
        y = self.base(x)
        return y + self.lora(x).astype(y.dtype)

    def merged(self) -> Linear:
        """One layer that does the work of both, up to rounding."""
        return add_low_rank(self.base, self.lora, 1.0)


def add_low_rank(linear: Linear, lora: LowRank, times: float) -> Linear:
    """The layer with so many times the low-rank matrix in its weight, which keeps its dtype."""
    product = lora.product()
    weight = linear.weight.astype(product.dtype) + times * product
    return eqx.tree_at(lambda it: it.weight, linear, weight.astype(linear.weight.dtype))


def _times_rows(rows: Float[Array, "rows in"], table: Float[Array, "out in"]) -> Float[Array, "rows out"]:
    return float32_product("rd,vd->rv", rows, table)


def _rows_times(
    product: Callable[[Array, Array], Array], rows: Float[Array, "rows in"], weight: Float[Array, "*matrix"]
) -> Float[Array, "rows out"]:
    """The product of rows with a weight; on CPUs a single row in bfloat16 gets a second one.

    XLA's CPU backend has a kernel for matrices in bfloat16, and none for a vector: 50257 logits of one row of 768 took
    228 ms, with a second row 16 ms (jax 0.12; 220 and 16 ms with 0.10.2).
    """
    if rows.shape[0] != 1 or rows.dtype != jnp.bfloat16:
        return product(rows, weight)
    return jax.lax.platform_dependent(
        rows,
        weight,
        cpu=lambda row, weight: product(jnp.concatenate([row, jnp.zeros_like(row)]), weight)[:1],
        default=product,
    )


class Dropout(eqx.Module):
    """Zeroes each entry with probability `rate` and scales the others by 1 / (1 - rate) (Srivastava et al. 2014).

    The rate is static, so that every leaf of a model is an array. There is no train or inference flag: with
    `key=None` the input passes unchanged.
    """

    rate: float = eqx.field(static=True)

    def __call__(self, x: Float[Array, "*shape"], *, key: PRNGKey | None) -> Float[Array, "*shape"]:
        if key is None or self.rate == 0.0:
            return x
        keep = jax.random.bernoulli(key, 1.0 - self.rate, x.shape)
        return jnp.where(keep, x / (1.0 - self.rate), jnp.zeros_like(x))


def split_key(key: PRNGKey | None, number: int) -> tuple[PRNGKey | None, ...]:
    """`number` independent keys, or as many `None` where there is no key."""
    return (None,) * number if key is None else tuple(jax.random.split(key, number))
