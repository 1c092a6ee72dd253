"""Where tokens stand: default position ids, distances between slots, and scores by embeddings of distances."""

import jax.numpy as jnp
from jaxtyping import Float, Integer

from .._typing import Array
from .linear import Embedding


def arange_positions(batch: int, length: int, start: Integer[Array, ""] | int) -> Integer[Array, "batch length"]:
    """Positions start, start + 1, … in every row, whatever the mask."""
    return jnp.broadcast_to(start + jnp.arange(length, dtype=jnp.int32)[None, :], (batch, length))


def non_padding_positions(
    ids: Integer[Array, "batch length"], counted: Integer[Array, " batch"], padding_idx: int
) -> tuple[Integer[Array, "batch length"], Integer[Array, " batch"]]:
    """RoBERTa's rule: tokens other than padding are counted from `padding_idx + 1`; padding sits at `padding_idx`.

    Args:
        ids: the token ids.
        counted: real tokens of each row before these.
        padding_idx: the id of padding.

    Returns:
        The positions, and the number of real tokens of each row so far.
    """
    real = (ids != padding_idx).astype(jnp.int32)
    running = jnp.cumsum(real, axis=1, dtype=jnp.int32) + counted[:, None]
    return running * real + padding_idx, counted + jnp.sum(real, axis=1, dtype=jnp.int32)


def relative_positions(queries: int, keys: int, start: Integer[Array, ""] | int) -> Integer[Array, "queries keys"]:
    """How many slots each key lies behind each query; queries sit in slots from `start` on, keys in those from 0 on."""
    return start + jnp.arange(queries, dtype=jnp.int32)[:, None] - jnp.arange(keys, dtype=jnp.int32)[None, :]


def relative_scores(
    distances: Embedding,
    q: Float[Array, "batch heads queries head_dim"],
    k: Float[Array, "batch heads keys head_dim"],
    *,
    relative_position: Integer[Array, "queries keys"],
    with_keys: bool,
) -> Float[Array, "batch heads queries keys"]:
    """Products of queries (and keys) with an embedding of the distance between them, to be added to the scores.

    Shaw et al. 2018, and with keys Huang et al. 2020 (method 4). Distances are between slots, so they do not depend on
    position ids.

    Args:
        distances: the embedding; row `longest - 1 + d` belongs to distance d.
        q: the queries.
        k: the keys.
        relative_position: how far each key lies behind each query.
        with_keys: whether keys are multiplied with it too.
    """
    longest = (distances.weight.shape[0] + 1) // 2
    table = distances(relative_position + (longest - 1)).astype(q.dtype)
    scores = jnp.einsum("bhqe,qke->bhqk", q, table, preferred_element_type=jnp.float32)
    if with_keys:
        scores = scores + jnp.einsum("bhke,qke->bhqk", k, table, preferred_element_type=jnp.float32)
    return scores
