"""The form of a processor, and how several are applied.

A processor is called as `processor(logits, prefix, length)`: float32 logits (rows, vocab), and `prefix` (rows, width),
whose first `length` columns are the tokens so far, prompt and its left padding included. It returns the new logits.
Numbers that may differ from call to call are arrays (they are traced), so that only which processors are present, and
sizes, decide which program runs.
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Float, Int32

from ..._typing import Array

Logits = Float[Array, "rows vocab"]
"""Of the next token of each row."""

Prefix = Int32[Array, "rows width"]
"""The ids of each row so far, the prompt among them; those behind `Length` do not count."""

Length = Int32[Array, ""]
"""How many ids of `Prefix` are there."""


@runtime_checkable
class Processor(Protocol):
    """The form of a processor."""

    def __call__(self, logits: Logits, prefix: Prefix, length: Length) -> Logits:
        """The processed logits."""
        ...


@jax.named_scope("processors")
def apply(processors: Sequence[Processor], logits: Logits, prefix: Prefix, length: Length) -> Logits:
    """All processors, one after another.

    Raises:
        TypeError: if one, a user's own, does not return logits of the same shape and dtype.
    """
    for processor in processors:
        processed = processor(logits, prefix, length)
        got, expected = (_form(array) for array in (processed, logits))
        if got != expected:
            raise TypeError(
                f"the processor {type(processor).__name__} returned {got}; expected {expected}, as it was given."
            )
        logits = processed
    return logits


def _form(array: Any) -> str:
    if not hasattr(array, "shape") or not hasattr(array, "dtype"):
        return type(array).__name__
    return f"{np.dtype(array.dtype).name}{list(array.shape)}"
