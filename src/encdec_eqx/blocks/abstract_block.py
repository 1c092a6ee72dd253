"""What every kind of layer offers its stack, the residual stream around its parts, and cross-attention in it."""

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float

from .._typing import Array, PRNGKey
from ..cache import AbstractKV, CrossKV, SelfKV, empty_kv
from ..layers.attend import platform
from ..layers.attention import AbstractCrossAttention
from ..layers.context import AttentionContext, LayerContext
from ..layers.dropout import Dropout
from ..layers.norm import AbstractNorm, Placement

Stream = Float[Array, "rows queries hidden"]


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
            return self.cross_attention.keys_values(states)

    def empty_self_kv(self, rows: int, slots: int, layers: tuple[int, ...] = ()) -> AbstractKV:
        """Zeros of the shape and dtype that self-attention writes, after leading `layers` axes."""
        hidden = jax.ShapeDtypeStruct((rows, 1, self.width), jnp.float32)
        _, like = jax.eval_shape(lambda x: self.self_attention.project(x, None), hidden)
        return empty_kv(like, slots, layers=layers, folded=platform() == "cpu")

    def attention_backends(self, *, bias: bool, scale: Any) -> dict[str, str]:
        """Which backend attends in each of its parts, and why; see `AbstractStack.attention_backends`."""
        hidden = jax.ShapeDtypeStruct((1, 2, self.width), jnp.float32)
        why = {"self_attention": self.self_attention.why_reference(hidden, bias=bias, scale=scale)}
        if self.cross_attention is not None:
            why["cross_attention"] = self.cross_attention.why_reference(hidden, scale=scale)
        return {part: "fused" if reason is None else f"reference: {reason}" for part, reason in why.items()}

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
