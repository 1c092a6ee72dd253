"""Attention whose scores have terms between contents and relative positions (DeBERTa; He et al. 2021).

A mechanism of its own beside `attention`: its config makes its modules, and what all layers share is the embedding of
relative positions, which every layer projects to queries and keys.
"""

import bisect
import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Integer

from .._typing import Array, PRNGKey
from .attention import AbstractSelfAttention, AttentionConfig, Backends, Heads
from .context import AttentionContext, AttentionMask
from .linear import AbstractLinear, Dropout, Embedding, Linear
from .norm import AbstractNorm, LayerNormConfig, RMSNormConfig, init_norm
from .relative_bias import RelativeBias
from .validation import part_config, positive, rate


@part_config
class DisentangledConfig:
    """Which row of the position embedding belongs to a relative position.

    Attributes:
        span: half of its rows: positions from -span to span - 1 have one each.
        max_distance: with `buckets`, the distance whose logarithm falls into the last bucket.
        buckets: whether distances beyond span / 2 are sorted by their logarithm, as in DeBERTa v3; otherwise every
            distance stands for itself. What lies beyond the embedding takes its first or last row.
    """

    span: int
    max_distance: int
    buckets: bool = True

    def __post_init__(self):
        positive(self, "span", "max_distance")
        if self.buckets and not 1 <= self.span // 2 < self.max_distance - 1:
            raise ValueError(
                f"DisentangledConfig.span is {self.span} and max_distance {self.max_distance}; with buckets, expected "
                "a span of at least 2 and a max_distance above span / 2 + 1."
            )


def position_rows(
    config: DisentangledConfig, relative_position: Integer[Array, "queries keys"]
) -> Integer[Array, "queries keys"]:
    """The embedding's row for each query and key; `relative_position` is how far the key lies behind the query."""
    place = relative_position
    if config.buckets:
        middle, distance = config.span // 2, jnp.abs(relative_position)
        # by halves: of 512 x 512 distances and v3's 130 edges, comparing all takes 119 ms on a CPU, and this 8 ms
        beyond = jnp.searchsorted(jnp.asarray(_edges(middle, config.max_distance)), distance, side="right")
        far = middle + beyond.astype(place.dtype)
        place = jnp.where(distance <= middle, place, jnp.sign(place) * far)
    return jnp.clip(place + config.span, 0, 2 * config.span - 1)


@functools.cache
def _edges(middle: int, max_distance: int) -> Integer[np.ndarray, " edges"]:
    """The smallest distance of each bucket beyond the middle, found on the host as those of `relative_bias` are."""
    width = np.log(np.float32((max_distance - 1) / middle))

    def step(distance: int) -> int:
        return math.ceil(np.log(np.float32(distance) / np.float32(middle)) / width * np.float32(middle - 1))

    distances = range(middle, 2**24)  # whole numbers that float32 holds
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
        position_keys: keys of the relative positions, which queries are multiplied with (content to position).
        position_queries: queries of the relative positions, which keys are multiplied with (position to content).
        rows: which relative position each query and key has.
    """
    scores = jnp.zeros((*q.shape[:3], k.shape[2]), jnp.float32)
    if position_keys is not None:
        to_rows = jnp.einsum("bhqe,hpe->bhqp", q, position_keys, preferred_element_type=jnp.float32)
        scores = scores + jnp.take_along_axis(to_rows, rows[None, None], axis=-1)
    if position_queries is not None:
        to_rows = jnp.einsum("bhke,hpe->bhkp", k, position_queries, preferred_element_type=jnp.float32)
        scores = scores + jnp.swapaxes(jnp.take_along_axis(to_rows, rows.T[None, None], axis=-1), 2, 3)
    return scores


@part_config
class DisentangledAttentionConfig(AttentionConfig):
    """Attention with terms of content and position beside those of content alone.

    The score scale belongs to the layers: 1 / sqrt(head_dim · (1 + number of terms)).

    Attributes:
        rows: which row of the position embedding belongs to a relative position.
        content_to_position: whether queries of contents meet keys of positions.
        position_to_content: whether queries of positions meet keys of contents.
        own_projections: whether positions have projections of their own, with biases, or those of the contents.
        embedding_norm: norm of the position embedding.
        embedding_dropout: rate of dropout on it, drawn by every layer.
    """

    rows: DisentangledConfig
    content_to_position: bool = True
    position_to_content: bool = True
    own_projections: bool = False
    embedding_norm: LayerNormConfig | RMSNormConfig | None = None
    embedding_dropout: float = 0.0

    def __post_init__(self):
        AttentionConfig.__post_init__(self)
        rate(self, "embedding_dropout")
        others = self.rotary or self.qk_norm or self.relative_bias or self.alibi or self.relative_positions != "none"
        if others or self.kv_heads != self.num_heads or len(set(self.biases)) > 1:
            raise ValueError(
                "DisentangledAttentionConfig has positions of its own and one matrix for queries, keys and values: "
                "leave rotary, qk_norm, relative_bias, alibi, relative_positions, num_kv_heads, and biases apart."
            )

    def init_self(
        self,
        hidden_size: int,
        *,
        max_positions: int,
        window: int | None,
        rotary: int | None,
        scale: float,
        key: PRNGKey,
    ) -> "DisentangledSelfAttention":
        """See `AttentionConfig.init_self`."""
        qkv_key, out_key, *position_keys = jax.random.split(key, 4)
        heads, size = self.num_heads, self.head_dim

        def project(wanted: bool, key: PRNGKey) -> Linear | None:
            return Linear.init(hidden_size, heads, size, scale=scale, key=key) if wanted else None

        return DisentangledSelfAttention(
            qkv=Linear.init(hidden_size, 3, heads, size, scale=scale, bias=self.biases[0], key=qkv_key),
            out=Linear.init(heads * size, hidden_size, scale=scale, bias=self.out_bias, key=out_key),
            position_key=project(self.own_projections and self.content_to_position, position_keys[0]),
            position_query=project(self.own_projections and self.position_to_content, position_keys[1]),
            dropout=Dropout(self.dropout),
            config=self,
            window=window,
        )

    def init_shared(self, hidden_size: int, *, scale: float, key: PRNGKey) -> "PositionEmbedding":
        """The embedding of relative positions."""
        weight = scale * jax.random.normal(key, (2 * self.rows.span, hidden_size))
        return PositionEmbedding(
            weight, None if self.embedding_norm is None else init_norm(self.embedding_norm, hidden_size)
        )


class PositionEmbedding(eqx.Module):
    """One row per relative position, normed where the config has it so."""

    weight: Float[Array, "positions hidden"]
    norm: AbstractNorm | None

    def __call__(self) -> Float[Array, "positions hidden"]:
        """All rows."""
        return self.weight if self.norm is None else self.norm(self.weight)


class DisentangledSelfAttention(AbstractSelfAttention):
    """Self-attention with those terms; `context.shared` is the position embedding."""

    qkv: AbstractLinear
    out: AbstractLinear
    position_key: AbstractLinear | None
    position_query: AbstractLinear | None
    dropout: Dropout
    config: DisentangledAttentionConfig = eqx.field(static=True)  # pyright: ignore[reportIncompatibleVariableOverride]
    window: int | None = eqx.field(static=True)
    distances: Embedding | None = None
    relative_bias: RelativeBias | None = None
    q_norm: AbstractNorm | None = None
    k_norm: AbstractNorm | None = None
    rotary: int | None = None
    backends: Backends = eqx.field(static=True, default=None)

    def _queries_keys_values(self, x: Float[Array, "batch queries hidden"]) -> tuple[Array, Array, Array]:
        q, k, v = jnp.moveaxis(self.qkv(x), (2, 3), (0, 2))
        return q, k, v

    def _relative(
        self,
        q: Heads,
        k: Float[Array, "batch kv_heads keys head_dim"],
        context: AttentionContext,
        key: PRNGKey | None,
    ) -> Float[Array, "batch heads queries keys"] | None:
        embedding_key = None if key is None else jax.random.fold_in(key, 0)
        positions = Dropout(self.config.embedding_dropout)(context.shared(), key=embedding_key)
        queries, keys = self._projected(positions)
        return disentangled_scores(
            q,
            k,
            position_keys=keys if self.config.content_to_position else None,
            position_queries=queries if self.config.position_to_content else None,
            rows=position_rows(self.config.rows, context.relative_position),
        )

    def _projected(self, positions: Float[Array, "positions hidden"]) -> tuple[Array | None, Array | None]:
        """Queries and keys of the relative positions, heads first."""
        if not self.config.own_projections:
            q, k, _ = jnp.moveaxis(self.qkv(positions), (1, 2), (0, 1))
            return q, k
        project = (self.position_query, self.position_key)
        q, k = (None if each is None else jnp.moveaxis(each(positions), 1, 0) for each in project)
        return q, k

    def backend(
        self, hidden: jax.ShapeDtypeStruct, mask: AttentionMask, *, bias: bool, scale: float, dropout: bool
    ) -> str:
        """See `AbstractSelfAttention.backend`."""
        return "reference: it has relative positions"
