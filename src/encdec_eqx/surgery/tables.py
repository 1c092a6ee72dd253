"""Tables and heads with another number of token ids. Knows nothing of encoders and decoders."""

import jax
import jax.numpy as jnp

from .._typing import Array, PRNGKey
from ..layers.linear import Embedding


def resize_tokens(table: Embedding, number: int, scale: float, key: PRNGKey) -> Embedding:
    """The table with `number` rows: the first rows kept, further ones normal with standard deviation `scale`.

    Raises:
        ValueError: the padding row would be cut off.
    """
    if table.padding_idx is not None and table.padding_idx >= number:
        raise ValueError(
            f"a table of {number} tokens has no row for this model's padding id {table.padding_idx}; keep at least "
            f"{table.padding_idx + 1} rows."
        )
    return Embedding(resize_rows(table.weight, number, scale, key), table.padding_idx)


def resize_rows(rows: Array, number: int, scale: float, key: PRNGKey) -> Array:
    """The first `number` rows of an array, followed by fresh ones if it has fewer."""
    missing = number - rows.shape[0]
    if missing <= 0:
        return rows[:number]
    fresh = scale * jax.random.normal(key, (missing, *rows.shape[1:]), jnp.float32)
    return jnp.concatenate([rows, fresh.astype(rows.dtype)])
