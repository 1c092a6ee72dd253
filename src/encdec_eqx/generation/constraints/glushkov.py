"""From a pattern's tree to an automaton over symbols, by way of its positions (Glushkov 1961)."""

from dataclasses import dataclass

import numpy as np

from .dfa import MOST_ENTRIES, Table
from .patterns import Chain, Choice, Node, Repeat, Symbol, SymbolSet, classes_of

_MOST_POSITIONS = 10_000
_MOST_STATES = 10_000
_MOST_WORK = 2**23
"""Places that are looked at while the automaton is built, over all its states: about a second."""


@dataclass(frozen=True)
class _Fragment:
    """A part of the pattern; sets of positions are bits of an int.

    Attributes:
        empty: whether it matches nothing at all.
        first: positions that it may begin with.
        last: positions that it may end with.
    """

    empty: bool
    first: int
    last: int


_NOTHING = _Fragment(True, 0, 0)


_FEW = 8
"""Members of a set that are found one by one."""


class _Positions:
    """The places of a pattern at which a symbol stands, repetitions written out. Place 0 is before the first symbol.

    Attributes:
        sets: what may stand at each place.
        follow: the places that may follow each.
        accepting: the places at which the pattern may end.
    """

    def __init__(self, node: Node):
        size = _size(node)
        if size > _MOST_POSITIONS:
            raise ValueError(
                f"`pattern` has {size:,} symbols when its repetitions are written out; at most {_MOST_POSITIONS:,} are "
                "supported. Use * or +, or smaller bounds, and `max_new_tokens` to limit the length."
            )
        self._left = _MOST_WORK
        self.sets: list[SymbolSet] = [SymbolSet()]
        self.follow: list[int] = [0]
        whole = self._visit(node)
        self.follow[0] = whole.first
        self.accepting = whole.last | whole.empty

    def spend(self, places: int) -> None:
        """Count what is done, so that no pattern can take for ever."""
        self._left -= places
        if self._left < 0:
            raise ValueError(
                "`pattern` is too large: too many of its symbols may stand at the same place, as where parts that may "
                "be missing are repeated many times, (a?b?){4999}. Use * or smaller bounds, and `max_new_tokens` to "
                "limit the length."
            )

    def _visit(self, node: Node) -> _Fragment:
        self.spend(64)
        match node:
            case Symbol():
                place = 1 << len(self.sets)
                self.sets.append(node.symbols)
                self.follow.append(0)
                return _Fragment(False, place, place)
            case Chain():
                whole = _NOTHING
                for part in node.parts:
                    whole = self._joined(whole, self._visit(part))
                return whole
            case Choice():
                parts = [self._visit(part) for part in node.parts]
                first = last = 0
                for part in parts:
                    first, last = first | part.first, last | part.last
                return _Fragment(any(part.empty for part in parts), first, last)
            case Repeat():
                return self._repeated(node)

    def _joined(self, left: _Fragment, right: _Fragment) -> _Fragment:
        self.spend(left.last.bit_count())
        for place in _bits(left.last):
            self.follow[place] |= right.first
        return _Fragment(
            left.empty and right.empty,
            left.first | (right.first if left.empty else 0),
            right.last | (left.last if right.empty else 0),
        )

    def _repeated(self, node: Repeat) -> _Fragment:
        """x{2,4} as xx(x(x)?)?, x{2,} as xx+, from right to left."""
        whole, least = _NOTHING, node.least
        if not _size(node.part):
            return whole
        if node.most is None:
            part = self._visit(node.part)
            self._joined(part, part)
            whole = _Fragment(part.empty or least == 0, part.first, part.last)
            least = max(least - 1, 0)
        else:
            for _ in range(node.most - least):
                whole = self._joined(self._visit(node.part), whole)
                whole = _Fragment(True, whole.first, whole.last)
        for _ in range(least):
            whole = self._joined(self._visit(node.part), whole)
        return whole


def automaton(node: Node, alphabet: np.ndarray) -> tuple[Table, np.ndarray]:
    """The automaton of a pattern (not yet the smallest), and the column of each symbol of an ascending alphabet."""
    positions = _Positions(node)
    # Those of a repetition are one object: what is large is not compared again for each of its places.
    objects = {id(set_): set_ for set_ in positions.sets}
    number = {set_: index for index, set_ in enumerate(dict.fromkeys(objects.values()))}
    number_of_object = {key: number[set_] for key, set_ in objects.items()}
    columns, members = classes_of(list(number), alphabet)
    columns_of_set = [np.flatnonzero(row).tolist() for row in members]
    columns_of_place = [columns_of_set[number_of_object[id(set_)]] for set_ in positions.sets]
    places_of_column = [0] * members.shape[1]
    for place, held in enumerate(columns_of_place):
        for column in held:
            places_of_column[column] |= 1 << place

    # a state is the set of places that the last symbol may stand at
    states = {1: 0}
    found = [1]
    rows: list[dict[int, int]] = []
    for places in found:
        positions.spend(places.bit_count())
        reached = 0
        for place in _bits(places):
            reached |= positions.follow[place]
        positions.spend(reached.bit_count())
        if reached.bit_count() > len(places_of_column):
            possible = {column for column, its_places in enumerate(places_of_column) if reached & its_places}
        else:
            possible = set().union(*(columns_of_place[place] for place in _bits(reached)))
        row = {}
        for column in possible:
            behind = reached & places_of_column[column]
            if behind not in states:
                states[behind] = len(states)
                found.append(behind)
            row[column] = states[behind]
        rows.append(row)
        if len(states) > _MOST_STATES or len(states) * members.shape[1] > MOST_ENTRIES:
            raise ValueError(
                f"`pattern` is too large: it needs an automaton of more than {len(states) - 1:,} states over "
                f"{members.shape[1]:,} classes of symbols. What must be remembered for long makes it so, such as which "
                "of many alternatives came before a {m,n} with large bounds. For a long list of fixed outputs use "
                "`from_sequences`."
            )
    next_state = np.full((len(rows), members.shape[1]), -1, np.int32)
    for state, row in enumerate(rows):
        next_state[state, list(row)] = list(row.values())
    accepting = np.asarray([bool(places & positions.accepting) for places in found])
    return Table(next_state, accepting), columns


def _bits(places: int) -> list[int]:
    """The places of a set, ascending."""
    if places.bit_count() > _FEW:
        octets = np.frombuffer(places.to_bytes((places.bit_length() + 7) // 8, "little"), np.uint8)
        return np.flatnonzero(np.unpackbits(octets, bitorder="little")).tolist()
    found = []
    while places:
        lowest = places & -places
        found.append(lowest.bit_length() - 1)
        places ^= lowest
    return found


def _size(node: Node) -> int:
    """Places of a part when its repetitions are written out."""
    match node:
        case Symbol():
            return 1
        case Repeat():
            return _size(node.part) * max(node.least, node.most or 1)
        case _:
            return sum(_size(part) for part in node.parts)
