"""What every public entrance does with ids, masks, positions and whole numbers before the model sees them.

Ids and masks may be jax or NumPy; values are checked when they are concrete, that is outside `jit`. What begins with
`host_` returns NumPy arrays. Numbers may be Python's, NumPy's or jax's own, an array without axes included.
"""

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Bool, Int32, Integer

from ._padding import RightPadding, dense_mask, right_padding
from ._quoting import quoted
from ._typing import Array, ArrayLike

IGNORED = -100
"""The label that carries no loss (Hugging Face's and PyTorch's word for "not here")."""


def as_ids(name: str, ids: Integer[ArrayLike, "*shape"], limit: int, what: str) -> Int32[Array, "*shape"]:
    """Ids as int32, each at least 0 and below `limit`.

    Args:
        name: the argument's name, for messages.
        ids: the ids.
        limit: number of rows of the table that they index.
        what: what that number is, for messages, such as "the encoder's vocab_size".

    Raises:
        ValueError: there are no ids, or a concrete id is out of range.
    """
    if ids.size == 0:
        raise ValueError(
            f"`{name}` is empty: its shape is {tuple(ids.shape)}; at least one row and one token are needed."
        )
    if not isinstance(ids, Tracer):
        values = _own_values(ids)
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= limit:
            bad = low if low < 0 else high
            raise ValueError(
                f"`{name}` holds {bad}; expected values from 0 to {limit - 1} ({what} is {limit}). " + _hint(name, bad)
            )
        ids = ids.astype(np.int32) if _is_spread(ids) else values.astype(np.int32)
    return jnp.asarray(ids, dtype=jnp.int32)


def _is_spread(values: ArrayLike) -> bool:
    """Whether the array lies on several devices, where it is to stay."""
    return isinstance(values, jax.Array) and len(values.sharding.device_set) > 1


def _own_values(values: ArrayLike) -> np.ndarray:
    """An array's values; of one that lies on devices of several processes those of this process, in a row."""
    if not isinstance(values, jax.Array) or values.is_fully_addressable:
        return np.asarray(values)
    return np.concatenate([np.asarray(shard.data).ravel() for shard in values.addressable_shards])


def _hint(name: str, bad: int) -> str:
    if name.endswith("position_ids"):
        return "Positions count within a sequence, from 0; without them the family's own rule counts."
    if bad == IGNORED:
        return f"{IGNORED} marks ignored labels: make decoder inputs with `shift_tokens_right`, which replaces it."
    return "Check that the ids come from this model's own tokenizer; `resize_token_embeddings` gives a model more ids."


def as_mask(
    name: str, mask: ArrayLike | RightPadding | None, shape: tuple[int, ...] | None = None
) -> Bool[Array, "*shape"] | RightPadding | None:
    """A mask of bools, or of integers 0 and 1, as bools (True may be attended), or as lengths: see `with_lengths`.

    Args:
        name: the argument's name, for messages.
        mask: the mask.
        shape: what it masks, (batch, width); of arrays the entrances' annotations have checked it.

    Raises:
        TypeError: lengths are of another shape.
        ValueError: a concrete integer mask holds something other than 0 and 1.
    """
    if isinstance(mask, RightPadding):
        if shape is not None and mask.shape != shape:
            raise TypeError(f"`{name}` is a RightPadding of shape {mask.shape}; what it masks has shape {shape}.")
        return mask
    if mask is None:
        return None
    if mask.dtype != np.bool_ and not isinstance(mask, Tracer):
        values = _own_values(mask)
        if values.size and not np.isin(values, (0, 1)).all():
            bad = values[~np.isin(values, (0, 1))][0]
            raise ValueError(
                f"`{name}` holds {bad}; a mask holds 1 (or True) for real tokens and 0 (or False) for padding."
            )
    known = with_lengths(mask)
    return known if isinstance(known, RightPadding) else jnp.asarray(mask).astype(jnp.bool_)


def platform() -> str:
    """Where arrays live by default: "cpu", "gpu" or "tpu"."""
    device = getattr(jax.config, "jax_default_device", None)
    return jax.default_backend() if device is None else getattr(device, "platform", str(device))


def with_lengths(mask: ArrayLike) -> ArrayLike | RightPadding:
    """The mask, as lengths where its values are known here and all padding is on the right.

    On accelerators alone, whose kernels take lengths: a CPU would gain nothing, where one program serves all masks.
    """
    lengths = None if platform() == "cpu" else right_padding(mask)
    return mask if lengths is None else lengths


def float_mask_advice(name: str, mask: ArrayLike) -> str:
    """How a mask of floats becomes one of bools, as its values tell: 0 and 1 mean the opposite of what is added.

    Args:
        name: the argument's name.
        mask: its value; where it is traced nothing can be said.
    """
    if isinstance(mask, Tracer):
        return "A mask of 0.0 and 1.0 becomes one by .astype(bool), one that is added to scores by == 0."
    values = np.asarray(mask)
    if not values.size or not ((values <= 0) | (values == 1)).all() or ((values < 0).any() and (values == 1).any()):
        return "It holds neither 0.0 and 1.0 alone nor what is added to scores (0.0, and a large negative number)."
    if (values == 1).any():
        return f"It holds 0.0 and 1.0: pass {name}.astype(bool)."
    if (values < 0).all():
        return "It holds negative numbers alone, which say to attend to nothing."
    if (values < 0).any():
        return f"It is added to scores (0.0: may be attended): pass {name} == 0."
    return "It is 0.0 everywhere: if it is added to scores, all may be attended, and it can be left out."


def check_length(name: str, length: int, longest: int) -> None:
    """Refuse a sequence that runs past the table of positions, which jax would silently clamp.

    Raises:
        ValueError: `length` exceeds `longest`.
    """
    if length > longest:
        raise ValueError(
            f"`{name}` is {length} tokens long; this model's table of positions allows at most {longest}. "
            "Truncate the input, or use a checkpoint with more positions."
        )


def _on_host(name: str, value: Any) -> np.ndarray:
    if not isinstance(value, jax.Array | np.ndarray):
        raise TypeError(f"{name} must be a jax or NumPy array, got {type(value).__name__}: pass np.asarray(...).")
    if value.ndim != 2:
        raise TypeError(f"{name} must have 2 axes (batch first), got shape {tuple(value.shape)}.")
    if 0 in value.shape:
        raise ValueError(f"{name} is empty: its shape is {tuple(value.shape)}; at least one row and token are needed.")
    return np.asarray(value)


def host_ids(name: str, value: Any, *, below: int, table: str) -> np.ndarray:
    """Ids as int32, each in [0, below).

    Raises:
        TypeError: if they are not integers of shape (batch, length).
        ValueError: if one is out of range.
    """
    array = _on_host(name, value)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must hold integers, got {array.dtype}.")
    wrong = (array < 0) | (array >= below)
    if wrong.any():
        row, column = (int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(
            f"{name}[{row}, {column}] is {array[row, column]}; expected 0 to {below - 1} ({table} has {below} rows). "
            "Check that the ids come from this model's own tokenizer."
        )
    return array.astype(np.int32)


def host_mask(name: str, value: Any, *, shape: tuple[int, ...], of: str) -> np.ndarray:
    """A mask of 0 and 1 (or bools) as bools, all of them real where there is none; every row has a real token.

    Raises:
        TypeError: if it holds floats or has another shape than what it masks.
        ValueError: if it holds other numbers, or a row without a real token.
    """
    if value is None:
        return np.ones(shape, bool)
    array = _on_host(name, dense_mask(value))
    if array.dtype.kind not in "biu":
        raise TypeError(
            f"{name} must hold bools or integers 0 and 1 (1: may be attended), got {array.dtype}. "
            f"{float_mask_advice(name, array)}"
        )
    if array.shape != shape:
        raise TypeError(f"{name} must have the shape of {of}, {shape}, got {array.shape}.")
    if array.dtype.kind != "b" and not np.isin(array, (0, 1)).all():
        wrong = array[~np.isin(array, (0, 1))][0]
        raise ValueError(f"{name} holds {wrong}; expected 1 (real token) or 0 (padding).")
    empty = ~array.astype(bool).any(axis=1)
    if empty.any():
        raise ValueError(f"row {int(np.argmax(empty))} of {name} has no real token: all of it is 0. Leave the row out.")
    return array.astype(bool)


def numpy_of(*values: Any) -> Any:
    """Jax's NumPy where one of the values is traced; NumPy itself on the host, where jax would compile a program."""
    return jnp if any(isinstance(value, Tracer) for value in values) else np


def as_int32(value: Any) -> Any:
    """A number as an array of int32, on the host unless it is traced."""
    return numpy_of(value).asarray(value, np.int32)


def plain(value: Any) -> Any:
    """A number of NumPy's or jax's, also as an array without axes, as Python's own; anything else as it is."""
    if isinstance(value, np.generic):
        return value.item()
    if (
        isinstance(value, np.ndarray | jax.Array)
        and value.ndim == 0
        and not jnp.issubdtype(value.dtype, jax.dtypes.extended)
    ):
        return np.asarray(value).item()
    return value


def one(name: str, value: Any) -> Any:
    """The same, where one number is meant.

    Raises:
        TypeError: if it is an array with axes.
    """
    if getattr(value, "ndim", 0):
        raise TypeError(
            f"{name} must be one number, which holds for all rows of the call, got {quoted(value)}. Take one of its "
            f"elements, or call once for each."
        )
    return plain(value)


def whole(name: str, value: Any, *, least: int, most: int, why: str = "") -> int:
    """An integer from `least` to `most`; `why` no more is for messages.

    Raises:
        TypeError: if it is no integer.
        ValueError: if it is out of range.
    """
    value = one(name, value)
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {quoted(value)}.")
    try:
        result = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {quoted(value)} ({type(value).__name__}).") from None
    if result < least:
        raise ValueError(f"{name} must be at least {least}, got {quoted(result)}.")
    if result > most:
        raise ValueError(f"{name} must be at most {most:,}{why and f' ({why})'}, got {quoted(result)}.")
    return result
