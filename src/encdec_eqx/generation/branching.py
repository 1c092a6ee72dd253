"""How tokens that are fed at once lie beside each other in the cache. Knows nothing of how they were chosen."""

import jax.numpy as jnp
from jaxtyping import Bool, Int32

from .._typing import Array
from ..cache import Branches


def side_by_side(visible: Bool[Array, "rows new slots"], prefix: int, step: Int32[Array, ""]) -> Branches:
    """One more token for each branch, which takes a slot of its own beside those of the other branches.

    Args:
        visible: which slots each branch has attended to so far: its ancestors'.
        prefix: slots in front of the first step's.
        step: how many steps there were before this one, each with as many tokens.
    """
    rows, new, slots = visible.shape
    every = jnp.arange(slots, dtype=jnp.int32)
    own = every[None, :] == prefix + step * new + jnp.arange(new, dtype=jnp.int32)[:, None]
    return Branches(
        visible=visible | jnp.broadcast_to(own[None], (rows, new, slots)),
        depth=jnp.full((new,), prefix + step, jnp.int32),
        slot_depth=jnp.where(every < prefix, every, prefix + (every - prefix) // new),
    )
