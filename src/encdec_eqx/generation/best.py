"""From the pools of a finished beam search to its results, in NumPy on the host. Knows no decoder and no loop."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from .hypotheses import Pool
from .loop import Record


def best_hypotheses(
    pools: Sequence[Pool],
    *,
    batch: int,
    returned: int,
    prompt_width: int,
    eos_ids: np.ndarray,
    last_first: bool,
) -> Record:
    """The best hypotheses of each sentence over the pools of all its groups, side by side.

    Args:
        pools: one a group.
        batch: sentences that count; the pools' others fill the bucket.
        returned: hypotheses a sentence. Places for which nothing was found have length 0 and score -inf.
        prompt_width: columns of the prompt.
        eos_ids: ids that end a sequence.
        last_first: whether of equals the last comes first, as in transformers 4.46.3.
    """
    size = pools[0].filled.shape[1]
    beams = size * len(pools)
    filled, scores = (_joined(pools, get, batch) for get in (lambda p: p.filled, lambda p: p.best.scores))
    # A hypothesis of -inf still comes before a place that nothing was found for.
    ranks = np.where(filled, np.maximum(scores, np.finfo(np.float32).min), -np.inf)
    order = np.argsort(ranks if last_first else -ranks, axis=1, kind="stable")
    order = (order[:, ::-1] if last_first else order)[:, :returned]

    def in_rows(table: np.ndarray) -> np.ndarray:
        index = order.reshape(*order.shape, *(1,) * (table.ndim - 2))
        return np.take_along_axis(table, index, axis=1).reshape(-1, *table.shape[2:])

    sequences, log_probs, processed, parents = (
        _joined(pools, get, batch)
        for get in (
            lambda p: p.best.tokens,
            lambda p: p.best.log_probs,
            lambda p: p.best.processed_log_probs,
            lambda p: p.best.parents,
        )
    )
    first = np.arange(batch)[:, None] * beams + np.repeat(np.arange(len(pools)) * size, size)[None]
    rows = np.where(parents < 0, -1, parents + first[..., None]).astype(np.int32)
    lengths = in_rows(np.where(filled, _joined(pools, lambda p: p.best.lengths, batch), 0))
    sequences = in_rows(sequences)
    ended = (lengths > 0) & np.isin(_last(sequences, prompt_width, lengths), eos_ids)
    ranked = np.where(lengths > 0, in_rows(scores), -np.inf).astype(np.float32)
    return Record(
        sequences=sequences,
        lengths=lengths,
        truncated=~ended,
        scores=ranked,
        normalized_scores=ranked,
        log_probs=in_rows(log_probs),
        processed_log_probs=in_rows(processed),
        beam_indices=in_rows(rows),
    )


def with_first_end(record: Record, prompt_width: int, eos_ids: np.ndarray) -> Record:
    """With the first of the end ids at every end: transformers 4.46.3 keeps no other."""
    sequences = record.sequences.copy()
    ended = np.flatnonzero(~record.truncated)
    sequences[ended, prompt_width + record.lengths[ended] - 1] = eos_ids[:1].repeat(len(ended))
    return dataclasses.replace(record, sequences=sequences)


def _joined(pools: Sequence[Pool], get, batch: int) -> np.ndarray:
    return np.concatenate([np.asarray(get(pool)) for pool in pools], axis=1)[:batch]


def _last(sequences: np.ndarray, prompt_width: int, lengths: np.ndarray) -> np.ndarray:
    return np.take_along_axis(sequences, (prompt_width + lengths - 1)[:, None], axis=1)[:, 0]
