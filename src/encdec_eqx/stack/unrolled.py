"""The only place that runs layers one after another: the interface of stacks, and the unrolled layout.

A stack has two layouts behind one interface: *unrolled*, a tuple of blocks, is the fastest to decode with; *scanned*
(`layouts`), blocks stacked and run by `lax.scan`, is the fastest and smallest to train and to compile. Both store
each distinct block once; `layers` say which weights run when.
"""

import dataclasses
import math
from abc import abstractmethod
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from .._padding import RightPadding
from .._typing import Array, PRNGKey, PRNGKeys
from ..blocks import AbstractBlock, BlockOutput, init_block
from ..cache import AbstractKV, CrossKV
from ..config import AttentionConfig, LayerSpec, StackConfig
from ..layers.alibi import alibi_bias
from ..layers.context import AttentionContext, AttentionMask, LayerContext
from ..layers.linear import AbstractLinear, Linear
from ..layers.norm import AbstractNorm, init_norm
from ..layers.relative_bias import RelativeBias
from ..layers.rotary import Rotation

Layout = Literal["unrolled", "scanned"]


class StackOutput(eqx.Module):
    """What a stack returns; the tuples have one entry per layer (hidden states one more), `None` if not asked for.

    Attributes:
        last_hidden_state: after the last layer, the final norm and the map to another width, if there are such.
        hidden_states: the input, then each layer's output, the last after the final norm where the reference has it so.
        self_attentions: attention weights.
        cross_attentions: attention weights; `None` for a layer that attended to no encoder states.
        self_kv: the caches with the new tokens written, arranged as they came; `None` without caches.
    """

    last_hidden_state: Float[Array, "rows queries last"]
    hidden_states: tuple[Float[Array, "rows queries _"], ...] | None
    self_attentions: tuple[Float[Array, "rows heads queries keys"], ...] | None
    cross_attentions: tuple[Float[Array, "rows heads queries source"] | None, ...] | None
    self_kv: Any


class LayerResult(eqx.Module):
    """What is kept of one layer, `None` where it was not asked for."""

    hidden: Float[Array, "*layers rows queries hidden"] | None
    self_attention: Float[Array, "*layers rows heads queries keys"] | None
    cross_attention: Float[Array, "*layers rows heads queries source"] | None

    @classmethod
    def of(cls, out: BlockOutput, keep_hidden: bool) -> "LayerResult":
        """What is kept of a layer's output."""
        return cls(out.hidden if keep_hidden else None, out.self_attention, out.cross_attention)


class Shared(eqx.Module):
    """What a stack has besides its layers, the same in both layouts.

    Attributes:
        final_norm: the norm after the last layer.
        relative_bias: the biases by distance that all layers share.
        other: what layers of another mechanism share, as its config's `init_shared` makes it.
        attention: the config of the layers' attention.
        norm_in_hidden_states: whether the last of the hidden states is taken after the final norm.
        final_projection: the map of the normed states to the width that the head takes.
    """

    final_norm: AbstractNorm | None
    relative_bias: RelativeBias | None
    other: Any
    attention: AttentionConfig = eqx.field(static=True)
    norm_in_hidden_states: bool = eqx.field(static=True)
    final_projection: AbstractLinear | None = None

    @classmethod
    def init(cls, config: StackConfig, *, key: PRNGKey) -> "Shared":
        """A unit norm and normal tables, where the config has them."""
        made = config.attention.init_shared(config.hidden_size, scale=config.initializer_range, key=key)
        is_bias = isinstance(made, RelativeBias)
        size, last = config.hidden_size, config.last_size
        return cls(
            final_norm=init_norm(config.norm, size) if config.norm.final else None,
            relative_bias=made if is_bias else None,
            other=None if is_bias else made,
            attention=config.attention,
            norm_in_hidden_states=config.norm.final_in_hidden_states,
            final_projection=None
            if last == size
            else Linear.init(size, last, scale=config.initializer_range, bias=False, key=jax.random.fold_in(key, 1)),
        )


class AbstractStack(eqx.Module):
    """Layers in order, then the final norm."""

    shared: eqx.AbstractVar[Shared]
    layers: eqx.AbstractVar[tuple[LayerSpec, ...]]
    scales: eqx.AbstractVar[tuple[float, ...]]

    def __call__(
        self,
        x: Float[Array, "rows queries hidden"],
        context: AttentionContext,
        *,
        self_kv: Any = None,
        cross_kv: Any = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        key: PRNGKey | None = None,
    ) -> StackOutput:
        """Run all layers.

        Args:
            x: embeddings of the new tokens.
            context: masks and encoder states.
            self_kv: caches as `empty_self_kv` made them, to be read and written.
            cross_kv: keys and values as `cross_kv` made them, used instead of `context.encoder_states`.
            output_hidden_states: whether to return them.
            output_attentions: whether to return them.
            key: turns dropout on.
        """
        keys = None if key is None else jax.random.split(key, len(self.layers))
        context = self._prepared(dataclasses.replace(context, need_weights=output_attentions), x.shape[1])
        last, results, self_kv = self._run(x, context, self_kv, cross_kv, keys, output_hidden_states)
        with jax.named_scope("final_norm"):
            normed = last if self.shared.final_norm is None else self.shared.final_norm(last)
            normed = normed if self.shared.final_projection is None else self.shared.final_projection(normed)
        hidden = None
        if output_hidden_states:
            outputs = [*(_kept(result.hidden) for result in results[:-1])]
            outputs.append(normed if self.shared.norm_in_hidden_states else last)
            hidden = (x, *(out for out, spec in zip(outputs, self.layers, strict=True) if spec.hidden_state))
        return StackOutput(
            last_hidden_state=normed,
            hidden_states=hidden,
            self_attentions=tuple(_kept(result.self_attention) for result in results) if output_attentions else None,
            cross_attentions=tuple(result.cross_attention for result in results) if output_attentions else None,
            self_kv=self_kv,
        )

    def attention_backends(self, *, causal: bool, right_padded: bool = True, dropout: bool = False) -> dict[str, str]:
        """Which backend attends in each part of each layer, and why no other.

        It is so for calls of many tokens that ask for no attention weights; the few queries of a decoding step may be
        another backend's. The keys are those of a profile, such as `layer_3/self_attention`.

        Args:
            causal: whether self-attention is; it then has no padding, as in training.
            right_padded: whether all padding is known to be on the right: `RightPadding` says when it is.
            dropout: whether dropout is on.
        """
        bias = self.shared.relative_bias is not None or self.shared.attention.alibi is not None
        one = np.ones((1,), np.int32)
        padded = AttentionMask(RightPadding(one, 1) if right_padded else jnp.ones((1, 1), jnp.bool_))
        masks = AttentionMask(causal=True) if causal else padded, padded
        said = [
            block.attention_backends(masks, bias=bias, scale=scale, dropout=dropout)
            for block, scale in self._blocks_and_scales()
        ]
        return {f"layer_{at}/{part}": backend for at, parts in enumerate(said) for part, backend in parts.items()}

    @abstractmethod
    def _blocks_and_scales(self) -> list[tuple[AbstractBlock, Any]]:
        """The block of each layer, and the factor on its scores as attention gets it."""

    def _prepared(self, context: AttentionContext, queries: int) -> AttentionContext:
        """The context with all that is made once for all layers."""
        config, position = self.shared.attention, context.mask.relative_position(queries)
        windows = dict.fromkeys(spec.window for spec in self.layers)
        return dataclasses.replace(
            context,
            masks=tuple(context.mask.within(window, queries) for window in windows),
            cross_mask=None if context.cross_mask is None else context.cross_mask.within(None, queries),
            rotations=context.rotations or _rotations(config, context.positions),
            relative_position=position,
            bias=self._bias(context.mask, position),
            shared=self.shared.other,
        )

    def _bias(self, mask: AttentionMask, position: Array) -> Array | None:
        """What is added to all layers' scores of self-attention."""
        config, queries = self.shared.attention, position.shape[0]
        if self.shared.relative_bias is not None:
            return self.shared.relative_bias(position)
        if config.alibi is None:
            return None
        return alibi_bias(config.alibi, config.num_heads, mask.key_positions(queries), score_scale=self.scales[0])

    @abstractmethod
    def _run(
        self, x: Array, context: AttentionContext, self_kv: Any, cross_kv: Any, keys: PRNGKeys | None, keep_hidden: bool
    ) -> tuple[Array, list[LayerResult], Any]:
        """Run the layers: the last hidden state before the final norm, what is kept of each, the new caches."""

    @abstractmethod
    def cross_kv(self, states: Float[Array, "batch source cross"]) -> Any:
        """Keys and values of the encoder states for every layer, in this layout's arrangement."""

    @abstractmethod
    def empty_self_kv(self, rows: int, slots: int) -> Any:
        """Caches of zeros for every layer, in this layout's arrangement."""


class UnrolledStack(AbstractStack):
    """Each distinct block on its own, run one after another."""

    blocks: tuple[AbstractBlock, ...]
    shared: Shared
    layers: tuple[LayerSpec, ...] = eqx.field(static=True)
    scales: tuple[float, ...] = eqx.field(static=True)

    def _run(
        self, x: Array, context: AttentionContext, self_kv: Any, cross_kv: Any, keys: PRNGKeys | None, keep_hidden: bool
    ) -> tuple[Array, list[LayerResult], Any]:
        x, results, caches = run_in_turn(
            self.in_order(),
            self.scales,
            x,
            context,
            self_kv=self_kv,
            cross_kv=cross_kv,
            keys=keys,
            keep_hidden=keep_hidden,
        )
        return x, results, None if self_kv is None else caches

    def _blocks_and_scales(self) -> list[tuple[AbstractBlock, Any]]:
        return list(zip(self.in_order(), self.scales, strict=True))

    def in_order(self) -> tuple[AbstractBlock, ...]:
        """The block of each layer; one that serves several layers appears as often."""
        return tuple(self.blocks[which] for which in schedule(self.layers))

    def cross_kv(self, states: Float[Array, "batch source cross"]) -> tuple[CrossKV | None, ...]:
        return tuple(block.cross_kv(states) for block in self.in_order())

    def empty_self_kv(self, rows: int, slots: int) -> tuple[AbstractKV, ...]:
        return tuple(block.empty_self_kv(rows, slots) for block in self.in_order())

    @classmethod
    def init(cls, config: StackConfig, *, key: PRNGKey) -> "UnrolledStack":
        """Newly initialised blocks, and the final norm if there is one."""
        order = schedule(config.layers)
        distinct = [config.layers[order.index(which)] for which in range(max(order) + 1)]
        shared_key, *keys = jax.random.split(key, len(distinct) + 1)
        return cls(
            blocks=tuple(init_block(config, spec, key=k) for spec, k in zip(distinct, keys, strict=True)),
            shared=Shared.init(config, key=shared_key),
            layers=config.layers,
            scales=tuple(score_scale(config, spec) for spec in config.layers),
        )


def _kept(array: Array | None) -> Array:
    """What a layer kept because it was asked to."""
    assert array is not None
    return array


def schedule(layers: tuple[LayerSpec, ...]) -> tuple[int, ...]:
    """Which distinct block each layer runs, numbered by first use."""
    numbers: dict[Any, int] = {}
    names = [("own", at) if spec.weights is None else ("shared", spec.weights) for at, spec in enumerate(layers)]
    return tuple(numbers.setdefault(name, len(numbers)) for name in names)


def run_in_turn(
    blocks: tuple[AbstractBlock, ...],
    scales: tuple[float, ...],
    x: Array,
    context: AttentionContext,
    *,
    self_kv: Any,
    cross_kv: Any,
    keys: PRNGKeys | None,
    keep_hidden: bool,
    first: int = 0,
) -> tuple[Array, list[LayerResult], tuple[AbstractKV, ...]]:
    """Run blocks one after another, the first being layer `first`; caches, if given, have one entry per block."""
    results, caches = [], []
    for at, (block, scale) in enumerate(zip(blocks, scales, strict=True)):
        layer = LayerContext(
            scale,
            None if self_kv is None else self_kv[at],
            None if cross_kv is None else cross_kv[at],
            None if keys is None else keys[at],
        )
        with jax.named_scope(f"layer_{first + at}"):
            out = block(x, context, layer)
        x = out.hidden
        results.append(LayerResult.of(out, keep_hidden))
        caches.append(out.self_kv)
    return x, results, tuple(caches)


def _rotations(config: AttentionConfig, positions: Array | None) -> tuple[Rotation, ...]:
    if positions is None:
        return ()
    return tuple(Rotation.of_positions(rotary, config.head_dim, positions) for rotary in config.rotary)


def score_scale(config: StackConfig, spec: LayerSpec) -> float:
    """The layer's factor on attention scores."""
    return 1.0 / math.sqrt(config.attention.head_dim) if spec.score_scale is None else spec.score_scale
