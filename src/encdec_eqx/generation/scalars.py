"""One number, truth value or id as a caller gives it: Python's, NumPy's or jax's own, an array without axes included.

Ranges are checked as float32 and int32 see them, for that is what they become. Must not know: which option means what,
models, programs.
"""

import math
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._quoting import quoted

LEAST, MOST = 1e-30, 1e30
"""Between these lies what logits are multiplied with, divided by, or what is added to them: a logit of 10^8 then stays
a finite float32, and so do sums of several."""

_LEAST_NORMAL = float(np.finfo(np.float32).tiny)
"""Numbers closer to 0 than this are 0 to most machines."""


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


def refuse_several(name: str, value: Any) -> None:
    """Refuse an array with axes where one number is meant.

    Raises:
        TypeError: if it is one.
    """
    if getattr(value, "ndim", 0):
        raise TypeError(
            f"{name} must be one number, which holds for all rows of the call, got {quoted(value)}. Take one of its "
            f"elements, or call once for each."
        )


def whole(name: str, value: Any, *, least: int, most: int, why: str = "") -> int:
    """An integer from `least` to `most`.

    Args:
        name: of the option, for messages.
        value: what was given.
        least: the smallest that is allowed.
        most: the largest that is allowed.
        why: why no more, for messages.
    """
    refuse_several(name, value)
    value = plain(value)
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


def number(name: str, value: Any) -> float:
    """Anything that is a number, infinities included; not NaN."""
    refuse_several(name, value)
    value = plain(value)
    if isinstance(value, bool | str):
        raise TypeError(f"{name} must be a number, got {quoted(value)}.")
    try:
        result = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, got {quoted(value)} ({type(value).__name__}).") from None
    except OverflowError:
        raise ValueError(f"{name} must be at most {MOST:g} in size, got {quoted(value)}.") from None
    if math.isnan(result):
        raise ValueError(f"{name} must be a number, got {result}.")
    return result


def finite(name: str, value: Any) -> float:
    """A number of a size that float32 can calculate with."""
    result = number(name, value)
    if math.isinf(result):
        raise ValueError(f"{name} must be finite, got {result}.")
    if abs(result) > MOST:
        raise ValueError(
            f"{name} must be at most {MOST:g} in size, got {result}: larger numbers become infinite in float32."
        )
    return result


def positive(name: str, value: Any, *, instead: str) -> float:
    """A number above 0, and not so close to it that float32 could not divide by it."""
    result = finite(name, value)
    if result <= 0:
        raise ValueError(f"{name} must be above 0, got {result}; {instead}.")
    if result < LEAST:
        raise ValueError(
            f"{name} must be at least {LEAST:g}, got {result}: logits that are divided by less become infinite in "
            f"float32; {instead}."
        )
    return result


def not_negative(name: str, value: Any, *, instead: str) -> float:
    """A number from 0 on, and not so close to 0 that it would be 0 in float32."""
    result = finite(name, value)
    if result < 0:
        raise ValueError(f"{name} must be at least 0, got {result}; {instead}.")
    _refuse_vanishing(name, result)
    return result


def share(name: str, value: Any, *, what: str, above_0: bool = False, below_1: bool = False) -> float:
    """A number between 0 and 1, with or without the ends."""
    result = finite(name, value)
    if not 0 <= result <= 1 or (above_0 and result == 0) or (below_1 and result == 1):
        interval = f"{'(' if above_0 else '['}0, 1{')' if below_1 else ']'}"
        raise ValueError(f"{name} is {what} and must lie in {interval}, got {result}.")
    _refuse_vanishing(name, result)
    return result


def _refuse_vanishing(name: str, value: float) -> None:
    if 0 < value < _LEAST_NORMAL:
        raise ValueError(
            f"{name} must be 0 or at least {_LEAST_NORMAL:.3g}, got {value}: float32 has nothing between, so that it "
            "would be 0."
        )


def flag(name: str, value: Any) -> bool:
    """True or False, and nothing that only counts as such."""
    refuse_several(name, value)
    value = plain(value)
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {quoted(value)}.")
    return value


def token(name: str, value: Any) -> int:
    """A token id, from 0 on."""
    if type(value) is int and value >= 0:  # there may be lists of many thousands
        return value
    value = plain(value)
    if isinstance(value, bool) or not hasattr(value, "__index__") or getattr(value, "ndim", 0):
        raise TypeError(f"{name} must be an integer id or several, got {quoted(value)}.")
    if (result := operator.index(value)) < 0:
        raise ValueError(f"{name} must be at least 0, got {quoted(result)}.")
    return result
