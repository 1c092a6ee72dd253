"""Runs a search on the host: sizes, the cache, the compiled loop piece by piece, and the result.

The compiled programs are `source._encode`, `_open_cache` and `advance_until`; between them all is NumPy.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int32

from .._typing import Array, ArrayLike
from ..config import StackConfig
from ..inputs.tokens import longest
from .buckets import TargetBucket, bucket, check_run
from .compilations import Count, counted
from .generation_config import GenerationConfig
from .plan import Plan, resolve_settings, split_options, tokens_of_call
from .prompt import PositionRule, Prompt, from_user, start_only
from .rescore import Sequences, sequence_cross_attentions
from .result import GenerationResult
from .search.base import AbstractStrategy, DecoderStep, LoopState, Opening, Record
from .search.build import Context, choose, reads_whole_prompt
from .search.legacy_force_words import words_met
from .source import Encoded, Source, check_positions, host_level
from .special_tokens import START, SpecialTokens, is_per_row, start_tokens_of_rows
from .streaming import StreamChunk, Watch

TOKENS_A_CALL = 64
"""Tokens between two looks at the host: how long an interrupt may take to be noticed, and nothing else."""


State = TypeVar("State", bound=LoopState)


@eqx.filter_jit(donate="all-except-first")
def advance_until(fixed: tuple[Any, AbstractStrategy, Int32[ArrayLike, ""]], state: State) -> State:
    """Steps until `state.length` is `until`, or all have finished.

    The state's buffers are donated: it is private to one run, and its cache need not exist twice.

    Args:
        fixed: the decoder, the strategy, and `until`.
        state: where to go on.
    """
    decoder, strategy, until = fixed

    def unfinished(now: State) -> Bool[Array, ""]:
        return (now.length < until) & ~jnp.all(now.finished)

    # Around single tokens: a scan of n tokens would stop up to n - 1 tokens too late, and is not faster (measured: 10.7
    # against 10.9 ms of processor time a token; 6 layers of width 384, batch 1).
    return jax.lax.while_loop(unfinished, lambda now: strategy.step(decoder, now), state)


class Run:
    """One run; its sizes and its strategy are settled when it is made."""

    def __init__(
        self,
        config: StackConfig,
        prompt: Prompt,
        settings: Plan,
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
        check_positions(
            f"the prompt ({seen.width}) and {settings.max_new_tokens} new tokens"
            + (", all of which the decoder reads," if whole else ", of which the last needs no position,"),
            needed,
            longest=most,
            how="Lower max_new_tokens or max_length, or shorten the prompt.",
        )
        if settings.assistant is not None:
            check_positions(
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

    def start(self, decoder: DecoderStep, project: Any, states: ArrayLike, mask: np.ndarray) -> Any:
        """The state in front of the first token; only the last token of the prompt is still to be fed."""
        each, at_once = self.strategy.cache_rows, self.strategy.tokens_at_once
        ids, real = (np.repeat(table, each, axis=0) for table in (self.prompt.ids, self.prompt.real))
        fed = self.bucket.prefix
        slots = fed + at_once * (self.bucket.slots - fed) + self.strategy.spare_slots

        def opened(decoder: DecoderStep, project: Any, rule: PositionRule, memory: Any) -> tuple[Any, Any, Any]:
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

    def piece(self, decoder: DecoderStep, state: Any, tokens: int) -> tuple[Any, bool]:
        """The state after so many more tokens, or at its end, and whether that is the end."""
        until = np.asarray(min(int(state.length) + tokens, self.last), np.int32)
        state = advance_until((decoder, self.strategy, until), state)
        return state, bool(np.asarray(state.finished).all()) or int(state.length) >= self.last

    def to_the_end(self, decoder: DecoderStep, state: Any) -> Any:
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
    decoder: DecoderStep,
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


@dataclass(frozen=True, eq=False)
class Request:
    """A call whose arguments have been checked and settled; nothing has run yet.

    Attributes:
        decoder: the decoder.
        project: from the encoder's states to the width that cross-attention reads, or None.
        source: what to encode.
        run: sizes and strategy.
        settings: what was asked for.
    """

    decoder: DecoderStep
    project: Callable | None
    source: Source
    run: Run
    settings: Plan

    def generate(self) -> GenerationResult:
        """All of it."""
        with counted() as count:
            encoded = self.source.encode()
            state = self.run.start(self.decoder, self.project, encoded.states, encoded.mask)
            result = self.run.result(self.run.to_the_end(self.decoder, state))
            return self.finished(result, encoded, count)

    def stream(self, tokens_at_a_time: int) -> Iterator[StreamChunk]:
        """Piece by piece; the last piece has the result."""
        total, watch = Count(), Watch(self.run)
        with counted(total):
            encoded = self.source.encode()
            state = self.run.start(self.decoder, self.project, encoded.states, encoded.mask)
        over = False
        while not over:
            # only here: what the caller compiles between two pieces is not ours
            with counted(total):
                state, over = self.run.piece(self.decoder, state, tokens_at_a_time)
            chunk = watch.chunk(state, over)
            if over:
                with counted(total):
                    result = self.finished(self.run.result(state), encoded, total)
                chunk = dataclasses.replace(chunk, result=result)
            yield chunk

    def warm(self) -> None:
        """Compile all that `generate` would, without taking a step."""
        encoded = self.source.encode()
        state = self.run.start(self.decoder, self.project, encoded.states, encoded.mask)
        self.run.piece(self.decoder, state, 0)

    def finished(self, result: GenerationResult, encoded: Encoded, count: Count) -> GenerationResult:
        """The result with what a second pass adds, and the programs that were compiled."""
        if self.settings.output_cross_attentions:
            layers = sequence_cross_attentions(
                self.decoder,
                self.project,
                encoded.states,
                encoded.mask,
                self.run.sequences(result),
                self.run.rule,
                source=encoded.width,
            )
            result = dataclasses.replace(result, cross_attentions=layers)
        return dataclasses.replace(result, compilations=count.programs)


def request(
    decoder: DecoderStep,
    config: StackConfig,
    make_source: Callable[[], Source],
    *,
    project: Callable | None,
    decoder_input_ids: Any,
    decoder_attention_mask: Any,
    generation_config: GenerationConfig | None,
    file_config: GenerationConfig | None,
    special_tokens: SpecialTokens,
    arguments: Mapping[str, Any],
    key: Any,
) -> Request:
    """Check and settle a call; `EncoderDecoder.generate` documents the arguments that users see.

    Args:
        decoder: the decoder.
        config: its architecture: vocabulary and positions.
        make_source: checks the source's arguments.
        project: from the encoder's states to the width that cross-attention reads, or None.
        decoder_input_ids: the user's prompt, or None.
        decoder_attention_mask: its mask, or None.
        generation_config: the user's, or None.
        file_config: the model's own, or None.
        special_tokens: the model's.
        arguments: all other arguments by name, token ids among them.
        key: one PRNG key, an array of one key a sentence, or None.
    """
    host_level(decoder, decoder_input_ids, decoder_attention_mask, key)
    _check_config_type(generation_config)
    options, token_arguments = split_options(arguments)
    start = token_arguments.get(START)
    if is_per_row(start):
        del token_arguments[START]
    else:
        start = None
    tokens, notes = tokens_of_call(
        special_tokens, generation_config, token_arguments, config.vocab_size, needs_start=start is None
    )
    source = make_source()
    if start is None:
        start = tokens.require(START)
    else:
        start = start_tokens_of_rows(start, batch=source.batch, vocab_size=config.vocab_size)
    prompt = _prompt(decoder_input_ids, decoder_attention_mask, source.batch, config, start)
    settings = resolve_settings(
        options,
        generation_config,
        file_config,
        prompt_width=prompt.width,
        eos_ids=tokens.require("eos_token_id"),
        has_key=key is not None,
        vocab_size=config.vocab_size,
        has_source_ids=source.ids is not None,
        notes=notes,
    )
    return Request(decoder, project, source, Run(config, prompt, settings, tokens, key, source.ids), settings)


def _prompt(ids: Any, mask: Any, batch: int, config: StackConfig, start: int | np.ndarray) -> Prompt:
    if ids is not None:
        return from_user(ids, mask, batch=batch, vocab_size=config.vocab_size, start=start)
    if mask is not None:
        raise ValueError("decoder_attention_mask is given without decoder_input_ids: there is nothing to mask.")
    return start_only(batch, start)


def _check_config_type(generation_config: Any) -> None:
    if not isinstance(generation_config, GenerationConfig | None):
        raise TypeError(
            f"generation_config must be an encdec_eqx.GenerationConfig, got {type(generation_config).__name__}; "
            "GenerationConfig.from_hf(a_dict) reads Hugging Face's."
        )
