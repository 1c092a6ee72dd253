"""From a regular expression whose symbols are token ids to a constraint. Knows no text."""

from collections.abc import Sequence
from string import whitespace
from typing import ClassVar

import numpy as np

from ..._quoting import quoted
from .dfa import TokenDFA, from_table
from .ends import as_end_ids, as_vocab_size
from .minimise import minimised
from .positions import automaton
from .symbols import SymbolSet
from .syntax import Reader
from .tables import merged_columns, trimmed


def from_token_regex(pattern: str, *, eos_token_id: int | Sequence[int], vocab_size: int) -> TokenDFA:
    """A constraint to the outputs whose ids, as a whole, match a regular expression.

    A token is written `<17>`, classes `[<17><20>-<30>]` and `[^<5>]`, any token `.`; groups `( )` and `(?: )`, `|`, and
    `* + ? {m} {m,} {m,n}` are as usual, and white space means nothing. End tokens are never meant: `.`, ranges and
    negated classes leave them out, and to name one is an error; one follows where the pattern may end.

    Args:
        pattern: the regular expression.
        eos_token_id: the end token, or several.
        vocab_size: the width of the model's logits.

    Raises:
        TypeError: an argument is not what it should be.
        ValueError: the pattern cannot be read or is too large, or matches nothing.
    """
    vocab_size = as_vocab_size(vocab_size)
    end_ids = as_end_ids(eos_token_id, vocab_size)
    tree = TokenReader(pattern, vocab_size, end_ids).read()
    others = np.setdiff1d(np.arange(vocab_size), end_ids)
    table, columns = automaton(tree, others)
    useful = trimmed(table)
    if useful is None:
        raise ValueError(f"No output can be valid: nothing matches {quoted(pattern)} in a vocabulary of {vocab_size}.")
    merged, of_column = merged_columns(minimised(useful))
    token_columns = np.zeros(vocab_size, np.int32)
    token_columns[others] = of_column[columns]
    return from_table(merged, token_columns, end_ids)


class TokenReader(Reader):
    """Reads patterns whose symbols are token ids."""

    ignored: ClassVar[str] = whitespace

    def __init__(self, pattern: str, vocab_size: int, end_ids: np.ndarray):
        super().__init__(pattern)
        self._vocab_size = vocab_size
        self._end_ids = set(end_ids.tolist())

    def symbol(self) -> SymbolSet:
        """See `Reader`."""
        if self.take("."):
            return SymbolSet(negated=True)
        if self.peek() == "[":
            return self._class()
        id_ = self._id()
        return SymbolSet(((id_, id_),))

    def _class(self) -> SymbolSet:
        begin = self.at
        self.at += 1
        self.skip()
        negated = self.take("^")
        intervals = []
        self.skip()
        while not self.take("]"):
            if not self.peek():
                self.fail("this [ is never closed", at=begin)
            low = high = self._id()
            self.skip()
            if self.take("-"):
                self.skip()
                high = self._id()
                self.skip()
            if high < low:
                self.fail(f"the range from {low} to {high} runs backwards", at=begin)
            intervals.append((low, high))
        if not intervals:
            self.fail("a class must hold something; any token is .", at=begin)
        return SymbolSet(tuple(intervals), negated=negated)

    def _id(self) -> int:
        begin = self.at
        id_ = self.number() if self.take("<") else None
        if id_ is None or not self.take(">"):
            self.fail("expected a token, as <17>. Text is for `from_regex`", at=begin)
        if id_ >= self._vocab_size:
            self.fail(f"the vocabulary has ids from 0 to {self._vocab_size - 1}", at=begin)
        if id_ in self._end_ids:
            self.fail(f"{id_} is an end token, which may come wherever the pattern may end. Leave it out", at=begin)
        return id_
