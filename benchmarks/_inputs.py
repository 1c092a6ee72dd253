"""The same random ids for both sides, in NumPy; it must not know JAX, torch or the library."""

import numpy as np

from benchmarks._sizes import DECODER_VOCAB, ENCODER_VOCAB

Pair = tuple[np.ndarray, np.ndarray]


def sources(*, batch: int, source: int) -> tuple[np.ndarray, np.ndarray]:
    """Source ids and their mask (all ones), both int64 of (batch, source)."""
    ids = np.random.default_rng(0).integers(1000, ENCODER_VOCAB, (batch, source))
    return ids, np.ones_like(ids)


def targets(*, batch: int, target: int) -> np.ndarray:
    """Label ids, int64 of (batch, target), none of them a special token."""
    return np.random.default_rng(1).integers(0, DECODER_VOCAB - 1, (batch, target))


def ragged(*, source: int, target: int, examples: int = 4096) -> list[Pair]:
    """Source ids and label ids of examples whose lengths have a long tail, as sentences' have.

    Half the sources are shorter than 3/8 of the longest; a target has about half its source's length.

    Args:
        source: the longest source; the shortest is a sixth of it.
        target: the longest target; the shortest is an eighth of it.
        examples: how many.
    """
    draw = np.random.default_rng(2)
    sources = np.clip(np.exp(draw.normal(np.log(3 * source / 8), 0.5, examples)), source / 6, source)
    targets = np.clip(sources * target / source * np.exp(draw.normal(0, 0.3, examples)), target / 8, target)
    lengths = np.ceil([sources, targets]).astype(int).T
    return [
        (draw.integers(1000, ENCODER_VOCAB, longer), draw.integers(0, DECODER_VOCAB - 1, shorter))
        for longer, shorter in lengths
    ]
