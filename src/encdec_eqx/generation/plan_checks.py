"""What each place asks of a run, and whether its rules on the next token, proposals and constraints can hold there."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import equinox as eqx

from .._quoting import quoted
from ..config import StackConfig
from .constraints.constraint import AbstractConstraint
from .generation_config import GenerationConfig
from .options import IN_FILES, LENGTHS, NOT_BUILT, OPTIONS, both_lengths, does_nothing, not_built
from .special_tokens import ARGUMENT, FILE, PASSED

PROPOSED, LOOKED_FOR = 5, 2
"""Tokens that an assistant proposes at a time, and the longest n-gram that is looked for in the source, by default."""

_BEYOND = "Pass {} of the decoder's own tokenizer, or give the model more ids with resize_token_embeddings."
_Phrases = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, eq=False)
class Assistant:
    """A decoder that proposes tokens.

    Attributes:
        decoder: a decoder step.
        project: from the encoder's states to the width that its cross-attention reads, or None.
        config: its architecture.
    """

    decoder: Any
    project: Callable | None
    config: StackConfig


class Call(NamedTuple):
    """What else a plan depends on.

    Attributes:
        prompt_width: tokens of the prompt, or 1 for the start token.
        eos_ids: ids that end a row; empty for rows that never end.
        has_key: whether a PRNG key is at hand.
        vocab_size: of the decoder.
        has_source_ids: whether the source came as token ids.
    """

    prompt_width: int
    eos_ids: tuple[int, ...]
    has_key: bool
    vocab_size: int
    has_source_ids: bool


class OptionSources:
    """What each place asks for, a call's arguments before a config: a file is forgiven what a caller is not.

    Attributes:
        arguments: the call's own options.
        base: those of the config.
        notes: what was dropped.
    """

    def __init__(self, arguments: Mapping[str, Any], passed: GenerationConfig | None, file: GenerationConfig | None):
        base = file if passed is None else passed
        self._base_origin = FILE if passed is None else PASSED
        self.arguments = {
            name: OPTIONS[name].check(name, value) if name in OPTIONS else value for name, value in arguments.items()
        }
        for pair in LENGTHS:
            if self.arguments.keys() >= set(pair):
                raise both_lengths(self.arguments, *pair)
        found = {name: getattr(base, name, None) for name in IN_FILES}
        self.base = {name: value for name, value in found.items() if value is not None}
        self.notes: list[str] = []
        for name, value in {**dict(getattr(base, "others", ())), **self.arguments}.items():
            if name in NOT_BUILT and not does_nothing(name, value):
                raise not_built(name, value, self.origin(name))

    def get(self, name: str, default: Any = None) -> Any:
        """The value of an option from the strongest place that names it, or a default; that is its neutral value."""
        found = self.arguments.get(name, self.base.get(name))
        return (OPTIONS[name].neutral if default is None else default) if found is None else found

    def origin(self, name: str) -> str:
        """Who asks for it."""
        return ARGUMENT if name in self.arguments else self._base_origin

    def from_file(self, name: str) -> bool:
        """Whether it is the model's own file that asks for it, and nobody else."""
        return self.origin(name) == FILE

    def refuse_or_drop(self, name: str, why: str) -> None:
        """An option that cannot apply: an error from a caller, a note from a file. Its neutral value is always fine."""
        value = self.get(name)
        if value is None or value == OPTIONS[name].neutral:
            return
        if not self.from_file(name):
            raise ValueError(f"{name}={quoted(value)} ({self.origin(name)}) would do nothing: {why}.")
        self.notes.append(f"{name}={quoted(value)} of {FILE} is dropped: {why}.")

    def refuse_or_note(self, name: str, beyond: str, how: str, otherwise: str) -> None:
        """An option that asks for too much: an error from a caller that says how to fix it, a note from a file."""
        if not self.from_file(name):
            raise ValueError(f"{beyond}. {how}")
        self.notes.append(f"{beyond}: {otherwise}.")

    def names(self, name: str) -> bool:
        """Whether anybody names it."""
        return name in self.arguments or name in self.base

    def one_of_two(self, first: str, second: str) -> None:
        """An argument for one of the pair beats whatever a config says about either."""
        if first in self.arguments or second in self.arguments:
            self.base = {name: value for name, value in self.base.items() if name not in (first, second)}


def check_rules(sources: OptionSources, call: Call) -> dict[str, Any]:
    """The fields of a plan that stand for rules on the next token, but for those of length and of sampling."""
    suppressed, at_first = (
        _within(sources, name, call.vocab_size) for name in ("suppress_tokens", "begin_suppress_tokens")
    )
    if call.vocab_size <= len({*suppressed, *at_first}):
        raise ValueError(
            f"suppress_tokens and begin_suppress_tokens hold all {call.vocab_size} ids of the decoder: no token is "
            "left to generate. Leave some out."
        )
    first = _left(sources, "forced_bos_token_id", _forced_first(sources, call))
    plain = ("repetition_penalty", "no_repeat_ngram_size", "remove_invalid_values", "renormalize_logits")
    of_source = ("encoder_repetition_penalty", "encoder_no_repeat_ngram_size")
    return {
        **{name: sources.get(name) for name in plain},
        **{name: _of_source(sources, name, call) for name in of_source},
        "sequence_bias": _within(sources, "sequence_bias", call.vocab_size, ids_of=lambda pair: pair[0]),
        "bad_words_ids": _bad_words(sources, call),
        "suppress_tokens": suppressed,
        "begin_suppress_tokens": at_first,
        "exponential_decay_length_penalty": _decay(sources, call),
        "forced_bos_token_id": first[0] if first else None,
        "forced_eos_token_ids": _left(
            sources, "forced_eos_token_id", _within(sources, "forced_eos_token_id", call.vocab_size)
        ),
        "logits_processors": _processors(sources),
    }


def _within(
    sources: OptionSources, name: str, vocab_size: int, ids_of: Callable[[Any], Sequence[int]] = lambda item: (item,)
) -> tuple[Any, ...]:
    """The items of an option (an id, ids, or what holds some) whose ids the decoder has."""
    items = sources.get(name)
    items = items if isinstance(items, tuple) else (items,)
    wrong = tuple(item for item in items if max(ids_of(item)) >= vocab_size)
    if not wrong:
        return items
    beyond = f"{name}={quoted(wrong)} ({sources.origin(name)}) goes beyond the decoder's vocabulary of {vocab_size}"
    sources.refuse_or_note(name, beyond, _BEYOND.format("an id"), "dropped")
    return tuple(item for item in items if max(ids_of(item)) < vocab_size)


def _forced_first(sources: OptionSources, call: Call) -> tuple[int, ...]:
    """The forced first id, which needs a start token that stands alone."""
    name, width = "forced_bos_token_id", call.prompt_width
    if sources.get(name) is None:
        return ()
    if width > 1:
        why = f"it takes the place of the first token after a lone start token, and the prompt has {width}"
        sources.refuse_or_drop(name, why)
        return ()
    return _within(sources, name, call.vocab_size)


def _left(sources: OptionSources, name: str, forced: tuple[int, ...]) -> tuple[int, ...]:
    """The ids that a place must have, unless `suppress_tokens` forbids them all: nothing would be left for it."""
    suppressed = sources.get("suppress_tokens")
    if not forced or set(forced) - set(suppressed):
        return forced
    both = (
        f"{name}={quoted(sources.get(name))} ({sources.origin(name)}) and suppress_tokens={quoted(suppressed)} "
        f"({sources.origin('suppress_tokens')}) contradict each other: no token is left for that place"
    )
    if not (sources.from_file(name) and sources.from_file("suppress_tokens")):
        raise ValueError(f"{both}. Leave the id out of one of them.")
    sources.notes.append(f"{both}; {name} is dropped.")
    return ()


def _bad_words(sources: OptionSources, call: Call) -> _Phrases:
    """The sequences but for those that are an end-of-sequence id, which stays allowed, as in torch."""
    name = "bad_words_ids"
    found = _within(sources, name, call.vocab_size, ids_of=lambda sequence: sequence)
    ends = tuple(sequence for sequence in found if len(sequence) == 1 and sequence[0] in call.eos_ids)
    why = "an end-of-sequence id stays allowed, as in torch (min_length, min_new_tokens and suppress_tokens forbid it)"
    if ends and ends == found:
        sources.refuse_or_drop(name, why)
    elif ends:
        sources.notes.append(f"{name}={quoted(ends)} ({sources.origin(name)}) is dropped: {why}.")
    return tuple(sequence for sequence in found if sequence not in ends)


def _decay(sources: OptionSources, call: Call) -> tuple[int, float] | None:
    name = "exponential_decay_length_penalty"
    start_and_factor = sources.get(name)
    if start_and_factor is None or start_and_factor[1] == 1.0:
        return None
    if not call.eos_ids:
        sources.refuse_or_drop(name, "there is no end-of-sequence id to favour")
        return None
    return start_and_factor


def _of_source(sources: OptionSources, name: str, call: Call) -> Any:
    value, neutral = sources.get(name), OPTIONS[name].neutral
    if value != neutral and not call.has_source_ids:
        raise ValueError(
            f"{name}={value} ({sources.origin(name)}) compares with the source's token ids, and there are none. Pass "
            f"input_ids (they may stand beside encoder_outputs), or {name}={neutral}."
        )
    return value


def _processors(sources: OptionSources) -> tuple[Any, ...]:
    """The user's own processors, of which only the form is known."""
    given = sources.get("logits_processor")
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


def drop_impossible_phrases(sources: OptionSources, call: Call) -> None:
    """Refuse phrases of `force_words_ids` with ids that cannot stand in a sequence, or note it for a file's."""
    name = "force_words_ids"
    for alternatives in sources.get(name):
        ids = {token for phrase in alternatives for token in phrase}
        if max(ids) >= call.vocab_size:
            why = f"goes beyond the decoder's vocabulary of {call.vocab_size}"
            how = _BEYOND.format("ids")
        elif ids.intersection(call.eos_ids):
            found = sorted(ids.intersection(call.eos_ids))
            why = f"holds an end-of-sequence id ({found}), behind which nothing comes"
            how = "Tokenize words without special tokens (add_special_tokens=False)."
        else:
            continue
        shown = list(alternatives[0]) if len(alternatives) == 1 else [list(phrase) for phrase in alternatives]
        sources.refuse_or_note(name, f"{name}: {shown} ({sources.origin(name)}) {why}", how, "dropped")
        sources.base[name] = tuple(other for other in sources.base[name] if other != alternatives)


def check_room(sources: OptionSources, phrases: tuple[_Phrases, ...], call: Call, longest: int) -> None:
    """Refuse more phrases than fit behind the start token, or note it where a file asks for them."""
    least = sum(min(len(phrase) for phrase in alternatives) for alternatives in phrases)
    if least > longest + call.prompt_width - 1:
        name = "force_words_ids"
        taken = f"the words of {name} ({sources.origin(name)}) take {least} tokens"
        beyond = f"{taken}, and at most {longest} may be generated"
        how = "Raise max_new_tokens (or max_length), or force fewer words."
        sources.refuse_or_note(name, beyond, how, "not all of them will come")


def validate_proposals(sources: OptionSources, search: str, call: Call) -> dict[str, Any]:
    """The fields of a plan that stand for proposals of speculative decoding."""
    assistant, lookup = sources.get("assistant_model"), sources.get("prompt_lookup_num_tokens")
    # transformers' configs spell its default out whether there is an assistant or not
    if assistant is None and sources.get("num_assistant_tokens") != OPTIONS["num_assistant_tokens"].reference:
        sources.refuse_or_drop("num_assistant_tokens", "it belongs to assistant_model, which is not given")
    if lookup is None:
        why = "it belongs to prompt_lookup_num_tokens, which is not given"
        sources.refuse_or_drop("max_matching_ngram_size", why)
    if assistant is None and lookup is None:
        return {}
    if assistant is not None and lookup is not None:
        raise ValueError("assistant_model and prompt_lookup_num_tokens both propose tokens. Leave one of them out.")
    name = "prompt_lookup_num_tokens" if assistant is None else "assistant_model"
    if search not in ("greedy", "sample"):
        sources.refuse_or_drop(name, f"greedy search and sampling take proposals, {search} search takes none")
        return {}
    if assistant is not None:
        _check_assistant(assistant, call.vocab_size)
        return {"assistant": assistant, "ahead": sources.get("num_assistant_tokens", PROPOSED)}
    if not call.has_source_ids:
        raise ValueError(
            f"prompt_lookup_num_tokens={lookup} ({sources.origin(name)}) copies from the source's token ids, and there "
            "are none. Pass input_ids (they may stand beside encoder_outputs), or leave it out."
        )
    return {"ahead": lookup, "lookup_longest": sources.get("max_matching_ngram_size", LOOKED_FOR)}


def _check_assistant(assistant: Any, vocab_size: int) -> None:
    if not isinstance(assistant, Assistant):
        raise TypeError(
            f"assistant_model must be an encdec_eqx.Decoder or an EncoderDecoder, got {type(assistant).__name__}."
        )
    if assistant.config.vocab_size != vocab_size:
        raise ValueError(
            f"assistant_model has a vocabulary of {assistant.config.vocab_size}, the model's decoder one of "
            f"{vocab_size}. It must read and write the same tokens."
        )


def validate_constraint(constraint: Any, search: str, call: Call, longest: int) -> AbstractConstraint | None:
    """The constraint, if there is one and the run can follow it."""
    if constraint is None:
        return None
    if not isinstance(constraint, AbstractConstraint):
        raise TypeError(
            f"constraint must come from encdec_eqx.generation.constraints (from_sequences, from_regex, "
            f"from_token_regex, TokenDFA), got {type(constraint).__name__}."
        )
    if search not in ("greedy", "sample", "beams"):
        raise ValueError(
            f"a constraint works with greedy search, sampling and beam search; the options ask for {search} search."
            " Leave penalty_alpha or force_words_ids out."
        )
    if constraint.vocab_size != call.vocab_size:
        raise ValueError(
            f"the constraint speaks of {constraint.vocab_size} tokens, the decoder's vocabulary has {call.vocab_size}. "
            f"Build it with vocab_size={call.vocab_size} (or one text per id of the vocabulary)."
        )
    if set(constraint.end_ids) != set(call.eos_ids):
        raise ValueError(
            f"the constraint's end tokens are {constraint.end_ids}, the run's eos_token_id is "
            f"{tuple(sorted(call.eos_ids))}. Build the constraint with the same eos_token_id, or pass eos_token_id=... "
            "to generate."
        )
    if constraint.least_new_tokens > longest:
        raise ValueError(
            f"the shortest output that the constraint allows has {constraint.least_new_tokens} tokens, its end"
            f" included; at most {longest} may be generated. Raise max_new_tokens (or max_length)."
        )
    return constraint
