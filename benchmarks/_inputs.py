"""The same random ids for both sides, in NumPy; it must not know JAX, torch or the library."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks._sizes import DECODER_VOCAB, ENCODER_VOCAB

Pair = tuple[np.ndarray, np.ndarray]


def sources(*, batch: int, source: int, real: Sequence[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Source ids and their mask, both int64 of (batch, source).

    Args:
        batch: rows.
        source: places of a row.
        real: the fewest and the most of them that are no padding, drawn for each row; by default all.
    """
    draw = np.random.default_rng(0)
    ids = draw.integers(1000, ENCODER_VOCAB, (batch, source))
    if real is None:
        return ids, np.ones_like(ids)
    lengths = draw.integers(real[0], real[1] + 1, (batch, 1))
    return ids, (np.arange(source) < lengths).astype(np.int64)


def bart_config(*, layers: int, hidden: int, heads: int) -> dict[str, Any]:
    """The config of a whole BART, both pieces equally deep, as Hugging Face has it; bart-large's vocabulary."""
    both = {"layers": layers, "attention_heads": heads, "ffn_dim": 4 * hidden}
    return {
        "model_type": "bart",
        "d_model": hidden,
        **{f"{piece}_{name}": value for piece in ("encoder", "decoder") for name, value in both.items()},
        "vocab_size": 50265,
        "max_position_embeddings": 1024,
        "dropout": 0.0,
    }


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
