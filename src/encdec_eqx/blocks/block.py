"""The common transformer layer: self-attention, optional cross-attention, feed-forward, one after another."""

import equinox as eqx
import jax
from jaxtyping import Float

from .._typing import Array, PRNGKey
from ..config import LayerSpec, StackConfig
from ..layers.attention import AbstractCrossAttention, AbstractSelfAttention
from ..layers.context import AttentionContext, LayerContext
from ..layers.dropout import Dropout, split_key
from ..layers.feed_forward import MLP, GatedMLP, init_feed_forward
from ..layers.norm import AbstractNorm, Placement, init_norm
from .abstract_block import AbstractBlock, BlockOutput, Residual, Stream


class Block(AbstractBlock):
    """One layer. Each sub-layer has a `Residual` around it, whose norms are fields of the layer.

    Attributes:
        self_attention: attention of the sequence to itself.
        self_norm: its norm, or the one before it where there are two.
        cross_attention: attention to encoder states.
        cross_norm: likewise.
        feed_forward: the perceptron.
        feed_forward_norm: likewise.
        dropout: of each sub-layer's output.
        self_output_norm: the second norm of self-attention.
        cross_output_norm: that of cross-attention.
        feed_forward_output_norm: that of the perceptron.
        cross_gate: factor on what cross-attention adds.
        norm_placement: where norms stand.
    """

    self_attention: AbstractSelfAttention
    self_norm: AbstractNorm | None
    cross_attention: AbstractCrossAttention | None
    cross_norm: AbstractNorm | None
    feed_forward: MLP | GatedMLP
    feed_forward_norm: AbstractNorm
    dropout: Dropout
    self_output_norm: AbstractNorm | None
    cross_output_norm: AbstractNorm | None
    feed_forward_output_norm: AbstractNorm | None
    cross_gate: Float[Array, ""] | None
    norm_placement: Placement = eqx.field(static=True)

    def __call__(self, x: Stream, context: AttentionContext, layer: LayerContext) -> BlockOutput:
        """Run the layer on the residual stream of the new tokens."""
        keys = split_key(layer.key, 6)
        residual = self._residual(self.self_norm, self.self_output_norm)
        h, x = residual.enter(x)
        attended = self.self_attention(h, context, layer, key=keys[0])
        x = residual.leave(x, attended.out, key=keys[1])

        residual = self._residual(self.cross_norm, self.cross_output_norm, self.cross_gate)
        x, cross_weights = self._cross(x, residual, context, layer, keys=keys[2:4])

        residual = self._residual(self.feed_forward_norm, self.feed_forward_output_norm)
        h, x = residual.enter(x)
        x = residual.leave(x, self.feed_forward(h, key=keys[5]), key=keys[4])
        return BlockOutput(x, attended.kv, attended.new_kv, attended.weights, cross_weights)

    def _residual(
        self, norm: AbstractNorm | None, output_norm: AbstractNorm | None, gate: Array | None = None
    ) -> Residual:
        return Residual(norm, output_norm, gate, self.dropout, self.norm_placement)

    @property
    def width(self) -> int:
        """Width of the residual stream."""
        return self.feed_forward_norm.weight.shape[-1]

    @classmethod
    def init(cls, config: StackConfig, spec: LayerSpec, *, key: PRNGKey) -> "Block":
        """Normal weights of standard deviation `config.initializer_range`, zero biases, unit norms."""
        self_key, cross_key, up_key, down_key = jax.random.split(key, 4)
        size, scale, cross, two = (
            config.hidden_size,
            config.initializer_range,
            spec.cross_attention,
            config.norm.placement == "both",
        )

        def norm(present: bool = True) -> AbstractNorm | None:
            return init_norm(config.norm, size) if present else None

        return cls(
            self_attention=init_self_attention(config, spec, key=self_key),
            self_norm=norm(spec.self_norm),
            cross_attention=init_cross_attention(config, spec, key=cross_key),
            cross_norm=norm(cross),
            feed_forward=init_feed_forward(config.feed_forward, size, scale=scale, keys=(up_key, down_key)),
            feed_forward_norm=init_norm(config.norm, size),
            dropout=Dropout(config.dropout),
            self_output_norm=norm(two),
            cross_output_norm=norm(two and cross),
            feed_forward_output_norm=norm(two),
            cross_gate=None,
            norm_placement=config.norm.placement,
        )


def init_self_attention(config: StackConfig, spec: LayerSpec, *, key: PRNGKey) -> AbstractSelfAttention:
    """One layer's self-attention."""
    return config.attention.init_self(
        config.hidden_size,
        max_positions=config.positions.max_positions,
        window=spec.window,
        rotary=spec.rotary,
        scale=config.initializer_range,
        key=key,
    )


def init_cross_attention(config: StackConfig, spec: LayerSpec, *, key: PRNGKey) -> AbstractCrossAttention | None:
    """One layer's attention to encoder states, if it has any."""
    if not spec.cross_attention:
        return None
    return config.attention.init_cross(config.hidden_size, config.cross_width, scale=config.initializer_range, key=key)
