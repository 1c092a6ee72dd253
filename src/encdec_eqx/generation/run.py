"""The host's side of one run: sizes, what starts the loop, the loop piece by piece, and what comes out.

Must not know: options and how they combine, encoders, and how a strategy chooses.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Int32

from .._typing import Array, ArrayLike
from ..config import StackConfig
from ..inputs.tokens import longest
from . import checks, loop
from .buckets import TargetBucket, bucket
from .loop import Opening, Record
from .prompt import PositionRule, Prompt
from .resolve import Settings
from .result import GenerationResult
from .retrace import Sequences
from .sizes import check_run
from .special_tokens import SpecialTokens
from .strategies import Context, choose, reads_whole_prompt
from .words_met import words_met

TOKENS_A_CALL = 64
"""Tokens between two looks at the host: how long an interrupt may take to be noticed, and nothing else."""


class Run:
    """One run; its sizes and its strategy are settled when it is made."""

    def __init__(
        self,
        config: StackConfig,
        prompt: Prompt,
        settings: Settings,
        tokens: SpecialTokens,
        key: Any,
        source_ids: np.ndarray | None,
    ):
        self.batch, self.settings = prompt.ids.shape[0], settings
        self.sentences = bucket(self.batch)
        seen = prompt.trimmed()
        self.unseen = prompt.ids[:, : prompt.width - seen.width]
        self.width, self.last = seen.width, seen.width + settings.max_new_tokens
        most, whole = longest(config, None), reads_whole_prompt(settings)
        needed = self.last if whole else self.last - 1
        checks.length(
            f"the prompt ({seen.width}) and {settings.max_new_tokens} new tokens"
            + (", all of which the decoder reads," if whole else ", of which the last needs no position,"),
            needed,
            longest=most,
            how="Lower max_new_tokens or max_length, or shorten the prompt.",
        )
        if settings.assistant is not None:
            checks.length(
                f"the prompt ({seen.width}) and {settings.max_new_tokens} new tokens that assistant_model reads",
                needed,
                longest=longest(settings.assistant.config, None),
                how="Lower max_new_tokens or max_length, or leave assistant_model out.",
            )
        self.bucket = TargetBucket.of(needed - settings.max_new_tokens, settings.max_new_tokens, most=most)
        self.rule = PositionRule.of(config)
        self.prompt = seen.padded(self.sentences, self.bucket.prefix + (0 if whole else 1))
        context = Context(
            tokens=tokens,
            batch=self.batch,
            sentences=self.sentences,
            width=self.width,
            unseen=self.unseen.shape[1],
            prompt_tokens=self.prompt.real.sum(axis=1, dtype=np.int32),
            target=self.bucket,
            rule=self.rule,
            vocab_size=config.vocab_size,
            source_ids=source_ids,
            key=key,
        )
        self.strategy = choose(settings, context)
        self._check_size(config.vocab_size)

    def start(self, decoder: loop.DecoderStep, project: Any, states: ArrayLike, mask: np.ndarray) -> Any:
        """The state in front of the first token; only the last token of the prompt is still to be fed."""
        each, at_once = self.strategy.cache_rows, self.strategy.tokens_at_once
        ids, real = (np.repeat(table, each, axis=0) for table in (self.prompt.ids, self.prompt.real))
        fed = self.bucket.prefix
        slots = fed + at_once * (self.bucket.slots - fed) + self.strategy.spare_slots

        def opened(decoder: loop.DecoderStep, project: Any, rule: PositionRule, memory: Any) -> tuple[Any, Any, Any]:
            positions = rule.of_prompt(ids, real)
            prefix = (ids[:, :fed], real[:, :fed], positions[:, :fed]) if fed else None
            made = _open_cache(decoder, project, states, mask, prefix, memory, rows=ids.shape[0], slots=slots)
            return *made, positions[:, -1]

        cache, kept, positions = opened(decoder, project, self.rule, self.strategy.memory)
        draft = self.strategy.draft_decoder
        draft_cache, _, draft_positions = (None, None, None) if draft is None else opened(*draft, None)
        columns = np.full((ids.shape[0], self.bucket.slots + 1), self.strategy.pad_id, np.int32)
        columns[:, : self.width] = ids[:, ids.shape[1] - self.width :]
        alive = np.repeat(np.arange(self.sentences) < self.batch, each)
        return self.strategy.start(
            Opening(columns, positions, real[:, :fed], alive, cache, kept, draft_cache, draft_positions)
        )

    def piece(self, decoder: loop.DecoderStep, state: Any, tokens: int) -> tuple[Any, bool]:
        """The state after so many more tokens, or at its end, and whether that is the end."""
        until = np.asarray(min(int(state.length) + tokens, self.last), np.int32)
        state = loop.advance_until((decoder, self.strategy, until), state)
        return state, bool(np.asarray(state.finished).all()) or int(state.length) >= self.last

    def to_the_end(self, decoder: loop.DecoderStep, state: Any) -> Any:
        """The last state."""
        over = False
        while not over:
            state, over = self.piece(decoder, state, TOKENS_A_CALL)
        return state

    def result(self, state: Any) -> GenerationResult:
        """Trim dummy rows and unused columns."""
        record = self.strategy.record(state, self.batch)
        end = self.width + int(record.lengths.max())
        each = record.sequences.shape[0] // self.batch

        met = self._forced_words_met(record, each)

        def generated(table: np.ndarray) -> np.ndarray:
            return table[:, self.width : end]

        return GenerationResult(
            sequences=np.concatenate([np.repeat(self.unseen, each, axis=0), record.sequences[:, :end]], axis=1),
            lengths=record.lengths,
            truncated=record.truncated,
            scores=record.scores,
            normalized_scores=record.normalized_scores,
            log_probs=generated(record.log_probs),
            processed_log_probs=generated(record.processed_log_probs),
            beam_indices=None if record.beam_indices is None else generated(record.beam_indices),
            passes=int(state.length) - self.width if record.passes is None else record.passes,
            compilations=0,
            notes=(*self.settings.notes, *self._missing(record.lengths), *self._stuck(record), *_lacking(met)),
            forced_words_met=met,
        )

    def sequences(self, result: GenerationResult) -> Sequences:
        """The result's sequences, for a second pass over them."""
        each = result.sequences.shape[0] // self.batch
        real = np.repeat(self.prompt.real[: self.batch, -self.width :], each, axis=0)
        return Sequences(result.sequences[:, self.unseen.shape[1] :], real, self.width, each, self.sentences)

    def _stuck(self, record: Record) -> tuple[str, ...]:
        """A note on beams that could not go on."""
        early = record.truncated & (record.lengths > 0) & (record.lengths < self.settings.max_new_tokens)
        if not early.any():
            return ()
        return (
            f"{int(early.sum())} of {early.size} results stop before max_new_tokens without an end-of-sequence id: the "
            "rules on the next token forbid all there are.",
        )

    def _forced_words_met(self, record: Record, each: int) -> np.ndarray | None:
        """Which rows hold the words that had to come; None if none had to."""
        if not self.settings.force_words_ids:
            return None
        real = np.repeat(self.prompt.real[: self.batch, -self.width :], each, axis=0)
        rows = [
            np.concatenate([row[: self.width][its_real], row[self.width : self.width + length]])
            for row, its_real, length in zip(record.sequences, real, record.lengths, strict=True)
        ]
        return words_met(rows, self.settings.force_words_ids)

    def _check_size(self, vocab_size: int) -> None:
        """Refuse what no device holds. The strategy has no array yet that is as large as the run."""
        strategy = self.strategy
        check_run(
            sequences=self.sentences,
            rows=strategy.cache_rows,
            at_once=strategy.tokens_at_once,
            slots=self.bucket.slots,
            vocab_size=vocab_size,
        )

    def _missing(self, lengths: np.ndarray) -> tuple[str, ...]:
        """A note on places that beam search found nothing for: not enough outputs are possible."""
        missing = int((lengths == 0).sum())
        if not missing:
            return ()
        return (f"{missing} of {lengths.size} results are empty (score -inf): not that many outputs are possible.",)


def _lacking(met: np.ndarray | None) -> tuple[str, ...]:
    """A note on rows that lack words which had to come."""
    if met is None or met.all():
        return ()
    return (
        f"{int((~met).sum())} of {met.size} results lack words of force_words_ids (forced_words_met says which): "
        "more beams may find them.",
    )


@eqx.filter_jit
def _open_cache(
    decoder: loop.DecoderStep,
    project: Callable | None,
    states: ArrayLike,
    mask: Bool[ArrayLike, "batch source"],
    prefix: tuple[Int32[ArrayLike, "rows p"], Bool[ArrayLike, "rows p"], Int32[ArrayLike, "rows p"]] | None,
    memory: Callable[[Array], Any] | None,
    *,
    rows: int,
    slots: int,
) -> tuple[Any, Any]:
    """Cross-attention's keys and values, and the prompt (but for its last token), in one pass.

    Returns:
        The cache, and what `memory` makes of the prompt's hidden states.
    """
    cache = decoder.init_cache(states if project is None else project(states), mask, rows=rows, slots=slots)
    if prefix is None:
        return cache, None
    ids, real, positions = prefix
    hidden, cache = decoder.advance(ids, cache, mask=real, positions=positions)
    return cache, None if memory is None else memory(hidden)
