"""Sources of many lengths in batches to generate from: sorted by length, padded, of equally many rows.

Knows ids, and which id pads a source; must not know tokenizers, nor what is generated.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from ..encoder import Encoder


def by_length(sources: Sequence[Sequence[int] | np.ndarray], batch_size: int) -> Iterator[Int[np.ndarray, " rows"]]:
    """Indices of the sources, those of similar length together, at most `batch_size` at once."""
    order = np.argsort([len(source) for source in sources], kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def filled(chosen: Int[np.ndarray, " rows"], rows: int) -> Int[np.ndarray, " filled"]:
    """The indices, the first one repeated behind them up to `rows`: another number of rows is another program."""
    return np.concatenate([chosen, np.repeat(chosen[:1], max(0, rows - len(chosen)))])


def padded(
    sources: Sequence[np.ndarray], pad: int, fields: Sequence[Mapping[str, np.ndarray]] | None = None
) -> dict[str, np.ndarray]:
    """`input_ids` and `attention_mask` of sources, padded on the right to the longest.

    Args:
        sources: the ids.
        pad: stands behind shorter ones.
        fields: of each source what goes with its ids (the same names for all), a mask of its own among it.
    """
    lengths = np.array([len(source) for source in sources])
    real = np.arange(lengths.max()) < lengths[:, None]

    def joined(rows: Sequence[np.ndarray], fill: int) -> np.ndarray:
        array = np.full(real.shape, fill, np.int32)
        array[real] = np.concatenate(rows)
        return array

    batch = {"input_ids": joined(sources, pad), "attention_mask": real}
    for name in fields[0] if fields else ():
        field = joined([row[name] for row in fields or ()], 0)
        batch[name] = field.astype(bool) if name == "attention_mask" else field
    return batch


def source_pad(model: Any) -> int:
    """What stands behind a source. It is masked, so any id will do where the encoder's config names none."""
    encoder = model.encoder
    return (encoder.config.pad_token_id or 0) if isinstance(encoder, Encoder) else 0
