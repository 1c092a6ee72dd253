"""A few of many: records or examples from all over the data, so that what holds of its head alone is not taken for all.

Must not know what is looked for in them.
"""

from collections.abc import Sequence

import numpy as np

from .batches import Batch, Batches
from .examples import Example, Examples

_SEED = 0


def from_all_over(number: int, most: int) -> list[int]:
    """Indices of some of `number` things, drawn at random (always the same), in random order; all if they are few.

    At random and not evenly spaced, since files are not only sorted: languages or tasks may also take turns.
    """
    return np.random.default_rng(_SEED).permutation(number)[:most].tolist()


def sampled(examples: Sequence[Example], most: int, pad_token_id: int) -> tuple[list[Example], Batch]:
    """Some of the examples, and these as one batch.

    Args:
        examples: what is drawn from.
        most: how many.
        pad_token_id: stands behind shorter sources.
    """
    few = [examples[at] for at in from_all_over(len(examples), most)]
    batches = Batches(Examples.of(few), batch_size=len(few), max_shapes=1, pad_token_id=pad_token_id, shuffle=False)
    return few, batches.epoch(0)[0]
