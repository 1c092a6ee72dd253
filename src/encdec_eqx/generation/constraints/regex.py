"""From a regular expression, over characters or over token ids, to a constraint over tokens."""

import itertools
import sys
from collections.abc import Sequence
from string import hexdigits, whitespace
from typing import ClassVar

import numpy as np

from ..._quoting import printable, quoted
from .constraint import as_end_ids, as_vocab_size
from .dfa import MOST_ENTRIES, Table, TokenDFA, from_table, merged_columns, minimised, trimmed
from .glushkov import automaton
from .patterns import Chain, Choice, Node, Reader, Repeat, Symbol, SymbolSet

_CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v"}
_HEXADECIMAL = {"x": 2, "u": 4, "U": 8}


def from_regex(pattern: str, tokens: Sequence[str | None], *, eos_token_id: int | Sequence[int]) -> TokenDFA:
    r"""A constraint to the outputs whose text, as a whole, matches a regular expression.

    The text of an output is its tokens' strings, one after another. A token is allowed wherever the pattern can still
    be completed behind its string, so all ways to cut a text into tokens are allowed.

    Of Python's `re` these are understood, with the same meaning: characters, `.` (not a line's end), classes as
    `[a-z_]` and `[^,]`, `\d \w \s \D \W \S`, `\n \t \r \f \v`, `\xhh \uhhhh \Uhhhhhhhh`, a backslash before
    punctuation, groups `( )` and `(?: )`, `|`, and `* + ? {m} {m,} {m,n}`.

    Args:
        pattern: the regular expression.
        tokens: the text of each id, as it appears within a text (leading spaces included), as many as the model has
            logits. None or an empty string: never allowed, as becomes special tokens. That of an EOS token is not
            looked at.
        eos_token_id: the EOS token, or several.

    Raises:
        TypeError: an argument is not what it should be.
        ValueError: the pattern cannot be read or is too large, or this vocabulary has no way to write what it matches.
    """
    texts = _as_texts(tokens)
    end_ids = as_end_ids(eos_token_id, len(texts))
    for id_ in end_ids:
        texts[id_] = ""
    tree = CharacterReader(pattern).read()
    alphabet = np.asarray(sorted(set(map(ord, set().union(*texts)))), np.int64)
    over_characters, columns = automaton(tree, alphabet)
    over_characters = _useful(over_characters, tree, alphabet)
    to_column = dict(zip(alphabet.tolist(), map(chr, columns.tolist()), strict=True))
    over_tokens, token_columns = _lifted(over_characters, [text.translate(to_column) for text in texts])
    merged, of_column = merged_columns(_useful(over_tokens, tree, alphabet))
    return from_table(merged, of_column[token_columns], end_ids)


def _as_texts(tokens: Sequence[str | None]) -> list[str]:
    if isinstance(tokens, str | dict) or not hasattr(tokens, "__len__"):
        raise TypeError(
            f"`tokens` must be a list with the text of each id in turn, got {type(tokens).__name__}. From a tokenizer: "
            "[tokenizer.decode([id]) for id in range(vocab_size)]."
        )
    if len(tokens):
        as_vocab_size(len(tokens))
    for id_, text in enumerate(tokens):
        if text is not None and not isinstance(text, str):
            raise TypeError(
                f"`tokens[{id_}]` must be a string, or None for a token that is never allowed; got {quoted(text)}."
            )
    if not len(tokens):
        raise ValueError("`tokens` is empty; expected the text of each id of the vocabulary.")
    return [text or "" for text in tokens]


def _useful(table: Table, tree: Node, alphabet: np.ndarray) -> Table:
    """The smallest automaton of the same language, which must hold something."""
    useful = trimmed(table)
    if useful is None:
        raise ValueError(
            "No output can be valid: the tokens of this vocabulary cannot spell any text that matches `pattern`."
            + _missing_characters(tree, alphabet)
        )
    return minimised(useful)


def _lifted(table: Table, words: list[str]) -> tuple[Table, np.ndarray]:
    """The same states, with a column for all tokens that lead to the same states; and the column of each token.

    `words` are, of each token, the columns of its characters, written as characters of those numbers.
    """
    by_column = np.column_stack([table.next_state.T, np.full(table.next_state.shape[1], -1, np.int32)])
    nowhere = np.full(table.accepting.size, -1, np.int32)
    lifted = {nowhere.tobytes(): 0}
    column_of_word = {"": 0}
    # In sorted order a word shares its beginning with the one before: `path` holds where that one's beginnings lead,
    # up to the first that leads nowhere.
    path, before = [np.arange(table.accepting.size, dtype=np.int32)], ""
    for word in sorted(set(words) - {""}):
        alike = zip(before, word, path[1:], strict=False)
        shared = len([*itertools.takewhile(lambda three: three[0] == three[1], alike)])
        del path[shared + 1 :]
        for character in word[shared:]:
            if path[-1] is nowhere:
                break
            behind = by_column[ord(character)][path[-1]]
            path.append(behind if behind.max() >= 0 else nowhere)
        column_of_word[word] = lifted.setdefault(path[-1].tobytes(), len(lifted))
        before = word
        if len(lifted) * nowhere.size > MOST_ENTRIES:
            raise ValueError(
                f"`pattern` is too large for this vocabulary: its {nowhere.size:,} states tell more than "
                f"{len(lifted) - 1:,} kinds of tokens apart. For a long list of fixed outputs use `from_sequences`."
            )
    next_state = np.stack([np.frombuffer(row, np.int32) for row in lifted], axis=1)
    return Table(next_state, table.accepting, table.start), np.asarray([column_of_word[word] for word in words])


def _missing_characters(tree: Node, alphabet: np.ndarray) -> str:
    """A hint, where the pattern has single characters that no token has."""
    present = set(alphabet.tolist())
    missing = sorted(
        symbol.text
        for symbol in set(_symbols(tree))
        if not symbol.symbols.kinds
        and not symbol.symbols.negated
        and not any(low <= code <= high for low, high in symbol.symbols.intervals for code in present)
    )
    if not missing:
        return ""
    shown = printable(", ".join(missing[:10]), 100)
    return f" No token has the characters {shown} in its text; are the texts in `tokens` decoded ones?"


def _symbols(node: Node) -> list[Symbol]:
    match node:
        case Symbol():
            return [node]
        case Repeat():
            return _symbols(node.part)
        case Chain() | Choice():
            return [symbol for part in node.parts for symbol in _symbols(part)]


class CharacterReader(Reader):
    """Reads patterns whose symbols are characters."""

    any: ClassVar[SymbolSet] = SymbolSet(((10, 10),), negated=True)

    def read_class(self) -> SymbolSet:
        begin = self.at
        self.at += 1
        negated = self.take("^")
        if self.peek() == "]":
            self.fail("a class must hold something. Write \\] for the character", at=begin)
        intervals, kinds = [], ""
        while not self.take("]"):
            if not self.peek():
                self.fail("this [ is never closed. Write \\[ for the character", at=begin)
            item = self.at
            one = self.read_one()
            kinds += one.kinds
            intervals += one.intervals
            # a minus sign before the closing bracket is a character
            if self.peek() == "-" and self.peek(2) not in ("-]", "-"):
                self.at += 1
                intervals[-1:] = [self._range(item, one, self.read_one())]
        return SymbolSet(tuple(intervals), kinds, negated)

    def _range(self, begin: int, low: SymbolSet, high: SymbolSet) -> tuple[int, int]:
        if low.kinds or high.kinds:
            self.fail("a range needs a character on both sides. Write \\- for the minus sign", at=begin)
        if high.intervals[0] < low.intervals[0]:
            self.fail("this range runs backwards", at=begin)
        return low.intervals[0][0], high.intervals[0][1]

    def read_one(self) -> SymbolSet:
        """A character, or what a backslash stands for."""
        begin = self.at
        character = self.peek()
        self.at += 1
        if character != "\\":
            return _just(character)
        escaped = self.peek()
        self.at += 1
        if escaped and escaped in "dDwWsS":
            return SymbolSet(kinds=escaped)
        if escaped in _CONTROLS:
            return _just(_CONTROLS[escaped])
        if escaped in _HEXADECIMAL:
            return _just(self._hexadecimal(begin, _HEXADECIMAL[escaped]))
        if not escaped or (escaped.isascii() and escaped.isalnum()):
            self.fail(
                f"\\{escaped} is not supported (no anchors, boundaries or references to groups). Write \\\\ for the "
                "backslash",
                at=begin,
            )
        return _just(escaped)

    def _hexadecimal(self, begin: int, digits: int) -> str:
        text = self.peek(digits)
        self.at += digits
        wrong = len(text) < digits or any(character not in hexdigits for character in text)
        if wrong or int(text, 16) > sys.maxunicode:
            self.fail(f"expected {digits} hexadecimal digits of a character's code", at=begin)
        return chr(int(text, 16))


def _just(character: str) -> SymbolSet:
    return SymbolSet(((ord(character), ord(character)),))


def from_token_regex(pattern: str, *, eos_token_id: int | Sequence[int], vocab_size: int) -> TokenDFA:
    """A constraint to the outputs whose ids, as a whole, match a regular expression.

    A token is written `<17>`, classes `[<17><20>-<30>]` and `[^<5>]`, any token `.`; groups `( )` and `(?: )`, `|`, and
    `* + ? {m} {m,} {m,n}` are as usual, and white space means nothing. EOS tokens are never meant: `.`, ranges and
    negated classes leave them out, and to name one is an error; one follows where the pattern may end.

    Args:
        pattern: the regular expression.
        eos_token_id: the EOS token, or several.
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

    def read_one(self) -> SymbolSet:
        id_ = self._id()
        return SymbolSet(((id_, id_),))

    def read_class(self) -> SymbolSet:
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
            if self.take("-"):
                self.skip()
                high = self._id()
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
        self.skip()
        return id_
