"""What a target begins and ends with: stated here once, for labels, the decoder's inputs and what is generated.

Read from a model's special tokens and generation rules.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from ._inputs import IGNORED
from ._typing import ArrayLike
from .generation.special_tokens import ARGUMENT, PASSED, START, TOKEN_NAMES, SpecialTokens, is_per_row

_CODE_BEHIND_THE_END = ("mbart", "plbart")
"""Formats of whole checkpoints whose labels may carry the language's code behind the end (`a b c </s> ro_RO`), which
moves to the front as the first decoder input (`ro_RO a b c </s>`): their `shift_tokens_right` in transformers."""


@dataclass(frozen=True, kw_only=True)
class TargetForm:
    """The form of a target: a decoder reads `start first content`, says `first content end`, and that are its labels.

    Attributes:
        start: the decoder's first input; None if nothing sets it.
        first: the token that generation forces behind a lone start token (BART's `<s>`, mBART-50's language code); None
            if it forces none.
        ends: ids that end a sequence; empty if it only ends at its maximum length, None if nothing says.
        pad: what stands behind an end; None if nothing sets it.
        forced_ends: what the last token allowed by the maximum length is forced to be.
        code_behind_end: whether labels may have one more id behind their end, which is their row's start token.
    """

    start: int | None = None
    first: int | None = None
    ends: tuple[int, ...] | None = None
    pad: int | None = None
    forced_ends: tuple[int, ...] = ()
    code_behind_end: bool = False

    @classmethod
    def of_tokens(cls, tokens: SpecialTokens) -> "TargetForm":
        """By special tokens alone: nothing is forced."""
        return cls(
            start=tokens.decoder_start_token_id,
            ends=tokens.eos_token_id,  # pyright: ignore[reportArgumentType]
            pad=tokens.pad_token_id,
        )

    @classmethod
    def of(cls, model: Any, asked: Mapping[str, Any] | None = None) -> "TargetForm":
        """By a model, or by one call of its `generate`.

        Args:
            model: an `EncoderDecoder`.
            asked: arguments of the call, `generation_config` among them; they win over the model's own.

        Returns:
            The form. Like `generate`, it leaves out forced tokens and ends that are no ids of the decoder's vocabulary.
        """
        asked = asked or {}
        passed, tokens = asked.get("generation_config"), model.special_tokens
        if passed is not None:
            tokens = tokens.override(PASSED, **{name: getattr(passed, name) for name in TOKEN_NAMES})
        own = {name: asked.get(name) for name in TOKEN_NAMES if name != START or not is_per_row(asked.get(name))}
        tokens = tokens.override(ARGUMENT, **own)
        base, vocab_size = (model.generation_config if passed is None else passed), model.decoder.config.vocab_size

        def forced(name: str) -> tuple[int, ...]:
            value = getattr(base, name, None) if asked.get(name) is None else asked[name]
            return () if value is None else tuple(one for one in np.atleast_1d(value).tolist() if one < vocab_size)

        form = cls.of_tokens(tokens)
        return dataclasses.replace(
            form,
            first=next(iter(forced("forced_bos_token_id")), None),
            ends=form.ends and (tuple(end for end in form.ends if end < vocab_size) or form.ends),
            forced_ends=forced("forced_eos_token_id"),
            code_behind_end=model.model_type in _CODE_BEHIND_THE_END,
        )

    @property
    def end(self) -> tuple[int, ...]:
        """What labels end with: of several ends the one that is forced at the maximum length, else the first; or none.

        Empty also where nothing says what ends a sequence.
        """
        ends = self.ends or ()
        return tuple(end for end in ends if end in self.forced_ends)[:1] or ends[:1]

    @property
    def begin(self) -> tuple[int, ...]:
        """What labels begin with."""
        return () if self.first is None else (self.first,)

    @property
    def added(self) -> int:
        """How many ids labels have besides their text's."""
        return len(self.begin) + len(self.end)

    def labels(self, content: Sequence[int], room: int | None = None) -> list[int]:
        """Labels of a text's ids, which may themselves bring what labels begin and end with.

        Args:
            content: the text's ids.
            room: most of them that are kept.
        """
        return [*self.begin, *self.bare(content)[:room], *self.end]

    def bare(self, content: Sequence[int]) -> Sequence[int]:
        """A text's ids without what labels begin and end with, if it brings that along."""
        if content and content[-1] in (self.ends or ()):
            content = content[:-1]
        return content[1:] if content and content[0] == self.first else content

    def content(self, row: Int[np.ndarray, " any"], *, keep_first: bool = False) -> Int[np.ndarray, " fewer"]:
        """The text's ids in a row of labels, or of what was generated.

        Without -100, a start token in front, the forced first token, all from the first end on, and padding.

        Args:
            row: ids, with or without a start token.
            keep_first: whether the forced first token is part of the text.
        """
        row = row[row >= 0]
        if len(row) and row[0] == self.start:
            row = row[1:]
        if len(row) and row[0] == self.first and not keep_first:
            row = row[1:]
        ends = np.flatnonzero(np.isin(row, self.ends or ()))
        if len(ends):
            row = row[: ends[0]]
        elif len(row) and row[-1] in self.forced_ends:
            row = row[:-1]
        return row if self.pad is None else row[row != self.pad]

    def has_code_behind(self, labels: Int[ArrayLike, "batch target"]) -> Any:
        """Of every row whether one id, no end and no padding, stands behind its end (batch); and which id (batch)."""
        xp: Any = jnp if isinstance(labels, jax.Array) else np
        width, rows = labels.shape[1], xp.arange(labels.shape[0])
        last = width - 1 - xp.argmax((labels != IGNORED)[:, ::-1], axis=1)
        code, before = labels[rows, last], labels[rows, xp.maximum(last - 1, 0)]
        ends = xp.asarray(self.ends or (), labels.dtype)
        ordinary = (code >= 0) & ~xp.isin(code, ends) & (code != (-1 if self.pad is None else self.pad))
        return ordinary & (last > 0) & xp.isin(before, ends), code

    def starts(self, labels: Int[ArrayLike, "batch target"]) -> Any:
        """The first decoder input for these labels: the start token, or (batch) a row's own where it has a code."""
        if not self.code_behind_end or self.start is None:
            return self.start
        xp: Any = jnp if isinstance(labels, jax.Array) else np
        has_code, code = self.has_code_behind(labels)
        return xp.where(has_code, code, xp.asarray(self.start, labels.dtype))
