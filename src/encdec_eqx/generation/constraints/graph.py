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
    by_target = np.argsort(targets, kind="stable")
    sources = sources[by_target]
    first = np.searchsorted(targets[by_target], np.arange(accepting.size + 1))
    least = np.where(accepting, 1, NEVER)
    frontier = np.flatnonzero(accepting)
    tokens = 1
    while frontier.size:
        tokens += 1
        before = sources[ranges(first[frontier], first[frontier + 1])]
        frontier = np.unique(before[least[before] == NEVER])
        least[frontier] = tokens
    return least


def ranges(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """The numbers from each `first` up to, not including, each `last`, one range after another."""
    sizes = last - first
    return np.arange(sizes.sum()) + np.repeat(first - (np.cumsum(sizes) - sizes), sizes)
