"""Rules about certain ids, n-grams and lengths: biased, forbidden, forced; EOS tokens held back or favoured.

Lists are padded to a bucket of lengths, so that another list is not another program.
"""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int32

from ..._typing import Array, ArrayLike
from ..buckets import bucket
from .form import Length, Logits, Prefix


class Finite(eqx.Module):
    """NaN becomes 0, an infinity the largest finite number of its sign (`remove_invalid_values`)."""

    def __call__(self, logits: Logits, prefix: Prefix, length: Length) -> Logits:
        """The processed logits."""
        del prefix, length
        return jnp.nan_to_num(logits)


class Normalised(eqx.Module):
    """Log-probabilities (`renormalize_logits`)."""

    def __call__(self, logits: Logits, prefix: Prefix, length: Length) -> Logits:
        """The processed logits."""
        del prefix, length
        return jax.nn.log_softmax(logits, axis=-1)


def _without(logits: Logits, ids: Int32[ArrayLike, " ends"], when: Array) -> Logits:
    """Forbid some ids while a condition holds."""
    return jnp.where(when, logits.at[:, ids].set(-jnp.inf), logits)


class MinLength(eqx.Module):
    """No end while the sequence, prompt included, is shorter than `least`."""

    least: Int32[ArrayLike, ""]
    eos_ids: Int32[ArrayLike, " ends"]

    def __call__(self, logits: Logits, prefix: Prefix, length: Length) -> Logits:
        """The processed logits."""
        del prefix
        return _without(logits, self.eos_ids, length < self.least)


class MinNewTokens(eqx.Module):
    """No end while fewer than `least` tokens follow the prompt."""

    least: Int32[ArrayLike, ""]
    prompt_width: Int32[ArrayLike, ""]
    eos_ids: Int32[ArrayLike, " ends"]

    def __call__(self, logits: Logits, prefix: Prefix, length: Length) -> Logits:
        """The processed logits."""
        del prefix
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
        """The processed logits."""
        del prefix
        growth = jnp.asarray(self.growth)
        share = growth[jnp.clip(length - self.start, 0, growth.shape[0] - 1)]
        ends = logits[:, jnp.asarray(self.eos_ids)]
        raised = jnp.where(ends == -jnp.inf, ends, ends + jnp.abs(ends) * share)
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
        """The processed logits."""
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
        """The processed logits."""
        del prefix, length
        return logits.at[:, jnp.asarray(self.ids)].set(-jnp.inf)


class SuppressedAt(eqx.Module):
    """Some ids not where the prefix has a certain length, `at`."""

    at: Int32[ArrayLike, ""]
    ids: Int32[ArrayLike, " ids"]

    def __call__(self, logits: Logits, prefix: Prefix, length: Length) -> Logits:
        """The processed logits."""
        del prefix
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
        """The processed logits."""
        del prefix
        forced = jnp.full_like(logits, -jnp.inf).at[:, jnp.asarray(self.ids)].set(0.0)
        return jnp.where(length == self.at, forced, logits)


def padded_ids(ids: Sequence[int]) -> Int32[np.ndarray, " ids"]:
    """Ids for a rule that may meet one twice, padded to a bucket by repeating the first."""
    return _filled(ids, bucket(len(ids), least=LEAST_LIST), np.int32, ids[0])


def _filled(values: Sequence[int] | Sequence[float], size: int, dtype: type, filler: int | float) -> np.ndarray:
    return np.asarray([*values, *[filler] * (size - len(values))], dtype)
