"""Dropout without a mode: active exactly when a key is given."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float

from .._typing import Array, PRNGKey


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
