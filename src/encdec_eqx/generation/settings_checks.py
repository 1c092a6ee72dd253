"""What each option of `generate` may be, checked on its own, and made hashable: lists become tuples.

Must not know: how options combine, models, arrays.
"""

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

_WORDS = "a list of lists of ids, such as [[3], [4, 5]]"
_BIASES = "pairs of ids and a bias, such as [[[3], -1.5], [[4, 5], 2.0]] or {(3,): -1.5, (4, 5): 2.0}"
_FORCED = "phrases as lists of ids, or lists of alternative phrases, such as [[4, 5], [[6], [7, 8]]]"
_DECAY = "two numbers, [start, factor], such as [20, 1.05]"


def whole(name: str, value: Any, *, least: int) -> int:
    """An integer from `least` on."""
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}.")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r} ({type(value).__name__}).") from None
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}.")
    return number


def number(name: str, value: Any) -> float:
    """Anything that is a number; not NaN."""
    if isinstance(value, bool | str):
        raise TypeError(f"{name} must be a number, got {value!r}.")
    try:
        result = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, got {value!r} ({type(value).__name__}).") from None
    if math.isnan(result):
        raise ValueError(f"{name} must be a number, got {result}.")
    return result


def finite(name: str, value: Any) -> float:
    """A finite number."""
    result = number(name, value)
    if math.isinf(result):
        raise ValueError(f"{name} must be finite, got {result}.")
    return result


def positive(name: str, value: Any, *, instead: str) -> float:
    """A finite number above 0."""
    result = finite(name, value)
    if result <= 0:
        raise ValueError(f"{name} must be above 0, got {result}; {instead}.")
    return result


def not_negative(name: str, value: Any, *, instead: str) -> float:
    """A finite number from 0 on."""
    result = finite(name, value)
    if result < 0:
        raise ValueError(f"{name} must be at least 0, got {result}; {instead}.")
    return result


def share(name: str, value: Any, *, what: str, above_0: bool = False, below_1: bool = False) -> float:
    """A number between 0 and 1, with or without the ends."""
    result = finite(name, value)
    if not 0 <= result <= 1 or (above_0 and result == 0) or (below_1 and result == 1):
        interval = f"{'(' if above_0 else '['}0, 1{')' if below_1 else ']'}"
        raise ValueError(f"{name} is {what} and must lie in {interval}, got {result}.")
    return result


def flag(name: str, value: Any) -> bool:
    """True or False, and nothing that only counts as such."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}.")
    return value


def early_stopping(name: str, value: Any) -> bool | str:
    """True, False or "never"."""
    if isinstance(value, bool) or value == "never":
        return value
    raise ValueError(f'{name} must be True, False or "never", got {value!r}.')


def _token(name: str, value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer id or several, got {value!r}.")
    if (token := operator.index(value)) < 0:
        raise ValueError(f"{name} must be at least 0, got {token}.")
    return token


def tokens(name: str, value: Any, *, may_be_empty: bool) -> tuple[int, ...]:
    """One id or several, as a tuple."""
    several = isinstance(value, Sequence) or (hasattr(value, "ndim") and value.ndim == 1)
    found = tuple(_token(name, item) for item in (value if several and not isinstance(value, str) else (value,)))
    if not found and not may_be_empty:
        raise ValueError(f"{name} is empty; pass an id, several, or leave it out.")
    return found


def words(name: str, value: Any) -> tuple[tuple[int, ...], ...]:
    """Several sequences of ids."""
    return tuple(_word(name, item, _WORDS) for item in _items(name, value, _WORDS))


def forced_words(name: str, value: Any) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """Phrases (sequences of ids), each of which may be several alternatives; one alternative where it is one phrase."""
    found = []
    for item in _items(name, value, _FORCED):
        alternatives = _items(name, item, _FORCED)
        nested = bool(alternatives) and not hasattr(alternatives[0], "__index__")
        found.append(_alternatives(name, alternatives) if nested else (_word(name, alternatives, _FORCED),))
    if not found:
        raise ValueError(f"{name} is empty; pass {_FORCED}, or leave it out.")
    return tuple(found)


def _alternatives(name: str, value: Sequence[Any]) -> tuple[tuple[int, ...], ...]:
    found = tuple(_word(name, item, _FORCED) for item in value)
    for at, phrase in enumerate(found):
        for other in found[:at] + found[at + 1 :]:
            if other[: len(phrase)] == phrase:
                raise ValueError(
                    f"{name}: of the alternatives {[list(one) for one in found]}, {list(phrase)} is the beginning of "
                    f"{list(other)}, or the same: the longer one can never be what is met. Leave one of them out."
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
            raise TypeError(f"{name} must be {_BIASES}; {pair!r} is not a pair.")
        found[_word(name, pair[0], _BIASES)] = number(f"the bias of {name} for {pair[0]!r}", pair[1])
    return tuple(found.items())


def decay(name: str, value: Any) -> tuple[int, float]:
    """A number of tokens and a factor."""
    pair = _items(name, value, _DECAY)
    if len(pair) != 2:
        raise TypeError(f"{name} must be {_DECAY}, got {value!r}.")
    start = whole(f"the start of {name}", pair[0], least=0)
    return start, positive(f"the factor of {name}", pair[1], instead="1 changes nothing")


def _items(name: str, value: Any, form: str) -> Sequence[Any]:
    if hasattr(value, "ndim") and value.ndim > 0:
        return value.tolist()
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError(f"{name} must be {form}, got {value!r}.")
    return value


def _word(name: str, value: Any, form: str) -> tuple[int, ...]:
    found = tuple(_token(name, item) for item in _items(name, value, form))
    if not found:
        raise ValueError(f"{name} holds an empty sequence of ids; it must be {form}.")
    return found


def _from_text(name: str, key: Any) -> Any:
    if not isinstance(key, str):
        return key
    if not re.fullmatch(r"\(\d+(, \d+)*,?\)", key):
        raise TypeError(f"{name} must be {_BIASES}; the key {key!r} is none.")
    return tuple(int(part) for part in re.findall(r"\d+", key))


_LEAST = {
    "max_length": 1,
    "max_new_tokens": 1,
    "min_length": 0,
    "min_new_tokens": 0,
    "top_k": 0,
    "num_beams": 1,
    "num_beam_groups": 1,
    "num_assistant_tokens": 1,
    "prompt_lookup_num_tokens": 1,
    "max_matching_ngram_size": 1,
    "num_return_sequences": 1,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "forced_bos_token_id": 0,
}

_NO_PENALTY = "1 is no penalty, more is a stronger one"

CHECKS: dict[str, Callable[[str, Any], Any]] = {
    **{name: partial(whole, least=least) for name, least in _LEAST.items()},
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
