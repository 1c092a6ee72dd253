"""The form of a processor, the processors of one run in the order of transformers 4.57.6, and how they are applied.

A processor is called as `processor(logits, prefix, length)`: float32 logits (rows, vocab), and `prefix` (rows, width),
whose first `length` columns are the tokens so far, prompt and its left padding included. It returns the new logits.
Numbers that may differ from call to call are arrays (they are traced), so that only which processors are present, and
sizes, decide which program runs.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..buckets import LEAST_SLOTS, bucket
from ..value_checks import MOST
from . import repetition
from .form import Length, Logits, Prefix, Processor
from .sampling_filters import Epsilon, Eta, MinP, Temperature, TopK, TopP, Typical
from .token_rules import (
    DecayingLength,
    Finite,
    ForcedToken,
    MinLength,
    MinNewTokens,
    Normalised,
    SequenceBias,
    Suppressed,
    SuppressedAt,
    padded_ids,
)


def build(
    plan: Any,
    *,
    min_length: int,
    eos_ids: Sequence[int],
    prompt_width: int,
    rows_per_sentence: int,
    source: tuple[np.ndarray, int] | None = None,
    min_tokens_to_keep: int = 1,
) -> tuple[Processor, ...]:
    """The processors of one run, in torch's order; those that would change nothing are left out.

    Args:
        plan: what was asked for.
        min_length: in columns of the prefix (the plan' also counts columns that the prefix lacks).
        eos_ids: ids that end a row.
        prompt_width: columns of the prompt.
        rows_per_sentence: beams or samples.
        source: the source's ids and how many of their columns are not the bucket's padding.
        min_tokens_to_keep: the least number of tokens that rules of sampling leave.
    """
    ends = np.asarray(eos_ids, np.int32)
    return (
        *_about_repetition(plan, rows_per_sentence, source),
        *_about_ends(plan, min_length, prompt_width, ends),
        *_about_places(plan, prompt_width, ends),
        *plan.logits_processors,
        *(_about_shares(plan, min_tokens_to_keep) if plan.do_sample else ()),
        *((Normalised(),) if plan.renormalize_logits else ()),
    )


def apply(processors: Sequence[Processor], logits: Logits, prefix: Prefix, length: Length) -> Logits:
    """All processors, one after another.

    Raises:
        TypeError: if one, a user's own, does not return logits of the same shape and dtype.
    """
    for processor in processors:
        processed = processor(logits, prefix, length)
        got, expected = (_form(array) for array in (processed, logits))
        if got != expected:
            raise TypeError(
                f"the processor {type(processor).__name__} returned {got}; expected {expected}, as it was given."
            )
        logits = processed
    return logits


def _form(array: Any) -> str:
    if not hasattr(array, "shape") or not hasattr(array, "dtype"):
        return type(array).__name__
    return f"{np.dtype(array.dtype).name}{list(array.shape)}"


def _about_repetition(plan: Any, rows_per_sentence: int, source: tuple[np.ndarray, int] | None) -> list[Processor]:
    chain: list[Processor] = []
    if plan.sequence_bias:
        chain.append(SequenceBias.of_sequences(plan.sequence_bias))
    if plan.encoder_repetition_penalty != 1.0 and source is not None:
        ids, width = source
        penalty = np.asarray(1 / plan.encoder_repetition_penalty, np.float32)
        chain.append(repetition.SourcePenalty(ids, np.asarray(width, np.int32), penalty, rows_per_sentence))
    if plan.repetition_penalty != 1.0:
        chain.append(repetition.RepetitionPenalty(np.asarray(plan.repetition_penalty, np.float32)))
    if plan.no_repeat_ngram_size > 0:
        chain.append(repetition.NGrams(plan.no_repeat_ngram_size))
    if plan.encoder_no_repeat_ngram_size > 0 and source is not None:
        ids, width = source
        size = plan.encoder_no_repeat_ngram_size
        chain.append(repetition.SourceNGrams(ids, np.asarray(width, np.int32), size, rows_per_sentence))
    if plan.bad_words_ids:
        forbidden = [(word, -np.inf) for word in dict.fromkeys(plan.bad_words_ids)]
        chain.append(SequenceBias.of_sequences(forbidden))
    return chain


def _about_ends(plan: Any, min_length: int, prompt_width: int, ends: np.ndarray) -> list[Processor]:
    chain: list[Processor] = []
    if min_length > 0:
        chain.append(MinLength(np.asarray(min_length, np.int32), ends))
    if plan.min_new_tokens > 0:
        least, width = (np.asarray(value, np.int32) for value in (plan.min_new_tokens, prompt_width))
        chain.append(MinNewTokens(least, width, ends))
    return chain


def _about_places(plan: Any, prompt_width: int, ends: np.ndarray) -> list[Processor]:
    chain: list[Processor] = []
    first_is_forced = plan.forced_bos_token_id is not None
    if plan.forced_bos_token_id is not None:
        chain.append(ForcedToken(np.asarray(1, np.int32), np.asarray([plan.forced_bos_token_id], np.int32)))
    if plan.forced_eos_token_ids:
        last = np.asarray(prompt_width + plan.max_new_tokens - 1, np.int32)
        chain.append(ForcedToken(last, np.asarray(plan.forced_eos_token_ids, np.int32)))
    if plan.remove_invalid_values:
        chain.append(Finite())
    if plan.exponential_decay_length_penalty is not None:
        chain.append(_decaying(plan.exponential_decay_length_penalty, plan.max_new_tokens, prompt_width, ends))
    if plan.suppress_tokens:
        chain.append(Suppressed(padded_ids(plan.suppress_tokens)))
    if plan.begin_suppress_tokens:
        first = np.asarray(prompt_width + first_is_forced, np.int32)
        chain.append(SuppressedAt(first, padded_ids(plan.begin_suppress_tokens)))
    return chain


def _decaying(decay: tuple[int, float], new: int, prompt_width: int, ends: np.ndarray) -> DecayingLength:
    start, factor = decay
    with np.errstate(over="ignore"):
        growth = np.power(factor, np.arange(bucket(new, least=LEAST_SLOTS), dtype=np.float64)) - 1
    growth = np.minimum(growth, MOST).astype(np.float32)
    return DecayingLength(np.asarray(prompt_width + start, np.int32), growth, ends)


def _about_shares(plan: Any, keep: int) -> list[Processor]:
    if not plan.do_sample:
        return []
    chain: list[Processor] = []
    if plan.temperature != 1.0:
        chain.append(Temperature(np.asarray(plan.temperature, np.float32)))
    if plan.top_k > 0:
        chain.append(TopK(np.asarray(max(plan.top_k, keep), np.int32)))
    bounds = (
        (TopP, 1 - plan.top_p, plan.top_p < 1),
        (MinP, plan.min_p, plan.min_p > 0),
        (Typical, plan.typical_p, plan.typical_p < 1),
        (Epsilon, plan.epsilon_cutoff, plan.epsilon_cutoff > 0),
        (Eta, plan.eta_cutoff, plan.eta_cutoff > 0),
    )
    chain += [rule(np.asarray(bound, np.float32), keep) for rule, bound, has_effect in bounds if has_effect]
    return chain
