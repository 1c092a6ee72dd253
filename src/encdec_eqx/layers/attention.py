"""Multi-head attention of a sequence to itself and to encoder states: projections around `attend`."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Float

from .._typing import Array, PRNGKey
from ..cache import AbstractKV, CrossKV, SelfKV
from .attend import attend
from .context import AttentionContext, LayerContext
from .dropout import Dropout
from .linear import AbstractLinear, Embedding
from .positions import relative_scores, rotated


class AttentionOutput(eqx.Module):
    """What attention returns.

    Attributes:
        out: the heads' sum, to be added to the residual stream.
        kv: keys and values of all slots: the cache's with the new ones written, or just the new ones.
        new_kv: keys and values of this call's tokens alone.
        weights: attention weights, if they were asked for.
    """

    out: Float[Array, "rows queries hidden"]
    kv: AbstractKV
    new_kv: SelfKV
    weights: Float[Array, "rows heads queries keys"] | None


class SelfAttention(eqx.Module):
    """Attention of a sequence to itself, its projections fused in one matrix."""

    qkv: AbstractLinear
    out: AbstractLinear
    distances: Embedding | None
    dropout: Dropout
    relative_keys: bool = eqx.field(static=True)
    rotate_values: bool = eqx.field(static=True)
    window: int | None = eqx.field(static=True, default=None)

    def project(
        self, x: Float[Array, "batch queries hidden"], angles: Float[Array, "batch queries head_dim"] | None = None
    ) -> tuple[Float[Array, "batch heads queries head_dim"], SelfKV]:
        """Queries, keys and values of `x`, rotated by `angles` if there are any."""
        q, k, v = jnp.moveaxis(self.qkv(x), (2, 3), (0, 2))
        if angles is not None:
            q, k = rotated(q, angles), rotated(k, angles)
            v = rotated(v, angles) if self.rotate_values else v
        return q, SelfKV(k, v)

    def __call__(
        self,
        x: Float[Array, "rows queries hidden"],
        context: AttentionContext,
        layer: LayerContext,
        *,
        key: PRNGKey | None,
    ) -> AttentionOutput:
        """Attend to the new tokens, and to those in the cache if there is one."""
        q, new = self.project(x, context.angles)
        kv = new if layer.past is None else layer.past.write(new, context.start)
        attended, weights = attend(
            q,
            *kv.read(),
            mask=context.within(self.window),
            scale=layer.scale,
            relative=self._relative(q, kv, context),
            bias=context.bias,
            dropout=self.dropout,
            key=key,
            need_weights=context.need_weights,
        )
        return AttentionOutput(self.out(attended), kv, new, weights)

    def _relative(
        self, q: Float[Array, "rows heads queries head_dim"], kv: AbstractKV, context: AttentionContext
    ) -> Float[Array, "rows heads queries keys"] | None:
        if self.distances is None:
            return None
        k, _ = kv.read()
        assert context.relative_position is not None
        return relative_scores(self.distances, q, k, behind=context.relative_position, with_keys=self.relative_keys)


class CrossAttention(eqx.Module):
    """Attention of decoder positions to encoder states, whose keys and values are computed once per source sequence."""

    q: AbstractLinear
    kv: AbstractLinear
    out: AbstractLinear
    dropout: Dropout

    def keys_values(self, states: Float[Array, "batch source cross"]) -> CrossKV:
        """Keys and values of the encoder states."""
        kv = jnp.moveaxis(self.kv(states), (2, 3), (0, 2))
        return CrossKV(kv[0], kv[1])

    def __call__(
        self,
        x: Float[Array, "rows queries hidden"],
        kv: CrossKV,
        context: AttentionContext,
        layer: LayerContext,
        *,
        key: PRNGKey | None,
    ) -> tuple[Float[Array, "rows queries hidden"], Float[Array, "rows heads queries keys"] | None]:
        """The output and the attention weights.

        Several rows may belong to one source sequence (its beams or samples, side by side): their queries are folded
        into one longer set, so that keys and values are neither tiled nor reordered.
        """
        rows, queries, hidden = x.shape
        folded = x.reshape(kv.k.shape[0], -1, hidden)
        attended, weights = attend(
            jnp.moveaxis(self.q(folded), 2, 1),
            kv.k,
            kv.v,
            mask=context.cross_mask,
            scale=layer.scale,
            dropout=self.dropout,
            key=key,
            need_weights=context.need_weights,
        )
        out = self.out(attended).reshape(rows, queries, hidden)
        return out, None if weights is None else _unfold(weights, rows)


def _unfold(weights: Float[Array, "batch heads folded keys"], rows: int) -> Float[Array, "rows heads queries keys"]:
    batch, heads, folded, keys = weights.shape
    per_source = rows // batch
    split = weights.reshape(batch, heads, per_source, folded // per_source, keys)
    return jnp.moveaxis(split, 2, 1).reshape(rows, heads, folded // per_source, keys)
