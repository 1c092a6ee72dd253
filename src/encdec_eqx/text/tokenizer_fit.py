"""Whether two tokenizers fit a model (vocabulary sizes, special tokens), and what of a text a tokenizer keeps.

Asks a tokenizer only what any `tokenizers.Tokenizer` answers.
"""

import itertools
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from .._quoting import quoted
from ..encoder_decoder import EncoderDecoder
from ..generation.special_tokens import START, TOKEN_NAMES
from ..surgery.resize import resizing_call, share_embedding
from .languages import LANGUAGE_CODE
from .rust_errors import as_value_error
from .texts import source_config

_LOOKS_SPECIAL = re.compile(r"<.*>|\[.*\]", re.DOTALL)


def check(model: EncoderDecoder, source: Any, target: Any) -> None:
    """Raise where they do not fit.

    Raises:
        ValueError: all that does not fit, in one message.
    """
    sides = {"decoder": ("target", target)}
    encoder = source_config(model)
    if encoder is not None:
        sides["encoder"] = ("source", source)
    problems = _too_small(model, sides)
    problems += _not_special(model, target)
    if encoder is not None and (pad := encoder.pad_token_id) is not None and not _is_special(source, pad):
        problems.append(_wrong_role("the encoder's pad_token_id", pad, source, "source"))
    if not problems:
        problems = _another_eos(model, target)
    if problems:
        raise ValueError("the tokenizers do not fit the model:\n" + "\n".join(f"  - {text}" for text in problems))


def _too_small(model: EncoderDecoder, sides: Mapping[str, tuple[str, Any]]) -> list[str]:
    """What to do about ids beyond the embeddings, by piece: its side's name and tokenizer."""
    sizes = {
        piece: max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        for piece, (_, tokenizer) in sides.items()
    }
    problems = []
    for piece, (side, _) in sides.items():
        rows = getattr(model, piece).config.vocab_size
        if sizes[piece] > rows:
            # one table must hold the ids of both
            call = resizing_call(model, piece, max(sizes.values()) if share_embedding(model) else sizes[piece])
            problems.append(
                f"the {side} tokenizer makes ids up to {sizes[piece] - 1}; the {piece}'s embeddings have {rows} rows. "
                f"Is it this {piece}'s tokenizer? If tokens were added: {call}."
            )
    return problems


def _not_special(model: EncoderDecoder, target: Any) -> list[str]:
    problems = []
    for name in TOKEN_NAMES:
        ids = getattr(model.special_tokens, name)
        for token_id in ids if isinstance(ids, tuple) else () if ids is None else (ids,):
            if not _is_special(target, token_id):
                problems.append(_wrong_role(f"the model's {name}", token_id, target, "target"))
    return problems


def _wrong_role(what: str, token_id: int, tokenizer: Any, side: str) -> str:
    token = tokenizer.id_to_token(token_id)
    if token is None:
        return f"{what} is {token_id}, an id that the {side} tokenizer does not have."
    return (
        f"{what} is {token_id}, which is the ordinary token {quoted(token)} of the {side} tokenizer. Set the model's "
        f"with model.with_special_tokens(...), or tell the tokenizer: tokenizer.add_special_tokens([{quoted(token)}])."
    )


def looks_special(tokenizer: Any, token_id: int) -> bool:
    """Whether it is no part of a text: registered as special, or written like a special token or a language's code."""
    token = tokenizer.id_to_token(token_id)
    return _is_special(tokenizer, token_id) or (token is not None and bool(LANGUAGE_CODE.fullmatch(token)))


def _is_special(tokenizer: Any, token_id: int) -> bool:
    """Registered as special, or written like one."""
    added = tokenizer.get_added_tokens_decoder().get(token_id)
    token = tokenizer.id_to_token(token_id)
    return (added is not None and added.special) or (token is not None and bool(_LOOKS_SPECIAL.fullmatch(token)))


def _another_eos(model: EncoderDecoder, target: Any) -> list[str]:
    """BERT's tokenizer ends every text with [SEP], RoBERTa's with </s>: and that is the EOS token a decoder knows."""
    ends = model.special_tokens.eos_token_id
    closing = _ending_tokens(target)
    if not ends or not closing or set(ends) & set(closing):  # pyright: ignore[reportArgumentType]
        return []
    names = [target.id_to_token(i) for i in closing]
    mine = [target.id_to_token(i) for i in ends]  # pyright: ignore[reportGeneralTypeIssues]
    return [
        f"the target tokenizer ends a text with {names} ({closing}); the model's eos_token_id is {list(ends)}, {mine}. "  # pyright: ignore[reportArgumentType]
        f"Set it with model.with_special_tokens(eos_token_id={closing[-1]})."
    ]


def _ending_tokens(tokenizer: Any) -> list[int]:
    """The special tokens that the tokenizer itself puts after a text."""
    return _around(tokenizer)[1]


_TRIED = 20
"""Texts, of which one is hoped to be something that a tokenizer can encode."""


def _around(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer itself puts before and after a text."""
    words = (token for token in tokenizer.get_vocab(with_added_tokens=False) if not _LOOKS_SPECIAL.fullmatch(token))
    for text in ("a", *itertools.islice(words, _TRIED)):
        try:  # without an unknown token, a text of which nothing is known is an error
            with as_value_error("the tokenizer cannot encode this"):
                encoded = tokenizer.encode(text)
        except ValueError:
            continue
        content = [at for at, special in enumerate(encoded.special_tokens_mask) if not special]
        if content:
            return encoded.ids[: content[0]], encoded.ids[content[-1] + 1 :]
    return [], []


_PADS = ("[PAD]", "<pad>", "<|pad|>")


def missing_tokens(model: EncoderDecoder, target: Any) -> dict[str, int]:
    """Special tokens that nothing gave a model and that its decoder's tokenizer knows, by the names of `SpecialTokens`.

    Decoding starts with what the tokenizer puts before a text, and ends with what it puts behind one: BERT's [CLS] and
    [SEP]. What a model's files say is never replaced.
    """
    before, after = _around(target)
    found = {
        START: before[0] if before else None,
        "eos_token_id": after[-1] if after else None,
        "pad_token_id": next((one for one in map(target.token_to_id, _PADS) if one is not None), None),
    }
    return {name: one for name, one in found.items() if one is not None and getattr(model.special_tokens, name) is None}


_NOBODY_KNOWS = "\ue000"
"""A character of the private use area, which no vocabulary holds."""


def unknown_id(tokenizer: Any) -> int | None:
    """The id that stands for what a tokenizer does not know, if it has one."""
    if hasattr(tokenizer.model, "unk_token"):
        unknown = tokenizer.model.unk_token
        return None if unknown is None else tokenizer.token_to_id(unknown)
    # Unigram does not tell its own
    ids = tokenizer.encode(_NOBODY_KNOWS, add_special_tokens=False).ids
    return next((one for one in ids if _LOOKS_SPECIAL.fullmatch(tokenizer.id_to_token(one))), None)


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
