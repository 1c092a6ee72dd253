"""How logits obey a constraint, around the rules that process them. Knows no loop."""

import jax.numpy as jnp
from jaxtyping import Bool, Float

from ..._typing import Array

Logits = Float[Array, "rows vocab"]
Allowed = Bool[Array, "rows vocab"]


def only_allowed(logits: Logits, allowed: Allowed | None) -> Logits:
    """Minus infinity wherever a token is not allowed. Rules behind it then see, and rank, allowed tokens only."""
    return logits if allowed is None else jnp.where(allowed, logits, -jnp.inf)


def obeying(processed: Logits, plain: Logits, allowed: Allowed | None) -> Logits:
    """The processed logits of allowed tokens.

    Where other rules (a least length, forced or forbidden tokens) leave none of them, the row is as if there were no
    other rules: an output is valid before it is anything else.

    Args:
        processed: the logits after the other rules.
        plain: before them.
        allowed: which tokens may come; None for all.
    """
    if allowed is None:
        return processed
    kept = only_allowed(processed, allowed)
    nothing = jnp.all(jnp.isneginf(kept), axis=-1, keepdims=True)
    return jnp.where(jnp.broadcast_to(nothing, kept.shape), only_allowed(plain, allowed), kept)
