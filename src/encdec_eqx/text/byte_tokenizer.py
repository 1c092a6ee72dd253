"""ByT5's tokenizer, which needs no file: an id is a byte and 3 (Xue et al. 2022, arXiv:2105.13626).

Written as the `tokenizer.json` that transformers does not write for it, so that it is a tokenizer like any other.
"""

import json
from collections.abc import Mapping
from typing import Any

from .._quoting import quoted

CLASS = "ByT5Tokenizer"
"""Its class in transformers, as configs name it."""

EXTRA_IDS = 125
"""How many tokens `<extra_id_0>`, … follow the bytes in the published models."""

_FIRST = ("<pad>", "</s>", "<unk>")
_BYTES = 256
_AFTER_BYTES = len(_FIRST) + _BYTES


def byte_file(extra: Mapping[int, str]) -> str:
    """The content of a `tokenizer.json` of bytes.

    Args:
        extra: further special tokens, by their ids, which follow those of the bytes.
    """
    # spaces around the first three are left out, as in transformers
    special = [_added(at, token, strip=True) for at, token in enumerate(_FIRST)]
    special += [_added(at, token, strip=False) for at, token in sorted(extra.items())]
    vocabulary = {token: at for at, token in enumerate((*_FIRST, *byte_letters()))}
    ending = {"SpecialToken": {"id": "</s>", "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": special,
            "normalizer": None,
            "pre_tokenizer": level,
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [first, ending],
                "pair": [first, ending, second, ending],
                "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
            },
            # what is no UTF-8 is left out; the library marks it by U+FFFD
            "decoder": {
                "type": "Sequence",
                "decoders": [level, {"type": "Replace", "pattern": {"String": "\ufffd"}, "content": ""}],
            },
            # without merges every letter, which stands for a byte, is a token
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": False,
                "vocab": vocabulary | {token: at for at, token in extra.items()},
                "merges": [],
            },
        }
    )


def extra_tokens(config: Mapping[str, Any]) -> dict[int, str]:
    """The tokens behind the bytes, from a `tokenizer_config.json`: those it lists, or `extra_ids` of them.

    Raises:
        ValueError: what it says is of another kind, or leaves ids out.
    """
    extra: dict[int, Any]
    listed, names = config.get("added_tokens_decoder"), config.get("additional_special_tokens")
    if isinstance(listed, Mapping):
        found = {str(at): token.get("content") if isinstance(token, Mapping) else token for at, token in listed.items()}
        extra = {int(at): token for at, token in found.items() if at.isdigit() and int(at) >= len(_FIRST)}
    elif isinstance(names, list):
        extra = dict(enumerate(names, _AFTER_BYTES))
    else:
        count = config.get("extra_ids", EXTRA_IDS)
        if type(count) is not int or not 0 <= count <= 1_000_000:
            raise ValueError(f"extra_ids is {quoted(count)}; expected a whole number of tokens")
        extra = {_AFTER_BYTES + at: f"<extra_id_{at}>" for at in range(count)}
    if sorted(extra) != list(range(_AFTER_BYTES, _AFTER_BYTES + len(extra))):
        raise ValueError(
            f"its special tokens have the ids {quoted(sorted(extra))}; expected those from {_AFTER_BYTES} on, "
            "one after another, behind the bytes"
        )
    if wrong := [token for token in extra.values() if not isinstance(token, str) or not token]:
        raise ValueError(f"a special token is {quoted(wrong[0])}; expected text")
    return extra


def _added(at: int, token: str, *, strip: bool) -> dict[str, Any]:
    how = {"single_word": False, "lstrip": strip, "rstrip": strip, "normalized": False, "special": True}
    return {"id": at, "content": token, **how}


def byte_letters() -> list[str]:
    """A letter for each byte, as the library's `ByteLevel` has it: its own where it prints, others from 256 on."""
    own = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte if byte in own else next(others)) for byte in range(_BYTES)]
