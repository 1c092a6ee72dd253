"""Who may attend to whom, always Bool with True for "may". Knows nothing of scores or padding ids."""

import jax.numpy as jnp
from jaxtyping import Bool, Integer

from .._typing import Array


def padding_mask(mask: Bool[Array, "batch keys"]) -> Bool[Array, "batch 1 1 keys"]:
    """Every query of a sentence may attend to its real keys."""
    return mask[:, None, None, :]


def causal_mask(queries: int, slots: int, start: Integer[Array, ""] | int) -> Bool[Array, "1 1 queries slots"]:
    """Query i, which sits in slot `start + i`, may attend to the slots up to its own."""
    query_slots = start + jnp.arange(queries)[:, None]
    return (jnp.arange(slots)[None, :] <= query_slots)[None, None]
