"""Tokens as people read them: without the signs by which vocabularies mark spaces, joins and bytes."""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .._quoting import printable
from .byte_tokenizer import byte_letters
from .tokenizer_fit import looks_special

GOES_ON = "·"
"""Stands in front of a piece that goes on with the word of the piece before it."""

_SPACE = "\u2581"
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_VISIBLE = {" ": "␣", "\n": "↵", "\r": "↵", "\t": "⇥"}
_BYTE_OF = {letter: byte for byte, letter in enumerate(byte_letters())}


@dataclass(frozen=True)
class _Marks:
    """How a vocabulary writes spaces and joins.

    Attributes:
        byte_level: whether a letter of it stands for a byte (GPT-2's kind).
        spaces: whether words begin with a space, so that a piece without one goes on with a word.
        prefix: what a piece begins with that goes on with a word (BERT's `##`).
        suffix: what the last piece of a word ends with (Marian's `</w>`).
    """

    byte_level: bool
    spaces: bool
    prefix: str
    suffix: str

    @classmethod
    def of(cls, tokenizer: Any) -> "_Marks":
        """As the tokenizer's parts say."""
        parts = repr((tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder))
        byte_level = "ByteLevel" in parts
        return cls(
            byte_level=byte_level,
            spaces=byte_level or _SPACE in parts,
            prefix=getattr(tokenizer.model, "continuing_subword_prefix", None) or "",
            suffix=getattr(tokenizer.model, "end_of_word_suffix", None) or "",
        )

    def read(self, token: str) -> tuple[str, bool]:
        """What a token stands for, its space in front included; and whether its marks say that a word goes on."""
        if self.byte_level:
            return _of_bytes(token), False
        if byte := _BYTE.fullmatch(token):
            letter = chr(int(byte[1], 16))
            return (letter if letter.isascii() else token), False
        if self.prefix and token.startswith(self.prefix) and token != self.prefix:
            return token.removeprefix(self.prefix), True
        return token.replace(_SPACE, " ") if self.spaces else token, False


def display_tokens(tokenizer: Any, ids: Iterable[int]) -> list[str]:
    """Tokens as people read them: `the`, `un`, `·believ`, `·able`, `.`, `</s>`.

    A space in front of a word is left out; a piece that goes on with the word of the piece before it has a dot in
    front. White space that stands by itself, and line breaks, are shown as signs (`␣`, `↵`, `⇥`); bytes that are
    no whole character, in hexadecimal (`<0xE2>`); special tokens, as they are written.

    Args:
        tokenizer: a `tokenizers.Tokenizer`.
        ids: ids of successive tokens. One that the tokenizer does not have is shown as the number.
    """
    marks = _Marks.of(tokenizer)
    shown: list[str] = []
    before, ended = "", True
    for token_id in map(int, ids):
        token = tokenizer.id_to_token(token_id)
        if token is None or stands_apart(tokenizer, token_id):
            shown.append(str(token_id) if token is None else printable(token))
            before, ended = "", True
            continue
        whole = bool(marks.suffix) and token.endswith(marks.suffix)
        text, goes_on = marks.read(token.removesuffix(marks.suffix) if whole else token)
        if marks.suffix:
            goes_on = not ended
        elif marks.spaces:
            goes_on = _joined(before, text)
        shown.append((GOES_ON if goes_on else "") + _visible(text))
        before, ended = text, whole
    return shown


def stands_apart(tokenizer: Any, token_id: int) -> bool:
    """Whether a token is no part of a text: a special one, but not a byte (`<0x0A>`), which only looks like one."""
    return looks_special(tokenizer, token_id) and not _BYTE.fullmatch(tokenizer.id_to_token(token_id))


def _joined(before: str, text: str) -> bool:
    """Whether two pieces are parts of a word, in writing that has spaces between words."""
    if not before or not text:
        return False
    end, start = before[-1], text[0]
    return end.isalnum() and start.isalnum() and unicodedata.east_asian_width(start) not in "WF"


def _of_bytes(token: str) -> str:
    if not all(letter in _BYTE_OF for letter in token):
        return token
    data = bytes(_BYTE_OF[letter] for letter in token)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "".join(f"<0x{byte:02X}>" for byte in data)


def _visible(text: str) -> str:
    """Without the space in front of a word; other white space and what does not print, as signs."""
    if len(text) > 1 and text[0] == " " and not text[1].isspace():
        text = text[1:]
    if text.isspace():
        return "".join(_VISIBLE.get(letter, "␣") for letter in text)
    return printable("".join(letter if letter == " " else _VISIBLE.get(letter, letter) for letter in text))
