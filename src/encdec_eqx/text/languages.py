"""Languages of a translation model: which token stands for one, and where transformers' tokenizers put it."""

import dataclasses
import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .._quoting import quoted

LANGUAGE_CODE = re.compile(r"__\w+__|[a-z]{2,3}_[A-Z][A-Za-z]{1,3}")
"""A language's code as mBART (`ro_RO`), NLLB (`ron_Latn`), M2M100 (`__ro__`) and PLBart (`__java__`) write it."""

END = "</s>"
"""What ends a text in all of them."""

_FORCED, _START = "forced_bos_token_id", "decoder_start_token_id"

_OF_KIND: Mapping[str, tuple[bool, str, str | None]] = {
    "M2M100Tokenizer": (False, _FORCED, "en"),
    "NllbTokenizer": (False, _FORCED, "eng_Latn"),
    "MBart50Tokenizer": (False, _FORCED, "en_XX"),
    "MBartTokenizer": (True, _START, "en_XX"),
    "PLBartTokenizer": (True, _START, None),
}
"""Whether a source has its code behind its end, what of the model says a target's, and the source language unless one
is given: by transformers' class."""


@dataclass(frozen=True, kw_only=True)
class Languages:
    """The languages of a pair's texts.

    Attributes:
        kind: transformers' class of the tokenizer, without `Fast`: it says where a code stands. In front of a source
            (M2M100, NLLB, mBART-50) or behind its end (mBART-25, PLBart); and of a target, whether generation forces it
            behind the start token (the first three) or starts with it (the other two).
        src_lang: language of sources; `None` leaves them as the tokenizer itself makes them.
        tgt_lang: language of targets; `None` leaves that to the model.
        legacy_behaviour: NLLB's sources have their code behind the end, as in its first versions.
    """

    kind: str
    src_lang: str | None = None
    tgt_lang: str | None = None
    legacy_behaviour: bool = False

    def __post_init__(self):
        for name in ("src_lang", "tgt_lang"):
            check_code(name, getattr(self, name))
        if self.kind not in _OF_KIND:
            raise ValueError(f"kind is {quoted(self.kind)}; expected one of {', '.join(_OF_KIND)}.")
        if self.legacy_behaviour and self.kind != "NllbTokenizer":
            raise ValueError(f"legacy_behaviour is NLLB's; a {self.kind} has none.")

    @classmethod
    def of_config(cls, config: Mapping[str, Any], tokenizer: Any) -> "Languages | None":
        """What a `tokenizer_config.json` says, if it is that of a tokenizer with languages.

        Its `tgt_lang` is not read: transformers makes labels with it and generates without. What a model generates is
        said by the model.
        """
        kind = str(config.get("tokenizer_class")).removesuffix("Fast")
        if kind not in _OF_KIND:
            return None
        legacy = kind == "NllbTokenizer" and config.get("legacy_behaviour") is True
        named = config.get("src_lang") or _OF_KIND[kind][2]
        known = isinstance(named, str) and _token(tokenizer, named) is not None
        return cls(kind=kind, src_lang=named if known else None, legacy_behaviour=legacy)

    def to_config(self) -> dict[str, Any]:
        """What `of_config` reads, under transformers' names."""
        written = {"tokenizer_class": self.kind, "src_lang": self.src_lang, "tgt_lang": self.tgt_lang}
        return written | ({"legacy_behaviour": self.legacy_behaviour} if self.kind == "NllbTokenizer" else {})

    def replace(self, **changes: Any) -> "Languages":
        """The same with other languages, those that are not `None`."""
        return dataclasses.replace(self, **{name: value for name, value in changes.items() if value is not None})

    def around(self, tokenizer: Any, src_lang: str) -> tuple[list[str], list[str]]:
        """The tokens in front of a source of a language, and those behind it.

        Raises:
            ValueError: the tokenizer has no such language.
        """
        code = language_token(tokenizer, src_lang)
        return ([], [END, code]) if _OF_KIND[self.kind][0] or self.legacy_behaviour else ([code], [END])

    def option(self, tokenizer: Any, tgt_lang: str) -> dict[str, int]:
        """The option of generation, and special token of a model, that makes it write a language.

        Raises:
            ValueError: the tokenizer has no such language.
        """
        return {_OF_KIND[self.kind][1]: tokenizer.token_to_id(language_token(tokenizer, tgt_lang))}


def check_code(name: str, code: Any) -> None:
    """That a language, if there is one, is text.

    Raises:
        TypeError: it is something else, such as the id of its token.
    """
    if code is not None and not isinstance(code, str):
        raise TypeError(f"{name} is {quoted(code)}; expected the code of a language as text, such as 'eng_Latn'.")


def language_token(tokenizer: Any, code: str) -> str:
    """The token of a language: the code itself (`ro_RO`, `ron_Latn`), or between underscores (`__ro__`).

    Raises:
        TypeError: the code is not text.
        ValueError: there is none; the message names codes that are written much like it.
    """
    check_code("the language", code)
    token = _token(tokenizer, code)
    if token is not None:
        return token
    codes = sorted(token.strip("_") for token in tokenizer.get_vocab() if LANGUAGE_CODE.fullmatch(token))
    near = difflib.get_close_matches(code, codes, n=5, cutoff=0.3) or codes[:5]
    shown = f"it has {len(codes)}, such as {', '.join(near)}" if codes else "it has none"
    raise ValueError(f"the tokenizer has no language {quoted(code)}: {shown}.")


def _token(tokenizer: Any, code: str) -> str | None:
    written = (code, f"__{code}__")
    return next((t for t in written if LANGUAGE_CODE.fullmatch(t) and tokenizer.token_to_id(t) is not None), None)
