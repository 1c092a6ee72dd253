"""From everything that asks for something (arguments, a `GenerationConfig`, a file) to the settings of one run.

All rules about how options combine are here. Must not know: models, arrays, loops.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import options
from .settings import GenerationConfig, option_names, refuse_both
from .special_tokens import BY_USER, TOKEN_NAMES, SpecialTokens

_logger = logging.getLogger("encdec_eqx")

_FILE = "the model's generation_config"
_PASSED = "generation_config="
_ARGUMENT = "argument"
_SAMPLING = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
_BEAMS = {"length_penalty": 1.0, "early_stopping": False}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What one run of `generate` does; every field is decided.

    Attributes:
        max_new_tokens: most tokens to generate for a row.
        min_length: least length, counting `prompt_width`; 0 means none.
        min_new_tokens: least number of generated tokens; 0 means none.
        do_sample: draw tokens, or take the most probable one.
        temperature: logits are divided by it; 1 means as they are.
        top_k: 0 means all.
        top_p: 1 means all.
        num_return_sequences: rows per sentence.
        encoder_no_repeat_ngram_size: length of the source's runs that may not be repeated; 0 means none.
        forced_bos_token_id: the first generated token, where only a start token precedes it.
        forced_eos_token_ids: what the last possible token may be; empty means anything.
        notes: what was dropped from a file because it could not apply, one sentence each.
    """

    max_new_tokens: int
    min_length: int = 0
    min_new_tokens: int = 0
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    num_return_sequences: int = 1
    encoder_no_repeat_ngram_size: int = 0
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
    known = option_names()
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
    model: SpecialTokens, passed: GenerationConfig | None, arguments: Mapping[str, Any], vocab_size: int
) -> tuple[SpecialTokens, tuple[str, ...]]:
    """The special tokens of one run: the call's arguments, then a passed `GenerationConfig`, then the model's.

    Returns:
        The ids, and notes on what was dropped: an end from a file that is no id of the decoder's vocabulary (a default
        of its config class, usually), since it can never be generated.

    Raises:
        ValueError: for ids that are missing, or beyond the vocabulary and not dropped.
    """
    if passed is not None:
        model = model.override(_PASSED, **{name: getattr(passed, name) for name in TOKEN_NAMES})
    tokens, notes = model.override(_ARGUMENT, **arguments), ()
    _within(vocab_size, "decoder_start_token_id", (tokens.require("decoder_start_token_id"),), tokens)
    ends = tokens.require("eos_token_id")
    reachable = tuple(end for end in ends if end < vocab_size)
    source = dict(tokens.sources).get("eos_token_id", "")
    if reachable != ends and source not in (_ARGUMENT, _PASSED, BY_USER):
        notes = (f"eos_token_id={ends} ({source}) goes beyond the decoder's vocabulary of {vocab_size}: dropped.",)
        tokens = tokens.override(source, eos_token_id=reachable)
    _within(vocab_size, "eos_token_id", tokens.require("eos_token_id"), tokens)
    if reachable:
        _within(vocab_size, "pad_token_id", (tokens.require("pad_token_id"),), tokens)
    return tokens, notes


def _within(vocab_size: int, name: str, ids: tuple[int, ...], tokens: SpecialTokens) -> None:
    for value in ids:
        if value >= vocab_size:
            source = dict(tokens.sources).get(name, "not set anywhere")
            raise ValueError(
                f"{name}={value} ({source}) is not an id of the decoder's vocabulary of {vocab_size}. Pass the "
                f"decoder's own {name}=..., or resize its token table."
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
    asked = _Asked(arguments, passed, file)
    asked.refuse_not_built()
    asked.refuse_beams()
    sampling = _sampling(asked, has_key)
    longest = _max_new_tokens(asked, prompt_width)
    min_length, min_new_tokens = _least(asked, prompt_width, longest, not eos_ids)
    forced = _forced(asked, prompt_width, vocab_size)
    ngrams = _source_ngrams(asked, has_source_ids)
    notes += tuple(asked.notes)
    for note in notes:
        _report_once(note)
    return Settings(
        max_new_tokens=longest,
        min_length=min_length,
        min_new_tokens=min_new_tokens,
        notes=notes,
        encoder_no_repeat_ngram_size=ngrams,
        **forced,
        **sampling,
    )


class _Asked:
    """All that was asked for, with who asked: a file is forgiven what a caller is not."""

    def __init__(self, arguments: Mapping[str, Any], passed: GenerationConfig | None, file: GenerationConfig | None):
        base = passed if passed is not None else file if file is not None else GenerationConfig()
        self.arguments = dict(arguments)
        self.base_origin = _FILE if passed is None else _PASSED
        self.others = dict(base.others)
        # Validates the types and ranges of the arguments, with the same words as a config's.
        own: dict[str, Any] = {name: value for name, value in self.arguments.items() if name in option_names()}
        self.arguments.update(_validated(own))
        self.base = {name: getattr(base, name) for name in option_names() if getattr(base, name) is not None}
        self.notes: list[str] = []

    def get(self, name: str, default: Any = None) -> Any:
        return self.arguments.get(name, self.base.get(name, default))

    def origin(self, name: str) -> str:
        return _ARGUMENT if name in self.arguments else self.base_origin

    def refuse_or_drop(self, name: str, neutral: Any, why: str) -> None:
        """An option that does nothing: an error from a caller, a note from a file (if it was meant to do something)."""
        if name not in self.arguments and name not in self.base:
            return
        if self.origin(name) != _FILE:
            raise ValueError(f"{name}={self.get(name)!r} ({self.origin(name)}) would do nothing: {why}.")
        if self.base[name] != neutral:
            self.notes.append(f"{name}={self.base[name]!r} of {_FILE} is dropped: {why}.")

    def refuse_not_built(self) -> None:
        for name, value in {**self.others, **self.arguments}.items():
            if name in options.NOT_BUILT and not options.does_nothing(name, value):
                raise options.not_built(name, value, self.origin(name))

    def refuse_beams(self) -> None:
        if (beams := self.get("num_beams", 1)) > 1:
            instead = "do_sample=True with num_return_sequences, ranked by .scores"
            how = "" if self.origin("num_beams") == _ARGUMENT else " Pass num_beams=1 for greedy search."
            raise NotImplementedError(
                f"num_beams={beams} ({self.origin('num_beams')}): beam search is not built yet. The nearest options "
                f"that are: greedy search, or {instead}.{how}"
            )
        for name, neutral in _BEAMS.items():
            self.refuse_or_drop(name, neutral, "it belongs to beam search, and num_beams is 1")


def _validated(given: Mapping[str, Any]) -> dict[str, Any]:
    checked = GenerationConfig(**given)
    return {name: getattr(checked, name) for name in given}


def _sampling(asked: _Asked, has_key: bool) -> dict[str, Any]:
    if not asked.get("do_sample", False):
        for name, neutral in _SAMPLING.items():
            asked.refuse_or_drop(name, neutral, "it shapes sampling, and do_sample is not True")
        if asked.get("num_return_sequences", 1) > 1:
            why = "greedy search has one result per sentence; pass do_sample=True and a key for several"
            asked.refuse_or_drop("num_return_sequences", 1, why)
        return {}
    if not has_key:
        raise ValueError(
            f"do_sample=True ({asked.origin('do_sample')}) draws random numbers: pass key=jax.random.key(seed), "
            "another seed for other samples."
        )
    if "do_sample" not in asked.arguments and asked.base_origin == _FILE and asked.get("top_k") is None:
        asked.notes.append(
            f"do_sample=True of {_FILE} names no top_k: all tokens are sampled from. (transformers would silently "
            "apply its default; pass top_k=50 for that.)"
        )
    return {
        "do_sample": True,
        "num_return_sequences": asked.get("num_return_sequences", 1),
        **{name: asked.get(name, neutral) for name, neutral in _SAMPLING.items()},
    }


def _one_of_two(asked: _Asked, first: str, second: str) -> None:
    """An argument for one of the pair beats whatever a config says about either."""
    refuse_both(asked.arguments.get(first), asked.arguments.get(second), first, second)
    if first in asked.arguments or second in asked.arguments:
        asked.base.pop(first, None)
        asked.base.pop(second, None)


def _max_new_tokens(asked: _Asked, prompt_width: int) -> int:
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


def _least(asked: _Asked, prompt_width: int, longest: int, never_ends: bool) -> tuple[int, int]:
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
        if asked.origin(name) != _FILE:
            raise ValueError(f"{beyond}. Lower it, or raise max_length or max_new_tokens.")
        asked.notes.append(f"{beyond}: no row will end early.")
    return asked.get("min_length", 0), asked.get("min_new_tokens", 0)


def _forced(asked: _Asked, prompt_width: int, vocab_size: int) -> dict[str, Any]:
    """The forced ids, each of which must be one of the decoder's."""
    first, last = asked.get("forced_bos_token_id"), asked.get("forced_eos_token_id", ())
    if first is not None and prompt_width > 1:
        why = f"it takes the place of the first token after a lone start token, and the prompt has {prompt_width}"
        asked.refuse_or_drop("forced_bos_token_id", None, why)
        first = None
    first = None if first is None else (_reachable(asked, "forced_bos_token_id", (first,), vocab_size) or (None,))[0]
    last = _reachable(asked, "forced_eos_token_id", last, vocab_size)
    return {"forced_bos_token_id": first, "forced_eos_token_ids": last}


def _reachable(asked: _Asked, name: str, ids: tuple[int, ...], vocab_size: int) -> tuple[int, ...]:
    if all(value < vocab_size for value in ids):
        return ids
    beyond = f"{name}={ids} ({asked.origin(name)}) goes beyond the decoder's vocabulary of {vocab_size}"
    if asked.origin(name) != _FILE:
        raise ValueError(f"{beyond}. Pass an id of the decoder's own tokenizer, or resize its token table.")
    asked.notes.append(f"{beyond}: dropped.")
    return tuple(value for value in ids if value < vocab_size)


def _source_ngrams(asked: _Asked, has_source_ids: bool) -> int:
    size = asked.get("encoder_no_repeat_ngram_size", 0)
    if size and not has_source_ids:
        raise ValueError(
            f"encoder_no_repeat_ngram_size={size} ({asked.origin('encoder_no_repeat_ngram_size')}) compares with the "
            "source's token ids, and there are none. Pass input_ids (they may stand beside encoder_outputs), or "
            "encoder_no_repeat_ngram_size=0."
        )
    return size


_reported: set[str] = set()


def _report_once(note: str) -> None:
    if note not in _reported:
        _reported.add(note)
        _logger.warning(note)
