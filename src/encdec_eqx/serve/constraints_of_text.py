"""Constraints made with a model's own tokenizer: from the lines of a file, or from a regular expression over text."""

from pathlib import Path

from .._quoting import printable, quoted
from ..generation.constraints import from_regex, from_sequences
from ..generation.constraints.constraint import AbstractConstraint
from ..text import TextToText
from ..text.display_tokens import stands_apart


def of_outputs(speaker: TextToText, file: Path) -> AbstractConstraint:
    """Outputs are lines of a file of UTF-8.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no text, or has no lines.
    """
    try:
        lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{printable(file)} is no UTF-8: {error}.") from None
    if not lines:
        raise ValueError(f"{printable(file)} has no lines: write one output in each.")
    target = speaker.tokenizers.target
    ids = [encoding.ids for encoding in target.encode_batch(lines, add_special_tokens=False)]
    if empty := [line for line, row in zip(lines, ids, strict=True) if not row]:
        raise ValueError(f"{printable(file)} has the output {quoted(empty[0])}, of which the tokenizer makes nothing.")
    return from_sequences(ids, eos_token_id=_ends(speaker), vocab_size=speaker.model.decoder.config.vocab_size)


def of_pattern(speaker: TextToText, pattern: str) -> AbstractConstraint:
    """Outputs match a regular expression.

    Raises:
        ValueError: the expression is none, or the vocabulary cannot spell it.
    """
    texts = _texts(speaker)
    decode = speaker.tokenizers.target.decode
    if any(text is not None and text[:1] == " " and decode([id_]) == text[1:] for id_, text in enumerate(texts)):
        # words begin with a space, which is dropped in front of the first one
        pattern = f" (?:{pattern})"
    return from_regex(pattern, texts, eos_token_id=_ends(speaker))


def _ends(speaker: TextToText) -> tuple[int, ...]:
    return speaker.model.special_tokens.require("eos_token_id")


def _texts(speaker: TextToText) -> list[str | None]:
    """What each id adds to a text; None for special tokens, and for bytes that are no whole character.

    Each is decoded behind another token: alone, some tokenizers would drop the space in front of it.
    """
    target, size = speaker.tokenizers.target, speaker.model.decoder.config.vocab_size
    known = [id_ for id_ in range(size) if target.id_to_token(id_) and not stands_apart(target, id_)]
    first = next((id_ for id_ in known if len(target.decode([id_]).strip()) == 1), known[0])
    before = target.decode([first])
    texts: list[str | None] = [None] * size
    for id_ in known:
        text = target.decode([first, id_]).removeprefix(before)
        texts[id_] = None if "\ufffd" in text else text
    return texts
