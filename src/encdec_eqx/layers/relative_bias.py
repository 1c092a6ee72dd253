"""A learned bias per head for each bucket of relative positions, added to attention scores (Raffel et al. 2020)."""

import bisect
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Integer

from .._typing import Array, PRNGKey
from .validation import part_config, positive


@part_config
class RelativeBiasConfig:
    """Which relative positions share a bias. Small distances have a bucket each, larger ones by their logarithm.

    Attributes:
        entries: rows of the table.
        buckets: how many of them relative positions are sorted into.
        max_distance: distances from here on share the last bucket.
        bidirectional: whether half of the buckets are for keys ahead of the query (encoders, MPNet); otherwise all are
            for keys behind it, and keys ahead share the bucket of distance 0 (T5's decoder).
        shared: whether all layers add the same bias (T5), or each has a table of its own (UMT5).
    """

    entries: int = 32
    buckets: int = 32
    max_distance: int = 128
    bidirectional: bool = True
    shared: bool = True

    def __post_init__(self):
        positive(self, "entries", "buckets", "max_distance")
        if self.buckets > self.entries:
            raise ValueError(
                f"RelativeBiasConfig.buckets is {self.buckets} and entries {self.entries}; expected a row a bucket."
            )
        exact = self.buckets // (4 if self.bidirectional else 2)
        if not 0 < exact < self.max_distance:
            raise ValueError(
                f"RelativeBiasConfig.buckets is {self.buckets} and max_distance {self.max_distance}: {exact} distances "
                "have a bucket of their own; expected at least one, and a larger max_distance."
            )


class RelativeBias(eqx.Module):
    """The table of biases, and how relative positions are sorted into its rows."""

    weight: Float[Array, "entries heads"]
    config: RelativeBiasConfig = eqx.field(static=True)

    def __call__(self, relative_position: Integer[Array, "queries keys"]) -> Float[Array, "1 heads queries keys"]:
        """The bias of each head in float32; `relative_position` is how far each key lies behind each query."""
        rows = jnp.take(self.weight, bucket(self.config, relative_position), axis=0, mode="clip")
        return jnp.moveaxis(rows.astype(jnp.float32), -1, 0)[None]

    @classmethod
    def init(cls, config: RelativeBiasConfig, num_heads: int, *, scale: float, key: PRNGKey) -> "RelativeBias":
        """Normal biases of standard deviation `scale`."""
        return cls(scale * jax.random.normal(key, (config.entries, num_heads)), config)


def bucket(
    config: RelativeBiasConfig, relative_position: Integer[Array, "queries keys"]
) -> Integer[Array, "queries keys"]:
    """The row of the table for keys that lie so far behind their query, or ahead of it where negative."""
    count = config.buckets // 2 if config.bidirectional else config.buckets
    exact = count // 2
    distance = jnp.abs(relative_position) if config.bidirectional else jnp.maximum(relative_position, 0)
    edges = jnp.asarray(_edges(count, config.max_distance))
    logarithmic = exact + jnp.sum(distance[..., None] >= edges[None, None], axis=-1, dtype=distance.dtype)
    ahead = jnp.where(relative_position < 0, count, 0) if config.bidirectional else 0
    return ahead + jnp.where(distance < exact, distance, logarithmic)


def _edges(buckets: int, max_distance: int) -> Integer[np.ndarray, " edges"]:
    """The smallest distance of each bucket after the first of the logarithmic ones.

    Found on the host by the reference's rule, which truncates a float32 logarithm: on the device the last bit of the
    logarithm, which decides on which side of an edge a distance falls, would be the backend's.
    """
    exact = buckets // 2
    width, number = np.float32(math.log(max_distance / exact)), np.float32(buckets - exact)

    def place(distance: int) -> int:
        return int(np.log(np.float32(distance) / np.float32(exact)) / width * number)

    distances = range(exact, 2 * max_distance)
    edges = [exact + bisect.bisect_left(distances, step, key=place) for step in range(1, buckets - exact)]
    return np.asarray(edges, np.int32)
