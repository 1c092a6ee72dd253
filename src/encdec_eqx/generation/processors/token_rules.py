"""Rules about tokens: certain ids and lengths, and what the sequence or the source already has.

Lists are padded to a bucket of lengths, so that another list is not another program. Where only few logits are read and
written, an id that is not to be touched is written as `_NOWHERE`, which a scatter drops.
"""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int32

from ..._typing import Array, ArrayLike
from ..source_and_prompt import bucket
from .form import Length, Logits, Prefix


class Finite(eqx.Module):
    """NaN becomes 0, an infinity the largest finite number of its sign (`remove_invalid_values`)."""

    def __call__(self, logits: Logits, prefix: Prefix, length: Length) -> Logits:
        return jnp.nan_to_num(logits)


class Normalised(eqx.Module):
    """Log-probabilities (`renormalize_logits`)."""

    def __call__(self, logits: Logits, prefix: Prefix, length: Length) -> Logits:
        return jax.nn.log_softmax(logits, axis=-1)


def _without(logits: Logits, ids: Int32[ArrayLike, " ends"], when: Array) -> Logits:
    """Forbid some ids while a condition holds."""
    return jnp.where(when, logits.at[:, ids].set(-jnp.inf), logits)


class MinLength(eqx.Module):
    """No end while the sequence, prompt included, is shorter than `least`."""

    least: Int32[ArrayLike, ""]
    eos_ids: Int32[ArrayLike, " ends"]

    def __call__(self, logits: Logits, prefix: Prefix, length: Length) -> Logits:
        return _without(logits, self.eos_ids, length < self.least)


class MinNewTokens(eqx.Module):
    """No end while fewer than `least` tokens follow the prompt."""

    least: Int32[ArrayLike, ""]
    prompt_width: Int32[ArrayLike, ""]
    eos_ids: Int32[ArrayLike, " ends"]

    def __call__(self, logits: Logits, prefix: Prefix, length: Length) -> Logits:
        return _without(logits, self.eos_ids, length - self.prompt_width < self.least)


class DecayingLength(eqx.Module):
    """Ends become likelier from some length on (`exponential_decay_length_penalty`).

    An end that is forbidden stays so. (In torch minus infinity plus its own size is NaN, which is then chosen.)

    Attributes:
        start: the length, prompt included, behind which they do.
        growth: `factor ** k - 1` for k from 0 on; from a table, since powers in float32 are off by many units.
        eos_ids: ids that end a row.
    """

    start: Int32[ArrayLike, ""]
    growth: Float[ArrayLike, " steps"]
    eos_ids: Int32[ArrayLike, " ends"]

    def __call__(self, logits: Logits, prefix: Prefix, length: Length) -> Logits:
        growth = jnp.asarray(self.growth)
        grown = growth[jnp.clip(length - self.start, 0, growth.shape[0] - 1)]
        ends = logits[:, jnp.asarray(self.eos_ids)]
        raised = jnp.where(ends == -jnp.inf, ends, ends + jnp.abs(ends) * grown)
        return logits.at[:, jnp.asarray(self.eos_ids)].set(raised)


_NOWHERE = np.iinfo(np.int32).max
_ANYTHING = -1
LEAST_LIST = 4


class SequenceBias(eqx.Module):
    """A number added to the logit of a sequence's last id where its other ids stand at the end of the prefix.

    As in torch a sequence counts only if it is not longer than the prefix, although one id more would fit.

    Attributes:
        ids: the last ids, each once.
        of: for each sequence the index of its last id in `ids`.
        before: the ids before it, `_ANYTHING` in front of shorter ones.
        lengths: ids of each sequence.
        biases: what is added; minus infinity forbids.
    """

    ids: Int32[ArrayLike, " distinct"]
    of: Int32[ArrayLike, " sequences"]
    before: Int32[ArrayLike, "sequences before"]
    lengths: Int32[ArrayLike, " sequences"]
    biases: Float[ArrayLike, " sequences"]

    @classmethod
    def of_sequences(cls, biases: Sequence[tuple[tuple[int, ...], float]]) -> "SequenceBias":
        """The rule for pairs of a sequence and its bias, at least one."""
        # Lone ids first: sums are made in torch's order.
        pairs = sorted(biases, key=lambda pair: len(pair[0]) > 1)
        place = {last: at for at, last in enumerate(dict.fromkeys(sequence[-1] for sequence, _ in pairs))}
        longest = max(len(sequence) for sequence, _ in pairs) - 1
        many = bucket(len(pairs), least=LEAST_LIST)
        before = np.full((many, bucket(longest) if longest else 0), _ANYTHING, np.int32)
        for row, (sequence, _) in enumerate(pairs):
            before[row, before.shape[1] - len(sequence) + 1 :] = sequence[:-1]
        return cls(
            ids=_filled(list(place), bucket(len(place), least=LEAST_LIST), np.int32, _NOWHERE),
            of=_filled([place[sequence[-1]] for sequence, _ in pairs], many, np.int32, 0),
            before=before,
            lengths=_filled([len(sequence) for sequence, _ in pairs], many, np.int32, 1),
            biases=_filled([bias for _, bias in pairs], many, np.float32, 0),
        )

    def __call__(self, logits: Logits, prefix: Prefix, length: Length) -> Logits:
        before, biases = jnp.asarray(self.before), jnp.asarray(self.biases)
        columns = length - before.shape[1] + jnp.arange(before.shape[1])
        recent = prefix[:, jnp.maximum(columns, 0)]
        same = (before[:, None] == recent[None]) | (before == _ANYTHING)[:, None]
        holds = jnp.all(same, axis=-1) & (jnp.asarray(self.lengths) <= length)[:, None]
        found = jnp.where(holds, biases[:, None], 0.0)
        sums = jnp.zeros((np.shape(self.ids)[0], logits.shape[0]), logits.dtype).at[jnp.asarray(self.of)].add(found)
        return logits.at[:, jnp.asarray(self.ids)].add(sums.T, mode="drop")


class Suppressed(eqx.Module):
    """Some ids never."""

    ids: Int32[ArrayLike, " ids"]

    def __call__(self, logits: Logits, prefix: Prefix, length: Length) -> Logits:
        return logits.at[:, jnp.asarray(self.ids)].set(-jnp.inf)


class SuppressedAt(eqx.Module):
    """Some ids not where the prefix has a certain length, `at`."""

    at: Int32[ArrayLike, ""]
    ids: Int32[ArrayLike, " ids"]

    def __call__(self, logits: Logits, prefix: Prefix, length: Length) -> Logits:
        return jnp.where(length == self.at, logits.at[:, jnp.asarray(self.ids)].set(-jnp.inf), logits)


class ForcedToken(eqx.Module):
    """Nothing but some ids where the prefix has a certain length.

    Attributes:
        at: that length.
        ids: the ids, all equally likely.
    """

    at: Int32[ArrayLike, ""]
    ids: Int32[ArrayLike, " ids"]

    def __call__(self, logits: Logits, prefix: Prefix, length: Length) -> Logits:
        forced = jnp.full_like(logits, -jnp.inf).at[:, jnp.asarray(self.ids)].set(0.0)
        return jnp.where(length == self.at, forced, logits)


def padded_ids(ids: Sequence[int]) -> Int32[np.ndarray, " ids"]:
    """Ids for a rule that may meet one twice, padded to a bucket by repeating the first."""
    return _filled(ids, bucket(len(ids), least=LEAST_LIST), np.int32, ids[0])


def _filled(values: Sequence[int] | Sequence[float], size: int, dtype: type, fill: int | float) -> np.ndarray:
    return np.asarray([*values, *[fill] * (size - len(values))], dtype)


class RepetitionPenalty(eqx.Module):
    """Logits of the tokens of the sequence multiplied by `penalty` if negative, else divided (Keskar et al. 2019)."""

    penalty: Float[ArrayLike, ""]

    def __call__(self, logits: Logits, prefix: Prefix, length: Length) -> Logits:
        return _penalize(logits, prefix, length, self.penalty)


class SourcePenalty(eqx.Module):
    """The same for the tokens of the source (`encoder_repetition_penalty`, whose inverse is `penalty`).

    Attributes:
        ids: the source's ids, one row per source sequence.
        width: how many columns of them count; padding within them does, as in torch.
        penalty: below 1 for "more from the source".
        rows_per_sentence: rows of the logits per source sequence.
    """

    ids: Int32[ArrayLike, "batch source"]
    width: Int32[ArrayLike, ""]
    penalty: Float[ArrayLike, ""]
    rows_per_sentence: int = eqx.field(static=True)

    def __call__(self, logits: Logits, prefix: Prefix, length: Length) -> Logits:
        return _penalize(logits, _per_row(self.ids, self.rows_per_sentence), jnp.asarray(self.width), self.penalty)


class NGrams(eqx.Module):
    """No n-gram of `size` tokens twice (`no_repeat_ngram_size`; Paulus et al. 2017)."""

    size: int = eqx.field(static=True)

    def __call__(self, logits: Logits, prefix: Prefix, length: Length) -> Logits:
        return _without_ngrams(logits, prefix, length, prefix, length, self.size)


class SourceNGrams(eqx.Module):
    """No n-gram of `size` tokens that the source has (`encoder_no_repeat_ngram_size`).

    Attributes:
        ids: the source's ids, one row per source sequence.
        width: how many columns of them count; padding within them does, as in torch.
        size: length of the n-grams.
        rows_per_sentence: rows of the logits per source sequence.
    """

    ids: Int32[ArrayLike, "batch source"]
    width: Int32[ArrayLike, ""]
    size: int = eqx.field(static=True)
    rows_per_sentence: int = eqx.field(static=True)

    def __call__(self, logits: Logits, prefix: Prefix, length: Length) -> Logits:
        source = _per_row(self.ids, self.rows_per_sentence)
        return _without_ngrams(logits, source, jnp.asarray(self.width), prefix, length, self.size)


def _per_row(ids: Int32[ArrayLike, "batch source"], rows_per_sentence: int) -> Int32[Array, "rows source"]:
    return jnp.repeat(jnp.asarray(ids), rows_per_sentence, axis=0)


def _penalize(logits: Logits, text: Int32[Array, "rows text"], width: Length, penalty: ArrayLike) -> Logits:
    """Each token of the first `width` columns of a text penalised once, however often it is there."""
    before = jnp.take_along_axis(logits, text, axis=1, mode="clip")
    after = jnp.where(before < 0, before * penalty, before / penalty)
    counts = jnp.broadcast_to(jnp.arange(text.shape[1]) < width, text.shape)
    return _write(logits, text, counts, after)


def _without_ngrams(
    logits: Logits, text: Int32[Array, "rows text"], width: Length, prefix: Prefix, length: Length, size: int
) -> Logits:
    """Forbid what would complete an n-gram of the first `width` columns of a text."""
    windows = text.shape[1] - size + 1
    if windows < 1:
        return logits
    repeated = jnp.broadcast_to(jnp.arange(windows) + size <= width, (text.shape[0], windows))
    for at in range(size - 1):
        column = jnp.maximum(length - (size - 1) + at, 0)
        token = jax.lax.dynamic_slice_in_dim(prefix, column, 1, axis=1)
        repeated = repeated & (text[:, at : at + windows] == token)
    repeated = repeated & (length + 1 >= size)
    return _write(logits, text[:, size - 1 :], repeated, jnp.full(repeated.shape, -jnp.inf, logits.dtype))


def _write(
    logits: Logits, ids: Int32[Array, "rows n"], where: Bool[Array, "rows n"], values: Float[Array, "rows n"]
) -> Logits:
    """New logits at some ids. The same id twice has the same value; one that the decoder lacks is passed over."""
    rows = jnp.arange(ids.shape[0])[:, None]
    return logits.at[rows, jnp.where(where, ids, _NOWHERE)].set(values, mode="drop")
