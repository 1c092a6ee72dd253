"""The one table of `generate`'s options, with those that are not built and the names that mean something else here.

A row says what a value may be, at which one the option does nothing, what transformers' configs hold where nobody chose
anything, where the option may be given, and what it needs. `GenerationConfig` says what each one means.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypedDict

from .._inputs import plain, whole
from .._quoting import quoted
from .._typing import ArrayLike
from .constraints.constraint import AbstractConstraint
from .processors.form import Processor
from .special_tokens import TOKEN_NAMES
from .value_checks import (
    MOST_ID,
    MOST_TOKENS,
    biases,
    decay,
    early_stopping,
    finite,
    flag,
    forced_first,
    forced_phrases,
    fraction,
    not_negative,
    positive,
    token_sequences,
    tokens,
)


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        check: from its name and a value to the value as it is kept, or an error that teaches.
        neutral: the value at which it does nothing, which a plan holds where nobody asks for more.
        reference: what a config of transformers holds where nobody chose anything; None if nothing.
        place: the first of these that may hold it: "config.json" (as older versions of transformers wrote it),
            "generation_config.json", "call". What may stand in one may be given in those after it too.
        needs: what it shapes, and without which it would do nothing: "sampling", "beams", or None.
    """

    check: Callable[[str, Any], Any]
    neutral: Any = None
    reference: Any = None
    place: Literal["config.json", "generation_config.json", "call"] = "generation_config.json"
    needs: Literal["sampling", "beams"] | None = None


def _as_given(name: str, value: Any) -> Any:
    """Checked where it is used, since what it may be depends on the model."""
    return value


_OLD, _CALL = "config.json", "call"
_UNROLLED = {"most": 64, "why": "each makes the program that has to be compiled larger"}
_BEAMS = {"least": 1, "most": 1024, "why": "memory grows with their square"}
_MASS = {"what": "a probability mass"}
_LEAST_PROBABILITY = partial(fraction, what="a probability", below_1=True)
_NO_PENALTY = partial(positive, instead="1 is no penalty, more is a stronger one")
_TEMPERATURE = partial(positive, instead="for the most probable token pass do_sample=False")
_LENGTH = partial(whole, least=0, most=MOST_TOKENS)
_LONGEST = partial(whole, least=1, most=MOST_TOKENS)
_COUNT = partial(whole, least=1, **_UNROLLED)
_NGRAM = partial(whole, least=0, **_UNROLLED)
_IDS = partial(tokens, may_be_empty=True)

OPTIONS: Mapping[str, Option] = {
    "max_length": Option(_LONGEST, None, 20, _OLD),
    "max_new_tokens": Option(_LONGEST),
    "min_length": Option(_LENGTH, 0, 0, _OLD),
    "min_new_tokens": Option(_LENGTH, 0),
    "do_sample": Option(flag, False, False, _OLD),
    "temperature": Option(_TEMPERATURE, 1.0, 1.0, _OLD, "sampling"),
    # more than there are tokens mean all
    "top_k": Option(partial(whole, least=0, most=MOST_ID), 0, 50, _OLD, "sampling"),
    "top_p": Option(partial(fraction, **_MASS), 1.0, 1.0, _OLD, "sampling"),
    "min_p": Option(partial(fraction, what="a part of the largest probability"), 0.0, needs="sampling"),
    "typical_p": Option(partial(fraction, **_MASS, above_0=True), 1.0, 1.0, _OLD, "sampling"),
    "epsilon_cutoff": Option(_LEAST_PROBABILITY, 0.0, 0.0, needs="sampling"),
    "eta_cutoff": Option(_LEAST_PROBABILITY, 0.0, 0.0, needs="sampling"),
    "num_beams": Option(partial(whole, **_BEAMS), 1, 1, _OLD),
    "num_beam_groups": Option(_COUNT, 1, 1, _OLD, "beams"),
    "diversity_penalty": Option(partial(not_negative, instead="0 sets nothing apart"), 0.0, 0.0, _OLD),
    "num_return_sequences": Option(partial(whole, least=1, most=2**16), 1, 1, _OLD),
    "length_penalty": Option(finite, 1.0, 1.0, _OLD, "beams"),
    "early_stopping": Option(early_stopping, False, False, _OLD, "beams"),
    "penalty_alpha": Option(partial(fraction, what="a weight"), 0.0),
    "force_words_ids": Option(forced_phrases, (), needs="beams"),
    "num_assistant_tokens": Option(_COUNT, None, 20),
    "prompt_lookup_num_tokens": Option(_COUNT),
    "max_matching_ngram_size": Option(_COUNT),
    "sequence_bias": Option(biases, ()),
    "encoder_repetition_penalty": Option(_NO_PENALTY, 1.0, 1.0),
    "repetition_penalty": Option(_NO_PENALTY, 1.0, 1.0, _OLD),
    "no_repeat_ngram_size": Option(_NGRAM, 0, 0, _OLD),
    "encoder_no_repeat_ngram_size": Option(_NGRAM, 0, 0, _OLD),
    "bad_words_ids": Option(token_sequences, (), None, _OLD),
    "remove_invalid_values": Option(flag, False, False, _OLD),
    "exponential_decay_length_penalty": Option(decay, None, None, _OLD),
    "suppress_tokens": Option(_IDS, (), None, _OLD),
    "begin_suppress_tokens": Option(_IDS, (), None, _OLD),
    "renormalize_logits": Option(flag, False, False),
    "forced_bos_token_id": Option(forced_first, None, None, _OLD),
    "forced_eos_token_id": Option(partial(tokens, may_be_empty=False), (), None, _OLD),
    "logits_processor": Option(_as_given, (), place=_CALL),
    "constraint": Option(_as_given, place=_CALL),
    "assistant_model": Option(_as_given, place=_CALL),
    "output_cross_attentions": Option(flag, False, place=_CALL),
}
"""Every option but the four token ids, by name."""

IN_FILES = tuple(name for name, option in OPTIONS.items() if option.place != _CALL)
"""The options that `GenerationConfig` and `generation_config.json` have too."""

KNOWN = frozenset({*OPTIONS, *TOKEN_NAMES})
"""All names that `generate` takes beside its inputs."""

DEFAULTS: Mapping[str, Any] = {
    **{name: option.reference for name, option in OPTIONS.items() if option.place == _OLD},
    "output_scores": False,
    "return_dict_in_generate": False,
}
"""What older versions of transformers keep in `config.json`, with the values that every config has of itself."""

# Options of transformers' GenerationConfig that are not built: name -> (values at which it does nothing, the nearest
# option that is built). A neutral value is always accepted.
NOT_BUILT: dict[str, tuple[tuple[Any, ...], str]] = {
    "guidance_scale": ((1, 1.0), "temperature"),
    "watermarking_config": ((), "nothing like it"),
    "dola_layers": ((), "greedy search"),
    "constraints": ((), "force_words_ids"),
    "prefix_allowed_tokens_fn": ((), "constraint, an automaton made from texts, a regular expression or a table"),
    "stopping_criteria": ((), "eos_token_id (a list is accepted) and max_new_tokens"),
    "stop_strings": ((), "eos_token_id (a list is accepted)"),
    "max_time": ((), "max_new_tokens"),
    "assistant_early_exit": ((), "greedy search"),
    "streamer": ((), "max_new_tokens, calling generate again with the result as decoder_input_ids"),
    "token_healing": ((False,), "nothing like it"),
    "negative_prompt_ids": ((), "nothing like it"),
    "inputs_embeds": ((), "encoder_outputs = model.encode(inputs_embeds=...)"),
    "decoder_position_ids": ((), "decoder_attention_mask, from which positions follow"),
    "decoder_inputs_embeds": ((), "decoder_input_ids"),
    "past_key_values": ((), "decoder_input_ids"),
}

# Arguments people bring along from transformers whose job is done another way here.
REPLACED: dict[str, str] = {
    "prng_key": "it is called key",
    "seed": "pass key=jax.random.key(seed)",
    "rng": "it is called key",
    "params": "the model holds its arrays; there are no separate params",
    "train": "generate never applies dropout",
    "trace": "generate always compiles, once per bucket",
    "output_scores": "the result always has .scores",
    "return_dict_in_generate": "the result always is a record with .sequences and .scores",
    "output_logits": "the result has .log_probs; for all logits call the model on the result's .sequences",
    "output_attentions": "pass output_cross_attentions=True for those to the source; for self-attentions call the "
    "model on the result's .sequences with output_attentions=True",
    "output_hidden_states": "call the model on the result's .sequences with output_hidden_states=True",
    "use_cache": "the key/value cache is always used",
    "encoder_attention_mask": "the source's mask is called attention_mask",
    "encoder_hidden_states": "pass encoder_outputs = model.encode(...)",
    "inputs": "the source is called input_ids",
    "labels": "generate needs no labels; call the model for a loss",
}

# In files these say how transformers runs, not what it generates: kept for the round trip and never acted on.
BOOKKEEPING = frozenset(
    {
        *("_from_model_config", "assistant_confidence_threshold", "assistant_lookbehind"),
        *("cache_config", "cache_implementation", "compile_config"),
        *("disable_compile", "generation_kwargs", "is_assistant"),
        *("low_memory", "num_assistant_tokens_schedule", "output_attentions"),
        *("output_hidden_states", "output_logits", "output_scores"),
        *("prefill_chunk_size", "return_dict_in_generate", "return_legacy_cache"),
        *("target_lookbehind", "transformers_version", "use_cache"),
    }
)


def option_names() -> tuple[str, ...]:
    """The options that a file may hold, other than token ids, in the order of `GenerationConfig`."""
    return IN_FILES


def does_nothing(name: str, value: Any) -> bool:
    """Whether a not-built option has a value that changes nothing."""
    value = plain(value)
    return value is None or (
        isinstance(value, bool | int | float) and any(value == neutral for neutral in NOT_BUILT[name][0])
    )


LENGTHS = (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens"))
"""Pairs of options of which one counts the prompt and the other does not."""


def both_lengths(values: Mapping[str, Any], first: str, second: str) -> ValueError:
    """The error for both of a pair."""
    return ValueError(
        f"both {first}={values[first]} and {second}={values[second]} are given; {first} counts the prompt or start "
        f"token, {second} does not. Pass one of them."
    )


def not_built(name: str, value: Any, origin: str) -> NotImplementedError:
    """The error for a not-built option that would have had an effect."""
    neutral, nearest = NOT_BUILT[name]
    without = f"{name}={neutral[0]!r}" if neutral else "generation_config=GenerationConfig(...) without it"
    instead = "" if origin == "argument" else f" It comes from {origin}; pass {without} to do without it."
    said = f"{name}={quoted(value)} is not built yet. The nearest option that is: {nearest}.{instead}"
    return NotImplementedError(said)


def unknown(name: str, known: Iterable[str]) -> TypeError:
    """The error for a name that `generate` does not know, with the nearest one it does."""
    if name in REPLACED:
        return TypeError(f"generate takes no '{name}': {REPLACED[name]}.")
    names = sorted(set(known) | set(NOT_BUILT))
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
    return TypeError(f"generate takes no option {quoted(name)}; the nearest it knows is {close[0]!r}.")


class WarmupOptions(TypedDict, total=False):
    """What `generate`, `stream` and `warmup` take besides inputs and `max_new_tokens`. None means the same as nothing.

    Those of `GenerationConfig` have the same meaning, but that `decoder_start_token_id` may also be a list or an array
    with one id per row. Four can be given in a call only:

    Attributes:
        logits_processor: a rule of your own, or a sequence of them: each an `equinox.Module` that is called as
            `processor(logits, prefix, length)` in the compiled loop: logits (rows, vocab), and ids (rows, width) of
            which the first `length` columns count. They come after all rules but those of sampling.
        constraint: an automaton that the generated tokens must follow, from `encdec_eqx.generation.constraints`.
        assistant_model: a small `Decoder` (or an `EncoderDecoder`, whose decoder and projection are used) that attends
            to this model's encoder states and proposes tokens: the same result in fewer passes of the large decoder.
        output_cross_attentions: whether the result has `cross_attentions`; one more pass over the finished sequences.
    """

    min_length: int | None
    min_new_tokens: int | None
    do_sample: bool | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    typical_p: float | None
    epsilon_cutoff: float | None
    eta_cutoff: float | None
    num_beams: int | None
    num_beam_groups: int | None
    diversity_penalty: float | None
    num_return_sequences: int | None
    length_penalty: float | None
    early_stopping: bool | Literal["never"] | None
    penalty_alpha: float | None
    force_words_ids: Sequence[Any] | None
    num_assistant_tokens: int | None
    prompt_lookup_num_tokens: int | None
    max_matching_ngram_size: int | None
    sequence_bias: Mapping[Sequence[int], float] | Sequence[Any] | None
    encoder_repetition_penalty: float | None
    repetition_penalty: float | None
    no_repeat_ngram_size: int | None
    encoder_no_repeat_ngram_size: int | None
    bad_words_ids: Sequence[Sequence[int]] | None
    remove_invalid_values: bool | None
    exponential_decay_length_penalty: Sequence[float] | None
    suppress_tokens: int | Sequence[int] | None
    begin_suppress_tokens: int | Sequence[int] | None
    renormalize_logits: bool | None
    forced_bos_token_id: int | None
    forced_eos_token_id: int | Sequence[int] | None
    bos_token_id: int | None
    eos_token_id: int | Sequence[int] | None
    pad_token_id: int | None
    decoder_start_token_id: int | Sequence[int] | ArrayLike | None
    logits_processor: Processor | Sequence[Processor] | None
    constraint: AbstractConstraint | None
    assistant_model: Any
    output_cross_attentions: bool | None


class GenerationOptions(WarmupOptions, total=False):
    """The options of `generate`. One of these two is needed, here or in a config."""

    max_length: int | None
    max_new_tokens: int | None
