"""The names `generate` knows: what is built, what is not yet, and what Hugging Face's files carry beside it.

Data and look-ups only. Must not know: how an option works, or how options exclude each other (`settings`).
"""

import difflib
from collections.abc import Iterable
from typing import Any

from .._quoting import quoted
from .scalars import plain

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

# Options that stand in no file.
ONLY_ARGUMENTS = ("logits_processor", "constraint", "assistant_model", "output_cross_attentions")

# Arguments people bring along from transformers whose job is done another way here.
REPLACED: dict[str, str] = {
    "prng_key": "it is called key",
    "seed": "pass key=jax.random.key(seed)",
    "rng": "it is called key",
    "params": "the model holds its arrays; there are no separate params",
    "train": "generate never applies dropout",
    "trace": "generate always compiles, once a bucket",
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

# In files these say how transformers runs, not what it generates: carried through a round trip and never acted on.
BOOKKEEPING = frozenset(
    {
        "_from_model_config",
        "assistant_confidence_threshold",
        "assistant_lookbehind",
        "cache_config",
        "cache_implementation",
        "compile_config",
        "disable_compile",
        "generation_kwargs",
        "is_assistant",
        "low_memory",
        "num_assistant_tokens_schedule",
        "output_attentions",
        "output_hidden_states",
        "output_logits",
        "output_scores",
        "prefill_chunk_size",
        "return_dict_in_generate",
        "return_legacy_cache",
        "target_lookbehind",
        "transformers_version",
        "use_cache",
    }
)


def does_nothing(name: str, value: Any) -> bool:
    """Whether a not-built option has a value that changes nothing."""
    value = plain(value)
    return value is None or (
        isinstance(value, bool | int | float) and any(value == neutral for neutral in NOT_BUILT[name][0])
    )


def not_built(name: str, value: Any, origin: str) -> NotImplementedError:
    """The error for a not-built option that would have had an effect."""
    instead = "" if origin == "argument" else f" It comes from {origin}; pass {_neutral_words(name)} to do without it."
    return NotImplementedError(
        f"{name}={quoted(value)} is not built yet. The nearest option that is: {NOT_BUILT[name][1]}.{instead}"
    )


def _neutral_words(name: str) -> str:
    neutral = NOT_BUILT[name][0]
    return f"{name}={neutral[0]!r}" if neutral else "generation_config=GenerationConfig(...) without it"


def unknown(name: str, known: Iterable[str]) -> TypeError:
    """The error for a name that `generate` does not know, with the nearest one it does."""
    if name in REPLACED:
        return TypeError(f"generate takes no '{name}': {REPLACED[name]}.")
    names = sorted(set(known) | set(NOT_BUILT))
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
    return TypeError(f"generate takes no option {quoted(name)}; the nearest it knows is {close[0]!r}.")
