"""Layer normalisation with statistics in float32. Knows nothing of where blocks place it."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float

from .._typing import Array


class LayerNorm(eqx.Module):
    """Normalises the last axis to mean 0 and variance 1, then scales and shifts it (Ba et al. 2016)."""

    weight: Float[Array, "hidden"]
    bias: Float[Array, "hidden"]
    eps: float = eqx.field(static=True)

    def __call__(self, x: Float[Array, "*batch hidden"]) -> Float[Array, "*batch hidden"]:
        wide = x.astype(jnp.float32)
        centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        normed = centred * jax.lax.rsqrt(variance + self.eps)
        weight = jnp.broadcast_to(self.weight.astype(jnp.float32), x.shape)
        bias = jnp.broadcast_to(self.bias.astype(jnp.float32), x.shape)
        return (normed * weight + bias).astype(x.dtype)

    @classmethod
    def init(cls, size: int, *, eps: float) -> "LayerNorm":
        """Unit scale, zero shift."""
        return cls(jnp.ones((size,)), jnp.zeros((size,)), eps)
