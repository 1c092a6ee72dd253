"""Layers whose self-attention reads target and source in one softmax (T5Gemma 2), without any new parameter."""

import dataclasses
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from .._typing import Array, PRNGKey
from ..cache import CrossKV
from ..config import LayerSpec, StackConfig
from ..layers.attend import attend, choose
from ..layers.attention import (
    AbstractSelfAttention,
    AttentionOutput,
    GroupedSelfAttention,
    SelfAttention,
)
from ..layers.attention_backend import AttentionCall
from ..layers.context import AttentionContext, AttentionMask, LayerContext
from ..layers.sharded import place_cache
from .block import AbstractBlock, Block, BlockOutput, Residual, Stream
from .parallel import ParallelBlock

_Block = TypeVar("_Block", bound=AbstractBlock)


class _ReadsSource(AbstractSelfAttention):
    """Self-attention over [target ; source], with the layer's own projections of both.

    Source keys are normed as the target's, and not rotated; windows, relative positions and biases are of the target
    alone. With ALiBi, the source is as near to every query as the query itself.
    """

    def keys_values(self, states: Float[Array, "batch source hidden"]) -> CrossKV:
        """Keys and values of the encoder states."""
        _, kv = self.project(states, None)
        return CrossKV(kv.k, kv.v)

    @jax.named_scope("merged_attention")
    def __call__(
        self,
        x: Float[Array, "rows queries hidden"],
        context: AttentionContext,
        layer: LayerContext,
        *,
        key: PRNGKey | None,
    ) -> AttentionOutput:
        """As `AbstractSelfAttention`; the weights are of all slots, then of the source."""
        source = layer.cross_kv
        if source is None and context.encoder_states is not None:
            source = self.keys_values(context.encoder_states)
        if source is None:
            return super().__call__(x, context, layer, key=key)
        q, new = self.project(x, context)
        kv = new if layer.past is None else layer.past.write(new, context.mask.start)
        k, v = kv.read()
        target_mask = context.within(self.window).dense(x.shape[1])
        bias = context.bias if self.relative_bias is None else self.relative_bias(context.relative_position)
        attended, weights = attend(
            q,
            _joined(k, source.k),
            _joined(v, source.v),
            mask=_joint_mask(target_mask, context.cross_mask, source, k.shape[2], x.shape),
            scale=layer.scale,
            relative=_padded(self._relative(q, k, context, key), source),
            bias=self._joint_bias(bias, target_mask, source),
            cap=self.config.logit_cap,
            dropout=self.dropout,
            key=key,
            need_weights=context.need_weights,
            backends=self.backends,
        )
        return AttentionOutput(self.out(attended), kv, new, weights)

    def _joint_bias(self, bias: Array | None, mask: Array | None, source: CrossKV) -> Array | None:
        if bias is None or self.config.alibi is None:
            return _padded(bias, source)
        # it grows with the key's position, so the largest that a query sees is its own
        seen = bias if mask is None else jnp.where(mask, bias, jnp.min(bias, axis=-1, keepdims=True))
        own = jnp.max(seen, axis=-1, keepdims=True)
        parts = jnp.broadcast_to(bias, (*own.shape[:-1], bias.shape[-1])), jnp.repeat(own, source.k.shape[2], axis=-1)
        return jnp.concatenate(parts, axis=-1)


class MergedSelfAttention(_ReadsSource, SelfAttention):
    """With projections to queries, keys and values fused."""


class MergedGroupedSelfAttention(_ReadsSource, GroupedSelfAttention):
    """With projections apart."""


class InSelfAttention(eqx.Module):
    """Stands where a layer's cross-attention would: it is in the layer's self-attention, and has no arrays."""


class _Merged(AbstractBlock):
    """What is the same in every layer that merges."""

    def __call__(self, x: Stream, context: AttentionContext, layer: LayerContext) -> BlockOutput:
        """Run the layer; the weights of its one softmax come apart."""
        out = super().__call__(x, context, layer)
        states = layer.cross_kv.k if layer.cross_kv is not None else context.encoder_states
        if out.self_attention is None or states is None:
            return out
        slots = out.self_attention.shape[-1] - states.shape[-2]
        own, cross = out.self_attention[..., :slots], out.self_attention[..., slots:]
        return dataclasses.replace(out, self_attention=own, cross_attention=cross)

    def cross_kv(self, states: Float[Array, "batch source hidden"]) -> CrossKV:
        """Keys and values of the encoder states, by self-attention's projections."""
        with jax.named_scope("merged_attention"):
            return place_cache(self.self_attention.keys_values(states), self.self_attention)

    def attention_backends(
        self, masks: tuple[AttentionMask, AttentionMask], *, bias: bool, scale: Any, dropout: bool
    ) -> dict[str, str]:
        """See `AbstractBlock`; its one softmax has a mask of target and source, which is dense."""
        hidden = jax.ShapeDtypeStruct((1, 2, self.width), jnp.float32)
        q, kv = jax.eval_shape(lambda x: self.self_attention.project(x, None), hidden)
        call = AttentionCall(q, kv.k, kv.v, jnp.ones((1, 1, 2, 2), jnp.bool_), scale, bias=0.0 if bias else None)
        return {"merged_attention": choose(call, self.self_attention.backends, need_weights=False)[1]}

    def _cross(
        self,
        x: Stream,
        residual: Residual,
        context: AttentionContext,
        layer: LayerContext,
        *,
        keys: tuple[PRNGKey | None, ...],
    ) -> tuple[Stream, None]:
        return x, None


class MergedBlock(_Merged, Block):
    """A `Block` whose self-attention reads the source too."""

    cross_attention: Any

    @classmethod
    def init(cls, config: StackConfig, spec: LayerSpec, *, key: PRNGKey) -> "MergedBlock":
        """A `Block` of the config without cross-attention."""
        return _made(cls, Block.init(config, dataclasses.replace(spec, cross_attention=False), key=key))


class MergedParallelBlock(_Merged, ParallelBlock):
    """A `ParallelBlock` whose self-attention reads the source too."""

    cross_attention: Any

    @classmethod
    def init(cls, config: StackConfig, spec: LayerSpec, *, key: PRNGKey) -> "MergedParallelBlock":
        """A `ParallelBlock` of the config without cross-attention."""
        return _made(cls, ParallelBlock.init(config, dataclasses.replace(spec, cross_attention=False), key=key))


def merged(block: AbstractBlock) -> AbstractBlock:
    """The layer, of the same arrays, reading the source too.

    Raises:
        ValueError: it is of a kind that cannot.
    """
    kinds: dict[type, type] = {Block: MergedBlock, ParallelBlock: MergedParallelBlock}
    if type(block) not in kinds or type(block.self_attention) not in _MERGED:
        kind, own = type(block).__name__, type(block.self_attention).__name__
        raise ValueError(f"a {kind} with {own} cannot read target and source in one softmax; choose another init.")
    return _made(kinds[type(block)], block)


_MERGED: dict[type, type] = {SelfAttention: MergedSelfAttention, GroupedSelfAttention: MergedGroupedSelfAttention}


def _made(kind: type[_Block], block: AbstractBlock) -> _Block:
    own = _MERGED[type(block.self_attention)](**_fields(block.self_attention))
    return kind(**{**_fields(block), "self_attention": own, "cross_attention": InSelfAttention()})


def _fields(module: eqx.Module) -> dict[str, Any]:
    return {field.name: getattr(module, field.name) for field in dataclasses.fields(module)}


def _joined(
    own: Float[Array, "rows kv_heads slots head_dim"], source: Float[Array, "batch kv_heads source head_dim"]
) -> Float[Array, "rows kv_heads keys head_dim"]:
    """Each row's own keys, then those of its source sequence, which its beams or samples share."""
    per_source = own.shape[0] // source.shape[0]
    return jnp.concatenate([own, jnp.repeat(source, per_source, axis=0).astype(own.dtype)], axis=2)


def _joint_mask(
    own: Bool[Array, "#rows 1 #queries #slots"] | None,
    cross: AttentionMask | None,
    source: CrossKV,
    slots: int,
    shape: tuple[int, ...],
) -> Bool[Array, "rows 1 queries keys"]:
    rows, queries, _ = shape
    batch, length = source.k.shape[0], source.k.shape[2]
    seen = None if cross is None else cross.dense(1)
    own = jnp.ones((1, 1, 1, 1), jnp.bool_) if own is None else own
    seen = jnp.ones((batch, 1, 1, 1), jnp.bool_) if seen is None else jnp.broadcast_to(seen, (batch, 1, 1, length))
    whole = jnp.broadcast_to(jnp.repeat(seen, rows // batch, axis=0), (rows, 1, queries, length))
    return jnp.concatenate([jnp.broadcast_to(own, (rows, 1, queries, slots)), whole], axis=-1)


def _padded(scores: Array | None, source: CrossKV) -> Array | None:
    """What is added to scores of the target, with nothing added to those of the source."""
    return None if scores is None else jnp.pad(scores, [(0, 0)] * 3 + [(0, source.k.shape[2])])
