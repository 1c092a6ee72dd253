"""The common transformer layer: self-attention, optional cross-attention, feed-forward; post- or pre-norm.

Knows nothing of the other layers of its stack, nor of how caches are arranged between them.
"""

import math

import equinox as eqx
import jax
from jaxtyping import Bool, Float, Int32, Integer

from .._typing import Array, PRNGKey
from ..cache import CrossKV, SelfKV
from ..config import LayerSpec, StackConfig
from ..layers.attention import CrossAttention, SelfAttention
from ..layers.dropout import Dropout, split_key
from ..layers.feed_forward import MLP, GatedMLP, init_feed_forward
from ..layers.linear import Embedding, Linear
from ..layers.norm import AbstractNorm, Placement, init_norm


class BlockOutput(eqx.Module):
    """What one layer returns.

    Attributes:
        hidden: the residual stream after the layer.
        self_kv: keys and values of all slots: the cache's with the new ones written, or just the new ones.
        new_kv: keys and values of this call's tokens alone.
        self_attention: attention weights of self-attention.
        cross_attention: attention weights of cross-attention, if the layer attended to encoder states.
    """

    hidden: Float[Array, "rows queries hidden"]
    self_kv: SelfKV
    new_kv: SelfKV
    self_attention: Float[Array, "rows heads queries keys"]
    cross_attention: Float[Array, "rows heads queries source"] | None


class Block(eqx.Module):
    """One layer. `norm_placement` "post" is x = norm(x + f(x)), "pre" is x = x + f(norm(x))."""

    self_attention: SelfAttention
    self_norm: AbstractNorm
    cross_attention: CrossAttention | None
    cross_norm: AbstractNorm | None
    feed_forward: MLP | GatedMLP
    feed_forward_norm: AbstractNorm
    dropout: Dropout
    norm_placement: Placement = eqx.field(static=True)

    def __call__(
        self,
        x: Float[Array, "rows queries hidden"],
        *,
        scale: Float[Array, ""] | float,
        self_mask: Bool[Array, "#rows 1 #queries #keys"] | None,
        self_bias: Float[Array, "1 heads queries keys"] | None,
        behind: Integer[Array, "queries keys"],
        angles: Float[Array, "rows queries head_dim"] | None,
        past: SelfKV | None,
        start: Int32[Array, ""] | int,
        cross_kv: CrossKV | None,
        cross_mask: Bool[Array, "batch 1 1 source"] | None,
        key: PRNGKey | None,
    ) -> BlockOutput:
        """Run the layer.

        Args:
            x: the residual stream of the new tokens.
            scale: factor on the attention scores.
            self_mask: which keys each query may attend to.
            self_bias: added to the scores of self-attention.
            behind: how many slots each key lies behind each query.
            angles: by which self-attention rotates the new tokens' queries and keys.
            past: keys and values of earlier tokens, with room for the new ones.
            start: slot of the first new token.
            cross_kv: keys and values of the encoder states; without them cross-attention is skipped.
            cross_mask: which source positions may be attended.
            key: turns dropout on.
        """
        keys = split_key(key, 6)
        kept: dict = {}

        def attend_to_self(h: Array) -> Array:
            q, k, v = self.self_attention.project(h, angles)
            kept["new"] = SelfKV(k, v)
            kept["all"] = kept["new"] if past is None else past.write(kept["new"], start)
            out, kept["self"] = self.self_attention(
                q,
                kept["all"].k,
                kept["all"].v,
                mask=self_mask,
                scale=scale,
                behind=behind,
                bias=self_bias,
                key=keys[0],
            )
            return out

        x = self._residual(x, self.self_norm, attend_to_self, keys[1])
        if self.cross_attention is not None and self.cross_norm is not None and cross_kv is not None:
            attention = self.cross_attention

            def attend_to_source(h: Array) -> Array:
                out, kept["cross"] = attention(h, cross_kv.k, cross_kv.v, mask=cross_mask, scale=scale, key=keys[2])
                return out

            x = self._residual(x, self.cross_norm, attend_to_source, keys[3])
        x = self._residual(x, self.feed_forward_norm, lambda h: self.feed_forward(h, key=keys[5]), keys[4])
        return BlockOutput(x, kept["all"], kept["new"], kept["self"], kept.get("cross"))

    def _residual(self, x: Array, norm: AbstractNorm, sublayer, key: PRNGKey | None) -> Array:
        if self.norm_placement == "pre":
            return x + self.dropout(sublayer(norm(x)), key=key).astype(x.dtype)
        return norm(x + self.dropout(sublayer(x), key=key).astype(x.dtype))

    def cross_kv(self, states: Float[Array, "batch source cross"]) -> CrossKV | None:
        """Keys and values of the encoder states for this layer; `None` if it has no cross-attention."""
        if self.cross_attention is None:
            return None
        return CrossKV(*self.cross_attention.keys_values(states))

    @classmethod
    def init(cls, config: StackConfig, spec: LayerSpec, *, key: PRNGKey) -> "Block":
        """Normal weights of standard deviation `config.initializer_range`, zero biases, unit norms."""
        self_key, cross_key, up_key, down_key = jax.random.split(key, 4)
        size, scale = config.hidden_size, config.initializer_range

        def norm() -> AbstractNorm:
            return init_norm(config.norm, size)

        return cls(
            self_attention=_init_self_attention(config, self_key),
            self_norm=norm(),
            cross_attention=_init_cross_attention(config, cross_key) if spec.cross_attention else None,
            cross_norm=norm() if spec.cross_attention else None,
            feed_forward=init_feed_forward(config.feed_forward, size, scale=scale, keys=(up_key, down_key)),
            feed_forward_norm=norm(),
            dropout=Dropout(config.dropout),
            norm_placement=config.norm.placement,
        )


def score_scale(config: StackConfig, spec: LayerSpec) -> float:
    """The layer's factor on attention scores."""
    return 1.0 / math.sqrt(config.attention.head_dim) if spec.score_scale is None else spec.score_scale


def _init_self_attention(config: StackConfig, key: PRNGKey) -> SelfAttention:
    heads, head_dim, scale = config.attention.num_heads, config.attention.head_dim, config.initializer_range
    qkv_key, out_key, distance_key = jax.random.split(key, 3)
    relative = config.attention.relative_positions
    distances = 2 * config.positions.max_positions - 1
    return SelfAttention(
        qkv=Linear.init(
            config.hidden_size, 3, heads, head_dim, scale=scale, bias=config.attention.qkv_bias, key=qkv_key
        ),
        out=Linear.init(heads * head_dim, config.hidden_size, scale=scale, key=out_key),
        distances=None if relative == "none" else Embedding.init(distances, head_dim, scale=scale, key=distance_key),
        dropout=Dropout(config.attention.dropout),
        relative_keys=relative == "key_query",
        rotate_values=config.attention.rotate_values,
    )


def _init_cross_attention(config: StackConfig, key: PRNGKey) -> CrossAttention:
    heads, head_dim, scale = config.attention.num_heads, config.attention.head_dim, config.initializer_range
    bias = config.attention.qkv_bias
    q_key, kv_key, out_key = jax.random.split(key, 3)
    return CrossAttention(
        q=Linear.init(config.hidden_size, heads, head_dim, scale=scale, bias=bias, key=q_key),
        kv=Linear.init(config.cross_width, 2, heads, head_dim, scale=scale, bias=bias, key=kv_key),
        out=Linear.init(heads * head_dim, config.hidden_size, scale=scale, key=out_key),
        dropout=Dropout(config.attention.dropout),
    )
