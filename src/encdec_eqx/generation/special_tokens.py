"""The four token ids generation needs, resolved once, with where each one came from.

They come as plain mappings with the names of the places they were read from. A call may have one start token per row,
as batches of several target languages want it.
"""

import itertools
import logging
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .._inputs import plain
from .._quoting import quoted
from .value_checks import token

_logger = logging.getLogger("encdec_eqx")

START = "decoder_start_token_id"
TOKEN_NAMES = ("bos_token_id", "eos_token_id", "pad_token_id", START)

BY_USER = "with_special_tokens"
"""The source of ids that a user gave a model."""

FILE, PASSED, ARGUMENT = "the model's generation_config", "generation_config=", "argument"
"""Who asks for something, the weakest first."""

_FALLBACKS = {"pad_token_id": "eos_token_id", START: "bos_token_id"}
"""What a missing id is replaced by."""

_DERIVED = {name: f"not set anywhere, taken from {other}" for name, other in _FALLBACKS.items()}
"""The words that say so in `sources`."""


def _as_id(name: str, value: Any) -> int:
    value = plain(value)
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an integer token id, got {quoted(value)}.")
    try:
        number = operator.index(value)
    except TypeError:
        said = f"{name} must be an integer token id, got {quoted(value)} ({type(value).__name__})."
        if name == START and isinstance(value, Iterable) and not isinstance(value, str):
            said += " It is one for all rows here; one id per row is an argument of the call: "
            said += "model.generate(..., decoder_start_token_id=[...])."
        raise TypeError(said) from None
    if number < 0:
        raise ValueError(f"{name} must be a token id (0 or more), got {quoted(number)}; leave it out if there is none.")
    return number


def _as_ids(name: str, value: Any) -> tuple[int, ...]:
    value = plain(value)
    values = value if isinstance(value, Iterable) else (value,)
    return tuple(dict.fromkeys(_as_id(name, v) for v in values))


@dataclass(frozen=True, kw_only=True)
class SpecialTokens:
    """The special token ids of a model, each `None` where nothing set it.

    Attributes:
        bos_token_id: the beginning-of-sequence id of the decoder's vocabulary.
        eos_token_id: the ids that end a sequence, stored as a tuple (an int or a list is accepted). An *empty* tuple
            says that sequences never end before their maximum length; `None` says that nobody chose.
        pad_token_id: what rows are filled with after their end.
        decoder_start_token_id: the first decoder token.
        sources: pairs (name, where it came from). Not part of equality, so that two models with the same ids have the
            same pytree structure.
    """

    bos_token_id: int | None = None
    eos_token_id: int | Sequence[int] | None = None
    pad_token_id: int | None = None
    decoder_start_token_id: int | None = None
    sources: tuple[tuple[str, str], ...] = field(default=(), compare=False)

    def __post_init__(self):
        for name, value in self._ids().items():
            if value is not None:
                convert = _as_ids if name == "eos_token_id" else _as_id
                object.__setattr__(self, name, convert(name, value))

    def _ids(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in TOKEN_NAMES}

    def _derived(self) -> set[str]:
        return {name for name, place in self.sources if place == _DERIVED.get(name)}

    @classmethod
    def resolve(cls, *places: tuple[str, Mapping[str, Any]]) -> "SpecialTokens":
        """The first place that sets an id wins; then a missing pad becomes the first eos, a missing start bos.

        Args:
            *places: pairs (name of the place, mapping that may hold the four ids), the strongest first: an explicit
                argument, `generation_config.json`, `config.json`, the decoder's config. A negative id (some
                published configs write `pad_token_id: -1`) means "none".

        Returns:
            The ids; what no place sets stays `None` and fails at first use (`require`), not here.
        """
        values: dict[str, Any] = {}
        sources: dict[str, str] = {}
        for name, (place, mapping) in itertools.product(TOKEN_NAMES, places):
            value = mapping.get(name)
            if isinstance(value, list | tuple):
                value = [item for item in value if not _means_none(item)] or (None if value else value)
            if name not in values and value is not None and not _means_none(value):
                values[name], sources[name] = value, place
        return cls._of(values, sources)

    def override(self, source: str, /, **ids: Any) -> "SpecialTokens":
        """A copy in which the given ids (those that are not `None`) win; what was only derived is derived anew.

        Args:
            source: where the new ids come from, for `sources`.
            **ids: any of the four names; `eos_token_id` may be a list, or empty for "never ends".

        Raises:
            TypeError: for a name that is not one of the four, or an id that is not an integer.
            ValueError: for a negative id.
        """
        unknown = sorted(set(ids) - set(TOKEN_NAMES))
        if unknown:
            raise TypeError(f"unknown special token {quoted(unknown[0])}; the names are {', '.join(TOKEN_NAMES)}.")
        given = {name: value for name, value in ids.items() if value is not None}
        if not given:
            return self
        derived = self._derived()
        values, sources = (
            {name: value for name, value in pairs.items() if name not in derived}
            for pairs in (self._ids(), dict(self.sources))
        )
        return self._of(values | given, sources | dict.fromkeys(given, source))

    @classmethod
    def _of(cls, values: Mapping[str, Any], sources: dict[str, str]) -> "SpecialTokens":
        """With what stands in for those that are missing."""
        ids = cls(**values)._ids()
        for name, other in _FALLBACKS.items():
            if ids[name] is None and ids[other] not in (None, ()):
                ids[name] = ids[other][0] if isinstance(ids[other], tuple) else ids[other]
                sources[name] = _DERIVED[name]
                _logger.info("%s is %s: %s", name, ids[name], sources[name])
        return cls(**ids, sources=tuple(sources.items()))

    def require(self, name: str) -> Any:
        """The id called `name`.

        Args:
            name: such as "eos_token_id".

        Raises:
            ValueError: if nothing set it; the message names what is known and how to set it.
        """
        value = getattr(self, name)
        if value is not None:
            return value
        fallback = f" (nor {_FALLBACKS[name]}, which would stand in for it)" if name in _FALLBACKS else ""
        known = ", ".join(f"{other}={ids}" for other, ids in self._ids().items() if ids is not None)
        never = ", or eos_token_id=() to always run to the maximum length" if name == "eos_token_id" else ""
        raise ValueError(
            f"generate needs {name}, but no argument, generation_config.json, config.json or decoder config sets "
            f"it{fallback}. Candidates: {known or 'none of the four ids is known'}"
            f"{_HINTS.get(name, '')}. Pass {name}=... to generate, or set it for good with "
            f"model = model.with_special_tokens({name}=...){never}."
        )

    def describe(self) -> str:
        """One line an id: its value and where it came from."""
        sources = dict(self.sources)
        said = self._ids().items()
        return "\n".join(f"{name} = {ids} ({sources.get(name, 'not set anywhere')})" for name, ids in said)

    def to_hf(self) -> dict[str, Any]:
        """The ids as Hugging Face's configs write them: a single eos as an int; unset and derived ids left out."""
        derived = self._derived()
        return {
            name: (value[0] if len(value) == 1 else list(value)) if isinstance(value, tuple) else value
            for name, value in self._ids().items()
            if value not in (None, ()) and name not in derived
        }


def _means_none(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value < 0


_HINTS = {
    "decoder_start_token_id": "; BERT-like tokenizers use [CLS], RoBERTa's and Llama's <s>, Gemma's <bos>; where there "
    "is no such token (GPT-2, Qwen, OLMo) it is <|endoftext|>",
    "eos_token_id": "; BERT-like tokenizers use [SEP], RoBERTa's and Llama's </s>, GPT-2's and Qwen's <|endoftext|>",
    "pad_token_id": "; BERT-like tokenizers use [PAD], RoBERTa-like <pad>",
}


def is_per_row(value: Any) -> bool:
    """Whether it is more than one id."""
    return bool(getattr(value, "ndim", 0)) or (isinstance(value, Sequence) and not isinstance(value, str | bytes))


def start_tokens_of_rows(value: Any, *, batch: int, vocab_size: int) -> np.ndarray:
    """One start token a row, as int32, from a list or an array of ids."""
    if getattr(value, "ndim", 1) != 1:
        raise TypeError(f"{START} must be one id, or one a row in one axis, got {quoted(value)}.")
    ids = [token(START, one) for one in (value.tolist() if hasattr(value, "tolist") else value)]
    if len(ids) != batch:
        raise ValueError(f"{START} must be one id, or one for each of the {batch} rows of the batch, got {len(ids)}.")
    wrong = next((row for row, one in enumerate(ids) if one >= vocab_size), None)
    if wrong is not None:
        raise ValueError(
            f"{START}[{wrong}] is {quoted(ids[wrong])}; expected 0 to {vocab_size - 1}, the decoder's vocabulary. "
            "Check that the ids come from the decoder's own tokenizer."
        )
    return np.asarray(ids, np.int32)


def resolve_tokens(
    model: SpecialTokens, passed: Any, arguments: Mapping[str, Any], vocab_size: int, *, needs_start: bool = True
) -> tuple[SpecialTokens, tuple[str, ...]]:
    """The special tokens of one run: the call's arguments, then a passed `GenerationConfig`, then the model's.

    There has to be a start token if it `needs_start`: not where each row has its own.

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
        _check_within(vocab_size, "decoder_start_token_id", (tokens.require("decoder_start_token_id"),), tokens)
    ends = tokens.require("eos_token_id")
    reachable = tuple(end for end in ends if end < vocab_size)
    source = dict(tokens.sources).get("eos_token_id", "")
    if reachable != ends and source not in (ARGUMENT, PASSED, BY_USER):
        dropped = [end for end in ends if end not in reachable]
        left = f"{list(reachable)} stays" if reachable else "no end is left"
        beyond = f"eos_token_id={dropped} ({source}) is beyond the decoder's vocabulary of {vocab_size}"
        notes = (f"{beyond}: dropped; {left}.",)
        tokens = tokens.override(source, eos_token_id=reachable)
    _check_within(vocab_size, "eos_token_id", tokens.require("eos_token_id"), tokens)
    if reachable:
        _check_within(vocab_size, "pad_token_id", (tokens.require("pad_token_id"),), tokens)
    return tokens, notes


def _check_within(vocab_size: int, name: str, ids: tuple[int, ...], tokens: SpecialTokens) -> None:
    for value in ids:
        if value >= vocab_size:
            source = dict(tokens.sources).get(name, "not set anywhere")
            raise ValueError(
                f"{name}={value} ({source}) is not an id of the decoder's vocabulary of {vocab_size}. Pass the "
                f"decoder's own {name}=..., or give the model more ids with resize_token_embeddings."
            )
