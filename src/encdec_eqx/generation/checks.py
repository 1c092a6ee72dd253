"""Checks of what a call hands to `generate`, in NumPy on the host, before anything is traced.

Must not know: models, options, loops. Limits come in as numbers.
"""

from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from .._inputs import float_mask_advice


def on_host(name: str, value: Any, *, rank: int = 2) -> np.ndarray:
    """A jax or NumPy array as a NumPy array of the expected rank.

    Raises:
        TypeError: if it is something else, or has another rank.
    """
    if not isinstance(value, jax.Array | np.ndarray):
        raise TypeError(f"{name} must be a jax or NumPy array, got {type(value).__name__}: pass np.asarray(...).")
    if value.ndim != rank:
        raise TypeError(f"{name} must have {rank} axes (batch first), got shape {tuple(value.shape)}.")
    if 0 in value.shape:
        raise ValueError(f"{name} is empty: its shape is {tuple(value.shape)}; at least one row and token are needed.")
    return np.asarray(value)


def ids(name: str, value: Any, *, below: int, table: str) -> np.ndarray:
    """Ids as int32, each in [0, below).

    Raises:
        TypeError: if they are not integers of shape (batch, length).
        ValueError: if one is out of range.
    """
    array = on_host(name, value)
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


def mask(name: str, value: Any, *, shape: tuple[int, int], of: str) -> np.ndarray:
    """A mask of 0 and 1 (or bools) as bools; every row has a real token.

    Raises:
        TypeError: if it holds floats or has another shape than what it masks.
        ValueError: if it holds other numbers, or a row without a real token.
    """
    array = on_host(name, value)
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


def length(name: str, tokens: int, *, longest: int, how: str) -> None:
    """Refuse sequences that a table of positions cannot number.

    Raises:
        ValueError: if `tokens` exceeds `longest`.
    """
    if tokens > longest:
        raise ValueError(f"{name} is {tokens} tokens long, but the table of positions numbers at most {longest}. {how}")


def host_level(*values: Any) -> None:
    """Refuse to run inside a transformation.

    Raises:
        RuntimeError: if a leaf is traced, or everything is.
    """
    # Under jit even a new constant is traced, also where all arguments are concrete.
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((values, jax.device_put(np.zeros(()))))):
        raise RuntimeError(
            "generate runs on the host: it pads, loops and trims outside jit, and compiles its own programs. It was "
            "called inside jit, vmap, grad or another transformation. Call it outside, or build a loop of your own "
            "from model.init_cache and model.decode, which are plain functions to jit."
        )
