"""The processors of one run, in the order of transformers 4.57.6; those that would change nothing are left out."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from ..._inputs import as_int32, numpy_of
from ..._typing import Array, ArrayLike
from ..source_and_prompt import LEAST_SLOTS, bucket
from ..value_checks import MOST, MOST_ID
from .form import Processor
from .sampling_filters import Epsilon, Eta, MinP, Temperature, TopK, TopP, Typical
from .token_rules import (
    DecayingLength,
    Finite,
    ForcedToken,
    MinLength,
    MinNewTokens,
    NGrams,
    Normalised,
    RepetitionPenalty,
    SequenceBias,
    SourceNGrams,
    SourcePenalty,
    Suppressed,
    SuppressedAt,
    padded_ids,
)


def build(
    plan: Any,
    *,
    min_length: int | Array,
    eos_ids: Sequence[int],
    prompt_width: int | Array,
    rows_per_sentence: int,
    limit: int | Array | None = None,
    min_new_tokens: int | Array | None = None,
    source: tuple[ArrayLike, int | Array] | None = None,
    min_tokens_to_keep: int = 1,
) -> tuple[Processor, ...]:
    """The processors of one run, by its `Plan`.

    `min_length` is in columns of the prefix (the plan's also counts columns that the prefix lacks), and so is `limit`,
    at which a row has its maximum length; that and `min_new_tokens` are the plan's unless they are given. `source`
    holds the ids of the source and how many of their columns count; filters of sampling leave at least
    `min_tokens_to_keep`.
    """
    ends, width = np.asarray(eos_ids, np.int32), prompt_width
    last = (width + plan.max_new_tokens if limit is None else limit) - 1
    least = plan.min_new_tokens if min_new_tokens is None else min_new_tokens
    return (
        *_on_repetition(plan, rows_per_sentence, source),
        *((MinLength(as_int32(min_length), ends),) if _asked(min_length) else ()),
        *((MinNewTokens(as_int32(least), as_int32(width), ends),) if _asked(least) else ()),
        *_on_places(plan, width, last, ends),
        *plan.logits_processors,
        *(_filters(plan, min_tokens_to_keep) if plan.do_sample else ()),
        *((Normalised(),) if plan.renormalize_logits else ()),
    )


def _on_repetition(plan: Any, rows: int, source: tuple[ArrayLike, int | Array] | None) -> list[Processor]:
    chain: list[Processor] = []
    if plan.sequence_bias:
        chain.append(SequenceBias.of_sequences(plan.sequence_bias))
    if plan.encoder_repetition_penalty != 1.0 and source is not None:
        penalty = np.asarray(1 / plan.encoder_repetition_penalty, np.float32)
        chain.append(SourcePenalty(source[0], as_int32(source[1]), penalty, rows))
    if plan.repetition_penalty != 1.0:
        chain.append(RepetitionPenalty(np.asarray(plan.repetition_penalty, np.float32)))
    if plan.no_repeat_ngram_size > 0:
        chain.append(NGrams(plan.no_repeat_ngram_size))
    if plan.encoder_no_repeat_ngram_size > 0 and source is not None:
        chain.append(SourceNGrams(source[0], as_int32(source[1]), plan.encoder_no_repeat_ngram_size, rows))
    if plan.bad_words_ids:
        forbidden = [(sequence, -np.inf) for sequence in dict.fromkeys(plan.bad_words_ids)]
        chain.append(SequenceBias.of_sequences(forbidden))
    return chain


def _on_places(plan: Any, width: int | Array, last: int | Array, ends: np.ndarray) -> list[Processor]:
    chain: list[Processor] = []
    first_is_forced = plan.forced_bos_token_id is not None
    if first_is_forced:
        chain.append(ForcedToken(as_int32(1), np.asarray([plan.forced_bos_token_id], np.int32)))
    if plan.forced_eos_token_ids:
        chain.append(ForcedToken(as_int32(last), np.asarray(plan.forced_eos_token_ids, np.int32)))
    if plan.remove_invalid_values:
        chain.append(Finite())
    if plan.exponential_decay_length_penalty is not None:
        start, factor = plan.exponential_decay_length_penalty
        longest = max(plan.max_new_tokens, plan.reach.new_tokens)
        steps = np.arange(bucket(longest, least=LEAST_SLOTS), dtype=np.float64)
        with np.errstate(over="ignore"):
            growth = np.minimum(np.power(factor, steps) - 1, MOST).astype(np.float32)
        chain.append(DecayingLength(as_int32(width + start), growth, ends))
    if plan.suppress_tokens:
        chain.append(Suppressed(padded_ids(plan.suppress_tokens)))
    if plan.begin_suppress_tokens:
        forced = numpy_of(width).where(width == 1, 1, 0) if first_is_forced else 0
        chain.append(SuppressedAt(as_int32(width + forced), padded_ids(plan.begin_suppress_tokens)))
    return chain


def _filters(plan: Any, keep: int) -> list[Processor]:
    chain: list[Processor] = []
    anyway = plan.reach.filters
    if plan.temperature != 1.0 or "temperature" in anyway:
        chain.append(Temperature(np.asarray(plan.temperature, np.float32)))
    if plan.top_k > 0 or "top_k" in anyway:
        chain.append(TopK(as_int32(max(plan.top_k or MOST_ID, keep))))
    bounds = (
        # a tail below 0 cuts nothing, whatever the rounding of a sum
        (TopP, 1 - plan.top_p if plan.top_p < 1 else -1, plan.top_p < 1 or "top_p" in anyway),
        (MinP, plan.min_p, plan.min_p > 0),
        (Typical, plan.typical_p, plan.typical_p < 1),
        (Epsilon, plan.epsilon_cutoff, plan.epsilon_cutoff > 0),
        (Eta, plan.eta_cutoff, plan.eta_cutoff > 0),
    )
    return chain + [rule(np.asarray(bound, np.float32), keep) for rule, bound, has_effect in bounds if has_effect]


def _asked(least: int | Array) -> bool:
    """Whether there is such a rule: the value of a traced one is not known."""
    return isinstance(least, jax.Array) or least > 0
