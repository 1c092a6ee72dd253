"""The common transformer layer: self-attention, optional cross-attention, feed-forward, one after another."""

import math

import equinox as eqx
import jax
from jaxtyping import Float

from .._typing import Array, PRNGKey
from ..cache import AbstractKV, CrossKV, SelfKV
from ..config import LayerSpec, StackConfig
from ..layers.attention import CrossAttention, SelfAttention
from ..layers.context import AttentionContext, LayerContext
from ..layers.dropout import Dropout, split_key
from ..layers.feed_forward import MLP, GatedMLP, init_feed_forward
from ..layers.linear import Embedding, Linear
from ..layers.norm import AbstractNorm, Placement, init_norm
from .residual import Residual


class BlockOutput(eqx.Module):
    """What one layer returns.

    Attributes:
        hidden: the residual stream after the layer.
        self_kv: keys and values of all slots: the cache's with the new ones written, or just the new ones.
        new_kv: keys and values of this call's tokens alone.
        self_attention: attention weights of self-attention, if they were asked for.
        cross_attention: those of cross-attention, if the layer attended to encoder states.
    """

    hidden: Float[Array, "rows queries hidden"]
    self_kv: AbstractKV
    new_kv: SelfKV
    self_attention: Float[Array, "rows heads queries keys"] | None
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
        self, x: Float[Array, "rows queries hidden"], context: AttentionContext, layer: LayerContext
    ) -> BlockOutput:
        """Run the layer on the residual stream of the new tokens."""
        keys = split_key(layer.key, 6)
        residual = self._residual(self.self_norm)
        h, x = residual.enter(x)
        attended = self.self_attention(h, context, layer, key=keys[0])
        x = residual.leave(x, attended.out, key=keys[1])

        cross_weights = None
        cross_kv = self._cross_kv(context, layer)
        if self.cross_attention is not None and cross_kv is not None:
            residual = self._residual(self.cross_norm)
            h, x = residual.enter(x)
            out, cross_weights = self.cross_attention(h, cross_kv, context, layer, key=keys[2])
            x = residual.leave(x, out, key=keys[3])

        residual = self._residual(self.feed_forward_norm)
        h, x = residual.enter(x)
        x = residual.leave(x, self.feed_forward(h, key=keys[5]), key=keys[4])
        return BlockOutput(x, attended.kv, attended.new_kv, attended.weights, cross_weights)

    def _residual(self, norm: AbstractNorm | None) -> Residual:
        return Residual(norm, None, None, self.dropout, self.norm_placement)

    def _cross_kv(self, context: AttentionContext, layer: LayerContext) -> CrossKV | None:
        """Those of the cache; otherwise made from the encoder states, if there are any."""
        if layer.cross_kv is not None or context.encoder_states is None:
            return layer.cross_kv
        return self.cross_kv(context.encoder_states)

    def cross_kv(self, states: Float[Array, "batch source cross"]) -> CrossKV | None:
        """Keys and values of the encoder states for this layer; `None` if it has no cross-attention."""
        return None if self.cross_attention is None else self.cross_attention.keys_values(states)

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
