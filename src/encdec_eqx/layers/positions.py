"""Where tokens stand: default position ids, sinusoids, rotations, relative positions."""

import math

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


def slots_behind(queries: int, keys: int, start: Integer[Array, ""] | int) -> Integer[Array, "queries keys"]:
    """How many slots each key lies behind each query; queries sit in slots from `start` on, keys in those from 0 on."""
    return start + jnp.arange(queries, dtype=jnp.int32)[:, None] - jnp.arange(keys, dtype=jnp.int32)[None, :]


def relative_scores(
    distances: Embedding,
    q: Float[Array, "batch heads queries head_dim"],
    k: Float[Array, "batch heads keys head_dim"],
    *,
    behind: Integer[Array, "queries keys"],
    with_keys: bool,
) -> Float[Array, "batch heads queries keys"]:
    """Products of queries (and keys) with an embedding of their distance, to be added to the scores.

    Shaw et al. 2018, and with keys Huang et al. 2020 (method 4). Distances are between slots, so they do not depend on
    position ids.

    Args:
        distances: the table; row `longest - 1 + d` belongs to distance d.
        q: the queries.
        k: the keys.
        behind: how far each key lies behind each query.
        with_keys: whether keys are multiplied with the table too.
    """
    longest = (distances.weight.shape[0] + 1) // 2
    table = distances(behind + (longest - 1)).astype(q.dtype)
    scores = jnp.einsum("bhqe,qke->bhqk", q, table, preferred_element_type=jnp.float32)
    if with_keys:
        scores = scores + jnp.einsum("bhke,qke->bhqk", k, table, preferred_element_type=jnp.float32)
    return scores


def rotated(
    x: Float[Array, "batch heads queries head_dim"], angles: Float[Array, "batch queries head_dim"]
) -> Float[Array, "batch heads queries head_dim"]:
    """Each pair of neighbouring entries rotated (RoPE; Su et al. 2021).

    Args:
        x: queries, keys or values.
        angles: of each position, the sines of its pairs' angles and then their cosines.
    """
    sines, cosines = (jnp.repeat(part, 2, axis=-1)[:, None] for part in jnp.split(angles.astype(x.dtype), 2, axis=-1))
    turned = jnp.stack([-x[..., 1::2], x[..., ::2]], axis=-1).reshape(x.shape)
    return x * jnp.broadcast_to(cosines, x.shape) + turned * jnp.broadcast_to(sines, x.shape)


def bucketed_bias(
    table: Embedding,
    behind: Integer[Array, "queries keys"],
    *,
    buckets: int,
    max_distance: int,
) -> Float[Array, "1 heads queries keys"]:
    """The bias of each head for the distance between two slots, in float32 (Raffel et al. 2020).

    Args:
        table: a row a bucket, an entry a head.
        behind: how far each key lies behind each query.
        buckets: how many there are, half of them for keys ahead of the query.
        max_distance: distances from here on share the last bucket.
    """
    rows = table(_bucket(behind, buckets // 2, max_distance)).astype(jnp.float32)
    return jnp.moveaxis(rows, -1, 0)[None]


def _bucket(behind: Integer[Array, "queries keys"], buckets: int, max_distance: int) -> Integer[Array, "queries keys"]:
    exact = buckets // 2
    distance = jnp.abs(behind)
    far = jnp.log(jnp.maximum(distance, 1).astype(jnp.float32) / exact) / math.log(max_distance / exact)
    logarithmic = jnp.minimum(exact + (far * (buckets - exact)).astype(jnp.int32), buckets - 1)
    return jnp.where(behind < 0, buckets, 0) + jnp.where(distance < exact, distance, logarithmic)
