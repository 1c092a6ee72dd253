"""What of a text a tokenizer keeps: which of its characters come back when its ids are decoded.

Asks a tokenizer only what any `tokenizers.Tokenizer` answers; must not know models.
"""

import re
import unicodedata
from typing import Any

_LOOKS_UNKNOWN = re.compile(r"<.*>|\[.*\]", re.DOTALL)
_NOBODY_KNOWS = "\ue000"
"""A character of the private use area, which no vocabulary holds."""


def unknown_id(tokenizer: Any) -> int | None:
    """The id that stands for what a tokenizer does not know, if it has one."""
    if hasattr(tokenizer.model, "unk_token"):
        unknown = tokenizer.model.unk_token
        return None if unknown is None else tokenizer.token_to_id(unknown)
    # Unigram does not tell its own
    ids = tokenizer.encode(_NOBODY_KNOWS, add_special_tokens=False).ids
    return next((one for one in ids if _LOOKS_UNKNOWN.fullmatch(tokenizer.id_to_token(one))), None)


def keeps_all(tokenizer: Any, text: str, again: str) -> bool:
    """Whether a decoded text has every letter, digit and sign of the text that was encoded.

    Spaces, case, accents and what the tokenizer's own normaliser makes of a text aside: these it changes on purpose.
    A BPE without an unknown token drops what it does not know in silence, which is why ids alone do not tell.
    """
    normalised = text if tokenizer.normalizer is None else tokenizer.normalizer.normalize_str(text)
    return _signs(again) in (_signs(text), _signs(normalised))


def reads_alike(text: str, again: str) -> bool:
    """Whether two texts are the same but for the amount of white space."""
    return text.split() == again.split()


def _signs(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text.casefold())
    # marks, separators and controls; and the sign that stands for a space in SentencePiece's vocabularies
    return "".join(sign for sign in plain if unicodedata.category(sign)[0] not in "MZC" and sign != "\u2581")


def comes_back(tokenizer: Any, ids: list[int]) -> bool:
    """Whether ids are the same after decoding and encoding, in one of the ways in which tokens are joined to a text.

    A tokenizer without a decoder of its own joins by spaces, which is no way back for one of letters.
    """
    tokens = [tokenizer.id_to_token(one) for one in ids]
    if None in tokens:
        return False
    ways = [tokenizer.decode(ids, skip_special_tokens=False), "".join(tokens), " ".join(tokens)]
    if prefix := getattr(tokenizer.model, "continuing_subword_prefix", None):
        ways.append(" ".join(tokens).replace(f" {prefix}", ""))
    return any(tokenizer.encode(text, add_special_tokens=False).ids == ids for text in dict.fromkeys(ways))
