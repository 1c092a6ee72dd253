"""From the settings of a run to its strategy: which one, with which processors and arrays.

Must not know: decoders, caches, the host's loop.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import processors
from ..buckets import TargetBucket, bucket, check_comparisons
from ..plan import Plan
from ..prompt import PositionRule
from ..source import padded_ids
from ..special_tokens import SpecialTokens
from .base import AbstractStrategy
from .beam import BeamSearch
from .beam_hypotheses import Lengths
from .greedy_and_sampling import Sampling, key_data
from .legacy_constrained_beam import ConstrainedBeamSearch
from .legacy_contrastive import ContrastiveSearch
from .legacy_force_words import ForcedWords
from .speculative import AbstractDrafter, DraftDecoder, SourceLookup, Speculative


@dataclass(frozen=True, eq=False)
class Context:
    """What a strategy is made from besides the settings.

    Attributes:
        tokens: the special tokens.
        batch: sentences.
        sentences: the same, padded to the bucket.
        width: columns of the prompt that are fed.
        unseen: columns in front of them that are padding in every row; `min_length` counts them.
        prompt_tokens: tokens of each sentence's prompt that are not padding.
        target: sizes of the cache.
        rule: how the family numbers tokens.
        vocab_size: of the decoder.
        source_ids: the source's ids, if it came as ids.
        key: the user's PRNG key.
    """

    tokens: SpecialTokens
    batch: int
    sentences: int
    width: int
    unseen: int
    prompt_tokens: np.ndarray
    target: TargetBucket
    rule: PositionRule
    vocab_size: int
    source_ids: np.ndarray | None
    key: Any


def choose(settings: Plan, context: Context) -> AbstractStrategy:
    """The strategy that the settings ask for."""
    if settings.search == "beams":
        return _beams(settings, context)
    if settings.search == "constrained":
        return _constrained(settings, context)
    if settings.search == "contrastive":
        return _contrastive(settings, context)
    plain = _sampling(settings, context)
    drafter = _drafter(settings, context)
    if drafter is None:
        return plain
    return Speculative(
        plain=plain, drafter=drafter, pad_id=plain.pad_id, ahead=settings.ahead, prefix=context.target.prefix
    )


def reads_whole_prompt(settings: Plan) -> bool:
    """Whether all of the prompt is read before the first step, which otherwise starts with the last of its tokens."""
    return settings.search == "contrastive"


def _sampling(settings: Plan, context: Context) -> Sampling:
    samples = settings.num_return_sequences
    eos_ids, pad_id = _ends(context.tokens)
    return Sampling(
        processors=_chain(settings, context, rows=samples),
        eos_ids=np.asarray(eos_ids, np.int32),
        pad_id=np.asarray(pad_id, np.int32),
        prompt_width=np.asarray(context.width, np.int32),
        prompt_tokens=np.repeat(context.prompt_tokens, samples),
        limit=np.asarray(context.width + settings.max_new_tokens, np.int32),
        constraint=settings.constraint,
        key_data=_key_data(settings, context),
        samples=samples,
        positions=context.rule,
    )


def _drafter(settings: Plan, context: Context) -> AbstractDrafter | None:
    if settings.assistant is not None:
        assistant = settings.assistant
        return DraftDecoder(assistant.decoder, assistant.project, PositionRule.of(assistant.config))
    if settings.lookup_longest and context.source_ids is not None:
        ids = context.source_ids
        width, samples = np.asarray(ids.shape[1], np.int32), settings.num_return_sequences
        return SourceLookup(padded_ids(ids), width, settings.lookup_longest, samples, context.vocab_size)
    return None


def _beams(settings: Plan, context: Context) -> BeamSearch:
    eos_ids, pad_id = _ends(context.tokens)
    ends = max(1, len(context.tokens.require("eos_token_id")))
    groups, sample, new = settings.num_beam_groups, settings.do_sample, settings.max_new_tokens
    return BeamSearch(
        processors=_chain(settings, context, rows=settings.num_beams // groups, keep=ends + 1),
        lengths=Lengths.of(
            settings.length_penalty, settings.early_stopping, longest=new, columns=context.target.slots + 1
        ),
        eos_ids=np.asarray(eos_ids, np.int32),
        pad_id=np.asarray(pad_id, np.int32),
        prompt_width=np.asarray(context.width, np.int32),
        prompt_tokens=context.prompt_tokens,
        limit=np.asarray(context.width + new, np.int32),
        constraint=settings.constraint,
        diversity=np.asarray(settings.diversity_penalty, np.float32) if groups > 1 else None,
        key_data=_key_data(settings, context),
        beams=settings.num_beams,
        # only a draw depends on how many candidates there are
        ends=ends if sample or ends == 1 else bucket(ends, least=4),
        returned=np.asarray(settings.num_return_sequences, np.int32),
        num_groups=groups,
        prefix=context.target.prefix,
        positions=context.rule,
    )


def _constrained(settings: Plan, context: Context) -> ConstrainedBeamSearch:
    plain, words = _beams(settings, context), ForcedWords.of(settings.force_words_ids)
    check_comparisons(sequences=context.sentences, continuations=settings.num_beams * words.offers)
    return ConstrainedBeamSearch(plain=plain, words=words, pad_id=plain.pad_id)


def _contrastive(settings: Plan, context: Context) -> ContrastiveSearch:
    eos_ids, pad_id = _ends(context.tokens)
    prefix = context.target.prefix
    return ContrastiveSearch(
        processors=_chain(settings, context, rows=1),
        eos_ids=np.asarray(eos_ids, np.int32),
        pad_id=np.asarray(pad_id, np.int32),
        prompt_width=np.asarray(context.width, np.int32),
        prompt_tokens=context.prompt_tokens,
        # in double precision first, as torch does
        confidence=np.asarray(1.0 - settings.penalty_alpha, np.float32),
        penalty=np.asarray(settings.penalty_alpha, np.float32),
        top_k=settings.top_k,
        prefix=prefix,
        room=context.target.slots - prefix,
        positions=context.rule,
    )


def _chain(settings: Plan, context: Context, *, rows: int, keep: int = 1) -> tuple[processors.Processor, ...]:
    ids = context.source_ids
    return processors.build(
        settings,
        # A column of left padding that no row needs is not fed, but max_length and min_length count it.
        min_length=max(settings.min_length - context.unseen, 0),
        eos_ids=_ends(context.tokens)[0],
        prompt_width=context.width,
        rows_per_sentence=rows,
        source=None if ids is None else (padded_ids(ids), ids.shape[1]),
        min_tokens_to_keep=keep,
    )


def _key_data(settings: Plan, context: Context) -> np.ndarray | None:
    if not settings.do_sample:
        return None
    return key_data(context.key, batch=context.batch, sentences=context.sentences)


def _ends(tokens: SpecialTokens) -> tuple[tuple[int, ...], int]:
    """End-of-sequence ids and the pad id, which nothing needs where no row ever ends.

    The ids are filled up with repetitions, so that one program serves one end or a few.
    """
    eos_ids = tokens.require("eos_token_id")
    if not eos_ids:
        return (), 0
    more = bucket(len(eos_ids), least=4) - len(eos_ids)
    return eos_ids + eos_ids[:1] * more, tokens.require("pad_token_id")
