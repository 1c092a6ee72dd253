"""Multi-head attention: the projections and the weighted sum. Knows no caches; who may attend comes as a mask."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Integer

from .._typing import Array, PRNGKey
from .dropout import Dropout
from .linear import AbstractLinear, Embedding
from .positions import relative_scores, rotated

Heads = Float[Array, "batch heads keys head_dim"]
Folded = Float[Array, "batch_heads keys head_dim"]


def attend(
    q: Float[Array, "batch heads queries head_dim"],
    k: Float[Array, "batch*heads keys head_dim"],
    v: Float[Array, "batch*heads keys head_dim"],
    *,
    mask: Bool[Array, "#batch 1 #queries #keys"] | None,
    scale: Float[Array, ""] | float,
    relative: Float[Array, "batch heads queries keys"] | None = None,
    bias: Float[Array, "1 heads queries keys"] | None = None,
    dropout: Dropout,
    key: PRNGKey | None,
) -> tuple[Float[Array, "batch queries heads*head_dim"], Float[Array, "batch heads queries keys"]]:
    """Scaled dot-product attention (Vaswani et al. 2017), scores and softmax in float32.

    A query that may attend to nothing gets zeros, never NaN.

    Args:
        q: queries.
        k: keys, batch and heads in one axis.
        v: values, likewise.
        mask: who may attend to whom.
        scale: factor on the scores.
        relative: added to the scores before they are scaled.
        bias: added after.
        dropout: of the weights.
        key: turns dropout on.

    Returns:
        The heads side by side, and the attention weights (float32, after dropout, as torch reports them).
    """
    folded = jnp.einsum("nqe,nke->nqk", fold(q), k, preferred_element_type=jnp.float32)
    scores = folded.reshape(*q.shape[:3], k.shape[1])
    scores = (scores if relative is None else scores + relative) * scale
    scores = scores if bias is None else scores + jnp.broadcast_to(bias, scores.shape)
    weights = dropout(_masked_softmax(scores, mask), key=key)
    context = jnp.einsum("nqk,nke->nqe", fold(weights).astype(v.dtype), v)
    side_by_side = jnp.moveaxis(context.reshape(*q.shape[:3], v.shape[2]), 1, 2)
    return side_by_side.reshape(*side_by_side.shape[:2], -1), weights


def fold(x: Float[Array, "batch heads queries size"]) -> Float[Array, "batch*heads queries size"]:
    """Batch and heads in one axis."""
    return x.reshape(-1, *x.shape[2:])


def _masked_softmax(
    scores: Float[Array, "batch heads queries keys"], mask: Bool[Array, "#batch 1 #queries #keys"] | None
) -> Float[Array, "batch heads queries keys"]:
    if mask is not None:
        mask = jnp.broadcast_to(mask, scores.shape)
        scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
    # the shift cancels, so no gradient needs to flow through it
    powers = jnp.exp(scores - jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True)))
    if mask is not None:
        powers = jnp.where(mask, powers, 0.0)
    total = jnp.sum(powers, axis=-1, keepdims=True)
    # only a row that sees nothing has a total of 0; a floor at 1 would halve the gradient of rows that see one key
    return powers / jnp.where(total == 0.0, 1.0, total)


class SelfAttention(eqx.Module):
    """Attention of a sequence to itself, its projections fused in one matrix."""

    qkv: AbstractLinear
    out: AbstractLinear
    distances: Embedding | None
    dropout: Dropout
    relative_keys: bool = eqx.field(static=True)
    rotate_values: bool = eqx.field(static=True)

    def project(
        self, x: Float[Array, "batch queries hidden"], angles: Float[Array, "batch queries head_dim"] | None = None
    ) -> tuple[Heads, Folded, Folded]:
        """Queries, keys and values of `x`, rotated by `angles` if there are any.

        Keys and values have batch and heads in one axis, as a cache has them.
        """
        q, k, v = jnp.moveaxis(self.qkv(x), (2, 3), (0, 2))
        if angles is not None:
            q, k = rotated(q, angles), rotated(k, angles)
            v = rotated(v, angles) if self.rotate_values else v
        return q, fold(k), fold(v)

    def __call__(
        self,
        q: Float[Array, "batch heads queries head_dim"],
        k: Folded,
        v: Folded,
        *,
        mask: Bool[Array, "#batch 1 #queries #keys"] | None,
        scale: Float[Array, ""] | float,
        behind: Integer[Array, "queries keys"],
        bias: Float[Array, "1 heads queries keys"] | None,
        key: PRNGKey | None,
    ) -> tuple[Float[Array, "batch queries hidden"], Float[Array, "batch heads queries keys"]]:
        """The output and the attention weights; key k lies `behind[q, k]` slots behind query q."""
        relative = None
        if self.distances is not None:
            relative = relative_scores(
                self.distances, q, k.reshape(*q.shape[:2], *k.shape[1:]), behind=behind, with_keys=self.relative_keys
            )
        context, weights = attend(
            q, k, v, mask=mask, scale=scale, relative=relative, bias=bias, dropout=self.dropout, key=key
        )
        return self.out(context), weights


class CrossAttention(eqx.Module):
    """Attention of decoder positions to encoder states, whose keys and values are computed once a sentence."""

    q: AbstractLinear
    kv: AbstractLinear
    out: AbstractLinear
    dropout: Dropout

    def keys_values(self, states: Float[Array, "batch source cross"]) -> tuple[Heads, Heads]:
        """Keys and values of the encoder states."""
        kv = jnp.moveaxis(self.kv(states), (2, 3), (0, 2))
        return kv[0], kv[1]

    def __call__(
        self,
        x: Float[Array, "rows queries hidden"],
        k: Heads,
        v: Heads,
        *,
        mask: Bool[Array, "#batch 1 1 keys"] | None,
        scale: Float[Array, ""] | float,
        key: PRNGKey | None,
    ) -> tuple[Float[Array, "rows queries hidden"], Float[Array, "rows heads queries keys"]]:
        """The output and the attention weights.

        Several rows may belong to one sentence (its beams or samples, side by side): their queries are folded into one
        longer set, so that keys and values are neither tiled nor reordered.
        """
        rows, queries, hidden = x.shape
        folded = x.reshape(k.shape[0], -1, hidden)
        q = jnp.moveaxis(self.q(folded), 2, 1)
        context, weights = attend(q, fold(k), fold(v), mask=mask, scale=scale, dropout=self.dropout, key=key)
        out = self.out(context).reshape(rows, queries, hidden)
        return out, _unfold(weights, rows)


def _unfold(weights: Float[Array, "batch heads folded keys"], rows: int) -> Float[Array, "rows heads queries keys"]:
    batch, heads, folded, keys = weights.shape
    per_sentence = rows // batch
    split = weights.reshape(batch, heads, per_sentence, folded // per_sentence, keys)
    return jnp.moveaxis(split, 2, 1).reshape(rows, heads, folded // per_sentence, keys)
