"""The decoder's prompt on the host: start token, mask, positions, padding. Knows no models or loops.

All of it is NumPy, but for the position of a token that the loop has just chosen.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int32

from .._typing import Array
from ..config import StackConfig
from .source import host_ids, host_mask


@dataclass(frozen=True)
class PositionRule:
    """How a family numbers the tokens of a decoder, token for token as torch does with its cache.

    Attributes:
        first: number of a sequence's first token.
        padding_idx: the id that is not counted in a prompt and always sits at its own number (RoBERTa), or None.
    """

    first: int = 0
    padding_idx: int | None = None

    @classmethod
    def of(cls, config: StackConfig) -> "PositionRule":
        """The rule of a decoder."""
        counted = config.positions.counting != "non_padding"
        return cls(config.positions.first, None if counted else config.positions.padding_idx)

    def of_prompt(self, ids: np.ndarray, real: np.ndarray) -> np.ndarray:
        """Positions (rows, length) of a prompt whose masked tokens (`real` False) are not counted.

        A row alone and the same row behind left padding get the same numbers for its real tokens.
        """
        counted = real if self.padding_idx is None else real & (ids != self.padding_idx)
        positions = np.cumsum(counted, axis=1) - 1 + self.first
        filler = self.first if self.padding_idx is None else self.padding_idx
        return np.where(counted, positions, filler).astype(np.int32)

    def of_sequences(self, ids: np.ndarray, real: np.ndarray) -> np.ndarray:
        """Positions (rows, width) of whole sequences; `real` (rows, prompt) says where the prompt is padded."""
        prompt = real.shape[1]
        counted = real.sum(axis=1)[:, None] + np.arange(ids.shape[1] - prompt)[None] + self.first
        if self.padding_idx is not None:
            counted = np.where(ids[:, prompt:] == self.padding_idx, self.padding_idx, counted)
        return np.concatenate([self.of_prompt(ids[:, :prompt], real), counted.astype(np.int32)], axis=1)

    def of_next(self, tokens: Int32[Array, "*rows"], tokens_before: Int32[Array, "*rows"]) -> Int32[Array, "*rows"]:
        """As torch numbers a single token behind a cache: by the number of tokens before it, whatever they are."""
        counted = tokens_before + self.first
        if self.padding_idx is None:
            return counted
        return jnp.where(tokens == self.padding_idx, self.padding_idx, counted)


@dataclass(frozen=True)
class Prompt:
    """What the decoder starts from, one row per sentence.

    Attributes:
        ids: (batch, width) the prompt as it will stand in the result, start token and left padding included.
        real: (batch, width) False at left padding.
    """

    ids: np.ndarray
    real: np.ndarray

    @property
    def width(self) -> int:
        """Tokens that `max_length` counts as the prompt, left padding included, as in torch."""
        return self.ids.shape[1]

    def trimmed(self) -> "Prompt":
        """Without columns that are padding in every row: what the decoder has to see."""
        first = int(np.argmax(self.real.any(axis=0)))
        return Prompt(self.ids[:, first:], self.real[:, first:])

    def padded(self, rows: int, width: int) -> "Prompt":
        """Padded to `rows` by copies of the first row, and on the left to `width`."""
        more, left = rows - self.ids.shape[0], width - self.width
        ids, real = (np.concatenate([a, np.repeat(a[:1], more, axis=0)]) for a in (self.ids, self.real))
        return Prompt(np.pad(ids, ((0, 0), (left, 0))), np.pad(real, ((0, 0), (left, 0))))


def start_only(batch: int, start: int | np.ndarray) -> Prompt:
    """Every row holds the start token, or its own."""
    return Prompt(_of_rows(start, batch)[:, None], np.ones((batch, 1), bool))


def _of_rows(start: int | np.ndarray, batch: int) -> np.ndarray:
    return np.array(np.broadcast_to(np.asarray(start, np.int32), (batch,)))


def from_user(ids: object, mask: object, *, batch: int, vocab_size: int, start: int | np.ndarray) -> Prompt:
    """A user's `decoder_input_ids`, with the start token in front if no row begins with it.

    torch prepends it under the same condition. In a left-padded row it comes before the first real token.

    Args:
        ids: (batch, width).
        mask: (batch, width), or None: all real.
        batch: number of sentences.
        vocab_size: of the decoder.
        start: the start token, or one a row.

    Raises:
        TypeError: for a wrong shape or dtype.
        ValueError: for ids out of range, right padding, or a row without a real token.
    """
    array = host_ids("decoder_input_ids", ids, below=vocab_size, table="the decoder's token table")
    if array.shape[0] != batch:
        raise TypeError(
            f"decoder_input_ids must have one row per sentence: {batch}, got shape {array.shape}. For several results "
            "per sentence pass num_return_sequences."
        )
    if mask is None:
        real = np.ones_like(array, bool)
    else:
        real = host_mask("decoder_attention_mask", mask, shape=array.shape, of="decoder_input_ids")
    _refuse_right_padding(real)
    first = np.argmax(real, axis=1)
    begins = np.take_along_axis(array, first[:, None], axis=1)[:, 0]
    starts = _of_rows(start, batch)
    if (begins == starts).any():
        return Prompt(array, real)
    return _with_start(array, real, first, starts)


def _with_start(ids: np.ndarray, real: np.ndarray, first: np.ndarray, starts: np.ndarray) -> Prompt:
    """One column more; the start token stands right before each row's first real token."""
    wider = np.concatenate([ids[:, :1], ids], axis=1)
    column = np.arange(wider.shape[1])[None, :]
    left = np.concatenate([ids, ids[:, -1:]], axis=1)
    result = np.where(column < first[:, None], left, np.where(column == first[:, None], starts[:, None], wider))
    return Prompt(result.astype(np.int32), column >= first[:, None])


def _refuse_right_padding(real: np.ndarray) -> None:
    wrong = (real[:, :-1] & ~real[:, 1:]).any(axis=1)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(
            f"row {row} of decoder_attention_mask is {real[row].astype(int).tolist()}: padding follows real tokens, "
            "and generated tokens would follow the padding. Pad prompts on the left (tokenizer.padding_side='left')."
        )
