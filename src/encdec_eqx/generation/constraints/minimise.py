"""The smallest automaton of a language, by splitting sets of states until none tells its members apart."""

from collections import defaultdict

import numpy as np

from .graph import incoming, ranges
from .tables import Table, relabelled


def minimised(table: Table) -> Table:
    """The smallest automaton of the same language, given one without useless states.

    All states begin in two blocks, by whether the end may follow. A block is split where its states lead to
    different blocks. Only states that lead to one whose block has just changed are looked at again, and of a split
    block the largest part keeps its number (Hopcroft's idea, 1971): long chains of states take no longer than others.
    """
    before, first = incoming(*table.edges(), table.accepting.size)
    blocks = np.append(_numbered(table.accepting)[0], -1)  # -1, for nowhere, takes the last entry
    members = defaultdict(set)
    for state, block in enumerate(blocks[:-1].tolist()):
        members[block].add(state)
    touched = np.arange(table.accepting.size)
    while touched.size:
        to_look_at = defaultdict(set)
        for state in touched.tolist():
            to_look_at[int(blocks[state])].add(state)
        parts = [part for block, states in to_look_at.items() for part in _split(table, blocks, members[block], states)]
        for part in parts:
            members[int(blocks[next(iter(part))])] -= part
            blocks[list(part)] = len(members)
            members[len(members)] = part
        moved = np.asarray([state for part in parts for state in part], np.int64)
        touched = np.unique(before[ranges(first[moved], first[moved + 1])])
    return relabelled(table, *_numbered(blocks[:-1]))


def _split(table: Table, blocks: np.ndarray, block: set[int], states: set[int]) -> list[set[int]]:
    """The parts that a block falls into, but for the largest.

    Args:
        table: the automaton.
        blocks: the block of each state.
        block: the block's members.
        states: those that may no longer lead where the rest does, which all leads to the same blocks.
    """
    parts = defaultdict(set)
    for state in states:
        parts[blocks[table.next_state[state]].tobytes()].add(state)
    unchanged = len(block) - len(states)
    with_rest = b""
    if unchanged:
        of_rest = next(state for state in block if state not in states)
        with_rest = blocks[table.next_state[of_rest]].tobytes()
    sizes = {leads: len(part) for leads, part in parts.items()}
    sizes[with_rest] = sizes.get(with_rest, 0) + unchanged
    largest = max(sizes, key=lambda leads: sizes[leads])
    if unchanged and largest != with_rest:
        parts[with_rest] |= block - states
    return [part for leads, part in parts.items() if leads != largest]


def _numbered(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The number of each state's block, in the order of their first states, and those states."""
    _, kept, labels = np.unique(blocks, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(kept))
    return rank[labels], np.sort(kept)
