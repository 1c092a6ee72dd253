"""What `generate`, `stream` and `warmup` return, made from what a search has found and what XLA has compiled."""

import contextlib
import functools
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float32, Int32

from .plan import Plan
from .search.base import AbstractSearch, SearchOutput
from .search.legacy_force_words import phrases_met


@dataclass(frozen=True, eq=False)
class GenerationResult:
    """Generated sequences, as NumPy arrays on the host. Row `r * n + s` is sample s of sequence r.

    Attributes:
        sequences: prompt or start token, generated tokens, then `pad_token_id`; as wide as the longest row.
        lengths: generated tokens, up to and including the first end-of-sequence id, without the prompt.
        truncated: whether a row reached the maximum length without an end-of-sequence id.
        scores: of greedy search and sampling the sum of `log_probs`; of beam search the sum of `processed_log_probs`
            over `lengths ** length_penalty`, by which it ranks (-inf for a place that nothing was found for).
        normalized_scores: of beam search the same; otherwise the mean of `log_probs`.
        log_probs: natural log-probability of each generated token, end included, under the model itself: before
            `min_length`, `temperature`, `top_k` and the like. 0 after the end.
        processed_log_probs: the same under the distribution that the token was chosen from. In beam search, which adds
            them up as they are, they need not be normalised (`renormalize_logits`).
        beam_indices: of beam search, the row (sequence times `num_beams` plus beam) that each token continued, in the
            step before it; -1 after the end. None for other searches.
        passes: passes of the decoder, the prompt's apart: as many as the longest row has tokens, or fewer where a draft
            or a lookup proposed some.
        compilations: programs compiled (or fetched from jax's persistent cache) during this call; 0 for a bucket that
            was used before.
        cross_attentions: with `output_cross_attentions=True`, for each layer what was attended to in the source when
            each token was chosen, along the returned sequence (None for a layer without cross-attention).
        forced_words_met: with `force_words_ids`, whether a row holds all of its words (of alternatives one), prompt
            included; False for a row that lacks some. None without them.
        notes: options of the model's generation_config that could not apply and were dropped, and what is missing from
            the results, one sentence each.
    """

    sequences: Int32[np.ndarray, "rows width"]
    lengths: Int32[np.ndarray, " rows"]
    truncated: Bool[np.ndarray, " rows"]
    scores: Float32[np.ndarray, " rows"]
    normalized_scores: Float32[np.ndarray, " rows"]
    log_probs: Float32[np.ndarray, "rows new"]
    processed_log_probs: Float32[np.ndarray, "rows new"]
    beam_indices: Int32[np.ndarray, "rows new"] | None
    passes: int
    compilations: int
    notes: tuple[str, ...] = ()
    cross_attentions: tuple[Float32[np.ndarray, "rows heads new source"] | None, ...] | None = None
    forced_words_met: Bool[np.ndarray, " rows"] | None = None

    @property
    def finished(self) -> Bool[np.ndarray, " rows"]:
        """Whether a row met an end-of-sequence id: the opposite of `truncated`."""
        return ~self.truncated


def assemble(output: SearchOutput, plan: Plan, unseen: np.ndarray, real: np.ndarray, passes: int) -> GenerationResult:
    """The result of a search, without unused columns, and with what is missing from it.

    `unseen` are the columns of the prompt that are padding in every row; `real` is False at the left padding of others.
    """
    width = real.shape[1]
    end = width + int(output.lengths.max())

    def generated(table: np.ndarray) -> np.ndarray:
        return table[:, width:end]

    met = None
    if plan.force_words_ids:
        tables = zip(output.sequences, real, output.lengths, strict=True)
        rows = [np.concatenate([row[:width][its], row[width : width + length]]) for row, its, length in tables]
        met = phrases_met(rows, plan.force_words_ids)
    return GenerationResult(
        sequences=np.concatenate([unseen, output.sequences[:, :end]], axis=1),
        lengths=output.lengths,
        truncated=output.truncated,
        scores=output.scores,
        normalized_scores=output.normalized_scores,
        log_probs=generated(output.log_probs),
        processed_log_probs=generated(output.processed_log_probs),
        beam_indices=None if output.beam_indices is None else generated(output.beam_indices),
        passes=passes,
        compilations=0,
        notes=(*plan.notes, *_notes(output, plan.max_new_tokens, met)),
        forced_words_met=met,
    )


def _notes(output: SearchOutput, longest: int, met: np.ndarray | None) -> list[str]:
    """What is missing from the results."""
    lengths, notes = output.lengths, []
    if missing := int((lengths == 0).sum()):
        notes.append(f"{missing} of {lengths.size} results are empty (score -inf): not that many outputs are possible.")
    if stuck := int((output.truncated & (lengths > 0) & (lengths < longest)).sum()):
        notes.append(
            f"{stuck} of {lengths.size} results stop before max_new_tokens without an end-of-sequence id: the rules on "
            "the next token forbid all there are."
        )
    if met is not None and not met.all():
        notes.append(
            f"{int((~met).sum())} of {met.size} results lack words of force_words_ids (forced_words_met says which): "
            "more beams may find them."
        )
    return notes


@dataclass(frozen=True, eq=False)
class StreamChunk:
    """What has come since the chunk before.

    Attributes:
        tokens: the new tokens of every row, padding behind its end. Searches that may still change their mind (beams)
            have none before a row is done.
        done: the rows that ended in this chunk, each with all of its generated tokens, its end included.
        finished: the rows that have ended so far.
        scores: of the rows in `done`, what `GenerationResult.scores` will hold of them.
        truncated: of the rows in `done`, whether they ended without an end-of-sequence id.
        result: in the last chunk what `generate` returns; None in the others.
    """

    tokens: Int32[np.ndarray, "rows new"]
    done: dict[int, Int32[np.ndarray, " generated"]]
    finished: Bool[np.ndarray, " rows"]
    scores: dict[int, float]
    truncated: dict[int, bool]
    result: GenerationResult | None = None


class Watch:
    """Looks at a run's states, one after another, and says what is new in each.

    Nothing it returns points into a state, whose buffers the next piece writes over.
    """

    def __init__(self, search: AbstractSearch, batch: int, padded_batch: int, width: int):
        self._search, self._batch, self._padded_batch, self._width = search, batch, padded_batch, width
        self._seen = width
        self._finished: np.ndarray | None = None

    def chunk(self, state: Any, over: bool) -> StreamChunk:
        """What is new.

        Args:
            state: the run's.
            over: whether it is the last one; rows that have not ended are done all the same then.
        """
        width, output = self._width, self._search.output(state, self._batch)
        finished = self._by_row(np.array(state.finished), output.sequences.shape[0])
        before = np.zeros_like(finished) if self._finished is None else self._finished
        rows = np.flatnonzero((finished | over) & ~before)
        done = {int(row): output.sequences[row, width : width + output.lengths[row]].copy() for row in rows}
        length = int(state.length) if self._search.in_order else self._seen
        tokens = output.sequences[:, self._seen : length].copy()
        self._seen, self._finished = length, finished
        scores = {row: float(output.scores[row]) for row in done}
        truncated = {row: bool(output.truncated[row]) for row in done}
        return StreamChunk(tokens, done, finished, scores, truncated)

    def _by_row(self, finished: np.ndarray, rows: int) -> np.ndarray:
        """The rows of a source sequence end together in beam search."""
        each = rows // self._batch
        return finished[:rows] if len(finished) == self._padded_batch * each else np.repeat(finished, each)[:rows]


_EVENT = "/jax/core/compile/backend_compile_duration"
_counting = threading.local()


@dataclass(eq=False)
class Count:
    """How many programs so far."""

    programs: int = 0


@contextlib.contextmanager
def counted(count: Count | None = None) -> Iterator[Count]:
    """Count the compilations of the block; blocks may be nested.

    Args:
        count: where to go on counting; default a new one.
    """
    _listen()
    counts = _counting.__dict__.setdefault("counts", [])
    count = Count() if count is None else count
    counts.append(count)
    try:
        yield count
    finally:
        counts.remove(count)


@functools.cache
def _listen() -> None:
    # jax tells its listeners of every compilation, in the thread that compiles. They cannot be removed: one serves all.
    jax.monitoring.register_event_duration_secs_listener(_on_event)


def _on_event(event: str, duration_secs: float, **_: Any) -> None:
    del duration_secs
    if event == _EVENT:
        for count in getattr(_counting, "counts", ()):
            count.programs += 1


@dataclass(frozen=True)
class Warmup:
    """What was compiled ahead.

    Attributes:
        compilations: programs compiled, or fetched from jax's persistent cache; 0 if all were there.
        seconds: how long it took, all in all.
    """

    compilations: int
    seconds: float
