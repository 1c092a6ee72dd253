"""The explicit, immutable cache of a decoder. Knows nothing of the layers that fill it."""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import Bool, Float, Int32

from ._typing import Array


class SelfKV(eqx.Module):
    """Keys and values of one layer's self-attention; several layers of one stack may be stacked on a leading axis.

    Rows and heads lie in one axis, as the products over them take them. With an axis of their own a single row would be
    an axis of length 1, for which XLA copies every cache four times a step.
    """

    k: Float[Array, "*layers rows_heads slots head_dim"]
    v: Float[Array, "*layers rows_heads slots head_dim"]

    def write(self, new: "SelfKV", start: Int32[Array, ""] | int) -> "SelfKV":
        """With `new` in slots `start`, `start + 1`, …: one `dynamic_update_slice` each."""

        def put(old: Array, update: Array) -> Array:
            return jax.lax.dynamic_update_slice_in_dim(old, update.astype(old.dtype), start, axis=old.ndim - 2)

        return SelfKV(put(self.k, new.k), put(self.v, new.v))


class CrossKV(eqx.Module):
    """Keys and values of one layer's cross-attention, one set a sentence however many rows are decoded for it."""

    k: Float[Array, "*layers batch heads source head_dim"]
    v: Float[Array, "*layers batch heads source head_dim"]


class Branches(eqx.Module):
    """How new tokens lie in a cache that holds several continuations of a row at once, such as its beams.

    A row's slots then are a tree: tokens that were generated at the same time stand side by side, and each attends to
    its own ancestors. Nothing in the cache has to be moved when one continuation replaces another.

    Attributes:
        visible: which slots each new token may attend to, its own included.
        depth: how many tokens each new token has before it, as relative positions count them.
        slot_depth: the same of the token in each slot.
    """

    visible: Bool[Array, "rows new slots"]
    depth: Int32[Array, " new"]
    slot_depth: Int32[Array, " slots"]


class DecoderCache(eqx.Module):
    """All that a decoder remembers between two calls. Using it makes a new one; the old one stays valid.

    Attributes:
        self_kv: `SelfKV` of the layers, arranged as the stack's layout wants.
        cross_kv: `CrossKV` of the layers that have cross-attention, arranged likewise; `None` without encoder states.
        self_mask: which slots hold real tokens, as told by the masks of the calls so far.
        cross_mask: which source positions may be attended.
        length: slots filled so far, the same for every row.
        counted: tokens of each row so far that are not padding, for families whose positions count them.
    """

    self_kv: Any
    cross_kv: Any
    self_mask: Bool[Array, "rows slots"]
    cross_mask: Bool[Array, "batch source"] | None
    length: Int32[Array, ""]
    counted: Int32[Array, " rows"]

    @property
    def rows(self) -> int:
        """Sequences being decoded."""
        return self.self_mask.shape[0]

    @property
    def slots(self) -> int:
        """Capacity in tokens."""
        return self.self_mask.shape[1]
