"""What labels must be: unshifted, ended once by EOS, -100 after it, and what the model's generation would write.

That it would write them depends on its special tokens, which must exist, and on what its generation forces and forbids.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..generation.special_tokens import TOKEN_NAMES, SpecialTokens
from ..surgery.resize import resizing_call
from ..targets import TargetForm
from ..text.tokenizer_fit import looks_special
from .catalogue import found
from .finding import Finding
from .ids import SOME, Ids, fraction, tail


def missing(ids: Ids | None, model: Any) -> Iterator[Finding]:
    """Ids that training or generating needs and that nothing sets.

    Start and pad make the decoder's inputs from labels, so without them (and without `decoder_input_ids`) no step can
    be taken; without EOS, generation runs to its maximum length.
    """
    tokens: SpecialTokens = model.special_tokens
    needed = ("decoder_start_token_id", "pad_token_id") if ids is None or ids.decoder_inputs is None else ()
    for name in (*needed, "eos_token_id"):
        if getattr(tokens, name) is None:
            yield found("special_token_missing/eos" if name == "eos_token_id" else "special_token_missing", name=name)


def out_of_range(model: Any) -> Iterator[Finding]:
    """Ids beyond the decoder's vocabulary: jax would look up another row without a word."""
    vocab_size = model.decoder.config.vocab_size
    for name in TOKEN_NAMES:
        value = getattr(model.special_tokens, name)
        for one in value if isinstance(value, tuple) else () if value is None else (value,):
            if one >= vocab_size:
                yield found(
                    "special_token_out_of_range",
                    also={"resizing": resizing_call(model, "decoder", one + 1)},
                    name=name,
                    id=one,
                    vocab_size=vocab_size,
                )


def start_is_a_word(ids: Ids, model: Any) -> Iterator[Finding]:
    """A start token that is none of bos, eos and pad, and stands in the middle of labels: an ordinary token.

    Nothing but ordinary tokens (and separators) stands in the middle of a target. First and last positions are left
    out: language codes may stand there. A warning, for a decoder that was trained with an ordinary token in front wants
    it.
    """
    tokens: SpecialTokens = model.special_tokens
    start = tokens.decoder_start_token_id
    if start is None or start in _specials(model):
        return
    inside = sum(int((row[1:-1] == start).sum()) for row in ids.targets)
    if inside:
        yield found(
            "wrong_start_token",
            also={"bos": tokens.bos_token_id, "eos": tokens.eos_token_id},
            decoder_start_token_id=start,
            inside_labels=inside,
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
        severity = "error" if other in _specials(model) else "warning"
        yield found("start_token_differs", severity, first=other, decoder_start_token_id=start)


def none_counts(ids: Ids) -> Iterator[Finding]:
    """Nothing but -100: loss and gradient are 0."""
    if not ids.counted.any():
        yield found("no_labels")


def hold_padding(ids: Ids, model: Any) -> Iterator[Finding]:
    """Padding among the labels: the model learns to say pad after EOS, and its loss looks lower than it is.

    Seen by what ends a row: the pad token (unless it is also an EOS token), or two or more equal ids after, or of, the
    EOS token. Where pad and EOS are one token (the GPT-2 recipe), a single one is EOS, as it should be.
    """
    ends, pad = _ends(model), model.special_tokens.pad_token_id
    last = [row[-1] for row in ids.targets if padding_at_end(row, ends, pad)]
    if fraction([padding_at_end(row, ends, pad) > 0 for row in ids.targets]) >= SOME:
        token = Counter(map(int, last)).most_common(1)[0][0]
        yield found("labels_hold_padding", rows=len(last), of=len(ids.targets), id=token)


def begin_with_start(ids: Ids, model: Any) -> Iterator[Finding]:
    """Labels that begin with the start token: they were shifted already, and will be shifted again.

    An error where EOS is missing too (it was pushed out) and the start token is one that no text holds; where rows
    are otherwise whole, the decoder merely learns to say its start token first, which costs one step per generated
    sequence.
    """
    form = TargetForm.of(model)
    start, rows = form.start, [row for row in ids.targets if len(row) > 1]
    begun = fraction([row[0] == start for row in rows])
    if start is None or begun < 0.5 or start == form.first:
        return
    whole = fraction([_is_finished(row, form) for row in rows]) >= 0.5
    # targets of a sorted file may all begin with a start token that is an ordinary word besides
    certain = not whole and start in {model.special_tokens.bos_token_id, form.pad, *(form.ends or ())}
    yield found(
        "labels_shifted/whole" if whole else "labels_shifted",
        "error" if certain else "warning",
        share=begun,
        decoder_start_token_id=start,
    )


def lack_eos(ids: Ids, model: Any) -> Iterator[Finding]:
    """Rows without an EOS token: the model never learns to stop.

    Where those without one fill the whole width, they may have been cut off: a few such rows are usual (an info), a
    tenth of them is a warning, and so are all of them, for a batch may hold the longest targets of a file. (It may also
    be that all targets are of one length and have no EOS.) Rows that are shorter were not cut.
    """
    form = TargetForm.of(model)
    ends = form.ends
    if not ends or not ids.targets:
        return
    open_rows = np.array([not _is_finished(row, form) for row in ids.targets])
    cut = open_rows & ids.full
    short = fraction(open_rows & ~cut)
    evidence = {"without": int(open_rows.sum()), "of": len(open_rows), "eos_token_id": str(list(ends))}
    if fraction(open_rows) >= 0.5 or short >= SOME:
        usual, times = Counter(int(row[-1]) for row in ids.targets).most_common(1)[0]
        hint = f" ({times} rows end with {usual}: is that the end?)" if times > 1 and usual not in ends else ""
        yield found(
            "labels_without_eos" if short >= SOME else "labels_without_eos/full",
            "error" if fraction(open_rows) >= 0.5 and short >= SOME else "warning",
            also={"ends": _format_ends(ends), "hint": hint},
            **evidence,
        )
    elif cut.any():
        yield found(
            "truncated_targets",
            "warning" if fraction(cut) >= SOME else "info",
            also={"cut": cut.sum(), "width": ids.labels.shape[1], "ends": _format_ends(ends)},
            **evidence,
        )


def inputs_are_not_shifted(ids: Ids, model: Any) -> Iterator[Finding]:
    """`decoder_input_ids` that equal the labels (the answer is given away), or have little to do with them.

    What the labels give when they are moved right is right, even where it equals them, as it does in `a a a a`.
    """
    inputs, form = ids.decoder_inputs, TargetForm.of(model)
    if inputs is None or inputs.shape != ids.labels.shape or _is_shifted(ids, inputs, form):
        return
    both = ids.counted[:, 1:] & ids.counted[:, :-1]
    same = fraction((inputs == ids.labels)[ids.counted])
    shifted = fraction((inputs[:, 1:] == ids.labels[:, :-1])[both])
    if same >= 0.95 and ids.counted.sum() > 1:
        yield found("inputs_not_shifted", equal=same, shifted=shifted)
    elif both.sum() > 1 and shifted < 0.5:
        yield found("inputs_not_shifted/unrelated", equal=same, shifted=shifted)


def are_all_the_same(ids: Ids) -> Iterator[Finding]:
    """One target for several sources: eight rows or more, so that it is no accident, not even with two classes."""
    rows, source = ids.rows, ids.source
    if len(rows) < 8 or source is None:
        return
    if len({row.tobytes() for row in ids.targets}) == 1 and len({source[row].tobytes() for row in rows}) > 1:
        yield found("constant_targets", rows=len(rows))


def padding_at_end(row: np.ndarray, ends: tuple[int, ...], pad: int | None) -> int:
    """How many ids at the end of a row are padding."""
    last, run = tail(row)
    if last in ends:
        return run - 1
    if last == pad:
        return run
    return run if run > 1 and run < len(row) and int(row[-run - 1]) in ends else 0


def _is_shifted(ids: Ids, inputs: np.ndarray, form: TargetForm) -> bool:
    """Whether inputs are the labels moved right, after one and the same id."""
    begins = inputs[ids.rows, 0]
    both = ids.counted[:, 1:] & ids.counted[:, :-1]
    alike = len(set(begins.tolist())) == 1 and (both.any() or begins[:1].tolist() == [form.start])
    return bool(alike) and fraction((inputs[:, 1:] == ids.labels[:, :-1])[both] if both.any() else True) >= 0.95


def _is_finished(row: np.ndarray, form: TargetForm) -> bool:
    """Whether a row ends with an EOS token, padding aside; or with mBART's language code after it."""
    ends = form.ends or ()
    content = row[: len(row) - padding_at_end(row, ends, form.pad)]
    if len(content) > 1 and int(content[-2]) in ends and (form.code_behind_end or int(content[-1]) == form.start):
        return True
    return len(content) > 0 and int(content[-1]) in ends


def _specials(model: Any) -> set[int | None]:
    tokens: SpecialTokens = model.special_tokens
    return {tokens.bos_token_id, tokens.pad_token_id, *_ends(model)}


def _ends(model: Any) -> tuple[int, ...]:
    return tuple(model.special_tokens.eos_token_id or ())


def _format_ends(ends: tuple[int, ...]) -> str:
    return str(ends[0]) if len(ends) == 1 else f"(one of {list(ends)})"


def lack_the_forced_first(ids: Ids, model: Any, tokenizers: Any = None) -> Iterator[Finding]:
    """Labels that do not begin with the token that generation forces first (BART's `<s>`, a language's code).

    The model would learn to say its first word where generation puts another token, and that word would be lost. Where
    the rows begin with codes, of other languages perhaps, which a call of `generate` may force instead, it is a warning
    for one code and an info for several: a sorted file may begin with a single language.
    """
    form = TargetForm.of(model)
    rows = [row for row in ids.targets if len(row)]
    others = [row for row in rows if row[0] != form.first]
    if form.first is None or not others or len(others) < SOME * len(rows):
        return
    begins = sorted({int(row[0]) for row in others})
    codes = _may_be_codes(begins, rows, tokenizers)
    several = codes and len({int(row[0]) for row in rows}) > 1
    most = len(others) >= 0.5 * len(rows)
    one = len(begins) == 1
    which = f" (they begin with {begins[0]})" if one else ""
    yield found(
        "labels_without_forced_bos",
        "info" if several else "error" if most and not codes else "warning",
        also={"begins": which, "instead": begins[0] if one and codes else "..."},
        rows=len(others),
        of=len(rows),
        forced_bos_token_id=form.first,
    )


def _may_be_codes(begins: list[int], rows: list[np.ndarray], tokenizers: Any) -> bool:
    """Whether rows begin with languages' codes: special tokens; without a tokenizer, few ids found nowhere else."""
    if tokenizers is not None:
        return all(looks_special(tokenizers.target, one) for one in begins)
    inside = np.concatenate([row[1:] for row in rows])
    return len(begins) <= max(1, len(rows) // 4) and not np.isin(begins, inside).any()


def are_of_another_language(ids: Ids, model: Any) -> Iterator[Finding]:
    """MBART's labels that end with a language's code, where generation starts with another one."""
    form = TargetForm.of(model)
    if not form.code_behind_end or ids.decoder_inputs is not None or not len(ids.rows):
        return
    has_code, code = form.has_code_behind(ids.labels[ids.rows])
    codes = sorted(set(code[has_code].tolist()))
    if not codes or codes == [form.start]:
        return
    yield found(
        "start_token_differs/language" if len(codes) == 1 else "start_token_differs/languages",
        also={"start": form.start, "listed": ", ".join(map(str, codes[:5]))},
        code=codes[0],
        codes=len(codes),
        decoder_start_token_id=form.start or 0,
    )


def forced_end_is_none(model: Any) -> Iterator[Finding]:
    """What generation forces at its maximum length is not what ends a target."""
    form = TargetForm.of(model)
    if form.ends and form.forced_ends and not set(form.forced_ends) & set(form.ends):
        yield found(
            "forced_eos_differs",
            also={"forced": list(form.forced_ends), "ends": list(form.ends)},
            forced_eos_token_id=form.forced_ends[0],
            eos_token_id=form.ends[0],
        )


def cannot_be_generated(ids: Ids, model: Any) -> Iterator[Finding]:
    """Labels that the model's own `generation_config` forbids: a checkpoint for summaries asks for 56 tokens and more.

    Lengths at most, which nearly every call sets itself, are left out.
    """
    config = model.generation_config
    if config is None or not ids.targets:
        return
    form, banned_first = TargetForm.of(model), config.begin_suppress_tokens or ()
    reasons = {
        "min_length": lambda row: len(row) < (config.min_length or 0) and _is_finished(row, form),
        "min_new_tokens": lambda row: len(row) <= (config.min_new_tokens or 0) and _is_finished(row, form),
        "suppress_tokens": lambda row: np.isin(row, config.suppress_tokens or ()).any(),
        "begin_suppress_tokens": lambda row: bool(np.isin(row[len(form.begin) :][:1], banned_first).any()),
        "no_repeat_ngram_size": lambda row: _repeats(row.tolist(), config.no_repeat_ngram_size or 0),
    }
    for name, forbids in reasons.items():
        forbidden = fraction([bool(forbids(row)) for row in ids.targets])
        if forbidden >= SOME:
            yield found(
                "targets_cannot_be_generated", also={"value": getattr(config, name)}, option=name, share=forbidden
            )


def _repeats(row: list[int], size: int) -> bool:
    grams = [tuple(row[at : at + size]) for at in range(len(row) - size + 1)] if size else []
    return len(set(grams)) < len(grams)
