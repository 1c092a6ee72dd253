"""A linear layer with a low-rank one beside it, LoRA (Hu et al. 2021)."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float

from .._typing import Array, PRNGKey
from .linear import AbstractLinear, Linear


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
