"""Rules about what was there before: tokens and runs of tokens of the sequence and of the source.

Only the few logits in question are read and written: an id that is not to be touched is written as `_NOWHERE`, which
a scatter drops. Must not know: lengths, ends, sampling.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int32

from ..._typing import Array, ArrayLike
from .form import Length, Logits, Prefix

_NOWHERE = np.iinfo(np.int32).max


class RepetitionPenalty(eqx.Module):
    """Logits of the tokens of the sequence multiplied by `penalty` if negative, else divided (Keskar et al. 2019)."""

    penalty: Float[ArrayLike, ""]

    def __call__(self, logits: Logits, prefix: Prefix, length: Length) -> Logits:
        """The processed logits."""
        return _penalised(logits, prefix, length, self.penalty)


class SourcePenalty(eqx.Module):
    """The same for the tokens of the source (`encoder_repetition_penalty`, whose inverse is `penalty`).

    Attributes:
        ids: the source's ids, a row a sentence.
        width: how many columns of them count; padding within them does, as in torch.
        penalty: below 1 for "more from the source".
        rows_per_sentence: rows of the logits a sentence.
    """

    ids: Int32[ArrayLike, "batch source"]
    width: Int32[ArrayLike, ""]
    penalty: Float[ArrayLike, ""]
    rows_per_sentence: int = eqx.field(static=True)

    def __call__(self, logits: Logits, prefix: Prefix, length: Length) -> Logits:
        """The processed logits."""
        del prefix, length
        return _penalised(logits, _per_row(self.ids, self.rows_per_sentence), jnp.asarray(self.width), self.penalty)


class NGrams(eqx.Module):
    """No run of `size` tokens twice (`no_repeat_ngram_size`; Paulus et al. 2017)."""

    size: int = eqx.field(static=True)

    def __call__(self, logits: Logits, prefix: Prefix, length: Length) -> Logits:
        """The processed logits."""
        return _without_runs(logits, prefix, length, prefix, length, self.size)


class SourceNGrams(eqx.Module):
    """No run of `size` tokens that the source has (`encoder_no_repeat_ngram_size`).

    Attributes:
        ids: the source's ids, a row a sentence.
        width: how many columns of them count; padding within them does, as in torch.
        size: length of the runs.
        rows_per_sentence: rows of the logits a sentence.
    """

    ids: Int32[ArrayLike, "batch source"]
    width: Int32[ArrayLike, ""]
    size: int = eqx.field(static=True)
    rows_per_sentence: int = eqx.field(static=True)

    def __call__(self, logits: Logits, prefix: Prefix, length: Length) -> Logits:
        """The processed logits."""
        source = _per_row(self.ids, self.rows_per_sentence)
        return _without_runs(logits, source, jnp.asarray(self.width), prefix, length, self.size)


def _per_row(ids: Int32[ArrayLike, "batch source"], rows_per_sentence: int) -> Int32[Array, "rows source"]:
    return jnp.repeat(jnp.asarray(ids), rows_per_sentence, axis=0)


def _penalised(logits: Logits, text: Int32[Array, "rows text"], width: Length, penalty: ArrayLike) -> Logits:
    """Each token of the first `width` columns of a text penalised once, however often it is there."""
    before = jnp.take_along_axis(logits, text, axis=1, mode="clip")
    after = jnp.where(before < 0, before * penalty, before / penalty)
    counts = jnp.broadcast_to(jnp.arange(text.shape[1]) < width, text.shape)
    return _written(logits, text, counts, after)


def _without_runs(
    logits: Logits, text: Int32[Array, "rows text"], width: Length, prefix: Prefix, length: Length, size: int
) -> Logits:
    """Forbid what would complete a run of `size` tokens of the first `width` columns of a text."""
    windows = text.shape[1] - size + 1
    if windows < 1:
        return logits
    repeated = jnp.broadcast_to(jnp.arange(windows) + size <= width, (text.shape[0], windows))
    for at in range(size - 1):
        column = jnp.maximum(length - (size - 1) + at, 0)
        token = jax.lax.dynamic_slice_in_dim(prefix, column, 1, axis=1)
        repeated = repeated & (text[:, at : at + windows] == token)
    repeated = repeated & (length + 1 >= size)
    return _written(logits, text[:, size - 1 :], repeated, jnp.full(repeated.shape, -jnp.inf, logits.dtype))


def _written(
    logits: Logits, ids: Int32[Array, "rows n"], where: Bool[Array, "rows n"], values: Float[Array, "rows n"]
) -> Logits:
    """New logits at some ids. The same id twice has the same value; one that the decoder lacks is passed over."""
    rows = jnp.arange(ids.shape[0])[:, None]
    return logits.at[rows, jnp.where(where, ids, _NOWHERE)].set(values, mode="drop")
