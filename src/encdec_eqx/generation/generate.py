"""Generation from a call's arguments to its result, on the host. Knows a decoder step and a cache, no encoder.

The compiled programs are `source._encode`, `run._open_cache` and `loop.advance_until`; between them all is NumPy.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..config import StackConfig
from . import checks, loop, retrace, starts
from .compilations import Count, counted
from .prompt import Prompt, from_user, start_only
from .resolve import Settings, resolve_settings, resolve_tokens, split_options
from .result import GenerationResult
from .run import Run
from .settings import GenerationConfig
from .source import Encoded, Source
from .special_tokens import START, SpecialTokens
from .streaming import StreamChunk, Watch


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

    decoder: loop.DecoderStep
    project: Callable | None
    source: Source
    run: Run
    settings: Settings

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
            layers = retrace.cross_attentions(
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
    checks.host_level(decoder, decoder_input_ids, decoder_attention_mask, key)
    _check_config_type(generation_config)
    options, token_arguments = split_options(arguments)
    start = token_arguments.get(START)
    if starts.is_per_row(start):
        del token_arguments[START]
    else:
        start = None
    tokens, notes = resolve_tokens(
        special_tokens, generation_config, token_arguments, config.vocab_size, needs_start=start is None
    )
    source = make_source()
    if start is None:
        start = tokens.require(START)
    else:
        start = starts.of_rows(start, batch=source.batch, vocab_size=config.vocab_size)
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
