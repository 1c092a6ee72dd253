"""Letters and phonemes as token ids.

Two fixed vocabularies, written out, so that ids never depend on data. Knows nothing of models or of the dictionary.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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
    ids = []
    for phoneme in phonemes:
        if phoneme not in _PHONEME_ID:
            raise ValueError(f"unknown phoneme {phoneme!r}; expected one of {_PHONEMES} (without stress digits)")
        ids.append(_PHONEME_ID[phoneme])
    return [*ids, PHONEME_END]


def decode_pronunciation(ids: Sequence[int]) -> tuple[str, ...]:
    """Phoneme names up to the first end mark; start marks and padding are left out."""
    names = []
    for index in map(int, ids):
        if index == PHONEME_END:
            break
        if index not in (PHONEME_PAD, PHONEME_START):
            names.append(PHONEME_TOKENS[index])
    return tuple(names)
