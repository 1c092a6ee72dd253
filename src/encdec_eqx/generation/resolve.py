"""From everything that asks for something (arguments, a `GenerationConfig`, a file) to the settings of one run.

How lengths are settled is here, how the search is in `searches`, the other rules in `rules`. Must not know: models,
arrays, loops.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import options
from .agreed import agreed_constraint
from .asked import ARGUMENT, FILE, PASSED, Asked
from .assistants import Assistant, drafting_settings
from .buckets import check_length_penalty
from .constraints.constraint import AbstractConstraint
from .forced_checks import check_room, refuse_impossible_words
from .rules import rule_settings
from .scalars import flag
from .searches import Search, search_settings
from .settings import GenerationConfig, option_names, refuse_both
from .special_tokens import BY_USER, TOKEN_NAMES, SpecialTokens

_logger = logging.getLogger("encdec_eqx")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What one run of `generate` does; every field is decided.

    Attributes:
        max_new_tokens: most tokens to generate for a row.
        min_length: least length, counting `prompt_width`; 0 means none.
        min_new_tokens: least number of generated tokens; 0 means none.
        search: how tokens are chosen.
        do_sample: draw tokens, or take the most probable one.
        temperature: logits are divided by it; 1 means as they are.
        top_k: 0 means all.
        top_p: 1 means all.
        min_p: 0 means all.
        typical_p: 1 means all.
        epsilon_cutoff: 0 means none.
        eta_cutoff: 0 means none.
        num_return_sequences: results per sentence.
        num_beams: beams per sentence, over all groups.
        num_beam_groups: groups of beams.
        diversity_penalty: taken from a token's log-probability for each earlier group's beam that has just chosen it.
        length_penalty: the power of the length that scores are divided by.
        early_stopping: whether a sentence is done when it has as many hypotheses as beams, or what it may hope for.
        penalty_alpha: weight of the similarity to earlier tokens in contrastive search.
        force_words_ids: what has to be generated: phrases, or alternatives of phrases.
        sequence_bias: pairs of ids and what is added to the last one's logit behind the others.
        encoder_repetition_penalty: of the tokens that are not in the source; 1 means none.
        repetition_penalty: of the tokens that are in the sequence; 1 means none.
        no_repeat_ngram_size: length of the sequence's runs that may not be repeated; 0 means none.
        encoder_no_repeat_ngram_size: length of the source's runs that may not be repeated; 0 means none.
        bad_words_ids: sequences of ids that may not be generated.
        remove_invalid_values: make infinities and NaN finite.
        exponential_decay_length_penalty: after how many new tokens ends become likelier, and by what factor a token.
        suppress_tokens: ids that may not be generated.
        begin_suppress_tokens: ids that the first generated token may not be.
        logits_processors: the user's own.
        assistant: who proposes tokens, or None.
        ahead: how many are proposed at a time; 0 means none.
        lookup_longest: how many of the last tokens are looked for in the source, if that proposes; 0 means it does not.
        output_cross_attentions: whether the result has them.
        constraint: the automaton that the generated tokens have to obey, or None.
        renormalize_logits: turn processed logits into log-probabilities.
        forced_bos_token_id: the first generated token, where only a start token precedes it.
        forced_eos_token_ids: what the last possible token may be; empty means anything.
        notes: what was dropped from a file because it could not apply, one sentence each.
    """

    max_new_tokens: int
    min_length: int = 0
    min_new_tokens: int = 0
    search: Search = "greedy"
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    epsilon_cutoff: float = 0.0
    eta_cutoff: float = 0.0
    num_return_sequences: int = 1
    num_beams: int = 1
    num_beam_groups: int = 1
    diversity_penalty: float = 0.0
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    penalty_alpha: float = 0.0
    force_words_ids: tuple[tuple[tuple[int, ...], ...], ...] = ()
    sequence_bias: tuple[tuple[tuple[int, ...], float], ...] = ()
    encoder_repetition_penalty: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    encoder_no_repeat_ngram_size: int = 0
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    remove_invalid_values: bool = False
    exponential_decay_length_penalty: tuple[int, float] | None = None
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    logits_processors: tuple[Any, ...] = ()
    assistant: Assistant | None = None
    ahead: int = 0
    lookup_longest: int = 0
    output_cross_attentions: bool = False
    constraint: AbstractConstraint | None = None
    renormalize_logits: bool = False
    forced_bos_token_id: int | None = None
    forced_eos_token_ids: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


def split_options(arguments: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sort the named arguments of a call into options and token ids, leaving out those that are `None`.

    Raises:
        NotImplementedError: for an option that is not built and would have an effect.
        TypeError: for a name that `generate` does not know.
    """
    chosen: dict[str, Any] = {}
    tokens: dict[str, Any] = {}
    known = (*option_names(), *options.ONLY_ARGUMENTS)
    for name, value in arguments.items():
        if name in TOKEN_NAMES:
            tokens[name] = value
        elif name in known or name in options.NOT_BUILT:
            chosen[name] = value
        else:
            raise options.unknown(name, (*known, *TOKEN_NAMES))
    return (
        {name: value for name, value in chosen.items() if value is not None},
        {name: value for name, value in tokens.items() if value is not None},
    )


def resolve_tokens(
    model: SpecialTokens,
    passed: GenerationConfig | None,
    arguments: Mapping[str, Any],
    vocab_size: int,
    *,
    needs_start: bool = True,
) -> tuple[SpecialTokens, tuple[str, ...]]:
    """The special tokens of one run: the call's arguments, then a passed `GenerationConfig`, then the model's.

    Args:
        model: the model's.
        passed: the call's `generation_config`.
        arguments: the call's own.
        vocab_size: of the decoder.
        needs_start: whether there has to be a start token; False where each row has its own.

    Returns:
        The ids, and notes on what was dropped: an end from a file that is no id of the decoder's vocabulary (a default
        of its config class, usually), since it can never be generated.

    Raises:
        ValueError: for ids that are missing, or beyond the vocabulary and not dropped.
    """
    if passed is not None:
        model = model.override(PASSED, **{name: getattr(passed, name) for name in TOKEN_NAMES})
    tokens, notes = model.override(ARGUMENT, **arguments), ()
    if needs_start:
        _within(vocab_size, "decoder_start_token_id", (tokens.require("decoder_start_token_id"),), tokens)
    ends = tokens.require("eos_token_id")
    reachable = tuple(end for end in ends if end < vocab_size)
    source = dict(tokens.sources).get("eos_token_id", "")
    if reachable != ends and source not in (ARGUMENT, PASSED, BY_USER):
        notes = (_unreachable(ends, reachable, source, vocab_size),)
        tokens = tokens.override(source, eos_token_id=reachable)
    _within(vocab_size, "eos_token_id", tokens.require("eos_token_id"), tokens)
    if reachable:
        _within(vocab_size, "pad_token_id", (tokens.require("pad_token_id"),), tokens)
    return tokens, notes


def _unreachable(ends: tuple[int, ...], reachable: tuple[int, ...], source: str, vocab_size: int) -> str:
    dropped = [end for end in ends if end not in reachable]
    left = f"{list(reachable)} stays" if reachable else "no end is left"
    return f"eos_token_id={dropped} ({source}) is beyond the decoder's vocabulary of {vocab_size}: dropped; {left}."


def _within(vocab_size: int, name: str, ids: tuple[int, ...], tokens: SpecialTokens) -> None:
    for value in ids:
        if value >= vocab_size:
            source = dict(tokens.sources).get(name, "not set anywhere")
            raise ValueError(
                f"{name}={value} ({source}) is not an id of the decoder's vocabulary of {vocab_size}. Pass the "
                f"decoder's own {name}=..., or give the model more ids with resize_token_embeddings."
            )


def resolve_settings(
    arguments: Mapping[str, Any],
    passed: GenerationConfig | None,
    file: GenerationConfig | None,
    *,
    prompt_width: int,
    eos_ids: tuple[int, ...],
    has_key: bool,
    vocab_size: int,
    has_source_ids: bool,
    notes: tuple[str, ...] = (),
) -> Settings:
    """Combine what was asked for, the strongest first.

    Args:
        arguments: the call's own options, none of them `None`.
        passed: the call's `generation_config`; it takes the place of the file's as a whole.
        file: the model's own options. Values of a file that cannot apply are dropped and reported; of the others they
            are errors.
        prompt_width: tokens of the prompt, or 1 for the start token.
        eos_ids: ids that end a row; empty for rows that never end.
        has_key: whether a PRNG key is at hand.
        vocab_size: of the decoder.
        has_source_ids: whether the source came as token ids.
        notes: what was dropped before.

    Raises:
        NotImplementedError: for options that are not built.
        ValueError: for combinations that contradict each other or would do nothing.
    """
    asked = Asked(arguments, passed, file)
    asked.refuse_not_built()
    refuse_impossible_words(asked, vocab_size=vocab_size, eos_ids=eos_ids)
    search = search_settings(asked, has_key, vocab_size)
    longest = _max_new_tokens(asked, prompt_width)
    if "length_penalty" in search:
        check_length_penalty(search["length_penalty"], longest, asked.origin("length_penalty"))
    check_room(asked, search.get("force_words_ids", ()), prompt_width=prompt_width, longest=longest)
    min_length, min_new_tokens = _least(asked, prompt_width, longest, not eos_ids)
    rules = rule_settings(
        asked, prompt_width=prompt_width, eos_ids=eos_ids, vocab_size=vocab_size, has_source_ids=has_source_ids
    )
    drafting = drafting_settings(asked, search["search"], vocab_size=vocab_size, has_source_ids=has_source_ids)
    constraint = agreed_constraint(
        asked.get("constraint"), search["search"], vocab_size=vocab_size, eos_ids=eos_ids, longest=longest
    )
    notes += tuple(asked.notes)
    for note in notes:
        _report_once(note)
    return Settings(
        max_new_tokens=longest,
        min_length=min_length,
        min_new_tokens=min_new_tokens,
        output_cross_attentions=flag("output_cross_attentions", asked.get("output_cross_attentions", False)),
        constraint=constraint,
        notes=notes,
        **rules,
        **search,
        **drafting,
    )


def _one_of_two(asked: Asked, first: str, second: str) -> None:
    """An argument for one of the pair beats whatever a config says about either."""
    refuse_both(asked.arguments.get(first), asked.arguments.get(second), first, second)
    if first in asked.arguments or second in asked.arguments:
        asked.base.pop(first, None)
        asked.base.pop(second, None)


def _max_new_tokens(asked: Asked, prompt_width: int) -> int:
    _one_of_two(asked, "max_length", "max_new_tokens")
    if (new := asked.get("max_new_tokens")) is not None:
        return new
    length = asked.get("max_length")
    if length is None:
        raise ValueError(
            "generate does not know when to stop: neither max_new_tokens nor max_length is given, as an argument or "
            "in generation_config.json. Pass for example max_new_tokens=64 (there is no silent default of 20)."
        )
    if length <= prompt_width:
        raise ValueError(
            f"max_length={length} ({asked.origin('max_length')}) counts the {prompt_width} token(s) of the prompt or "
            f"start token, which leaves nothing to generate. Pass max_length={prompt_width + 1} or more, or "
            "max_new_tokens, which does not count them."
        )
    return length - prompt_width


def _least(asked: Asked, prompt_width: int, longest: int, never_ends: bool) -> tuple[int, int]:
    _one_of_two(asked, "min_length", "min_new_tokens")
    limits = {"min_length": longest + prompt_width, "min_new_tokens": longest}
    if never_ends:
        for name in limits:
            if asked.get(name, 0):
                asked.refuse_or_drop(name, 0, "there is no end-of-sequence id to hold back")
        return 0, 0
    for name, limit in limits.items():
        value = asked.get(name, 0)
        if value <= limit:
            continue
        beyond = f"{name}={value} ({asked.origin(name)}) is more than can be generated ({limit})"
        if asked.origin(name) != FILE:
            raise ValueError(f"{beyond}. Lower it, or raise max_length or max_new_tokens.")
        asked.notes.append(f"{beyond}: no row will end early.")
    return asked.get("min_length", 0), asked.get("min_new_tokens", 0)


_reported: set[str] = set()


def _report_once(note: str) -> None:
    if note not in _reported:
        _reported.add(note)
        _logger.warning(note)
