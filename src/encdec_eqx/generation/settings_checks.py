"""What each option of `generate` may be, checked on its own, and made hashable: lists become tuples.

Must not know: how options combine, models, arrays.
"""

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from .._quoting import quoted
from .scalars import finite, flag, not_negative, number, plain, positive, refuse_several, share, token, whole

_WORDS = "a list of lists of ids, such as [[3], [4, 5]]"
_BIASES = "pairs of ids and a bias, such as [[[3], -1.5], [[4, 5], 2.0]] or {(3,): -1.5, (4, 5): 2.0}"
_FORCED = "phrases as lists of ids, or lists of alternative phrases, such as [[4, 5], [[6], [7, 8]]]"
_DECAY = "two numbers, [start, factor], such as [20, 1.05]"


def early_stopping(name: str, value: Any) -> bool | str:
    """True, False or "never"."""
    refuse_several(name, value)
    value = plain(value)
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
            "different tokens (languages), pass decoder_start_token_id=[...] with one id a row if the token takes the "
            "place of the start token, or decoder_input_ids=[[start, token], ...] with one row each if it follows it."
        )
    return whole(name, value, least=0, most=_MOST_ID)


def words(name: str, value: Any) -> tuple[tuple[int, ...], ...]:
    """Several sequences of ids."""
    return tuple(_word(name, item, _WORDS) for item in _items(name, value, _WORDS))


def forced_words(name: str, value: Any) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """Phrases (sequences of ids), each of which may be several alternatives; one alternative where it is one phrase."""
    found = []
    for item in _items(name, value, _FORCED):
        alternatives = _items(name, item, _FORCED)
        nested = bool(alternatives) and not isinstance(plain(alternatives[0]), int)
        found.append(_alternatives(name, alternatives) if nested else (_word(name, alternatives, _FORCED),))
    if not found:
        raise ValueError(f"{name} is empty; pass {_FORCED}, or leave it out.")
    return tuple(found)


def _alternatives(name: str, value: Sequence[Any]) -> tuple[tuple[int, ...], ...]:
    found = tuple(_word(name, item, _FORCED) for item in value)
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
        found[_word(name, pair[0], _BIASES)] = _bias(name, pair)
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
    start = whole(f"the start of {name}", start, least=0, most=_MOST_TOKENS)
    return start, positive(f"the factor of {name}", pair[1], instead="1 changes nothing")


def _items(name: str, value: Any, form: str) -> Sequence[Any]:
    if hasattr(value, "ndim") and value.ndim > 0:
        return value.tolist()
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise TypeError(f"{name} must be {form}, got {quoted(value)}.")
    return value


def _word(name: str, value: Any, form: str) -> tuple[int, ...]:
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


_MOST_TOKENS = 2**20
"""Of a sequence: eight times the longest that any decoder built here was trained on."""

_MOST_ID = 2**31 - 1
"""Ids are int32."""

_MOST_BEAMS = 1024
"""Each is compared with each, so that a sequence's scores grow with their square; people use up to some dozens."""

_MOST_UNROLLED = 64
"""Of what is written into the program once each, which takes longer and longer to compile."""

_MOST_RESULTS = 2**16
"""Samples of one sequence."""

_COMPILED = "each makes the program that has to be compiled larger"

_LENGTH = {"least": 0, "most": _MOST_TOKENS}
_UNROLLED = {"least": 1, "most": _MOST_UNROLLED, "why": _COMPILED}

_RANGES: dict[str, dict[str, Any]] = {
    "max_length": {**_LENGTH, "least": 1},
    "max_new_tokens": {**_LENGTH, "least": 1},
    "min_length": _LENGTH,
    "min_new_tokens": _LENGTH,
    # more than there are tokens mean all
    "top_k": {"least": 0, "most": 2**31 - 1},
    "num_beams": {"least": 1, "most": _MOST_BEAMS, "why": "memory grows with their square"},
    "num_beam_groups": _UNROLLED,
    "num_assistant_tokens": _UNROLLED,
    "prompt_lookup_num_tokens": _UNROLLED,
    "max_matching_ngram_size": _UNROLLED,
    "num_return_sequences": {"least": 1, "most": _MOST_RESULTS},
    "no_repeat_ngram_size": {**_UNROLLED, "least": 0},
    "encoder_no_repeat_ngram_size": {**_UNROLLED, "least": 0},
}

_NO_PENALTY = "1 is no penalty, more is a stronger one"

CHECKS: dict[str, Callable[[str, Any], Any]] = {
    **{name: partial(whole, **its) for name, its in _RANGES.items()},
    "forced_bos_token_id": forced_first,
    "do_sample": flag,
    "temperature": partial(positive, instead="for the most probable token pass do_sample=False"),
    "top_p": partial(share, what="a probability mass"),
    "min_p": partial(share, what="a part of the largest probability"),
    "typical_p": partial(share, what="a probability mass", above_0=True),
    "epsilon_cutoff": partial(share, what="a probability", below_1=True),
    "eta_cutoff": partial(share, what="a probability", below_1=True),
    "length_penalty": finite,
    "early_stopping": early_stopping,
    "diversity_penalty": partial(not_negative, instead="0 sets nothing apart"),
    "penalty_alpha": partial(share, what="a weight"),
    "force_words_ids": forced_words,
    "repetition_penalty": partial(positive, instead=_NO_PENALTY),
    "encoder_repetition_penalty": partial(positive, instead=_NO_PENALTY),
    "sequence_bias": biases,
    "bad_words_ids": words,
    "suppress_tokens": partial(tokens, may_be_empty=True),
    "begin_suppress_tokens": partial(tokens, may_be_empty=True),
    "exponential_decay_length_penalty": decay,
    "forced_eos_token_id": partial(tokens, may_be_empty=False),
    "remove_invalid_values": flag,
    "renormalize_logits": flag,
}
"""By option: from its name and a value to the value as it is kept, or an error that teaches."""
