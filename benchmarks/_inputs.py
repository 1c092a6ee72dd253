"""The same random ids for both sides, in NumPy; it must not know JAX, torch or the library."""

import numpy as np

from benchmarks._sizes import DECODER_VOCAB, ENCODER_VOCAB


def sources(*, batch: int, source: int) -> tuple[np.ndarray, np.ndarray]:
    """Source ids and their mask (all ones), both int64 of (batch, source)."""
    ids = np.random.default_rng(0).integers(1000, ENCODER_VOCAB, (batch, source))
    return ids, np.ones_like(ids)


def targets(*, batch: int, target: int) -> np.ndarray:
    """Label ids, int64 of (batch, target), none of them a special token."""
    return np.random.default_rng(1).integers(0, DECODER_VOCAB - 1, (batch, target))
