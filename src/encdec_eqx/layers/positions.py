"""What positions add: tables of sinusoids to embeddings, and embeddings of distances to scores."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Integer

from .._typing import Array
from .linear import Embedding


def sinusoids(kind: str, entries: int, size: int, *, zero_row: int | None = None) -> np.ndarray:
    """A table of sines and cosines of positions, in float32; `PositionsConfig.kind` says how they are arranged.

    Args:
        kind: one of `config.SINUSOIDS`.
        entries: rows of the table: positions 0, 1, …
        size: width.
        zero_row: a row that is zero instead (of padding).
    """
    half = (size + 1) // 2
    if kind == "sinusoidal_tensor2tensor":
        table = _tensor2tensor(entries, size)
    else:
        # twice the index of the frequency over the width, in float64, as the reference computes it
        angles = np.arange(entries)[:, None] / np.power(10000.0, 2 * np.arange(half) / size)
        table = np.empty((entries, size), np.float32)
        halves = kind == "sinusoidal_halves"
        sines, cosines = (slice(0, half), slice(half, None)) if halves else (slice(0, None, 2), slice(1, None, 2))
        table[:, sines] = np.sin(angles)
        table[:, cosines] = np.cos(angles[:, : size // 2])
    if zero_row is not None:
        table[zero_row] = 0.0
    return table


def _tensor2tensor(entries: int, size: int) -> np.ndarray:
    """In float32 throughout, as the reference computes it: the angles of far positions feel the rounding."""
    half = size // 2
    step = np.float32(math.log(10000.0) / max(half - 1, 1))
    frequencies = np.exp(np.arange(half, dtype=np.float32) * -step)
    angles = np.arange(entries, dtype=np.float32)[:, None] * frequencies[None, :]
    columns = (np.sin(angles), np.cos(angles), np.zeros((entries, size % 2), np.float32))
    return np.concatenate(columns, axis=1)


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
