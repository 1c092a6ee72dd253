"""Rules about certain ids and sequences of ids: biased, forbidden, forced.

Lists are padded to a bucket of lengths, so that another list is not another program. Must not know: sampling, sources.
"""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int32

from ..._typing import ArrayLike
from ..buckets import bucket
from ._base import Length, Logits, Prefix

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
            ids=_padded(list(place), bucket(len(place), least=LEAST_LIST), np.int32, _NOWHERE),
            of=_padded([place[sequence[-1]] for sequence, _ in pairs], many, np.int32, 0),
            before=before,
            lengths=_padded([len(sequence) for sequence, _ in pairs], many, np.int32, 1),
            biases=_padded([bias for _, bias in pairs], many, np.float32, 0),
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


def listed(ids: Sequence[int]) -> Int32[np.ndarray, " ids"]:
    """Ids for a rule that may meet one twice, padded to a bucket by repeating the first."""
    return _padded(ids, bucket(len(ids), least=LEAST_LIST), np.int32, ids[0])


def _padded(values: Sequence[int] | Sequence[float], size: int, dtype: type, filler: int | float) -> np.ndarray:
    return np.asarray([*values, *[filler] * (size - len(values))], dtype)
