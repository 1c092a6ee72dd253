"""What labels must be: unshifted, ended once by the end token, -100 behind it, and different from row to row.

Host only. Knows ids; must not know what the model computes.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..targets import TargetForm
from .finding import Finding
from .ids import Ids, share, tail

_SOME = 0.1
"""Share of the rows from which on something is no accident. In good data none of these things happens."""

_CALL = "labels = [*ids, eos_token_id] padded with -100 (TokenizerPair.encode_target and data.Batches do it)."


def none_counts(ids: Ids) -> Iterator[Finding]:
    """Nothing but -100: loss and gradient are 0."""
    if not ids.counted.any():
        yield Finding(
            code="no_labels",
            severity="error",
            message="every label of the batch is -100, so nothing can be learned from it.",
            fix="give the target's ids as labels, and -100 only behind them.",
        )


def hold_padding(ids: Ids, model: Any) -> Iterator[Finding]:
    """Padding among the labels: the model learns to say pad after the end, and its loss looks lower than it is.

    Seen by what ends a row: the pad token (unless it is also an end token), or two or more equal ids after, or of, the
    end token. Where pad and end are one token (the GPT-2 recipe), a single one is the end, as it should be.
    """
    ends, pad = _ends(model), model.special_tokens.pad_token_id
    found = [row[-1] for row in ids.targets if padding_behind(row, ends, pad)]
    if share([padding_behind(row, ends, pad) > 0 for row in ids.targets]) >= _SOME:
        token = Counter(map(int, found)).most_common(1)[0][0]
        yield Finding(
            code="labels_hold_padding",
            severity="error",
            message=f"{len(found)} of {len(ids.targets)} rows of labels end in padding (id {token}), which is trained "
            "like text.",
            fix=f"put -100 behind each row's end: {_CALL}",
            evidence={"rows": len(found), "of": len(ids.targets), "id": token},
        )


def begin_with_start(ids: Ids, model: Any) -> Iterator[Finding]:
    """Labels that begin with the start token: they were shifted already, and will be shifted again.

    An error where the end is missing too (it was pushed out) and the start token is one that no text holds; where rows
    are otherwise whole, the decoder merely learns to say its start token first, which costs a step of every generation.
    """
    form = TargetForm.of(model)
    start, rows = form.start, [row for row in ids.targets if len(row) > 1]
    begun = share([row[0] == start for row in rows])
    if start is None or begun < 0.5 or start == form.first:
        return
    whole = share([_ended(row, form) for row in rows]) >= 0.5
    # targets of a sorted file may all begin with a start token that is an ordinary word besides
    certain = not whole and start in {model.special_tokens.bos_token_id, form.pad, *(form.ends or ())}
    yield Finding(
        code="labels_shifted",
        severity="error" if certain else "warning",
        message=f"{begun:.0%} of the rows of labels begin with the start token {start}"
        + (": the decoder reads it twice." if whole else " and lack the end: they were shifted before they came here."),
        fix=f"give labels unshifted and without a start token, for the decoder's inputs are made from them: {_CALL}",
        evidence={"share": begun, "decoder_start_token_id": start},
    )


def lack_the_end(ids: Ids, model: Any) -> Iterator[Finding]:
    """Rows without an end token: the model never learns to stop.

    Where those without one fill the whole width, they may have been cut off: a few such rows are usual (an info), a
    tenth of them is a warning, and so are all of them, for a batch may hold the longest targets of a file. (It may also
    be that all targets are of one length and have no end.) Rows that are shorter were not cut.
    """
    form = TargetForm.of(model)
    ends = form.ends
    if not ends or not ids.targets:
        return
    open_rows = np.array([not _ended(row, form) for row in ids.targets])
    cut = open_rows & ids.full
    short = share(open_rows & ~cut)
    evidence = {"without": int(open_rows.sum()), "of": len(open_rows), "eos_token_id": str(list(ends))}
    if share(open_rows) >= 0.5 or short >= _SOME:
        usual, times = Counter(int(row[-1]) for row in ids.targets).most_common(1)[0]
        hint = f" ({times} rows end with {usual}: is that the end?)" if times > 1 and usual not in ends else ""
        yield Finding(
            code="labels_without_eos",
            severity="error" if share(open_rows) >= 0.5 and short >= _SOME else "warning",
            message=f"{open_rows.sum()} of {len(open_rows)} rows of labels do not end with the model's end token "
            f"{_named(ends)}{hint}, so it does not learn to stop"
            + ("." if short >= _SOME else ", unless they were cut off: they all fill the batch's width."),
            fix=f"end every row: {_CALL} If another id ends them, model.with_special_tokens(eos_token_id=...).",
            evidence=evidence,
        )
    elif cut.any():
        yield Finding(
            code="truncated_targets",
            severity="warning" if share(cut) >= _SOME else "info",
            message=f"{cut.sum()} of {len(cut)} rows of labels fill the whole width of {ids.labels.shape[1]} and have "
            f"no end token {_named(ends)}: they were cut off.",
            fix="allow longer targets (max_target_length), or end what is cut: TokenizerPair.encode_target does.",
            evidence=evidence,
        )


def inputs_are_not_shifted(ids: Ids, model: Any) -> Iterator[Finding]:
    """`decoder_input_ids` that equal the labels (the answer is given away), or have little to do with them.

    What the labels give when they are moved right is right, even where it equals them, as it does in `a a a a`.
    """
    inputs, form = ids.decoder_inputs, TargetForm.of(model)
    if inputs is None or inputs.shape != ids.labels.shape or _is_shifted(ids, inputs, form):
        return
    both = ids.counted[:, 1:] & ids.counted[:, :-1]
    same = share((inputs == ids.labels)[ids.counted])
    shifted = share((inputs[:, 1:] == ids.labels[:, :-1])[both])
    fix = "leave decoder_input_ids out: they are made from the labels, moved one step to the right."
    evidence = {"equal": same, "shifted": shifted}
    if same >= 0.95 and ids.counted.sum() > 1:
        yield Finding(
            code="inputs_not_shifted",
            severity="error",
            message="decoder_input_ids equal the labels: the decoder is shown each answer, and learns to copy it.",
            fix=fix,
            evidence=evidence,
        )
    elif both.sum() > 1 and shifted < 0.5:
        yield Finding(
            code="inputs_not_shifted",
            severity="warning",
            message=f"only {shifted:.0%} of decoder_input_ids are the label before theirs.",
            fix=fix,
            evidence=evidence,
        )


def are_all_the_same(ids: Ids) -> Iterator[Finding]:
    """One target for several sources: eight rows or more, so that it is no accident, not even with two classes."""
    rows, source = ids.rows, ids.source
    if len(rows) < 8 or source is None:
        return
    if len({row.tobytes() for row in ids.targets}) == 1 and len({source[row].tobytes() for row in rows}) > 1:
        yield Finding(
            code="constant_targets",
            severity="warning",
            message=f"all {len(rows)} rows have the same labels, though their sources differ.",
            fix="look at how sources and targets are paired; a model trained on this need not read the source.",
            evidence={"rows": len(rows)},
        )


def padding_behind(row: np.ndarray, ends: tuple[int, ...], pad: int | None) -> int:
    """How many ids at the end of a row are padding."""
    last, run = tail(row)
    if last in ends:
        return run - 1
    if last == pad:
        return run
    return run if run > 1 and run < len(row) and int(row[-run - 1]) in ends else 0


def _is_shifted(ids: Ids, inputs: np.ndarray, form: TargetForm) -> bool:
    """Whether inputs are the labels moved right, behind one and the same id."""
    begins = inputs[ids.rows, 0]
    both = ids.counted[:, 1:] & ids.counted[:, :-1]
    alike = len(set(begins.tolist())) == 1 and (both.any() or begins[:1].tolist() == [form.start])
    return bool(alike) and share((inputs[:, 1:] == ids.labels[:, :-1])[both] if both.any() else True) >= 0.95


def _ended(row: np.ndarray, form: TargetForm) -> bool:
    """Whether a row ends with an end token, padding aside; or with mBART's language code behind it."""
    ends = form.ends or ()
    content = row[: len(row) - padding_behind(row, ends, form.pad)]
    if len(content) > 1 and int(content[-2]) in ends and (form.code_behind_end or int(content[-1]) == form.start):
        return True
    return len(content) > 0 and int(content[-1]) in ends


def _ends(model: Any) -> tuple[int, ...]:
    return tuple(model.special_tokens.eos_token_id or ())


def _named(ends: tuple[int, ...]) -> str:
    return str(ends[0]) if len(ends) == 1 else f"(one of {list(ends)})"
