"""Whether what must be trained is trained. Host only.

Knows names of arrays, and which of them are as they were drawn; must not know optimisers.
"""

from collections.abc import Iterator
from typing import Any

import jax

from ..params.param_names import places
from .finding import Finding
from .weights import Weights


def trained_names(model: Any, trained: Any) -> set[str]:
    """Names of the arrays that a tree of bools, in the model's own layout, trains."""
    flags = jax.tree.leaves(trained)
    return {found.names[0] for found in places(model) if flags[found.leaf]}


def nothing_is_trained(trained: set[str]) -> Iterator[Finding]:
    """A tree of False only."""
    if not trained:
        yield Finding(
            code="nothing_trained",
            severity="error",
            message="every array is frozen: a step would change nothing.",
            fix="leave `trainable` out to train all that the model reads, or choose more of it.",
        )


def new_parts_are_frozen(weights: Weights, trained: set[str]) -> Iterator[Finding]:
    """Cross-attention, or the projection between the widths, that is as it was drawn and will stay so.

    What was trained before and is frozen now is left alone.
    """
    frozen = [part for part in weights.new_parts if not any(name.startswith(f"{part}.") for name in trained)]
    if trained and frozen:
        yield Finding(
            code="new_parts_frozen",
            severity="error",
            message=f"{len(frozen)} new part(s) are frozen, the first {frozen[0]}: the decoder would read the "
            "source through random weights for ever.",
            fix='train them too: trainable(model, "cross_attention | enc_to_dec_proj | ...").',
            evidence={"parts": len(frozen), "first": frozen[0]},
        )
