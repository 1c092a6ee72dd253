"""The start token of a call: one for all rows, or one a row, as batches of several target languages want it.

Must not know: where the one of a model comes from (`special_tokens`), prompts.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .._quoting import quoted
from .scalars import token
from .special_tokens import START


def is_per_row(value: Any) -> bool:
    """Whether it is more than one id."""
    return bool(getattr(value, "ndim", 0)) or (isinstance(value, Sequence) and not isinstance(value, str | bytes))


def of_rows(value: Any, *, batch: int, vocab_size: int) -> np.ndarray:
    """One start token a row, as int32.

    Args:
        value: a list or an array of ids.
        batch: number of rows.
        vocab_size: of the decoder.

    Raises:
        TypeError: if it does not hold integers, or not in one axis.
        ValueError: if there is not one for each row, or one is no id of the decoder.
    """
    if getattr(value, "ndim", 1) != 1:
        raise TypeError(f"{START} must be one id, or one a row in one axis, got {quoted(value)}.")
    ids = [token(START, one) for one in (value.tolist() if hasattr(value, "tolist") else value)]
    if len(ids) != batch:
        raise ValueError(f"{START} must be one id, or one for each of the {batch} rows of the batch, got {len(ids)}.")
    wrong = next((row for row, one in enumerate(ids) if one >= vocab_size), None)
    if wrong is not None:
        raise ValueError(
            f"{START}[{wrong}] is {quoted(ids[wrong])}; expected 0 to {vocab_size - 1}, the decoder's vocabulary. "
            "Check that the ids come from the decoder's own tokenizer."
        )
    return np.asarray(ids, np.int32)
