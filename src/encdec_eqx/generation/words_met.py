"""Whether finished rows hold the words that had to come, as a reader would look for them. Knows no search."""

from collections.abc import Sequence

import numpy as np

_Word = tuple[tuple[int, ...], ...]


def words_met(rows: Sequence[np.ndarray], words: Sequence[_Word]) -> np.ndarray:
    """For each row whether it holds every word, each as often as it was asked for.

    Args:
        rows: the ids of each row, its prompt's included.
        words: the alternatives of each word, of which one has to be there.
    """
    times = {word: words.count(word) for word in dict.fromkeys(words)}
    return np.asarray([all(_count(row.tolist(), word) >= least for word, least in times.items()) for row in rows], bool)


def _count(row: list[int], word: _Word) -> int:
    """How often a word is there, without overlaps."""
    alternatives, lengths = set(word), {len(phrase) for phrase in word}
    found = at = 0
    while at < len(row):
        # none is the beginning of another: at most one stands here
        length = next((length for length in lengths if tuple(row[at : at + length]) in alternatives), 0)
        found += length > 0
        at += length or 1
    return found
