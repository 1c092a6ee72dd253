"""What the encoder reads: padding, and the mask that hides it. Host only.

Knows ids and masks; must not know what the model computes.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..encoder import Encoder
from .finding import Finding
from .ids import Ids, share, tail

_FIX_MASK = "give attention_mask with the batch: 1 (or True) for real tokens, 0 for padding, as data.Batches does."


def padding_of(model: Any) -> int | None:
    """The id that the encoder's config calls padding, if it names one."""
    config = model.encoder.config
    return config.embeddings.padding_idx if config.pad_token_id is None else config.pad_token_id


def has_no_mask(ids: Ids, model: Any) -> Iterator[Finding]:
    """Padding that may be attended: there is no mask, or it shows padding at an end of a row.

    Where the encoder's config does not name its padding, equal ids at the ends of several rows are taken for it, if
    there are at least two in each and their numbers differ. An error only where the padding of the config looks like
    padding: a config may name an id that is a letter of one's own vocabulary, and a sorted file's words may end in it.
    """
    source, mask = ids.source, ids.mask
    if source is None or not isinstance(model.encoder, Encoder) or _is_inverted(ids, model):
        return
    pad = padding_of(model)
    rows = [source[row] for row in ids.rows]
    seen = [np.ones(len(row), bool) for row in rows] if mask is None else [mask[row] for row in ids.rows]
    bare = [row[shown] for row, shown in zip(rows, seen, strict=True) if shown.any()]
    if pad is not None:
        least = 2 if pad in _ends(model.encoder) else 1
        padded = [_at_an_end(row, pad) >= least for row in bare]
    else:
        padded, pad = _unnamed_padding(bare)
    if any(padded):
        named = padding_of(model) is not None
        certain = named and mask is None and _is_no_text(rows, int(pad or 0))
        yield Finding(
            code="attention_mask_missing",
            severity="error" if certain else "warning",
            message=f"{sum(padded)} of {len(padded)} sources are padded with {pad}, and "
            + ("there is no attention_mask" if mask is None else "the attention_mask shows it")
            + ": encoder and cross-attention read padding like text.",
            fix=_FIX_MASK,
            evidence={"rows": sum(padded), "of": len(padded), "pad": int(pad or 0)},
        )


def mask_is_inverted(ids: Ids, model: Any) -> Iterator[Finding]:
    """A mask that hides tokens and shows padding: nine tenths of what it hides is text, of what it shows padding."""
    if isinstance(model.encoder, Encoder) and _is_inverted(ids, model):
        yield Finding(
            code="attention_mask_inverted",
            severity="error",
            message="attention_mask is 0 where there are tokens and 1 where there is padding.",
            fix="invert it: 1 (or True) means that a token may be attended.",
        )


def nothing_is_shown(ids: Ids) -> Iterator[Finding]:
    """Labelled rows whose mask is all 0: their decoder can learn nothing from the source."""
    if ids.mask is None or not len(ids.rows):
        return
    empty = np.asarray(~ids.mask[ids.rows].any(axis=tuple(range(1, ids.mask.ndim))))
    if empty.any():
        yield Finding(
            code="nothing_to_attend",
            severity="error",
            message=f"{empty.sum()} of {len(empty)} rows with labels have an attention_mask of zeros only: nothing of "
            "their source can be read.",
            fix="1 (or True) means that a token may be attended: is the mask inverted, or made for another batch?",
            evidence={"rows": int(empty.sum()), "of": len(empty)},
        )


def hidden_ids_are_odd(ids: Ids, model: Any) -> Iterator[Finding]:
    """What the mask hides is not the encoder's padding.

    One other id everywhere is the padding of another tokenizer (a warning); several are tokens that were hidden on
    purpose, or by the mask of another batch (an info, for nothing here can tell).
    """
    source, mask = ids.source, ids.mask
    if source is None or mask is None or not isinstance(model.encoder, Encoder) or _is_inverted(ids, model):
        return
    pad = padding_of(model)
    hidden = source[ids.rows][~mask[ids.rows]]
    if pad is None or share(hidden != pad) < 0.5:
        return
    kinds = np.unique(hidden)
    if len(kinds) == 1:
        yield Finding(
            code="padding_of_another_tokenizer",
            severity="warning",
            message=f"sources are padded with {kinds[0]}, but the encoder's padding is {pad}.",
            fix="encode the source with the encoder's own tokenizer, and pad with the encoder's "
            "config.pad_token_id (TokenizerPair.from_pretrained and data.Batches do both).",
            evidence={"padded_with": int(kinds[0]), "pad_token_id": pad},
        )
    elif len(hidden) > 1:
        yield Finding(
            code="mask_hides_tokens",
            severity="info",
            message=f"attention_mask hides {len(hidden)} source ids of {len(kinds)} kinds, not only padding ({pad}).",
            fix="if they were not hidden on purpose, look whether the mask belongs to these rows.",
            evidence={"hidden": len(hidden), "kinds": len(kinds)},
        )


def is_mostly_padding(ids: Ids) -> Iterator[Finding]:
    """More padding than tokens, on either side: nothing is wrong, but most of the computation is wasted."""
    shares = {"target": 1 - share(ids.counted)}
    if ids.mask is not None:
        shares["source"] = 1 - share(ids.mask)
    for side, padding in shares.items():
        if padding > 0.5:
            yield Finding(
                code="mostly_padding",
                severity="info",
                message=f"{padding:.0%} of the batch's {side} places are padding.",
                fix="put examples of about equal length together: data.Batches(examples, tokens_per_batch=...).",
                evidence={"side": side, "share": padding},
            )


def _is_inverted(ids: Ids, model: Any) -> bool:
    source, mask = ids.source, ids.mask
    if source is None or mask is None:
        return False
    hidden, shown = source[ids.rows][~mask[ids.rows]], source[ids.rows][mask[ids.rows]]
    if not hidden.size or not shown.size:
        return False
    pad = padding_of(model)
    if pad is None:
        # as often shown in every row, it may be the one token that is to be read
        varies = len(set(mask[ids.rows].sum(axis=1).tolist())) > 1
        return varies and len(np.unique(shown)) == 1 and len(np.unique(hidden)) > 2 and shown.flat[0] not in hidden
    return share(hidden == pad) <= 0.1 and share(shown == pad) >= 0.9


def _is_no_text(rows: list[np.ndarray], pad: int) -> bool:
    """Whether an id stands at the ends of rows alone, and not equally often at each."""
    ends = [_at_an_end(row, pad) for row in rows]
    at_ends_alone = all((row == pad).sum() == run for row, run in zip(rows, ends, strict=True))
    return at_ends_alone and len(set(ends)) > 1


def _at_an_end(row: np.ndarray, token: int) -> int:
    """How often a token is repeated at the end, or else the beginning, of a row."""
    for one in (row, row[::-1]):
        last, run = tail(one)
        if last == token:
            return run
    return 0


def _unnamed_padding(rows: list[np.ndarray]) -> tuple[list[bool], int | None]:
    tails = [tail(row) for row in rows]
    long = [last for last, run in tails if run > 1]
    if not long:
        return [], None
    token = max(set(long), key=long.count)
    runs = [run if last == token else 0 for last, run in tails]
    if long.count(token) < 2 or len(set(runs)) < 2:
        return [], None
    return [run > 1 for run in runs], token


def _ends(encoder: Encoder) -> tuple[int, ...]:
    ends = encoder.config.eos_token_id
    return ends if isinstance(ends, tuple) else () if ends is None else (ends,)
