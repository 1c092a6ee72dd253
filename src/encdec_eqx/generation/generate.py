"""Generation from a call's arguments to its result, on the host. Knows a decoder step and a cache, no encoder.

The compiled programs are `source._encode`, `run._open_cache` and `loop.advance_until`; between them all is NumPy.
"""

from collections.abc import Callable, Mapping
from typing import Any

from ..config import StackConfig
from . import checks, loop
from .compilations import counted
from .prompt import Prompt, from_user, start_only
from .resolve import resolve_settings, resolve_tokens, split_options
from .result import GenerationResult
from .run import Run
from .settings import GenerationConfig
from .source import Source
from .special_tokens import SpecialTokens


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
        run = Run(config, prompt, settings, tokens, key, source.ids)
        states, mask = source.encode()
        state = run.to_the_end(decoder, run.start(decoder, project, states, mask))
        return run.result(state, lambda: count.programs)


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
