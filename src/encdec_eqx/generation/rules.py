"""From what was asked to the rules of one run that change logits: which hold, and for which ids.

Must not know: models, arrays, and how lengths, sampling and beams are settled (`resolve`).
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx

from .._quoting import quoted
from .asked import ARGUMENT, FILE, Asked

# Rules that need nothing but their own value, and the value at which they change nothing.
_PLAIN = {
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "remove_invalid_values": False,
    "renormalize_logits": False,
}
_OF_THE_SOURCE = {"encoder_repetition_penalty": 1.0, "encoder_no_repeat_ngram_size": 0}


def rule_settings(
    asked: Asked, *, prompt_width: int, eos_ids: tuple[int, ...], vocab_size: int, has_source_ids: bool
) -> dict[str, Any]:
    """The fields of `Settings` that stand for rules other than those of length and of sampling.

    Args:
        asked: what was asked for; what is dropped from a file is added to its notes.
        prompt_width: tokens of the prompt, or 1 for the start token.
        eos_ids: ids that end a row.
        vocab_size: of the decoder.
        has_source_ids: whether the source came as token ids.

    Raises:
        TypeError: for a processor that is none.
        ValueError: for ids that the decoder does not have, rules that would do nothing, and rules that leave no token.
    """
    suppressed = _within(asked, "suppress_tokens", vocab_size)
    at_first = _within(asked, "begin_suppress_tokens", vocab_size)
    if vocab_size <= len({*suppressed, *at_first}):
        raise ValueError(
            f"suppress_tokens and begin_suppress_tokens hold all {vocab_size} ids of the decoder: no token is left to "
            "generate. Leave some out."
        )
    first = _first(asked, prompt_width, vocab_size)
    return {
        **{name: asked.get(name, neutral) for name, neutral in _PLAIN.items()},
        **{name: _of_the_source(asked, name, neutral, has_source_ids) for name, neutral in _OF_THE_SOURCE.items()},
        "sequence_bias": _within(asked, "sequence_bias", vocab_size, ids_of=lambda pair: pair[0]),
        "bad_words_ids": _bad_words(asked, eos_ids, vocab_size),
        "suppress_tokens": suppressed,
        "begin_suppress_tokens": at_first,
        "exponential_decay_length_penalty": _decay(asked, eos_ids),
        "forced_bos_token_id": first if first is not None and _left(asked, "forced_bos_token_id", (first,)) else None,
        "forced_eos_token_ids": _left(asked, "forced_eos_token_id", _within(asked, "forced_eos_token_id", vocab_size)),
        "logits_processors": _own(asked),
    }


def _within(
    asked: Asked, name: str, vocab_size: int, ids_of: Callable[[Any], Sequence[int]] = lambda item: (item,)
) -> tuple[Any, ...]:
    """The items of an option (an id, ids, or what holds some) whose ids the decoder has."""
    items = asked.get(name, ())
    items = items if isinstance(items, tuple) else (items,)
    wrong = tuple(item for item in items if max(ids_of(item)) >= vocab_size)
    if not wrong:
        return items
    beyond = f"{name}={quoted(wrong)} ({asked.origin(name)}) goes beyond the decoder's vocabulary of {vocab_size}"
    if asked.origin(name) != FILE:
        raise ValueError(
            f"{beyond}. Pass an id of the decoder's own tokenizer, or give the model more ids with "
            "resize_token_embeddings."
        )
    asked.notes.append(f"{beyond}: dropped.")
    return tuple(item for item in items if max(ids_of(item)) < vocab_size)


def _first(asked: Asked, prompt_width: int, vocab_size: int) -> int | None:
    """The forced first id, which needs a start token that stands alone."""
    name = "forced_bos_token_id"
    if (first := asked.get(name)) is None:
        return None
    if prompt_width > 1:
        why = f"it takes the place of the first token after a lone start token, and the prompt has {prompt_width}"
        asked.refuse_or_drop(name, None, why)
        return None
    return first if _within(asked, name, vocab_size) else None


def _left(asked: Asked, name: str, forced: tuple[int, ...]) -> tuple[int, ...]:
    """The ids that a place must have, unless `suppress_tokens` forbids them all: nothing would be left for it."""
    suppressed = asked.get("suppress_tokens", ())
    if not forced or set(forced) - set(suppressed):
        return forced
    both = (
        f"{name}={quoted(asked.get(name))} ({asked.origin(name)}) and suppress_tokens={quoted(suppressed)} "
        f"({asked.origin('suppress_tokens')}) contradict each other: no token is left for that place"
    )
    if {asked.origin(name), asked.origin("suppress_tokens")} != {FILE}:
        raise ValueError(f"{both}. Leave the id out of one of them.")
    asked.notes.append(f"{both}; {name} is dropped.")
    return ()


def _bad_words(asked: Asked, eos_ids: tuple[int, ...], vocab_size: int) -> tuple[tuple[int, ...], ...]:
    """The words but for those that are an end-of-sequence id, which stays allowed, as in torch."""
    name = "bad_words_ids"
    words = _within(asked, name, vocab_size, ids_of=lambda word: word)
    ends = tuple(word for word in words if len(word) == 1 and word[0] in eos_ids)
    if not ends:
        return words
    why = "an end-of-sequence id stays allowed, as in torch (min_length, min_new_tokens and suppress_tokens forbid it)"
    if ends == words:
        asked.refuse_or_drop(name, (), why)
        return ()
    asked.notes.append(f"{name}={quoted(ends)} ({asked.origin(name)}) is dropped: {why}.")
    return tuple(word for word in words if word not in ends)


def _decay(asked: Asked, eos_ids: tuple[int, ...]) -> tuple[int, float] | None:
    name = "exponential_decay_length_penalty"
    start_and_factor = asked.get(name)
    if start_and_factor is None or start_and_factor[1] == 1.0:
        return None
    if not eos_ids:
        asked.refuse_or_drop(name, None, "there is no end-of-sequence id to favour")
        return None
    return start_and_factor


def _of_the_source(asked: Asked, name: str, neutral: Any, has_source_ids: bool) -> Any:
    value = asked.get(name, neutral)
    if value != neutral and not has_source_ids:
        raise ValueError(
            f"{name}={value} ({asked.origin(name)}) compares with the source's token ids, and there are none. Pass "
            f"input_ids (they may stand beside encoder_outputs), or {name}={neutral}."
        )
    return value


def _own(asked: Asked) -> tuple[Any, ...]:
    """The user's own processors, of which only the form is known."""
    given = asked.arguments.get("logits_processor", ())
    processors = tuple(given) if isinstance(given, Sequence) else (given,)
    for processor in processors:
        form = "an equinox.Module that is called as processor(logits, prefix, length), or a sequence of them"
        if not isinstance(processor, eqx.Module) or not callable(processor):
            raise TypeError(f"logits_processor ({ARGUMENT}) must be {form}; got {quoted(processor)}.")
        try:
            inspect.signature(processor).bind("logits", "prefix", "length")
        except TypeError as error:
            raise TypeError(
                f"logits_processor ({ARGUMENT}) must be {form}; {type(processor).__name__}: {error}."
            ) from None
    return processors
