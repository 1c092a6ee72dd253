"""What one option's value may be: numbers, truth values, ids and lists of them, as a caller or a file gives them.

Ranges are checked as float32 and int32 see them, for that is what they become; lists become tuples.
"""

import itertools
import math
import operator
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .._inputs import one, plain, whole
from .._quoting import quoted

MOST_TOKENS = 2**20
"""Of a sequence: eight times the longest that any decoder built here was trained on."""

MOST_ID = 2**31 - 1
"""Ids are int32."""

LEAST, MOST = 1e-30, 1e30
"""Between these lies what logits are multiplied with, divided by, or what is added to them: a logit of 10^8 then stays
a finite float32, and so do sums of several."""

_LEAST_NORMAL = float(np.finfo(np.float32).tiny)
"""Numbers closer to 0 than this are 0 to most machines."""


def number(name: str, value: Any) -> float:
    """Anything that is a number, infinities included; not NaN."""
    value = one(name, value)
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


def fraction(name: str, value: Any, *, what: str, above_0: bool = False, below_1: bool = False) -> float:
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
    value = one(name, value)
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


_SEQUENCES = "a list of lists of ids, such as [[3], [4, 5]]"
_BIASES = "pairs of ids and a bias, such as [[[3], -1.5], [[4, 5], 2.0]] or {(3,): -1.5, (4, 5): 2.0}"
_FORCED = "phrases as lists of ids, or lists of alternative phrases, such as [[4, 5], [[6], [7, 8]]]"
_DECAY = "two numbers, [start, factor], such as [20, 1.05]"


def early_stopping(name: str, value: Any) -> bool | str:
    """True, False or "never"."""
    value = one(name, value)
    if isinstance(value, bool) or (isinstance(value, str) and value == "never"):
        return value
    raise ValueError(f'{name} must be True, False or "never", got {quoted(value)}.')


def tokens(name: str, value: Any, *, may_be_empty: bool) -> tuple[int, ...]:
    """One id or several, as a tuple."""
    several = isinstance(value, Sequence) or (hasattr(value, "ndim") and value.ndim == 1)
    found = tuple(token(name, item) for item in (value if several and not isinstance(value, str | bytes) else (value,)))
    if not found and not may_be_empty:
        raise ValueError(f"{name} is empty; pass an id, several, or leave it out.")
    return found


def forced_first(name: str, value: Any) -> int:
    """One id."""
    if getattr(value, "ndim", 0) or (isinstance(value, Sequence) and not isinstance(value, str)):
        raise TypeError(
            f"{name} must be one id, which holds for all rows of the call, got {quoted(value)}. Where rows begin with "
            "different tokens (languages), pass decoder_start_token_id=[...] with one id per row if the token takes "
            "the place of the start token, or decoder_input_ids=[[start, token], ...] with one row each if it follows "
            "it."
        )
    return whole(name, value, least=0, most=MOST_ID)


def token_sequences(name: str, value: Any) -> tuple[tuple[int, ...], ...]:
    """Several sequences of ids."""
    return tuple(_sequence(name, item, _SEQUENCES) for item in _items(name, value, _SEQUENCES))


def forced_phrases(name: str, value: Any) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """Phrases (sequences of ids), each of which may be several alternatives; one alternative where it is one phrase."""
    found = []
    for item in _items(name, value, _FORCED):
        alternatives = _items(name, item, _FORCED)
        nested = bool(alternatives) and not isinstance(plain(alternatives[0]), int)
        found.append(_alternatives(name, alternatives) if nested else (_sequence(name, alternatives, _FORCED),))
    if not found:
        raise ValueError(f"{name} is empty; pass {_FORCED}, or leave it out.")
    return tuple(found)


def _alternatives(name: str, value: Sequence[Any]) -> tuple[tuple[int, ...], ...]:
    found = tuple(_sequence(name, item, _FORCED) for item in value)
    # in their order, what begins alike stands side by side
    ordered = sorted(found)
    for phrase, other in itertools.pairwise(ordered):
        if other[: len(phrase)] == phrase:
            raise ValueError(
                f"{name}: of the alternatives {quoted([list(one) for one in found])}, {quoted(list(phrase))} is the "
                f"beginning of {quoted(list(other))}, or the same: the longer one can never be what is met. Leave one "
                "of them out."
            )
    return found


def biases(name: str, value: Any) -> tuple[tuple[tuple[int, ...], float], ...]:
    """Pairs of a sequence of ids and its bias; of equal sequences the last one counts, as in a dictionary.

    A mapping's keys may be strings like "(4, 5)": transformers writes them so into a file.
    """
    if isinstance(value, Mapping):
        pairs = [(_from_text(name, key), bias) for key, bias in value.items()]
    else:
        pairs = [_items(name, item, _BIASES) for item in _items(name, value, _BIASES)]
    found: dict[tuple[int, ...], float] = {}
    for pair in pairs:
        if len(pair) != 2:
            raise TypeError(f"{name} must be {_BIASES}; {quoted(pair)} is not a pair.")
        found[_sequence(name, pair[0], _BIASES)] = _bias(name, pair)
    return tuple(found.items())


def _bias(name: str, pair: Any) -> float:
    try:
        result = number("the bias", pair[1])
        return result if result == -math.inf else finite("the bias", result)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}, for {quoted(pair[0])}: {error}") from None


def decay(name: str, value: Any) -> tuple[int, float]:
    """A number of tokens and a factor."""
    pair = _items(name, value, _DECAY)
    if len(pair) != 2:
        raise TypeError(f"{name} must be {_DECAY}, got {quoted(value)}.")
    start = plain(pair[0])
    # an array of both has one dtype
    start = int(start) if isinstance(start, float) and start.is_integer() else start
    start = whole(f"the start of {name}", start, least=0, most=MOST_TOKENS)
    return start, positive(f"the factor of {name}", pair[1], instead="1 changes nothing")


def _items(name: str, value: Any, form: str) -> Sequence[Any]:
    if hasattr(value, "ndim") and value.ndim > 0:
        return value.tolist()
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise TypeError(f"{name} must be {form}, got {quoted(value)}.")
    return value


def _sequence(name: str, value: Any, form: str) -> tuple[int, ...]:
    found = tuple(token(name, item) for item in _items(name, value, form))
    if not found:
        raise ValueError(f"{name} holds an empty sequence of ids; it must be {form}.")
    return found


def _from_text(name: str, key: Any) -> Any:
    if not isinstance(key, str):
        return key
    if not re.fullmatch(r"\(\d+(, \d+)*,?\)", key):
        raise TypeError(f"{name} must be {_BIASES}; the key {quoted(key)} is none.")
    return tuple(int(part) for part in re.findall(r"\d+", key))
