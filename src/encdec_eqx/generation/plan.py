"""From all that asks for something (a call's arguments, a `GenerationConfig`, a file) to one frozen plan of a run.

What single options may be stands in `options`; here is how they combine with each other, with a prompt and a model.
Nothing behind it looks at options again.
"""

import functools
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, make_dataclass
from typing import Any, Literal

from .generation_config import GenerationConfig
from .options import KNOWN, NOT_BUILT, OPTIONS, unknown
from .plan_checks import (
    Call,
    OptionSources,
    check_room,
    check_rules,
    drop_impossible_phrases,
    validate_constraint,
    validate_proposals,
)
from .special_tokens import FILE, TOKEN_NAMES, SpecialTokens
from .special_tokens import resolve_tokens as resolve_tokens
from .value_checks import MOST

_logger = logging.getLogger("encdec_eqx")

_Given = tuple[tuple[str, type, Any], ...]
"""Named arguments with the types of their values: True equals 1, and is another argument."""

Search = Literal["greedy", "sample", "beams", "contrastive", "constrained"]

_SETTLED = {
    *("max_length", "max_new_tokens", "forced_eos_token_id", "logits_processor", "assistant_model"),
    *("num_assistant_tokens", "prompt_lookup_num_tokens", "max_matching_ngram_size"),
}
"""Options in whose place a plan has fields of its own."""

_OF_SEARCHES = {
    *("do_sample", "num_beams", "num_beam_groups", "diversity_penalty", "num_return_sequences", "length_penalty"),
    *("early_stopping", "penalty_alpha", "force_words_ids", "constraint", "output_cross_attentions"),
}
"""Options that a search follows itself; all others change logits."""

_Options = make_dataclass(
    "_Options",
    [(name, Any, option.neutral) for name, option in OPTIONS.items() if name not in _SETTLED],
    frozen=True,
    kw_only=True,
)


@dataclass(frozen=True)
class Reach:
    """How much further than a run's plan its programs reach, so that runs of other plans take the same ones.

    Attributes:
        new_tokens: tokens that the cache has room for, where `max_new_tokens` is smaller.
        filters: of `temperature`, `top_k` and `top_p` those that are compiled also where their value does nothing.
    """

    new_tokens: int = 0
    filters: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Plan(_Options):
    """What one run of `generate` does; every field is decided.

    It has a field for each option by its name, at the neutral value where the run does not need it, but for those that
    these stand for:

    Attributes:
        max_new_tokens: most tokens to generate for a row.
        search: how tokens are chosen.
        forced_eos_token_ids: what the last possible token may be; empty means anything.
        logits_processors: the user's own.
        assistant: who proposes tokens, or None.
        ahead: how many are proposed at a time; 0 means none.
        lookup_longest: how many of the last tokens are looked for in the source, if that proposes; 0 means it does not.
        notes: what was dropped from a file because it could not apply, one sentence each.
        reach: how much further its programs reach.
    """

    max_new_tokens: int
    search: Search = "greedy"
    forced_eos_token_ids: tuple[int, ...] = ()
    logits_processors: tuple[Any, ...] = ()
    assistant: Any = None
    ahead: int = 0
    lookup_longest: int = 0
    notes: tuple[str, ...] = ()
    reach: Reach = Reach()

    @functools.cached_property
    def changes_logits(self) -> bool:
        """Whether the run needs processors; most do not."""
        options = ((name, option) for name, option in OPTIONS.items() if name not in _SETTLED | _OF_SEARCHES)
        asked = any(getattr(self, name) != option.neutral for name, option in options)
        return asked or bool(
            self.forced_eos_token_ids or self.logits_processors or (self.do_sample and self.reach.filters)
        )


Settings = Plan
"""Its earlier name."""


def split_options(arguments: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sort the named arguments of a call into options and token ids, leaving out those that are `None`.

    Raises:
        TypeError: for a name that `generate` does not know.
    """
    for name in arguments:
        if name not in KNOWN and name not in NOT_BUILT:
            raise unknown(name, KNOWN)
    given = {name: value for name, value in arguments.items() if value is not None}
    tokens = {name: given.pop(name) for name in TOKEN_NAMES if name in given}
    return given, tokens


def tokens_of_call(
    model: SpecialTokens,
    passed: GenerationConfig | None,
    arguments: Mapping[str, Any],
    vocab_size: int,
    *,
    needs_start: bool,
) -> tuple[SpecialTokens, tuple[str, ...]]:
    """`resolve_tokens`, remembered for calls alike."""
    # equal tokens may come from other places, which messages name
    return _remembered(_tokens_of, arguments, passed, model, model.sources, vocab_size, needs_start)


def _remembered(make: Any, arguments: Mapping[str, Any], *others: Any) -> Any:
    """What a cached function makes of a call, or has made of one alike; without the cache where it is no key."""
    given = tuple((name, type(value), value) for name, value in arguments.items())
    try:
        is_key = all(kind in (bool, int, float, str) for _, kind, _ in given) and hash(others) is not None
    except TypeError:
        is_key = False
    return (make if is_key else make.__wrapped__)(given, *others)


@functools.lru_cache(maxsize=256)
def _tokens_of(
    given: _Given, passed: GenerationConfig | None, model: SpecialTokens, _: Any, vocab_size: int, needs_start: bool
) -> tuple[SpecialTokens, tuple[str, ...]]:
    arguments = {name: value for name, _, value in given}
    return resolve_tokens(model, passed, arguments, vocab_size, needs_start=needs_start)


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
) -> Plan:
    """Combine what was asked for, the strongest first. The plan of a call like an earlier one is remembered.

    `arguments` are the call's own options, none of them `None`; `passed`, its `generation_config`, takes the place of
    the model's own (`file`) as a whole. Values of a file that cannot apply are dropped and reported; of the others they
    are errors. `notes` are on what was dropped before; `Call` describes the rest.

    Raises:
        NotImplementedError: for options that are not built.
        ValueError: for combinations that contradict each other or would do nothing.
    """
    call = Call(prompt_width, eos_ids, has_key, vocab_size, has_source_ids)
    return _remembered(_plan_of, arguments, passed, file, call, notes)


@functools.lru_cache(maxsize=256)
def _plan_of(
    given: _Given, passed: GenerationConfig | None, file: GenerationConfig | None, call: Call, notes: tuple[str, ...]
) -> Plan:
    sources = OptionSources({name: value for name, _, value in given}, passed, file)
    drop_impossible_phrases(sources, call)
    search = _choose_search(sources, call)
    chosen = _search_fields(sources, search)
    longest = _max_new_tokens(sources, call.prompt_width)
    _check_length_penalty(sources, chosen.get("length_penalty", 0.0), longest)
    check_room(sources, chosen.get("force_words_ids", ()), call, longest)
    chosen |= _least(sources, call, longest)
    chosen |= check_rules(sources, call)
    chosen |= validate_proposals(sources, search, call)
    chosen["constraint"] = validate_constraint(sources.get("constraint"), search, call, longest)
    chosen["output_cross_attentions"] = sources.get("output_cross_attentions")
    notes += tuple(sources.notes)
    for note in notes:
        _report_once(note)
    return Plan(max_new_tokens=longest, search=search, notes=notes, **chosen)


@functools.cache
def _report_once(note: str) -> None:
    _logger.warning(note)


def _choose_search(sources: OptionSources, call: Call) -> Search:
    """Which search it is; options that choose another one and cannot apply are refused or dropped."""
    sample, beams = sources.get("do_sample"), sources.get("num_beams")
    if sample and not call.has_key:
        raise ValueError(
            f"do_sample=True ({sources.origin('do_sample')}) draws random numbers: pass key=jax.random.key(seed), "
            "another seed for other samples."
        )
    if sources.get("penalty_alpha") > 0:
        if not sample and beams == 1:
            _check_contrastive(sources, call.vocab_size)
            why = "beam search, and penalty_alpha asks for contrastive search"
            _drop_beams(sources, why, of_groups=why)
            return "contrastive"
        why = "contrastive search takes the best of top_k tokens, without do_sample and with num_beams=1"
        sources.refuse_or_drop("penalty_alpha", why)
    if beams == 1:
        _drop_beams(sources, "beam search, and num_beams is 1", of_groups="groups of beams, and num_beams is 1")
        return "sample" if sample else "greedy"
    return "constrained" if sources.get("force_words_ids") else "beams"


def _drop_beams(sources: OptionSources, whose: str, of_groups: str) -> None:
    for name in _needing("beams"):
        sources.refuse_or_drop(name, f"it belongs to {whose}")
    sources.refuse_or_drop("diversity_penalty", f"it belongs to {of_groups}")


def _needing(what: str) -> list[str]:
    return [name for name, option in OPTIONS.items() if option.needs == what]


def _check_contrastive(sources: OptionSources, vocab_size: int) -> None:
    top_k = sources.get("top_k")
    if top_k < 2:
        raise ValueError(
            f"penalty_alpha={sources.get('penalty_alpha')} ({sources.origin('penalty_alpha')}) asks for contrastive "
            "search, which needs top_k, the number of tokens to compare: pass top_k=4, or any number from 2 on."
        )
    if top_k > vocab_size:
        raise ValueError(
            f"top_k={top_k} ({sources.origin('top_k')}) asks contrastive search to compare more tokens than the "
            f"decoder's vocabulary has ({vocab_size}). Pass top_k=4, or any number from 2 on that is not larger."
        )


def _search_fields(sources: OptionSources, search: Search) -> dict[str, Any]:
    """The fields of a plan that stand for its search."""
    sample = sources.get("do_sample")
    chosen = {"do_sample": sample, "num_return_sequences": _returned(sources, search)}
    if sample and sources.from_file("do_sample") and not sources.names("top_k"):
        sources.notes.append(
            f"do_sample=True of {FILE} names no top_k: all tokens are sampled from. (transformers would silently "
            "apply its default; pass top_k=50 for that.)"
        )
    shaping = _needing("sampling")
    if not sample:
        for name in shaping:
            if not (search == "contrastive" and name == "top_k"):
                sources.refuse_or_drop(name, "it shapes sampling, and do_sample is not True")
        shaping = ["top_k", "penalty_alpha"] if search == "contrastive" else []
    if search in ("beams", "constrained"):
        shaping += ["num_beams", *_needing("beams")]
        chosen["diversity_penalty"] = _check_groups(sources)
    chosen |= {name: sources.get(name) for name in shaping}
    if search == "constrained":
        _check_constrained(sources)
    return chosen


def _returned(sources: OptionSources, search: Search) -> int:
    name = "num_return_sequences"
    wanted, beams = sources.get(name), sources.get("num_beams")
    if search in ("greedy", "contrastive") and wanted > 1:
        several = "pass do_sample=True and a key, or num_beams, for several"
        sources.refuse_or_drop(name, f"{search} search has one result per sentence; {several}")
        return 1
    if search in ("beams", "constrained") and wanted > beams:
        raise ValueError(
            f"{name}={wanted} ({sources.origin(name)}) is more than num_beams={beams}: beam search has no more "
            "results. Raise num_beams."
        )
    return wanted


def _check_groups(sources: OptionSources) -> float:
    """The penalty that sets groups of beams apart; 0 for one group."""
    groups, beams = sources.get("num_beam_groups"), sources.get("num_beams")
    if groups == 1:
        sources.refuse_or_drop("diversity_penalty", "it sets groups of beams apart, and num_beam_groups is 1")
        return 0.0
    asked, penalty = f"num_beam_groups={groups}", sources.get("diversity_penalty")
    origin = sources.origin("num_beam_groups")
    if penalty <= 0:
        raise ValueError(
            f"{asked} ({origin}) needs a diversity_penalty above 0, got {penalty}: without it all groups find the "
            "same. Pass for example diversity_penalty=0.5."
        )
    if beams % groups:
        raise ValueError(
            f"num_beams={beams} cannot be shared out evenly among {asked} ({origin}); pass a multiple of it, such as "
            f"num_beams={groups * (beams // groups + 1)}."
        )
    if sources.get("do_sample"):
        raise ValueError(
            f"{asked} ({origin}) and do_sample=True contradict each other: groups of beams take the best tokens. Pass "
            "do_sample=False, or num_beam_groups=1."
        )
    return penalty


def _check_constrained(sources: OptionSources) -> None:
    grouped = sources.get("num_beam_groups") > 1
    if grouped or sources.get("do_sample"):
        other = "num_beam_groups" if grouped else "do_sample=True"
        raise ValueError(
            f"force_words_ids ({sources.origin('force_words_ids')}) and {other} "
            f"({sources.origin(other.split('=')[0])}) contradict each other: words are forced in plain beam search. "
            "Leave one of them out."
        )


def _max_new_tokens(sources: OptionSources, prompt_width: int) -> int:
    sources.one_of_two("max_length", "max_new_tokens")
    if (new := sources.get("max_new_tokens")) is not None:
        return new
    length = sources.get("max_length")
    if length is None:
        raise ValueError(
            "generate does not know when to stop: neither max_new_tokens nor max_length is given, as an argument or "
            "in generation_config.json. Pass for example max_new_tokens=64 (there is no silent default of 20)."
        )
    if length <= prompt_width:
        raise ValueError(
            f"max_length={length} ({sources.origin('max_length')}) counts the {prompt_width} token(s) of the prompt or "
            f"start token, which leaves nothing to generate. Pass max_length={prompt_width + 1} or more, or "
            "max_new_tokens, which does not count them."
        )
    return length - prompt_width


def _check_length_penalty(sources: OptionSources, penalty: float, longest: int) -> None:
    """Refuse a power of the length by which scores cannot be divided in float32."""
    if abs(penalty) * math.log(longest) > math.log(MOST):
        most = math.log(MOST) / math.log(longest)
        raise ValueError(
            f"length_penalty={penalty} ({sources.origin('length_penalty')}) is too large: scores are divided by the "
            f"length to that power, and {longest} tokens to it leave the range of float32. At this length it may lie "
            f"between {-most:.1f} and {most:.1f}."
        )


def _least(sources: OptionSources, call: Call, longest: int) -> dict[str, int]:
    """How long a row is at least, counted in both ways."""
    limits = {"min_length": longest + call.prompt_width, "min_new_tokens": longest}
    sources.one_of_two(*limits)
    if not call.eos_ids:
        for name in limits:
            sources.refuse_or_drop(name, "there is no end-of-sequence id to hold back")
        return {}
    for name, limit in limits.items():
        value = sources.get(name)
        if value > limit:
            beyond = f"{name}={value} ({sources.origin(name)}) is more than can be generated ({limit})"
            how = "Lower it, or raise max_length or max_new_tokens."
            sources.refuse_or_note(name, beyond, how, "no row will end early")
    return {name: sources.get(name) for name in limits}
