"""What a run has come to after each piece of it: the tokens that are new, the rows that are done. Knows no decoder."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32

from .result import GenerationResult


@dataclass(frozen=True, eq=False)
class StreamChunk:
    """What has come since the chunk before.

    Attributes:
        tokens: the new tokens of every row, padding behind its end. Searches that may still change their mind (beams)
            have none before a row is done.
        done: the rows that ended in this chunk, each with all of its generated tokens, its end included.
        finished: the rows that have ended so far.
        result: in the last chunk what `generate` returns; None in the others.
    """

    tokens: Int32[np.ndarray, "rows new"]
    done: dict[int, Int32[np.ndarray, " generated"]]
    finished: Bool[np.ndarray, " rows"]
    result: GenerationResult | None = None


class Watch:
    """Looks at a run's states, one after another, and says what is new in each.

    Nothing it returns points into a state, whose buffers the next piece writes over.
    """

    def __init__(self, run: Any):
        self.run = run
        self.seen = run.width
        self.finished: np.ndarray | None = None

    def chunk(self, state: Any, over: bool) -> StreamChunk:
        """What is new.

        Args:
            state: the run's.
            over: whether it is the last one; rows that have not ended are done all the same then.
        """
        strategy, width = self.run.strategy, self.run.width
        record = strategy.record(state, self.run.batch)
        finished = self._by_row(np.array(state.finished), record.sequences.shape[0])
        before = np.zeros_like(finished) if self.finished is None else self.finished
        rows = np.flatnonzero((finished | over) & ~before)
        done = {int(row): record.sequences[row, width : width + record.lengths[row]].copy() for row in rows}
        length = int(state.length) if strategy.in_order else self.seen
        tokens = record.sequences[:, self.seen : length].copy()
        self.seen, self.finished = length, finished
        return StreamChunk(tokens, done, finished)

    def _by_row(self, finished: np.ndarray, rows: int) -> np.ndarray:
        """Sentences end as a whole in beam search."""
        each = rows // self.run.batch
        return finished[:rows] if len(finished) == self.run.sentences * each else np.repeat(finished, each)[:rows]
