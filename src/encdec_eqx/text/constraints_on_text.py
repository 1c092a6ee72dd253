"""Constraints on what a model writes, from texts or a pattern: its target tokenizer says which tokens spell them."""

from collections.abc import Sequence
from typing import Any

from .._quoting import quoted
from ..generation.constraints import from_regex, from_sequences
from ..generation.constraints.constraint import AbstractConstraint
from ..targets import TargetForm
from .text_to_text import TextToText
from .texts import check_texts
from .tokenizer_fit import looks_special

_FORCED = "\ue000"
"""Stands in a pattern for the token that generation forces first: a character of the private use area."""


def constrain_to_texts(speaker: TextToText, texts: Sequence[str]) -> AbstractConstraint:
    """A constraint to exactly these outputs.

    Args:
        speaker: the model and its tokenizers.
        texts: the outputs, at least one.

    Raises:
        ValueError: there are none, one cannot be written by the target tokenizer, or the model has no EOS token.
    """
    form, tokenizers = _form(speaker), speaker.tokenizers
    texts = check_texts(texts)
    rows = [form.bare(row.tolist()) for row in tokenizers.encode_target(texts)]
    said = tokenizers.decode_target([form.labels(row) for row in rows])
    if lost := [text for text, again in zip(texts, said, strict=True) if not again and text.strip()]:
        raise ValueError(f"the target tokenizer cannot write {quoted(lost[0])}: nothing comes back of it.")
    return from_sequences(
        [[*form.begin, *row] for row in rows],
        eos_token_id=list(form.ends or ()),
        vocab_size=speaker.model.decoder.config.vocab_size,
    )


def constrain_to_pattern(speaker: TextToText, pattern: str) -> AbstractConstraint:
    """A constraint to outputs that match a regular expression as a whole; see `generation.constraints.from_regex`.

    Args:
        speaker: the model and its tokenizers.
        pattern: over the text that comes out, without a space in front.

    Raises:
        ValueError: the pattern cannot be read, or this vocabulary cannot write what it matches; or the model has no EOS
            token.
    """
    form = _form(speaker)
    tokens, drops_space = _texts_of_tokens(speaker.tokenizers.target, speaker.model.decoder.config.vocab_size)
    if form.first is not None:
        tokens[form.first] = _FORCED
    front = ("" if form.first is None else _FORCED) + (" ?" if drops_space else "")
    return from_regex(f"{front}(?:{pattern})" if front else pattern, tokens, eos_token_id=list(form.ends or ()))


def _form(speaker: TextToText) -> TargetForm:
    form = TargetForm.of(speaker.model)
    if not form.ends:
        raise ValueError(
            "a constraint ends with the model's EOS token, and the model has none: "
            "model.with_special_tokens(eos_token_id=...) gives it one."
        )
    return form


def _texts_of_tokens(tokenizer: Any, vocab_size: int) -> tuple[list[str | None], bool]:
    """The text of each id inside a text, None where it has none; and whether a space in front of a text is dropped."""
    size = min(vocab_size, tokenizer.get_vocab_size(with_added_tokens=True))
    ordinary = [one for one in range(size) if not looks_special(tokenizer, one)]
    alone = dict(zip(ordinary, tokenizer.decode_batch([[one] for one in ordinary]), strict=True))
    anchor = next((one for one in ordinary if alone[one].isalpha() and alone[one].isascii()), None)
    if anchor is None:
        raise ValueError("the target tokenizer has no token of plain letters, so what its tokens spell is not known.")
    behind = tokenizer.decode_batch([[anchor, one] for one in ordinary])
    tokens: list[str | None] = [None] * vocab_size
    drops_space = False
    for one, text in zip(ordinary, behind, strict=True):
        if not text.startswith(alone[anchor]) or "\ufffd" in text:
            continue
        tokens[one] = inside = text.removeprefix(alone[anchor])
        drops_space = drops_space or (inside.startswith(" ") and not alone[one].startswith(" "))
    return tokens, drops_space
