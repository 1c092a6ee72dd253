"""Whether the model's special tokens exist, and agree with the batch. Host only: no model is run.

Knows ids; must not know what the model computes.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..generation.special_tokens import TOKEN_NAMES, SpecialTokens
from ..surgery.resize import resizing_call
from .finding import Finding
from .ids import Ids


def missing(ids: Ids | None, model: Any) -> Iterator[Finding]:
    """Ids that training or generating needs and that nothing sets.

    Start and pad make the decoder's inputs from labels, so without them (and without `decoder_input_ids`) no step can
    be taken; without an end, generation runs to its maximum length.
    """
    tokens: SpecialTokens = model.special_tokens
    needed = ("decoder_start_token_id", "pad_token_id") if ids is None or ids.decoder_inputs is None else ()
    for name in (*needed, "eos_token_id"):
        if getattr(tokens, name) is None:
            ends = name == "eos_token_id"
            yield Finding(
                code="special_token_missing",
                severity="warning" if ends else "error",
                message=f"the model has no {name}, which "
                + ("ends what it generates." if ends else "makes the decoder's inputs from labels."),
                fix=f"model = model.with_special_tokens({name}=...), with the id from the decoder's tokenizer.",
                evidence={"name": name},
            )


def out_of_range(model: Any) -> Iterator[Finding]:
    """Ids beyond the decoder's vocabulary: jax would look up another row without a word."""
    vocab_size = model.decoder.config.vocab_size
    for name in TOKEN_NAMES:
        value = getattr(model.special_tokens, name)
        for one in value if isinstance(value, tuple) else () if value is None else (value,):
            if one >= vocab_size:
                yield Finding(
                    code="special_token_out_of_range",
                    severity="error",
                    message=f"the model's {name} is {one}, but the decoder's vocabulary has {vocab_size} ids.",
                    fix=f"set the right one with model.with_special_tokens({name}=...), or make room with "
                    f"{resizing_call(model, 'decoder', one + 1)}.",
                    evidence={"name": name, "id": one, "vocab_size": vocab_size},
                )


def start_is_a_word(ids: Ids, model: Any) -> Iterator[Finding]:
    """A start token that is none of bos, eos and pad, and stands in the middle of labels: an ordinary token.

    Nothing but ordinary tokens (and separators) stands in the middle of a target. First and last places are left out:
    language codes may stand there. A warning, for a decoder that was trained with an ordinary token in front wants it.
    """
    tokens: SpecialTokens = model.special_tokens
    start, special = tokens.decoder_start_token_id, {tokens.bos_token_id, tokens.pad_token_id, *_ends(tokens)}
    if start is None or start in special:
        return
    inside = sum(int((row[1:-1] == start).sum()) for row in ids.targets)
    if inside:
        yield Finding(
            code="wrong_start_token",
            severity="warning",
            message=f"decoder_start_token_id is {start}, which stands {inside} times in the middle of labels: it is an "
            "ordinary token of the target.",
            fix="model = model.with_special_tokens(decoder_start_token_id=...): the decoder's [CLS], <s> or "
            f"<|endoftext|> (the model's bos is {tokens.bos_token_id}, its eos {tokens.eos_token_id}).",
            evidence={"decoder_start_token_id": start, "inside_labels": inside},
        )


def start_differs(ids: Ids, model: Any) -> Iterator[Finding]:
    """`decoder_input_ids` that begin with one and the same id, which is not the model's start token.

    Generation would then begin with a token that the decoder never began with in training. Rows that begin with
    different ids (languages, prompts) are left alone; of one id that is no special token, a batch of a single language
    may be the reason, so that is a warning.
    """
    inputs, start = ids.decoder_inputs, model.special_tokens.decoder_start_token_id
    if inputs is None or start is None or not len(ids.rows):
        return
    shown = ids.given.get("decoder_attention_mask")
    begins = np.zeros(len(inputs), int) if shown is None else shown.astype(bool).argmax(axis=1)
    first = {int(inputs[row, begins[row]]) for row in ids.rows}
    if len(first) == 1 and first != {start}:
        (other,) = first
        tokens: SpecialTokens = model.special_tokens
        special = {tokens.bos_token_id, tokens.pad_token_id, *_ends(tokens)}
        yield Finding(
            code="start_token_differs",
            severity="error" if other in special else "warning",
            message=f"every row of decoder_input_ids begins with {other}, but generation begins with {start}.",
            fix=f"model = model.with_special_tokens(decoder_start_token_id={other}), or make the inputs with "
            "shift_tokens_right(labels, pad_token_id, decoder_start_token_id).",
            evidence={"first": other, "decoder_start_token_id": start},
        )


def _ends(tokens: SpecialTokens) -> tuple[int, ...]:
    return tuple(tokens.eos_token_id or ())  # pyright: ignore[reportArgumentType]
