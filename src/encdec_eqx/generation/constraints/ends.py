"""What a user says about end tokens and the vocabulary, checked. Knows no automaton."""

from collections.abc import Iterable, Sequence

import numpy as np

from ..._quoting import quoted
from ..scalars import plain

_MOST_TOKENS = 2**21
"""Ids of a vocabulary: twice as many as the largest that tokenizers are trained with."""


def as_vocab_size(vocab_size: int) -> int:
    """A size of a vocabulary.

    Raises:
        TypeError: it is not an integer.
        ValueError: it is not positive, or larger than any vocabulary.
    """
    size = plain(vocab_size)
    if isinstance(size, bool) or not isinstance(size, int):
        raise TypeError(f"`vocab_size` must be an integer (the width of the model's logits), got {quoted(vocab_size)}.")
    if size < 1:
        raise ValueError(f"`vocab_size` must be at least 1, got {quoted(size)}.")
    if size > _MOST_TOKENS:
        raise ValueError(
            f"`vocab_size` must be at most {_MOST_TOKENS:,}, got {quoted(size)}; it is the width of the model's logits."
        )
    return size


def as_end_ids(eos_token_id: int | Sequence[int], vocab_size: int) -> np.ndarray:
    """The end tokens in ascending order, each once.

    Raises:
        TypeError: they are not integers.
        ValueError: there is none, or one lies outside the vocabulary.
    """
    given = plain(eos_token_id)
    ids = [plain(id_) for id_ in (given if isinstance(given, Iterable) and not isinstance(given, str) else [given])]
    if any(isinstance(id_, bool) or not isinstance(id_, int) for id_ in ids):
        raise TypeError(f"`eos_token_id` must be an id or a list of ids, got {quoted(eos_token_id)}.")
    if not ids:
        raise ValueError(
            "`eos_token_id` is empty; a constraint needs at least one end token, or no output could ever be complete."
        )
    wrong = [id_ for id_ in ids if not 0 <= id_ < vocab_size]
    if wrong:
        raise ValueError(
            f"`eos_token_id` holds {quoted(wrong[0])}; expected ids from 0 to {vocab_size - 1}, the vocabulary's."
        )
    return np.unique(np.asarray(ids, np.int32))
