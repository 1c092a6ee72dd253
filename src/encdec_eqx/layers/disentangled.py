"""Scores between contents and relative positions, each with a projection of its own (DeBERTa; He et al. 2021)."""

import bisect
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Integer

from .._typing import Array
from .validation import part_config, positive


@part_config
class DisentangledConfig:
    """Which row of the position table belongs to a relative position.

    Attributes:
        span: half of the table's rows: positions from -span to span - 1 have one each.
        max_distance: with `buckets`, the distance whose logarithm falls into the last bucket.
        buckets: whether distances beyond span / 2 are sorted by their logarithm, as in DeBERTa v3; otherwise every
            distance stands for itself. What lies beyond the table takes its first or last row.
    """

    span: int
    max_distance: int
    buckets: bool = True

    def __post_init__(self):
        positive(self, "span", "max_distance")
        if self.buckets and not 2 <= self.span // 2 < self.max_distance - 1:
            raise ValueError(
                f"DisentangledConfig.span is {self.span} and max_distance {self.max_distance}; with buckets, expected "
                "a span of at least 4 and a max_distance above span / 2 + 1."
            )


def position_rows(
    config: DisentangledConfig, relative_position: Integer[Array, "queries keys"]
) -> Integer[Array, "queries keys"]:
    """The table's row for each query and key; `relative_position` is how far the key lies behind the query."""
    place = relative_position
    if config.buckets:
        middle, distance = config.span // 2, jnp.abs(relative_position)
        edges = jnp.asarray(_edges(middle, config.max_distance))
        far = middle + jnp.sum(distance[..., None] >= edges[None, None], axis=-1, dtype=place.dtype)
        place = jnp.where(distance <= middle, place, jnp.sign(place) * far)
    return jnp.clip(place + config.span, 0, 2 * config.span - 1)


def _edges(middle: int, max_distance: int) -> Integer[np.ndarray, " edges"]:
    """The smallest distance of each bucket beyond the middle, found on the host as those of `relative_bias` are."""
    width = np.log(np.float32((max_distance - 1) / middle))

    def step(distance: int) -> int:
        return math.ceil(np.log(np.float32(distance) / np.float32(middle)) / width * np.float32(middle - 1))

    distances = range(middle, 4 * max_distance)
    return np.asarray([middle + bisect.bisect_left(distances, at, key=step) for at in range(1, middle + 2)], np.int32)


def disentangled_scores(
    q: Float[Array, "batch heads queries head_dim"],
    k: Float[Array, "batch heads keys head_dim"],
    *,
    position_keys: Float[Array, "heads positions head_dim"] | None,
    position_queries: Float[Array, "heads positions head_dim"] | None,
    rows: Integer[Array, "queries keys"],
) -> Float[Array, "batch heads queries keys"]:
    """What is added to the products of contents before all are scaled, in float32.

    Args:
        q: queries of the contents.
        k: keys of the contents.
        position_keys: keys of the position table, which queries are multiplied with (content to position).
        position_queries: queries of the position table, which keys are multiplied with (position to content).
        rows: the table's row for each query and key.
    """
    scores = jnp.zeros((*q.shape[:3], k.shape[2]), jnp.float32)
    if position_keys is not None:
        to_rows = jnp.einsum("bhqe,hpe->bhqp", q, position_keys, preferred_element_type=jnp.float32)
        scores = scores + jnp.take_along_axis(to_rows, rows[None, None], axis=-1)
    if position_queries is not None:
        to_rows = jnp.einsum("bhke,hpe->bhkp", k, position_queries, preferred_element_type=jnp.float32)
        scores = scores + jnp.swapaxes(jnp.take_along_axis(to_rows, rows.T[None, None], axis=-1), 2, 3)
    return scores
