"""Masks that say before a program is traced that padding is on the right: by lengths instead of bools."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Bool, Int32

ArrayLike = jax.Array | np.ndarray


class RightPadding(eqx.Module):
    """A mask by which every sequence is real up to its length, and padding from there on.

    It may stand wherever an attention mask may, inside `jit` too. A mask of bools does not tell a program that is being
    compiled where its padding is; this one does, so that a kernel gets lengths and needs no mask of queries x keys.

    Attributes:
        lengths: tokens of each sequence that are real; what is outside 0 to `width` counts as the nearer of the two.
        width: tokens of each sequence, padding included.
    """

    lengths: Int32[ArrayLike, " batch"]
    width: int = eqx.field(static=True)

    @classmethod
    def of(cls, mask: ArrayLike) -> "RightPadding":
        """The lengths of a mask whose values are known.

        Args:
            mask: (batch, width), 1 (or True) for real tokens and 0 for padding.

        Raises:
            TypeError: the mask has other axes.
            ValueError: its values are not known here, as it is traced, or a row has a real token after padding.
        """
        if mask.ndim != 2:
            raise TypeError(f"a mask of right padding has shape (batch, width), got {tuple(mask.shape)}.")
        if isinstance(mask, Tracer):
            raise ValueError(
                "this mask is traced, so that nothing is known of its values: call RightPadding.of outside jit, and "
                "pass what it returns."
            )
        values = np.asarray(mask) != 0
        padding = _right_padding(values)
        if padding is None:
            row = int(np.argmax((values[:, 1:] & ~values[:, :-1]).any(axis=1)))
            raise ValueError(
                f"row {row} of the mask has a real token after padding, so that its length does not say what is real: "
                "pad on the right, or pass the mask as it is."
            )
        return padding

    @property
    def shape(self) -> tuple[int, int]:
        """(batch, width), as of a mask of bools."""
        return self.lengths.shape[0], self.width

    def dense(self) -> Bool[jax.Array, "batch width"]:
        """The same as bools."""
        return jnp.arange(self.width, dtype=jnp.int32)[None] < jnp.asarray(self.lengths)[:, None]


def right_padding(mask: ArrayLike) -> RightPadding | None:
    """The lengths of a mask, where its values are known here and all its padding is on the right."""
    known = mask.ndim == 2 and not isinstance(mask, Tracer) and getattr(mask, "is_fully_addressable", True)
    return _right_padding(np.asarray(mask) != 0) if known else None


def dense_mask(mask: Any) -> Any:
    """A mask with lengths as an array; any other as it is."""
    return mask.dense() if isinstance(mask, RightPadding) else mask


def _right_padding(real: np.ndarray) -> RightPadding | None:
    lengths = real.sum(axis=1, dtype=np.int32)
    is_prefix = (real == (np.arange(real.shape[1]) < lengths[:, None])).all()
    return RightPadding(lengths, real.shape[1]) if is_prefix else None
