"""What a user says about end tokens and the vocabulary, checked. Knows no automaton."""

from collections.abc import Sequence

import numpy as np


def as_vocab_size(vocab_size: int) -> int:
    """A size of a vocabulary.

    Raises:
        TypeError: it is not an integer.
        ValueError: it is not positive.
    """
    if isinstance(vocab_size, bool) or not isinstance(vocab_size, int | np.integer):
        raise TypeError(f"`vocab_size` must be an integer (the width of the model's logits), got {vocab_size!r}.")
    if vocab_size < 1:
        raise ValueError(f"`vocab_size` must be at least 1, got {vocab_size}.")
    return int(vocab_size)


def as_end_ids(eos_token_id: int | Sequence[int], vocab_size: int) -> np.ndarray:
    """The end tokens in ascending order, each once.

    Raises:
        TypeError: they are not integers.
        ValueError: there is none, or one lies outside the vocabulary.
    """
    ids = [eos_token_id] if isinstance(eos_token_id, int | np.integer) else list(eos_token_id)
    if any(isinstance(id_, bool) or not isinstance(id_, int | np.integer) for id_ in ids):
        raise TypeError(f"`eos_token_id` must be an id or a list of ids, got {eos_token_id!r}.")
    if not ids:
        raise ValueError(
            "`eos_token_id` is empty; a constraint needs at least one end token, or no output could ever be complete."
        )
    wrong = [int(id_) for id_ in ids if not 0 <= id_ < vocab_size]
    if wrong:
        raise ValueError(f"`eos_token_id` holds {wrong[0]}; expected ids from 0 to {vocab_size - 1}, the vocabulary's.")
    return np.unique(np.asarray(ids, np.int32))
