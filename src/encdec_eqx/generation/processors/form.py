"""The form of a processor, and the arrays it is given. Must not know: any rule.

A processor is called as `processor(logits, prefix, length)`: float32 logits (rows, vocab), and `prefix` (rows, width),
whose first `length` columns are the tokens so far, prompt and its left padding included. It returns the new logits.
Numbers that may differ from call to call are arrays (they are traced), so that only which processors are present, and
sizes, decide which program runs.
"""

from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int32

from ..._typing import Array

Logits = Float[Array, "rows vocab"]
Prefix = Int32[Array, "rows width"]
Length = Int32[Array, ""]


@runtime_checkable
class Processor(Protocol):
    """The form of a processor."""

    def __call__(self, logits: Logits, prefix: Prefix, length: Length) -> Logits:
        """The processed logits."""
        ...
