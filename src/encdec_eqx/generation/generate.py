"""One run of generation on the host: check, pad, start, loop, trim. Knows a decoder step and a cache, no encoder.

The compiled programs are `source._encode`, `_open_cache` and `loop.advance_until`; everything between them is NumPy.
"""

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Int32

from .._typing import ArrayLike
from ..config import StackConfig
from ..embeddings import longest
from . import checks, loop, processors
from .buckets import TargetBucket, bucket
from .compilations import counted
from .keys import key_data
from .prompt import PositionRule, Prompt, from_user, start_only
from .resolve import Settings, resolve_settings, resolve_tokens, split_options
from .result import GenerationResult
from .sampling import Sampling, SamplingState
from .settings import GenerationConfig
from .source import Source, padded_ids
from .special_tokens import SpecialTokens

TOKENS_A_CALL = 64
"""Tokens between two looks at the host: how long an interrupt may take to be noticed, and nothing else."""


def generate(
    decoder: loop.DecoderStep,
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
) -> GenerationResult:
    """Generate; `EncoderDecoder.generate` documents the arguments that users see.

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
    checks.host_level(decoder, decoder_input_ids, decoder_attention_mask, key)
    with counted() as count:
        _check_config_type(generation_config)
        options, token_arguments = split_options(arguments)
        tokens, notes = resolve_tokens(special_tokens, generation_config, token_arguments, config.vocab_size)
        source = make_source()
        prompt = _prompt(decoder_input_ids, decoder_attention_mask, source.batch, config, tokens)
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
        run = _Run(config, prompt, settings, tokens, key if settings.do_sample else None, source.ids)
        states, mask = source.encode()
        state = run.to_the_end(decoder, run.start(decoder, project, states, mask))
        return run.result(state, lambda: count.programs)


class _Run:
    """The host's side of one run: sizes, arrays that start it, and what is left of the state at its end."""

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
        self.sentences, self.samples = bucket(self.batch), settings.num_return_sequences
        seen = prompt.trimmed()
        self.unseen = prompt.ids[:, : prompt.width - seen.width]
        self.width, self.last = seen.width, seen.width + settings.max_new_tokens
        most = longest(config, None)
        checks.length(
            f"the prompt ({seen.width}) and {settings.max_new_tokens} new tokens, of which the last needs no position,",
            self.last - 1,
            longest=most,
            how="Lower max_new_tokens or max_length, or shorten the prompt.",
        )
        self.bucket = TargetBucket.of(seen.width - 1, settings.max_new_tokens, most=most)
        self.rule = PositionRule(config.positions.first, _uncounted(config))
        self.prompt = seen.padded(self.sentences, self.bucket.prefix + 1)
        self.tokens = tokens
        self.strategy = self._strategy(key, source_ids)

    def _strategy(self, key: Any, source_ids: np.ndarray | None) -> Sampling:
        # A column of left padding that no row needs is not fed, but max_length and min_length count it.
        least = max(self.settings.min_length - self.unseen.shape[1], 0)
        eos_ids, pad_id = _ends(self.tokens)
        chain = processors.build(
            self.settings,
            min_length=least,
            eos_ids=eos_ids,
            prompt_width=self.width,
            rows_per_sentence=self.samples,
            source=None if source_ids is None else (padded_ids(source_ids), source_ids.shape[1]),
        )
        words = None if key is None else key_data(key, batch=self.batch, sentences=self.sentences)
        return Sampling(
            processors=chain,
            eos_ids=np.asarray(eos_ids, np.int32),
            pad_id=np.asarray(pad_id, np.int32),
            prompt_width=np.asarray(self.width, np.int32),
            prompt_tokens=self._rows(self.prompt.real.sum(axis=1, dtype=np.int32)),
            key_data=words,
            samples=self.samples,
            positions=self.rule,
        )

    def _rows(self, of_sentences: np.ndarray) -> np.ndarray:
        return np.repeat(of_sentences, self.samples, axis=0)

    def start(self, decoder: loop.DecoderStep, project: Any, states: ArrayLike, mask: np.ndarray) -> SamplingState:
        """The state in front of the first token; only the last token of the prompt is still to be fed."""
        ids, real = self._rows(self.prompt.ids), self._rows(self.prompt.real)
        positions = self.rule.of_prompt(ids, real)
        prefix = (ids[:, :-1], real[:, :-1], positions[:, :-1]) if self.bucket.prefix else None
        cache = _open_cache(decoder, project, states, mask, prefix, rows=ids.shape[0], slots=self.bucket.slots)
        columns = np.zeros((ids.shape[0], self.bucket.slots + 1), np.int32)
        columns[:, : self.width] = ids[:, self.bucket.prefix + 1 - self.width :]
        alive = self._rows(np.arange(self.sentences) < self.batch)
        return self.strategy.start(columns, positions[:, -1], alive, cache)

    def to_the_end(self, decoder: loop.DecoderStep, state: SamplingState) -> SamplingState:
        """Call the loop until all rows have finished or the maximum length is reached."""
        length = self.width
        while True:
            length = min(length + TOKENS_A_CALL, self.last)
            state = loop.advance_until((decoder, self.strategy, np.asarray(length, np.int32)), state)
            if length == self.last or np.asarray(state.finished).all():
                return state

    def result(self, state: SamplingState, programs: Callable[[], int]) -> GenerationResult:
        """Trim dummy rows and unused columns."""
        rows = self.batch * self.samples
        lengths = np.asarray(state.lengths)[:rows]
        sequences = np.asarray(state.tokens)[:rows, : self.width + int(lengths.max())]
        return GenerationResult(
            sequences=np.concatenate([np.repeat(self.unseen, self.samples, axis=0), sequences], axis=1),
            lengths=lengths,
            truncated=~np.asarray(state.finished)[:rows],
            scores=np.asarray(state.scores)[:rows],
            compilations=programs(),
            notes=self.settings.notes,
        )


@eqx.filter_jit
def _open_cache(
    decoder: loop.DecoderStep,
    project: Callable | None,
    states: ArrayLike,
    mask: Bool[ArrayLike, "batch source"],
    prefix: tuple[Int32[ArrayLike, "rows p"], Bool[ArrayLike, "rows p"], Int32[ArrayLike, "rows p"]] | None,
    *,
    rows: int,
    slots: int,
) -> Any:
    """Cross-attention's keys and values, and the prompt but for its last token, in one pass."""
    cache = decoder.init_cache(states if project is None else project(states), mask, rows=rows, slots=slots)
    if prefix is None:
        return cache
    ids, real, positions = prefix
    return decoder.advance(ids, cache, mask=real, positions=positions)[1]


def _prompt(ids: Any, mask: Any, batch: int, config: StackConfig, tokens: SpecialTokens) -> Prompt:
    start = tokens.require("decoder_start_token_id")
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


def _ends(tokens: SpecialTokens) -> tuple[tuple[int, ...], int]:
    """End-of-sequence ids and the pad id, which nothing needs where no row ever ends.

    The ids are filled up with repetitions, so that one program serves one end or a few.
    """
    eos_ids = tokens.require("eos_token_id")
    if not eos_ids:
        return (), 0
    more = bucket(len(eos_ids), least=4) - len(eos_ids)
    return eos_ids + eos_ids[:1] * more, tokens.require("pad_token_id")


def _uncounted(config: StackConfig) -> int | None:
    return config.positions.padding_idx if config.positions.counting == "non_padding" else None
