"""Which descriptions are nearly the same, so that one of them may stand for all.

Must not know where descriptions come from, nor splits.

Two descriptions belong together if they have the same synopsis (what follows a dash or stands in brackets at its end
aside), or the same first twelve words, or if half of the shorter one's runs of eight words stand in the other. Such
runs that many descriptions share are boilerplate and prove nothing. What belongs together with the same third belongs
together.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable

from descriptions import Description, plain_words

OPENING = 12
RUN = 8
COMMON = 20
SHARED = 0.5

_ASIDE = re.compile(r"\s*\([^()]*\)\s*$|\s+[-\u2013\u2014]+\s+.*$")
_LEAST_STEM = 3


def groups(descriptions: list[Description]) -> list[list[int]]:
    """Indices of the descriptions that belong together, in the order of their first ones."""
    joined = _Sets(len(descriptions))
    for same in (_stem, opening):
        first: dict[str, int] = {}
        for at, description in enumerate(descriptions):
            joined.join(at, first.setdefault(same(description), at))
    joined.join_all(_overlapping(descriptions))
    found: dict[int, list[int]] = defaultdict(list)
    for at in range(len(descriptions)):
        found[joined.of(at)].append(at)
    return sorted(found.values())


def one_of_each(descriptions: list[Description]) -> list[Description]:
    """Of each group the one with the shortest synopsis, which is usually the package itself, not a part of it."""
    return [
        min((descriptions[at] for at in group), key=lambda one: (len(one.target), one.package))
        for group in groups(descriptions)
    ]


def opening(description: Description) -> str:
    """The first twelve words."""
    return " ".join(plain_words(description.source)[:OPENING])


def _stem(description: Description) -> str:
    """The synopsis without what only says which part of the whole the package is; whole if little would be left."""
    short = plain_words(_ASIDE.sub("", description.target))
    return " ".join(short if len(short) >= _LEAST_STEM else plain_words(description.target))


def _overlapping(descriptions: list[Description]) -> Iterable[tuple[int, int]]:
    """Pairs that share half of the shorter one's runs."""
    runs = [_runs(description) for description in descriptions]
    where: dict[int, list[int]] = defaultdict(list)
    for at, own in enumerate(runs):
        for run in own:
            where[run].append(at)
    shared: Counter[tuple[int, int]] = Counter()
    for places in where.values():
        if len(places) <= COMMON:
            shared.update((one, other) for i, one in enumerate(places) for other in places[i + 1 :])
    return [pair for pair, number in shared.items() if number >= SHARED * min(len(runs[at]) for at in pair)]


def _runs(description: Description) -> set[int]:
    words = plain_words(description.source)
    return {hash(tuple(words[at : at + RUN])) for at in range(max(1, len(words) - RUN + 1))}


class _Sets:
    """Sets of indices that can be joined (union-find)."""

    def __init__(self, size: int):
        self._above = list(range(size))

    def of(self, at: int) -> int:
        while self._above[at] != at:
            self._above[at] = self._above[self._above[at]]
            at = self._above[at]
        return at

    def join(self, one: int, other: int) -> None:
        one, other = sorted((self.of(one), self.of(other)))
        self._above[other] = one

    def join_all(self, pairs: Iterable[tuple[int, int]]) -> None:
        for one, other in pairs:
            self.join(one, other)
