"""Dense automata on the host: cutting off what leads nowhere, merging what is the same. Knows columns, not tokens."""

from dataclasses import dataclass

import numpy as np

from .graph import least_to_end
from .interface import NEVER

MOST_ENTRIES = 2**26
"""States times columns of the largest table that is built (256 MiB)."""


@dataclass(frozen=True, eq=False)
class Table:
    """A deterministic automaton.

    Attributes:
        next_state: (states, columns) where each column's symbols lead, -1 for nowhere.
        accepting: (states,) whether the end may follow.
        start: the first state.
    """

    next_state: np.ndarray
    accepting: np.ndarray
    start: int = 0

    def edges(self) -> tuple[np.ndarray, np.ndarray]:
        """The states that edges leave, and those that they lead to, each pair once."""
        sources, columns = np.nonzero(self.next_state >= 0)
        states = self.accepting.size
        pairs = np.unique(sources * states + self.next_state[sources, columns])
        return pairs // states, pairs % states

    def least_to_end(self) -> np.ndarray:
        """See `graph.least_to_end`."""
        return least_to_end(*self.edges(), self.accepting)


def equal_rows(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the distinct rows of a matrix.

    Returns:
        The number of each row, in the order in which distinct rows are first seen, and where each was first seen.
    """
    matrix = np.ascontiguousarray(matrix)
    seen: dict[bytes, int] = {}
    labels = np.fromiter((seen.setdefault(row.tobytes(), len(seen)) for row in matrix), np.int32, len(matrix))
    return labels, np.unique(labels, return_index=True)[1]


def trimmed(table: Table) -> Table | None:
    """Only the states on some way from the start to an end; None if there is no such way."""
    useful = table.least_to_end() < NEVER
    if not useful[table.start]:
        return None
    next_state = _where_useful(table.next_state, useful)
    reached = np.zeros(useful.size, np.bool_)
    frontier = np.asarray([table.start])
    while frontier.size:
        reached[frontier] = True
        seen = np.unique(next_state[frontier])
        seen = seen[seen >= 0]
        frontier = seen[~reached[seen]]
    return relabelled(Table(next_state, table.accepting, table.start), np.cumsum(reached) - 1, np.flatnonzero(reached))


def merged_columns(table: Table) -> tuple[Table, np.ndarray]:
    """Equal columns made one.

    Returns:
        The narrower table, and the new column of each old one.
    """
    labels, first = equal_rows(table.next_state.T)
    return Table(table.next_state[:, first], table.accepting, table.start), labels


def without_dead_ends(table: Table) -> Table:
    """The same states, without ways into those from which there is no end."""
    return Table(_where_useful(table.next_state, table.least_to_end() < NEVER), table.accepting, table.start)


def relabelled(table: Table, labels: np.ndarray, kept: np.ndarray) -> Table:
    """Only the states `kept`, numbered in that order; `labels` has the new number of every state that is still used."""
    next_state = np.append(labels, -1)[table.next_state[kept]].astype(np.int32)
    return Table(next_state, table.accepting[kept], int(labels[table.start]))


def _where_useful(next_state: np.ndarray, useful: np.ndarray) -> np.ndarray:
    return np.where(np.append(useful, False)[next_state], next_state, -1).astype(np.int32)
