"""The grammar of patterns: alternatives, groups, repetition, and the sets of symbols that stand in them."""

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NoReturn

import numpy as np

from ..._quoting import quoted
from .dfa import equal_rows

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
    """The class of each symbol, of those that every set treats alike, and (sets, classes) which ones each set holds."""
    cuts = np.unique([[low, high + 1] for set_ in sets for low, high in set_.intervals] or [0])
    used = {kind.lower() for set_ in sets for kind in set_.kinds}
    kinds = {kind: np.asarray([KINDS[kind](chr(code)) for code in alphabet], np.bool_) for kind in sorted(used)}
    # symbols between the same cuts and of the same kinds need only be asked about once
    alike, first = equal_rows(np.column_stack([np.searchsorted(cuts, alphabet, side="right"), *kinds.values()]))
    kinds = {kind: of_kind[first] for kind, of_kind in kinds.items()}
    members = np.stack([set_.members(alphabet[first], kinds) for set_ in sets])
    merged, kept = equal_rows(members.T)
    return merged[alike], members[:, kept]


_DEEPEST = 50
_LONGEST = 200_000
"""Characters of a pattern: twenty for each of the symbols that an automaton may have."""

_MOST_DIGITS = 9
"""Of a number: more than any repetition or id needs, and few enough that no number of them takes long to read."""


@dataclass(frozen=True)
class Symbol:
    """One symbol of a set; `text` is how the pattern writes it."""

    symbols: SymbolSet
    text: str


@dataclass(frozen=True)
class Chain:
    """Parts one after another; without any it is the empty string."""

    parts: tuple["Node", ...]


@dataclass(frozen=True)
class Choice:
    """One of several parts."""

    parts: tuple["Node", ...]


@dataclass(frozen=True)
class Repeat:
    """A part `least` to `most` times; None is without limit."""

    part: "Node"
    least: int
    most: int | None


Node = Symbol | Chain | Choice | Repeat


def repeated(part: Node, least: int, most: int | None) -> Repeat:
    """A part `least` to `most` times.

    What may be missing each time, x{0,k}, is x at most as often as both bounds say: (x?){9} is x{0,9}. Written out as
    it stands it would be a set of all the places that can be skipped, for each of its places.
    """
    if isinstance(part, Repeat) and part.least == 0:
        if 0 in (part.most, most):
            return Repeat(part.part, 0, 0)
        return Repeat(part.part, 0, None if part.most is None or most is None else part.most * most)
    return Repeat(part, least, most)


class Reader(abc.ABC):
    """Reads a pattern from left to right, by recursive descent.

    Attributes:
        ignored: characters that mean nothing between symbols.
        any: what a `.` matches.
        pattern: the whole pattern.
        at: how much of it has been read.
    """

    ignored: ClassVar[str] = ""
    any: ClassVar[SymbolSet] = SymbolSet(negated=True)

    def __init__(self, pattern: str):
        if not isinstance(pattern, str):
            raise TypeError(f"`pattern` must be a string, got {type(pattern).__name__}.")
        if len(pattern) > _LONGEST:
            raise ValueError(
                f"`pattern` is {len(pattern):,} characters long; at most {_LONGEST:,} are read. For a long list of "
                "fixed outputs use `from_sequences`."
            )
        self.pattern = pattern
        self.at = 0
        self._depth = 0

    @abc.abstractmethod
    def read_class(self) -> SymbolSet:
        """Read a class in brackets."""

    @abc.abstractmethod
    def read_one(self) -> SymbolSet:
        """Read any other symbol; the next character is none of `( ) | * + ? { ^ $ . [`."""

    def skip(self) -> None:
        """Pass over characters without meaning."""
        while self.peek() and self.peek() in self.ignored:
            self.at += 1

    def read(self) -> Node:
        """The whole pattern.

        Raises:
            ValueError: it is not one, or uses what is not supported; with the position.
        """
        node = self._choice()
        if self.peek():
            self.fail("this ) closes nothing. Write \\) for the character")
        return node

    def peek(self, size: int = 1) -> str:
        """The next characters, as many as there are."""
        return self.pattern[self.at : self.at + size]

    def take(self, text: str) -> bool:
        """Pass over `text` if it comes next."""
        found = self.pattern.startswith(text, self.at)
        self.at += len(text) if found else 0
        return found

    def number(self) -> int | None:
        """Read decimal digits; None if there are none."""
        begin = self.at
        while self.peek() and self.peek() in "0123456789":
            self.at += 1
        digits = self.pattern[begin : self.at].lstrip("0") or "0"
        if len(digits) > _MOST_DIGITS:
            self.fail(f"this number has {len(digits):,} digits, at most {_MOST_DIGITS} are read", at=begin)
        return int(digits) if self.at > begin else None

    def fail(self, problem: str, *, at: int | None = None) -> NoReturn:
        """Raise the error that shows the place."""
        at = self.at if at is None else at
        raise ValueError(
            f"`pattern` at position {at}: {problem}.\n  {quoted(self.pattern)}\n"
            f"  from there: {quoted(self.pattern[at:])}"
        )

    def _choice(self) -> Node:
        parts = [self._chain()]
        while self.take("|"):
            parts.append(self._chain())
        return parts[0] if len(parts) == 1 else Choice(tuple(parts))

    def _chain(self) -> Node:
        parts = []
        self.skip()
        while self.peek() not in ("", "|", ")"):
            parts.append(self._repeated())
            self.skip()
        return parts[0] if len(parts) == 1 else Chain(tuple(parts))

    def _repeated(self) -> Node:
        begin = self.at
        if self.peek() in "*+?{":
            self.fail(f"there is nothing before {self.peek()} to repeat. Write \\{self.peek()} for the character")
        node = self._group() if self.peek() == "(" else self._single()
        self.skip()
        bounds = self._bounds()
        if bounds is None:
            return node
        self.skip()
        if self.peek() in ("?", "+"):
            self.fail(
                "lazy and possessive repetition (*? *+ and the like) is not supported; the match is always of the "
                "whole output. Leave the second sign out"
            )
        if self.peek() in ("*", "{"):
            self.fail("a repetition cannot be repeated again directly. Put the first in ( )", at=begin)
        return repeated(node, *bounds)

    def _group(self) -> Node:
        begin = self.at
        self.at += 1
        if not self.take("?:") and self.peek() == "?":
            self.fail(
                "of the groups that begin with (? only (?: ) is supported; lookaround, named groups and flags are not",
                at=begin,
            )
        self._depth += 1
        if self._depth > _DEEPEST:
            self.fail(f"more than {_DEEPEST} groups stand inside each other", at=begin)
        node = self._choice()
        self._depth -= 1
        if not self.take(")"):
            self.fail("this ( is never closed. Write \\( for the character", at=begin)
        return node

    def _single(self) -> Node:
        if self.peek() in ("^", "$"):
            anchor = self.peek()
            self.fail(
                "anchors are not supported; the match is always of the whole output. "
                f"Leave {anchor} out, or write \\{anchor} for the character"
            )
        begin = self.at
        symbols = self.any if self.take(".") else self.read_class() if self.peek() == "[" else self.read_one()
        return Symbol(symbols, self.pattern[begin : self.at])

    def _bounds(self) -> tuple[int, int | None] | None:
        for mark, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self.take(mark):
                return bounds
        begin = self.at
        if not self.take("{"):
            return None
        least = self.number()
        most = self.number() if self.take(",") else least
        if least is None or not self.take("}"):
            self.fail(
                "expected {m}, {m,} or {m,n} with numbers ({0,n} for at most n). Write \\{ for the character", at=begin
            )
        if most is not None and most < least:
            self.fail(f"at least {least} and at most {most} times is impossible", at=begin)
        return least, most
