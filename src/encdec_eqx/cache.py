"""The explicit, immutable cache of a decoder, and how new tokens lie in it."""

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int32

from ._padding import RightPadding
from ._typing import Array


class AbstractKV(eqx.Module):
    """Keys and values of one layer's self-attention; those of several layers may be stacked on a leading axis.

    Everything that fills or reads a cache goes through `write` and `read`.
    """

    @abstractmethod
    def write(self, new: "SelfKV", start: Int32[Array, ""] | int) -> "AbstractKV":
        """With `new` in slots `start`, `start + 1`, …: one `dynamic_update_slice` each."""

    @abstractmethod
    def read(self) -> tuple[Float[Array, "rows kv_heads slots head_dim"], Float[Array, "rows kv_heads slots head_dim"]]:
        """Keys and values of all slots, of one layer."""


class SelfKV(AbstractKV):
    """Each axis apart, as a mesh splits them."""

    k: Float[Array, "*layers rows kv_heads slots head_dim"]
    v: Float[Array, "*layers rows kv_heads slots head_dim"]

    def write(self, new: "SelfKV", start: Int32[Array, ""] | int) -> "SelfKV":
        """See `AbstractKV`."""
        return SelfKV(_put(self.k, new.k, start), _put(self.v, new.v, start))

    def read(self) -> tuple[Float[Array, "rows kv_heads slots head_dim"], Float[Array, "rows kv_heads slots head_dim"]]:
        """See `AbstractKV`."""
        return self.k, self.v


class FoldedKV(AbstractKV):
    """Rows and heads in one axis, as XLA's CPU backend multiplies them: with two it copies the cache at every step."""

    k: Float[Array, "*layers rows_heads slots head_dim"]
    v: Float[Array, "*layers rows_heads slots head_dim"]
    kv_heads: int = eqx.field(static=True)

    def write(self, new: SelfKV, start: Int32[Array, ""] | int) -> "FoldedKV":
        """See `AbstractKV`."""

        def put(old: Array, update: Array) -> Array:
            return _put(old, update.reshape(*old.shape[:-2], *update.shape[-2:]), start)

        return FoldedKV(put(self.k, new.k), put(self.v, new.v), self.kv_heads)

    def read(self) -> tuple[Float[Array, "rows kv_heads slots head_dim"], Float[Array, "rows kv_heads slots head_dim"]]:
        """See `AbstractKV`."""
        return self._unfolded(self.k), self._unfolded(self.v)

    def _unfolded(self, x: Array) -> Array:
        return x.reshape(-1, self.kv_heads, *x.shape[1:])


def empty_kv(like: SelfKV, slots: int, *, layers: tuple[int, ...] = (), folded: bool) -> AbstractKV:
    """Zeros for so many slots.

    Args:
        like: keys and values of one layer and any number of tokens, or their shapes.
        slots: capacity in tokens.
        layers: leading axes.
        folded: whether rows and heads lie in one axis.
    """

    def zeros(x: Array | jax.ShapeDtypeStruct) -> Array:
        rows, heads, _, size = x.shape
        return jnp.zeros((*layers, *((rows * heads,) if folded else (rows, heads)), slots, size), x.dtype)

    k, v = zeros(like.k), zeros(like.v)
    return FoldedKV(k, v, like.k.shape[1]) if folded else SelfKV(k, v)


def _put(old: Array, update: Array, start: Int32[Array, ""] | int) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(old, update.astype(old.dtype), start, axis=old.ndim - 2)


class CrossKV(eqx.Module):
    """Keys and values of one layer's cross-attention, one set per source sequence, whatever its number of rows."""

    k: Float[Array, "*layers batch kv_heads source head_dim"]
    v: Float[Array, "*layers batch kv_heads source head_dim"]


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
        self_kv: an `AbstractKV` for each layer, arranged as the stack's layout wants.
        cross_kv: `CrossKV` of the layers that have cross-attention, arranged likewise; `None` without encoder states.
        self_mask: which slots hold real tokens, as told by the masks of the calls so far.
        cross_mask: which source positions may be attended; all, if `None`.
        length: slots filled so far, the same for every row.
        counted: tokens of each row so far that are not padding, for families whose positions count them.
    """

    self_kv: Any
    cross_kv: Any
    self_mask: Bool[Array, "rows slots"]
    cross_mask: Bool[Array, "batch source"] | RightPadding | None
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
