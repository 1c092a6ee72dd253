"""Whether the batch's ids were made by the tokenizers that are said to have made them. Host only.

Asks a tokenizer only what any `tokenizers.Tokenizer` answers; must not know what the model computes.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from .finding import Finding
from .ids import Ids, share

_ROWS = 32
_UNKNOWN = 0.05


def do_not_fit(tokenizers: Any, model: Any) -> Iterator[Finding]:
    """Vocabulary sizes and special tokens that contradict the model's; see `TokenizerPair.check`."""
    try:
        tokenizers.check(model)
    except ValueError as error:
        yield Finding(
            code="tokenizers_do_not_fit",
            severity="error",
            message=" ".join(str(error).split()),
            fix="TokenizerPair.from_pretrained(encoder_folder, decoder_folder) reads the pieces' own tokenizers.",
        )


def unknown_tokens(ids: Ids, tokenizers: Any) -> Iterator[Finding]:
    """Tokens that the tokenizer does not know: a twentieth is more than any text that a vocabulary was made for has."""
    for side, tokenizer, rows in _sides(ids, tokenizers):
        unknown = getattr(tokenizer.model, "unk_token", None)
        index = None if unknown is None else tokenizer.token_to_id(unknown)
        unknown_share = share(np.concatenate(rows) == index) if rows and index is not None else 0.0
        if unknown_share > _UNKNOWN:
            yield Finding(
                code="unknown_tokens",
                severity="error" if unknown_share > 0.3 else "warning",
                message=f"{unknown_share:.0%} of the {side}'s tokens are {unknown!r}, unknown to its tokenizer.",
                fix="use a piece whose vocabulary was made for this language and script, or normalise the text as its "
                "tokenizer expects (lower case, Unicode form).",
                evidence={"side": side, "share": unknown_share},
            )


def made_by_another(ids: Ids, tokenizers: Any) -> Iterator[Finding]:
    """Ids that their tokenizer would not have made: decoded and encoded again they come out differently.

    Text survives that in nearly every row; ids of another vocabulary in hardly any, unless every sequence of tokens is
    a text (letters, whole words). Compared with what the other side's tokenizer makes of the same ids.
    """
    for side, own, rows in _sides(ids, tokenizers):
        other = tokenizers.target if side == "source" else tokenizers.source
        kept, by_other = _survival(own, rows), 0.0 if other is own else _survival(other, rows)
        if kept < 0.5 and (kept < 0.2 or by_other > kept + 0.4):
            theirs = by_other > kept + 0.4
            yield Finding(
                code="wrong_tokenizer",
                severity="error" if theirs else "warning",
                message=f"only {kept:.0%} of the {side} rows come out the same when they are decoded and encoded again "
                f"by the {side} tokenizer"
                + (f", but {by_other:.0%} by the other side's: that one made them." if theirs else "."),
                fix=f"encode the {side} with the {'encoder' if side == 'source' else 'decoder'}'s own tokenizer: "
                "encode_pairs(pairs, tokenizers.for_model(model)).",
                evidence={"side": side, "same": kept, "same_by_other": by_other},
            )


def _survival(tokenizer: Any, rows: list[np.ndarray]) -> float:
    """Share of the rows that are the same after decoding and encoding, special tokens left out."""
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    special = [index for index, added in tokenizer.get_added_tokens_decoder().items() if added.special]
    same = []
    for row in rows[:_ROWS]:
        content = row[~np.isin(row, special)]
        if not content.size:
            continue
        if int(content.max()) >= size:
            same.append(False)
            continue
        text = tokenizer.decode(content.tolist(), skip_special_tokens=True)
        again = np.array(tokenizer.encode(text, add_special_tokens=False).ids)
        same.append(np.array_equal(again[~np.isin(again, special)], content))
    return share(same) if same else 1.0


def _sides(ids: Ids, tokenizers: Any) -> Iterator[tuple[str, Any, list[np.ndarray]]]:
    source, mask = ids.source, ids.mask
    if source is not None:
        shown = np.ones(source.shape, bool) if mask is None else mask
        yield "source", tokenizers.source, [source[row][shown[row]] for row in ids.rows]
    yield "target", tokenizers.target, ids.targets
