"""The demo's words: CMUdict, parsed, cleaned and split by word; letters and phonemes as token ids.

What is kept. A word of the letters a-z and the apostrophe; every listed pronunciation, without its stress digits (as
published grapheme-to-phoneme figures are scored), equal ones merged, in the dictionary's order. What is dropped.
Entries whose word holds any other character (hyphens, full stops, digits, accents); `Lexicon.dropped` counts them. The
two vocabularies are written out, so that ids never depend on data.
"""

import hashlib
import itertools
import lzma
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Literal

Pronunciation = tuple[str, ...]
Split = Literal["train", "dev", "test"]

SPLIT_SALT = "encdec_eqx demo"
_PERCENT_TRAIN, _PERCENT_DEV = 90, 5  # the rest is the held-out test split

_WORD = re.compile(r"[a-z']+")
_VARIANT_MARK = re.compile(r"\(\d+\)$")
_STRESS = re.compile(r"\d")


@dataclass(frozen=True, kw_only=True)
class Lexicon:
    """Words with their accepted pronunciations.

    Attributes:
        pronunciations: word → its pronunciations, the dictionary's first one first.
        dropped: how many dictionary lines were left out because their word holds other characters.
    """

    pronunciations: Mapping[str, tuple[Pronunciation, ...]]
    dropped: int

    def words(self, split: Split, *, salt: str = SPLIT_SALT) -> list[str]:
        """The words of one split, in the dictionary's order. Another salt splits the words another way."""
        return [word for word in self.pronunciations if split_of(word, salt=salt) == split]


def split_of(word: str, *, salt: str = SPLIT_SALT) -> Split:
    """The split a word belongs to: about 90 % train, 5 % dev, 5 % test, by a salted SHA-256 of the word.

    The hash depends on the word alone, so all pronunciations of a word fall together and the split never changes when
    words are added.
    """
    bucket = _stable_hash(salt, word) % 100
    if bucket < _PERCENT_TRAIN:
        return "train"
    return "dev" if bucket < _PERCENT_TRAIN + _PERCENT_DEV else "test"


def fixed_sample(words: list[str], count: int) -> list[str]:
    """The same `count` words on every machine: those with the smallest salted hash (all of them if there are fewer)."""
    return sorted(words, key=lambda word: _stable_hash(SPLIT_SALT + " sample", word))[:count]


@cache
def load_lexicon() -> Lexicon:
    """CMUdict from the package's own compressed copy (parsed once a process)."""
    packed = resources.files("encdec_eqx.demo").joinpath("assets/cmudict/cmudict.dict.xz").read_bytes()
    return parse_lexicon(lzma.decompress(packed).decode("utf-8"))


def parse_lexicon(text: str) -> Lexicon:
    """Read CMUdict's own format: `word PH0 PH1 …`, variants marked `word(2)`, a comment after `#`.

    Raises:
        ValueError: a line that has a word and no phonemes.
    """
    kept: dict[str, list[Pronunciation]] = {}
    dropped = 0
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split("#", 1)[0].split()
        if not fields:
            continue
        if len(fields) == 1:
            raise ValueError(
                f"line {number} of the dictionary has a word and no phonemes: {line!r}; expected 'word PH PH …'"
            )
        word = _VARIANT_MARK.sub("", fields[0])
        if not _WORD.fullmatch(word):
            dropped += 1
            continue
        phonemes = tuple(_STRESS.sub("", phoneme) for phoneme in fields[1:])
        variants = kept.setdefault(word, [])
        if phonemes not in variants:
            variants.append(phonemes)
    return Lexicon(
        pronunciations=MappingProxyType({word: tuple(variants) for word, variants in kept.items()}), dropped=dropped
    )


def _stable_hash(salt: str, word: str) -> int:
    digest = hashlib.sha256(f"{salt}\0{word}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


LETTER_PAD, LETTER_END, LETTER_MASK = 0, 1, 2
PHONEME_PAD, PHONEME_START, PHONEME_END = 0, 1, 2

LETTER_TOKENS = ("[PAD]", "[END]", "[MASK]", "[UNUSED]", *"abcdefghijklmnopqrstuvwxyz", "'")
_PHONEMES = (
    "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH"  # ARPAbet
)
PHONEME_TOKENS = ("[PAD]", "[START]", "[END]", *_PHONEMES.split())

_LETTER_ID = {token: index for index, token in enumerate(LETTER_TOKENS)}
_PHONEME_ID = {token: index for index, token in enumerate(PHONEME_TOKENS)}


@dataclass(eq=False)  # not frozen: a context manager that it leaves through sets its traceback
class WordError(ValueError):
    """A word the character encoder cannot read; `str()` says which character and what is allowed."""

    word: str
    reason: str

    def __str__(self) -> str:
        return f"cannot pronounce {self.word!r}: {self.reason}"


def encode_word(word: str, *, max_letters: int) -> list[int]:
    """Letter ids of one word, closed by the end mark.

    Capitals are read as small letters, a typographic apostrophe as a plain one.

    Args:
        word: letters a-z and apostrophes.
        max_letters: the longest word the encoder has positions for.

    Raises:
        WordError: the word is empty, too long, or holds another character (which is named).
    """
    letters = word.lower().replace("\u2019", "'")
    if not letters:
        raise WordError(word, "it is empty")
    for place, letter in enumerate(letters, start=1):
        if len(letter) != 1 or letter not in _LETTER_ID:
            raise WordError(
                word,
                f"character {place} is {letter!r}; only the letters a-z and the apostrophe are known",
            )
    if len(letters) > max_letters:
        raise WordError(word, f"it has {len(letters)} letters; at most {max_letters} are supported")
    return [*(_LETTER_ID[letter] for letter in letters), LETTER_END]


def encode_pronunciation(phonemes: Iterable[str]) -> list[int]:
    """Phoneme ids, closed by the end mark.

    Raises:
        ValueError: a phoneme that is not one of the 39.
    """
    try:
        return [*(_PHONEME_ID[phoneme] for phoneme in phonemes), PHONEME_END]
    except KeyError as error:
        raise ValueError(f"unknown phoneme {error}; expected one of {_PHONEMES} (without stress digits)") from None


def decode_pronunciation(ids: Sequence[int]) -> tuple[str, ...]:
    """Phoneme names up to the first end mark; start marks and padding are left out."""
    spoken = itertools.takewhile(lambda index: index != PHONEME_END, map(int, ids))
    return tuple(PHONEME_TOKENS[index] for index in spoken if index not in (PHONEME_PAD, PHONEME_START))
