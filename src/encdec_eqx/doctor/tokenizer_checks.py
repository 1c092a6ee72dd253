"""Whether the batch's ids were made by the tokenizers that are said to have made them, and keep what texts say.

Asks a tokenizer only what any `tokenizers.Tokenizer` answers.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..generation.special_tokens import TOKEN_NAMES
from ..targets import TargetForm
from ..text.tokenizer_fit import comes_back, keeps_all, reads_alike, unknown_id
from .catalogue import found
from .finding import Finding
from .ids import SOME, Ids, fraction

_ROWS = 32
_UNKNOWN = 0.05
_FEW = 4
"""Fewer rows than that may all be odd ones."""


def do_not_fit(tokenizers: Any, model: Any) -> Iterator[Finding]:
    """Vocabulary sizes and special tokens that contradict the model's; see `TokenizerPair.check`."""
    try:
        tokenizers.check(model)
    except ValueError as error:
        yield found("tokenizers_do_not_fit", also={"problems": " ".join(str(error).split())})


def unknown_tokens(ids: Ids, tokenizers: Any) -> Iterator[Finding]:
    """Tokens that the tokenizer does not know: a twentieth is more than any text that a vocabulary was made for has.

    An error from three tenths on, if most rows have some: a few rows in another script are what they are.
    """
    for side, tokenizer, rows in _sides(ids, tokenizers):
        index = unknown_id(tokenizer)
        unknown_fraction = fraction(np.concatenate(rows) == index) if rows and index is not None else 0.0
        if index is None or unknown_fraction <= _UNKNOWN:
            continue
        rows_with = sum((row == index).any() for row in rows)
        widespread = rows_with >= max(_FEW, 0.5 * len(rows))
        yield found(
            "unknown_tokens",
            "error" if unknown_fraction > 0.3 and widespread else "warning",
            also={"token": tokenizer.id_to_token(index)},
            side=side,
            share=unknown_fraction,
        )


def made_by_another(ids: Ids, tokenizers: Any, model: Any) -> Iterator[Finding]:
    """Ids that their tokenizer would not have made: it does not have them, or, decoded and encoded, others come out.

    Text survives that in nearly every row; ids of another vocabulary in hardly any. That says something only of a
    tokenizer that survives it on texts that it has encoded itself: one without a decoder of its own may not. It is an
    error where the other side's tokenizer does survive on these ids, and would not on any ids whatever, as one of
    letters or of whole words does, for which every sequence of tokens is a text.
    """
    for side, own, rows in _sides(ids, tokenizers):
        special, piece = _ids_around_text(own, model, side), "encoder" if side == "source" else "decoder"
        bare = [row[~np.isin(row, special)] for row in rows]
        contents = list({row.tobytes(): row for row in bare if row.size}.values())[:_ROWS]
        missing = sorted({int(one) for row in contents for one in row if own.id_to_token(int(one)) is None})
        if missing:
            yield found("wrong_tokenizer/unknown_id", also={"piece": piece, "id": missing[0]}, side=side)
            continue
        kept = _survival(own, contents)
        if kept >= 0.5 or not _can_tell(own, contents):
            continue
        other = tokenizers.target if side == "source" else tokenizers.source
        by_other = 0.0 if other is own else _survival(other, contents)
        theirs = by_other > kept + 0.4 and len(contents) > 1 and not _takes_anything(other, contents)
        if not theirs and kept >= 0.2:
            continue
        yield found(
            "wrong_tokenizer/other_side" if theirs else "wrong_tokenizer",
            also={"piece": piece},
            side=side,
            same=kept,
            same_by_other=by_other,
        )


def targets_do_not_survive(texts: Sequence[str], tokenizers: Any, model: Any) -> Iterator[Finding]:
    """Target texts that come back from ids otherwise than they were, which no training changes."""
    try:
        fitting = tokenizers.for_model(model)
        encoded = fitting.encode_target(texts, on_bad="report")
    except ValueError:
        return  # a finding of its own
    unknown = unknown_id(fitting.target)
    changed: dict[bool, list[tuple[str, str]]] = {True: [], False: []}
    for at, (text, again) in enumerate(zip(texts, fitting.decode_target(encoded), strict=True)):
        if at not in encoded.bad and not reads_alike(text, again):
            whole = (unknown is None or unknown not in encoded[at]) and keeps_all(fitting.target, text, again)
            changed[whole].append((text, again))
    count = len(changed[True]) + len(changed[False])
    if not count:
        return
    text, again = (changed[False] or changed[True])[0]
    lost = len(changed[False])
    yield found(
        "targets_do_not_survive/lost" if lost else "targets_do_not_survive",
        "warning" if count >= SOME * len(texts) else "info",
        also={"text": _abbreviate(text), "again": _abbreviate(again)},
        changed=count,
        lost=lost,
        of=len(texts),
    )


def _ids_around_text(tokenizer: Any, model: Any, side: str) -> list[int]:
    """Ids that stand around a text: registered as special, put there by the tokenizer, or the model's own."""
    around = [index for index, added in tokenizer.get_added_tokens_decoder().items() if added.special]
    around += tokenizer.encode("").ids
    of_piece = model.special_tokens if side == "target" else getattr(model.encoder, "config", None)
    own = [getattr(of_piece, name, None) for name in TOKEN_NAMES]
    own += [unknown_id(tokenizer), *(TargetForm.of(model).begin if side == "target" else ())]
    return [int(one) for value in own if value is not None for one in np.atleast_1d(value)] + around


def _survival(tokenizer: Any, contents: list[np.ndarray]) -> float:
    """Fraction of the rows that are the same after decoding and encoding; 1 of none."""
    return fraction([comes_back(tokenizer, row.tolist()) for row in contents]) if contents else 1.0


def _can_tell(tokenizer: Any, contents: list[np.ndarray]) -> bool:
    """Whether ids that the tokenizer itself makes of a text come back, as they do not if its decoder loses spaces."""
    texts = [tokenizer.decode(row.tolist()) for row in contents]
    unknown = unknown_id(tokenizer)
    made = [np.array(tokenizer.encode(text, add_special_tokens=False).ids, int) for text in texts]
    known = [row for row in made if row.size and not (row == unknown).any()]
    return bool(known) and _survival(tokenizer, known) >= 0.9


def _takes_anything(tokenizer: Any, contents: list[np.ndarray]) -> bool:
    """Whether random ids come back too."""
    random, vocabulary = np.random.default_rng(0), sorted(tokenizer.get_vocab().values())
    return _survival(tokenizer, [random.choice(vocabulary, len(row)) for row in contents]) >= 0.5


def _sides(ids: Ids, tokenizers: Any) -> Iterator[tuple[str, Any, list[np.ndarray]]]:
    source, mask = ids.source, ids.mask
    if source is not None:
        shown = np.ones(source.shape, bool) if mask is None else mask
        yield "source", tokenizers.source, [source[row][shown[row]] for row in ids.rows]
    yield "target", tokenizers.target, ids.targets


def _abbreviate(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
