"""What every kind of layer offers its stack, and how it attends to encoder states."""

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
from .residual import Residual, Stream


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
