"""Distances in the graph of an automaton, on the host. Knows edges, not tokens."""

import numpy as np

from .interface import NEVER


def least_to_end(sources: np.ndarray, targets: np.ndarray, accepting: np.ndarray) -> np.ndarray:
    """The least number of tokens from each state to the end, the end token included; `NEVER` if there is no way.

    Args:
        sources: the state that each edge leaves (repeated edges do no harm).
        targets: the state that each edge leads to.
        accepting: bool, for each state, whether an end token may follow it.
    """
    before, first = incoming(sources, targets, accepting.size)
    least = np.where(accepting, 1, NEVER)
    frontier = np.flatnonzero(accepting)
    tokens = 1
    while frontier.size:
        tokens += 1
        reaching = before[ranges(first[frontier], first[frontier + 1])]
        frontier = np.unique(reaching[least[reaching] == NEVER])
        least[frontier] = tokens
    return least


def incoming(sources: np.ndarray, targets: np.ndarray, states: int) -> tuple[np.ndarray, np.ndarray]:
    """The edges by target: where they come from, and where those of each state begin in that (one entry more)."""
    by_target = np.argsort(targets, kind="stable")
    return sources[by_target], np.searchsorted(targets[by_target], np.arange(states + 1))


def ranges(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """The numbers from each `first` up to, not including, each `last`, one range after another."""
    sizes = last - first
    return np.arange(sizes.sum()) + np.repeat(first - (np.cumsum(sizes) - sizes), sizes)
