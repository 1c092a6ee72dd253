"""The layer whose attention and feed-forward read the residual stream side by side (GPT-J, Phi, GPT-NeoX, Falcon)."""

import jax

from .._typing import PRNGKey
from ..config import LayerSpec, StackConfig
from ..layers.attention import AbstractCrossAttention, AbstractSelfAttention
from ..layers.context import AttentionContext, LayerContext
from ..layers.feed_forward import MLP, GatedMLP, init_feed_forward
from ..layers.linear import Dropout, split_key
from ..layers.norm import AbstractNorm, init_norm
from .block import AbstractBlock, BlockOutput, Residual, Stream, init_cross_attention, init_self_attention


class ParallelBlock(AbstractBlock):
    """x + attention(norm(x)) + feed_forward(norm(x)); then cross-attention, if any, as a sub-layer of its own.

    Attributes:
        self_attention: attention of the sequence to itself.
        self_norm: the norm of what it reads, and the perceptron too if that has none of its own.
        cross_attention: attention to encoder states.
        cross_norm: the norm of what it reads.
        feed_forward: the perceptron.
        feed_forward_norm: the norm of what it reads.
        dropout: of what each adds.
    """

    self_attention: AbstractSelfAttention
    self_norm: AbstractNorm
    cross_attention: AbstractCrossAttention | None
    cross_norm: AbstractNorm | None
    feed_forward: MLP | GatedMLP
    feed_forward_norm: AbstractNorm | None
    dropout: Dropout

    def __call__(self, x: Stream, context: AttentionContext, layer: LayerContext) -> BlockOutput:
        """Run the layer on the residual stream of the new tokens."""
        keys = split_key(layer.key, 6)
        h = self.self_norm(x)
        attended = self.self_attention(h, context, layer, key=keys[0])
        fed = self.feed_forward(h if self.feed_forward_norm is None else self.feed_forward_norm(x), key=keys[5])
        x = x + self.dropout(attended.out, key=keys[1]).astype(x.dtype) + self.dropout(fed, key=keys[4]).astype(x.dtype)

        residual = Residual(self.cross_norm, None, None, self.dropout, "pre")
        x, cross_weights = self._cross(x, residual, context, layer, keys=keys[2:4])
        return BlockOutput(x, attended.kv, attended.new_kv, attended.weights, cross_weights)

    @property
    def width(self) -> int:
        """Width of the residual stream."""
        return self.self_norm.weight.shape[-1]

    @classmethod
    def init(cls, config: StackConfig, spec: LayerSpec, *, key: PRNGKey) -> "ParallelBlock":
        """Normal weights of standard deviation `config.initializer_range`, zero biases, unit norms."""
        self_key, cross_key, up_key, down_key = jax.random.split(key, 4)
        size, scale = config.hidden_size, config.initializer_range
        return cls(
            self_attention=init_self_attention(config, spec, key=self_key),
            self_norm=init_norm(config.norm, size),
            cross_attention=init_cross_attention(config, spec, key=cross_key),
            cross_norm=init_norm(config.norm, size) if spec.cross_attention else None,
            feed_forward=init_feed_forward(config.feed_forward, size, scale=scale, keys=(up_key, down_key)),
            feed_forward_norm=init_norm(config.norm, size) if spec.block == "parallel_norms" else None,
            dropout=Dropout(config.dropout),
        )
