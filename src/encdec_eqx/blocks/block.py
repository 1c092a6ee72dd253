"""What every kind of layer offers its stack, and the common kind: attention twice and a feed-forward, in turn."""

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float

from .._inputs import platform
from .._typing import Array, PRNGKey
from ..cache import AbstractKV, CrossKV, SelfKV, empty_kv
from ..config import LayerSpec, StackConfig
from ..layers.attention import AbstractCrossAttention, AbstractSelfAttention
from ..layers.context import AttentionContext, AttentionMask, LayerContext
from ..layers.feed_forward import MLP, GatedMLP, init_feed_forward
from ..layers.linear import Dropout, split_key
from ..layers.norm import AbstractNorm, Placement, init_norm
from ..layers.sharded import place_cache, placement_of

Stream = Float[Array, "rows queries hidden"]


MANY_TOKENS = 128
"""Of the calls that `attention_backends` speaks of."""


class Residual(eqx.Module):
    """How a sub-layer reads from the residual stream and adds to it; `layers.norm.Placement` has the formulas.

    Attributes:
        norm: the norm, or the one before the sub-layer where there are two; `None` leaves it out.
        output_norm: the second one, of the sub-layer's output.
        gate: factor on what is added.
        dropout: of the sub-layer's output.
        placement: where the norms stand.
    """

    norm: AbstractNorm | None
    output_norm: AbstractNorm | None
    gate: Float[Array, ""] | None
    dropout: Dropout
    placement: Placement = eqx.field(static=True)

    def enter(self, x: Stream) -> tuple[Stream, Stream]:
        """What the sub-layer reads, and what its output is added to."""
        if self.norm is None or self.placement in ("post", "output"):
            return x, x
        normed = self.norm(x)
        return normed, normed if self.placement == "pre_residual" else x

    def leave(self, x: Stream, out: Stream, *, key: PRNGKey | None) -> Stream:
        """The residual stream `x` with the sub-layer's output added."""
        if self.placement == "both" and self.output_norm is not None:
            out = self.output_norm(out)
        if self.placement == "output" and self.norm is not None:
            out = self.norm(out)
        out = self.dropout(out, key=key).astype(x.dtype)
        x = x + (out if self.gate is None else out * self.gate.astype(x.dtype))
        return self.norm(x) if self.placement == "post" and self.norm is not None else x


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


class AbstractBlock(eqx.Module):
    """One layer of a stack. `self_attention` is what its config's `init_self` makes."""

    self_attention: eqx.AbstractVar[Any]
    cross_attention: eqx.AbstractVar[AbstractCrossAttention | None]

    @abstractmethod
    def __call__(self, x: Stream, context: AttentionContext, layer: LayerContext) -> BlockOutput:
        """Run the layer on the residual stream of the new tokens."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Width of the residual stream."""

    def cross_kv(self, states: Float[Array, "batch source cross"]) -> CrossKV | None:
        """Keys and values of the encoder states for this layer; `None` if it has no cross-attention."""
        if self.cross_attention is None:
            return None
        with jax.named_scope("cross_attention"):
            return place_cache(self.cross_attention.keys_values(states), self.cross_attention)

    def empty_self_kv(self, rows: int, slots: int, layers: tuple[int, ...] = ()) -> AbstractKV:
        """Zeros of the shape and dtype that self-attention writes, after leading `layers` axes."""
        hidden = jax.ShapeDtypeStruct((rows, 1, self.width), jnp.float32)
        _, like = jax.eval_shape(lambda x: self.self_attention.project(x, None), hidden)
        folded = platform() == "cpu" and placement_of(self.self_attention) is None
        return place_cache(empty_kv(like, slots, layers=layers, folded=folded), self.self_attention)

    def attention_backends(
        self, masks: tuple[AttentionMask, AttentionMask], *, bias: bool, scale: Any, dropout: bool
    ) -> dict[str, str]:
        """Which backend attends in each of its parts, and why; see `AbstractStack.attention_backends`.

        Args:
            masks: of self- and of cross-attention.
            bias: whether the stack adds a bias.
            scale: factor on the scores.
            dropout: whether it is on.
        """
        hidden = jax.ShapeDtypeStruct((1, MANY_TOKENS, self.width), jnp.float32)
        own, cross = self.self_attention, self.cross_attention
        said = {"self_attention": own.backend(hidden, masks[0], bias=bias, scale=scale, dropout=dropout)}
        if cross is not None:
            said["cross_attention"] = cross.backend(hidden, masks[1], scale=scale, dropout=dropout)
        return said

    def _cross(
        self,
        x: Stream,
        residual: Residual,
        context: AttentionContext,
        layer: LayerContext,
        *,
        keys: tuple[PRNGKey | None, ...],
    ) -> tuple[Stream, Float[Array, "rows heads queries source"] | None]:
        """The sub-layer that attends to encoder states, if there are any, and its attention weights."""
        kv = layer.cross_kv
        if kv is None and context.encoder_states is not None:
            kv = self.cross_kv(context.encoder_states)
        if self.cross_attention is None or kv is None:
            return x, None
        h, x = residual.enter(x)
        out, weights = self.cross_attention(h, kv, context, layer, key=keys[0])
        return residual.leave(x, out, key=keys[1]), weights


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
