"""What attention is told besides its input: who may attend to whom, what a call shares, and what one layer has."""

import dataclasses
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Bool, Float, Integer

from .._padding import RightPadding, dense_mask
from .._typing import Array, PRNGKey
from ..cache import AbstractKV, Branches, CrossKV
from .alibi import alibi_positions
from .rotary import Rotation


class AttentionMask(eqx.Module):
    """Who may attend to whom, in parts: a query may attend to a key if every part allows it.

    Queries sit in slots from `start` on, keys in those from 0 on. No part is dense but `branches`, which only a search
    needs, so a backend that knows padding, causality and windows by themselves builds no mask of queries x keys.

    Attributes:
        keys: which keys are real; all, if `None`. As `RightPadding`, their lengths are known to a kernel that takes
            lengths.
        start: slot of the first query.
        branches: what each query may attend to where queries do not follow one another; the parts above are then not
            read.
        ready: the dense mask, where it has been made once for several layers.
        causal: whether a query sees no slot after its own.
        window: how many slots a query sees, its own included: those behind it, and unless `causal` as many ahead.
    """

    keys: Bool[Array, "batch keys"] | RightPadding | None = None
    start: Integer[Array, ""] | int = 0
    branches: Branches | None = None
    ready: Bool[Array, "#batch 1 #queries #keys"] | None = None
    causal: bool = eqx.field(static=True, default=False)
    window: int | None = eqx.field(static=True, default=None)

    def slots(self, queries: int) -> int:
        """How many slots there are to be seen, for that many queries."""
        if self.branches is not None:
            return self.branches.visible.shape[-1]
        return queries if self.keys is None else self.keys.shape[-1]

    def relative_position(self, queries: int) -> Integer[Array, "queries keys"]:
        """How many slots each key lies behind each query."""
        if self.branches is not None:
            return self.branches.depth[:, None] - self.branches.slot_depth[None, :]
        return relative_positions(queries, self.slots(queries), self.start)

    def key_positions(self, queries: int) -> Integer[Array, "#batch keys"]:
        """Real keys counted from 0, so that left padding shifts nothing; padding is at 0."""
        if self.branches is not None:
            return self.branches.slot_depth[None]
        if self.keys is None:
            return jnp.arange(queries, dtype=jnp.int32)[None]
        return alibi_positions(self._real_keys())

    def dense(self, queries: int) -> Bool[Array, "#batch 1 #queries #keys"] | None:
        """For each query and key; `None` where all may attend to all."""
        if self.ready is not None:
            return self.ready
        parts = [self._visible(queries)]
        if self.window is not None:
            distance = self.relative_position(queries)
            near = distance < self.window if self.causal else jnp.abs(distance) < self.window
            parts.append(near[None, None])
        masks = [part for part in parts if part is not None]
        return masks[0] & masks[1] if len(masks) == 2 else next(iter(masks), None)

    def within(self, window: int | None, queries: int) -> "AttentionMask":
        """The same within a window, its dense form made, for all layers that have this window."""
        windowed = dataclasses.replace(self, window=window)
        return dataclasses.replace(windowed, ready=windowed.dense(queries))

    def _real_keys(self) -> Bool[Array, "batch keys"]:
        return jnp.asarray(dense_mask(self.keys))

    def _visible(self, queries: int) -> Bool[Array, "#batch 1 #queries keys"] | None:
        if self.branches is not None:
            return self.branches.visible[:, None]
        real = None if self.keys is None else padding_mask(self._real_keys())
        if not self.causal:
            return real
        earlier = causal_mask(queries, self.slots(queries), self.start)
        return earlier if real is None else earlier & real


def padding_mask(mask: Bool[Array, "batch keys"]) -> Bool[Array, "batch 1 1 keys"]:
    """Every query of a sequence may attend to its real keys."""
    return mask[:, None, None, :]


def causal_mask(queries: int, slots: int, start: Integer[Array, ""] | int) -> Bool[Array, "1 1 queries slots"]:
    """Query i, which sits in slot `start + i`, may attend to the slots up to its own."""
    query_slots = start + jnp.arange(queries)[:, None]
    return (jnp.arange(slots)[None, :] <= query_slots)[None, None]


def relative_positions(queries: int, keys: int, start: Integer[Array, ""] | int) -> Integer[Array, "queries keys"]:
    """How many slots each key lies behind each query; queries sit in slots from `start` on, keys in those from 0 on."""
    return start + jnp.arange(queries, dtype=jnp.int32)[:, None] - jnp.arange(keys, dtype=jnp.int32)[None, :]


class AttentionContext(eqx.Module):
    """What all layers of one call share.

    Attributes:
        mask: which keys each query of self-attention may attend to.
        cross_mask: which source positions may be attended.
        encoder_states: the states to attend to, where their keys and values are not in a cache.
        positions: of the new tokens, for what rotates by them.
        rotations: by what layers rotate queries and keys; a layer names one by its number.
        need_weights: whether attention weights are to be computed and returned.
        masks: `mask` within each window that a layer has; the stack fills it in, as it does what follows.
        relative_position: how many slots each key lies behind each query.
        bias: added to the scores of self-attention.
        shared: what layers of another mechanism share, as their config's `init_shared` made it.
    """

    mask: AttentionMask
    cross_mask: AttentionMask | None = None
    encoder_states: Float[Array, "batch source cross"] | None = None
    positions: Integer[Array, "rows queries"] | None = None
    rotations: tuple[Rotation, ...] = ()
    need_weights: bool = eqx.field(static=True, default=False)
    masks: tuple[AttentionMask, ...] = ()
    relative_position: Any = None
    bias: Float[Array, "#rows heads #queries keys"] | None = None
    shared: Any = None

    def within(self, window: int | None) -> AttentionMask:
        """The mask of layers that see so many slots."""
        return next(mask for mask in self.masks if mask.window == window)

    def rotation(self, number: int | None) -> Rotation | None:
        """The rotation of that number; `None` where nothing rotates."""
        return None if number is None or not self.rotations else self.rotations[number]


class LayerContext(eqx.Module):
    """What one layer is told besides.

    Attributes:
        scale: factor on the attention scores.
        past: keys and values of earlier tokens, with room for the new ones.
        cross_kv: keys and values of the encoder states.
        key: turns dropout on.
    """

    scale: Float[Array, ""] | float
    past: AbstractKV | None = None
    cross_kv: CrossKV | None = None
    key: PRNGKey | None = None
