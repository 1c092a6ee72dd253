"""What a call gives the decoder's side, on the host: prompts with start token, mask, positions, padding; PRNG keys."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import dtypes

from ..inputs.counting import PositionRule as PositionRule
from .source import host_ids, host_mask


@dataclass(frozen=True)
class Prompt:
    """What the decoder starts from, one row per source sequence.

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
        batch: number of source sequences.
        vocab_size: of the decoder.
        start: the start token, or one per row.

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


def key_data(key: Any, batch: int, padded_batch: int) -> np.ndarray:
    """The words of the caller's key, or of one key per source sequence, the latter padded to the bucket.

    Raises:
        TypeError: if it is no PRNG key.
        ValueError: if there is not one key per source sequence.
        NotImplementedError: for a generator other than threefry.
    """
    data = _words(key)
    if data.ndim == 1:
        return data
    if data.ndim != 2 or data.shape[0] != batch:
        raise ValueError(f"key must be one key or {batch} keys, one per sequence; got shape {data.shape[:-1]}.")
    return np.concatenate([data, np.repeat(data[:1], padded_batch - batch, axis=0)])


def _words(key: Any) -> np.ndarray:
    if not isinstance(key, jax.Array | np.ndarray):
        raise TypeError(f"key must be a jax PRNG key, got {type(key).__name__}: pass jax.random.key(seed).")
    if jnp.issubdtype(key.dtype, dtypes.prng_key):
        implementation = str(jax.random.key_impl(key))
        if implementation != "threefry2x32":
            raise NotImplementedError(
                f"key belongs to the generator {implementation}, whose numbers depend on the batch they are drawn in: "
                "a row's sample would depend on the other rows. Pass jax.random.key(seed, impl='threefry2x32')."
            )
        return np.asarray(jax.random.key_data(key))
    words = np.asarray(key)
    if words.dtype != np.uint32 or words.ndim == 0 or words.shape[-1] != 2:
        got = f"shape {words.shape} of {words.dtype}"
        raise TypeError(f"key must be a jax PRNG key, got {got}: pass jax.random.key(seed).")
    return words
