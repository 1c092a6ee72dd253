"""Sets of symbols (characters or token ids) as patterns write them, and the classes that they cut an alphabet into.

Only symbols that occur in an alphabet are ever looked at. Knows no syntax and no automaton.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .tables import equal_rows

KINDS: dict[str, Callable[[str], bool]] = {
    "d": str.isdecimal,
    "w": lambda character: character.isalnum() or character == "_",
    "s": str.isspace,
}
"""What `\\d`, `\\w` and `\\s` mean, as in Python's `re`; their capitals mean all other characters."""


@dataclass(frozen=True)
class SymbolSet:
    """What one place of a pattern matches.

    Attributes:
        intervals: first and last code of ranges.
        kinds: letters of `KINDS`, capitals among them.
        negated: whether it is all other symbols.
    """

    intervals: tuple[tuple[int, int], ...] = ()
    kinds: str = ""
    negated: bool = False

    def members(self, codes: np.ndarray, kinds: dict[str, np.ndarray]) -> np.ndarray:
        """Which of the codes belong to it, given which of them are of each kind."""
        inside = np.zeros(codes.size, np.bool_)
        if self.intervals:
            low, high = np.asarray(sorted(self.intervals), np.int64).T
            # of the intervals that begin at or before a code, the one that reaches furthest
            last = np.searchsorted(low, codes, side="right") - 1
            inside = (last >= 0) & (codes <= np.maximum.accumulate(high)[last])
        for kind in self.kinds:
            inside |= kinds[kind] if kind.islower() else ~kinds[kind.lower()]
        return inside ^ self.negated


def classes_of(sets: Sequence[SymbolSet], alphabet: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Group symbols that every set treats alike.

    Args:
        sets: at least one set.
        alphabet: codes, ascending.

    Returns:
        The class of each symbol, and (sets, classes) which classes each set holds.
    """
    cuts = np.unique([[low, high + 1] for set_ in sets for low, high in set_.intervals] or [0])
    used = {kind.lower() for set_ in sets for kind in set_.kinds}
    kinds = {kind: np.asarray([KINDS[kind](chr(code)) for code in alphabet], np.bool_) for kind in sorted(used)}
    # symbols between the same cuts and of the same kinds need only be asked about once
    alike, first = equal_rows(np.column_stack([np.searchsorted(cuts, alphabet, side="right"), *kinds.values()]))
    kinds = {kind: of_kind[first] for kind, of_kind in kinds.items()}
    members = np.stack([set_.members(alphabet[first], kinds) for set_ in sets])
    merged, kept = equal_rows(members.T)
    return merged[alike], members[:, kept]
