"""Phrases that a sequence has to contain (`force_words_ids`), as arrays, and how far a sequence has come.

A constraint is a phrase or a choice of phrases, stored as a tree of their tokens. A sequence is read token by token and
works on one constraint at a time: a token that takes it further does so; any other throws it back to the start, and the
constraint goes behind those that still wait. These are the rules of transformers 4.46.3, the last version that had
constrained beam search in its own code.
"""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int32

from ..._typing import Array, ArrayLike
from ..source_and_prompt import bucket

_NOT_WAITING = np.int32(2**30)
_LEAST_TOKENS, _LEAST_CONSTRAINTS, _LEAST_OFFERS, _LEAST_CHOICES = 16, 4, 8, 4


class Progress(eqx.Module):
    """How far sequences have come.

    Attributes:
        place: of each constraint in the row of those that wait; a huge number for one that does not.
        node: the last token of what the sequence is in the middle of, as an index of a tree's token; -1 for nothing.
    """

    place: Int32[Array, "*sequences constraints"]
    node: Int32[Array, "*sequences"]

    def gather(self, index: Int32[Array, "batch some"]) -> "Progress":
        """Of some of each source sequence's sequences."""
        return jax.tree.map(lambda leaf: jax.vmap(lambda rows, at: rows[at])(leaf, index), self)


class ForcedPhrases(eqx.Module):
    """The constraints' trees, token by token: a token stands behind its parent. Methods take a single sequence.

    A sequence's bank says how far it is: the length of the longest phrase for each complete constraint, and for the one
    in the middle as much less as it still wants tokens, reckoned by its longest alternative.

    Attributes:
        tokens: the ids; -1 in places that only fill the bucket.
        parents: index of the token before; -1 for first tokens, -2 for padding.
        owners: which constraint each belongs to.
        wanting: tokens from each to the end of the constraint's longest alternative.
        last: which tokens complete their constraint.
        longest: tokens of the longest phrase of all.
        count: constraints; the tables' others are padding.
        constraints: places for constraints.
        offers: the most tokens that may come next at once.
        choices: the most tokens that may follow one token.
    """

    tokens: Int32[ArrayLike, " nodes"]
    parents: Int32[ArrayLike, " nodes"]
    owners: Int32[ArrayLike, " nodes"]
    wanting: Int32[ArrayLike, " nodes"]
    last: Bool[ArrayLike, " nodes"]
    longest: Int32[ArrayLike, ""]
    count: Int32[ArrayLike, ""]
    constraints: int = eqx.field(static=True)
    offers: int = eqx.field(static=True)
    choices: int = eqx.field(static=True)

    @classmethod
    def of(cls, items: Sequence[Sequence[Sequence[int]]]) -> "ForcedPhrases":
        """From the alternatives of each constraint, of which none is the beginning of another of the same one."""
        tokens, parents, owners, wanting = [], [], [], []
        for owner, alternatives in enumerate(items):
            height = max(len(phrase) for phrase in alternatives)
            index: dict[tuple[int, ...], int] = {}
            for phrase in map(tuple, alternatives):
                for end in range(1, len(phrase) + 1):
                    if phrase[:end] in index:
                        continue
                    index[phrase[:end]] = len(tokens)
                    tokens.append(phrase[end - 1])
                    parents.append(index.get(phrase[: end - 1], -1))
                    owners.append(owner)
                    wanting.append(height - end)
        following = np.bincount([parent for parent in parents if parent >= 0], minlength=len(tokens))
        most = int(following.max())

        def table(values: Sequence[int], fill: int) -> np.ndarray:
            return np.asarray([*values, *[fill] * (bucket(len(tokens), least=_LEAST_TOKENS) - len(tokens))], np.int32)

        return cls(
            tokens=table(tokens, -1),
            parents=table(parents, -2),
            owners=table(owners, 0),
            wanting=table(wanting, 0),
            last=table((following == 0).tolist(), 0).astype(bool),
            longest=np.asarray(max(len(phrase) for alternatives in items for phrase in alternatives), np.int32),
            count=np.asarray(len(items), np.int32),
            constraints=bucket(len(items), least=_LEAST_CONSTRAINTS),
            offers=bucket(max(parents.count(-1), most), least=_LEAST_OFFERS),
            choices=bucket(most, least=_LEAST_CHOICES) if most > 1 else 1,
        )

    def untouched(self) -> Progress:
        """Before any token: all constraints wait, in their order."""
        every = jnp.arange(self.constraints, dtype=jnp.int32)
        return Progress(jnp.where(every < self.count, every, _NOT_WAITING), jnp.asarray(-1, jnp.int32))

    def after(self, progress: Progress, token: Int32[Array, ""]) -> Progress:
        """With one token more."""
        owners = jnp.asarray(self.owners)
        reachable, rank = self._reachable(progress)
        key = jnp.where(reachable & (self.tokens == token), rank, _NOT_WAITING)
        node = jnp.argmin(key).astype(jnp.int32)
        further = key[node] < _NOT_WAITING
        every = jnp.arange(self.constraints, dtype=jnp.int32)
        taken = (every == owners[node]) & further
        dropped = (every == owners[progress.node]) & (progress.node >= 0) & ~further
        waiting = progress.place < _NOT_WAITING
        behind = jnp.max(jnp.where(waiting, progress.place, -1)) + 1
        place = jnp.where(taken, _NOT_WAITING, jnp.where(dropped, behind, progress.place))
        return Progress(place, jnp.where(further & ~jnp.asarray(self.last)[node], node, -1))

    def complete(self, progress: Progress) -> Int32[Array, ""]:
        """How many constraints are met."""
        waiting = jnp.sum(progress.place < _NOT_WAITING, dtype=jnp.int32)
        return jnp.asarray(self.count) - waiting - (progress.node >= 0).astype(jnp.int32)

    def satisfied(self, progress: Progress) -> Bool[Array, ""]:
        """Whether all are."""
        return self.complete(progress) == self.count

    def bank(self, progress: Progress) -> Int32[Array, ""]:
        """How far the sequence is."""
        partly = jnp.where(progress.node >= 0, self.longest - jnp.asarray(self.wanting)[progress.node], 0)
        return self.complete(progress) * self.longest + partly

    def offered(
        self, progress: Progress
    ) -> tuple[Int32[Array, " offers"], Bool[Array, " offers"], Int32[Array, " offers"]]:
        """The tokens that would take the sequence further, in the order of the constraints that wait.

        Returns:
            The ids, which of them count, and the bank behind each.
        """
        reachable, rank = self._reachable(progress)
        nodes = jnp.arange(len(self.tokens), dtype=jnp.int32)
        # Of one constraint those of earlier alternatives come first, and so they are stored.
        _, ordered = jax.lax.sort((jnp.where(reachable, rank, _NOT_WAITING), nodes), num_keys=1, is_stable=True)
        ordered = ordered[: self.offers]
        real = reachable[ordered]
        tokens = jnp.where(real, jnp.asarray(self.tokens)[ordered], -1)
        last, wanting = jnp.asarray(self.last)[ordered], jnp.asarray(self.wanting)[ordered]
        gained = jnp.where(last, self.longest, self.longest - wanting)
        if self.choices > 1:
            shared = self._gained_as_if_shared(progress.node, tokens[: self.choices])
            shared = jnp.pad(shared, (0, self.offers - self.choices))
            gained = jnp.where(progress.node >= 0, shared, gained)
        return tokens, real, self.complete(progress) * self.longest + gained

    def _reachable(self, progress: Progress) -> tuple[Bool[Array, " nodes"], Int32[Array, " nodes"]]:
        """The tokens of the trees that may come next, and the rank of each."""
        place = progress.place[jnp.asarray(self.owners)]
        inside = progress.node >= 0
        reachable = jnp.where(inside, self.parents == progress.node, (self.parents == -1) & (place < _NOT_WAITING))
        return reachable, jnp.where(inside, 0, place)

    def _gained_as_if_shared(
        self, node: Int32[Array, ""], tokens: Int32[Array, " choices"]
    ) -> Int32[Array, " choices"]:
        """What is gained where a choice has several next tokens, as 4.46.3 reckons it.

        There the copies of a sequence that try one token each share the list of what the choice has seen so far: each
        goes on from where the earlier ones have come, and all that came further count as being at the list's end.
        """
        last = jnp.asarray(self.last)

        def one(at: Int32[Array, ""], token: Int32[Array, ""]) -> tuple[Array, tuple[Array, Array]]:
            match = (self.parents == at) & (self.tokens == token)
            reached = jnp.argmax(match).astype(jnp.int32)
            further = match[reached]
            return jnp.where(further, reached, at), (further, further & last[reached])

        end, (further, complete) = jax.lax.scan(one, node, tokens)
        partly = jnp.where(further, self.longest - jnp.asarray(self.wanting)[end], 0)
        return jnp.where(complete, self.longest, partly)


@eqx.filter_jit
def read_prompt(
    phrases: ForcedPhrases, columns: Int32[ArrayLike, "batch width"], real: Bool[ArrayLike, "batch width"]
) -> Progress:
    """How far the tokens that `real` says have come, one row per source sequence."""

    def one(progress: Progress, token_and_real: tuple[Array, Array]) -> tuple[Progress, None]:
        token, counts = token_and_real
        after = phrases.after(progress, token)
        return jax.tree.map(lambda new, old: jnp.where(counts, new, old), after, progress), None

    def row(tokens: Int32[Array, " width"], real: Bool[Array, " width"]) -> Progress:
        return jax.lax.scan(one, phrases.untouched(), (tokens, real))[0]

    return jax.vmap(row)(jnp.asarray(columns), jnp.asarray(real))


_Alternatives = tuple[tuple[int, ...], ...]


def phrases_met(rows: Sequence[np.ndarray], words: Sequence[_Alternatives]) -> np.ndarray:
    """For each row whether it holds every word, each as often as it was asked for.

    Args:
        rows: the ids of each row, its prompt's included.
        words: the alternatives of each word, of which one has to be there.
    """
    times = {word: words.count(word) for word in dict.fromkeys(words)}
    return np.asarray([all(_count(row.tolist(), word) >= least for word, least in times.items()) for row in rows], bool)


def _count(row: list[int], word: _Alternatives) -> int:
    """How often a word is there, without overlaps."""
    alternatives, lengths = set(word), {len(phrase) for phrase in word}
    found = at = 0
    while at < len(row):
        # none is the beginning of another: at most one stands here
        length = next((length for length in lengths if tuple(row[at : at + length]) in alternatives), 0)
        found += length > 0
        at += length or 1
    return found
