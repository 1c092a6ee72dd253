"""Whether labels are what generation would write: begun with the token that it forces, in its language, and allowed.

Host only. Knows ids and generation's rules; must not know what the model computes.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..generation.generation_config import GenerationConfig
from ..targets import TargetForm
from ..text.tokenizer_fit import looks_special
from .finding import Finding
from .ids import Ids, share

_SOME = 0.1
"""Share of the rows from which on something is no accident."""

_FORCE = "model.with_special_tokens(forced_bos_token_id={})"


def lack_the_forced_first(ids: Ids, model: Any, tokenizers: Any = None) -> Iterator[Finding]:
    """Labels that do not begin with the token that generation forces first (BART's `<s>`, a language's code).

    The model would learn to say its first word where generation puts another token, and that word would be lost. Where
    the rows begin with codes, of other languages perhaps, which a call of `generate` may force instead, it is a warning
    for one code and an info for several: a sorted file may begin with a single language.
    """
    form = TargetForm.of(model)
    rows = [row for row in ids.targets if len(row)]
    others = [row for row in rows if row[0] != form.first]
    if form.first is None or not others or len(others) < _SOME * len(rows):
        return
    begins = sorted({int(row[0]) for row in others})
    codes = _may_be_codes(begins, rows, tokenizers)
    several = codes and len({int(row[0]) for row in rows}) > 1
    most = len(others) >= 0.5 * len(rows)
    which = f" (they begin with {begins[0]})" if len(begins) == 1 else ""
    instead = begins[0] if len(begins) == 1 and codes else "..."
    yield Finding(
        code="labels_without_forced_bos",
        severity="info" if several else "error" if most and not codes else "warning",
        message=f"{len(others)} of {len(rows)} rows of labels do not begin with {form.first}, which generation forces "
        f"first{which}: the model learns its first word where generation puts that token.",
        fix="begin labels with it (TokenizerPair.encode_target does); or, if they are right as they are, let "
        f"generation force what they begin with ({_FORCE.format(instead)}), or nothing "
        f"({_FORCE.format(None)}).",
        evidence={"rows": len(others), "of": len(rows), "forced_bos_token_id": form.first},
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
    one = len(codes) == 1
    yield Finding(
        code="start_token_differs",
        severity="warning" if one else "info",
        message=f"labels end with the language code{'' if one else 's'} {', '.join(map(str, codes[:5]))}, which "
        f"training gives the decoder first; generation starts with {form.start}.",
        fix=f"model = model.with_special_tokens(decoder_start_token_id={codes[0] if one else '...'}), or pass "
        "decoder_start_token_id to generate for each language.",
        evidence={"code": codes[0], "codes": len(codes), "decoder_start_token_id": form.start or 0},
    )


def forced_end_is_none(model: Any) -> Iterator[Finding]:
    """What generation forces at its maximum length is not what ends a target."""
    form = TargetForm.of(model)
    if form.ends and form.forced_ends and not set(form.forced_ends) & set(form.ends):
        yield Finding(
            code="forced_eos_differs",
            severity="warning",
            message=f"generation forces {list(form.forced_ends)} as the last token at its maximum length, but targets "
            f"end with {list(form.ends)}.",
            fix=f"model = model.with_special_tokens(forced_eos_token_id={form.ends[0]}), or None to force nothing.",
            evidence={"forced_eos_token_id": form.forced_ends[0], "eos_token_id": form.ends[0]},
        )


def cannot_be_generated(ids: Ids, model: Any) -> Iterator[Finding]:
    """Labels that the model's own `generation_config` forbids: a checkpoint for summaries asks for 56 tokens and more.

    Lengths at most, which nearly every call sets itself, are left out.
    """
    config = model.generation_config
    if config is None or not ids.targets:
        return
    form = TargetForm.of(model)
    reasons = {
        "min_length": lambda row: len(row) < (config.min_length or 0) and _ended(row, form),
        "min_new_tokens": lambda row: len(row) <= (config.min_new_tokens or 0) and _ended(row, form),
        "suppress_tokens": lambda row: np.isin(row, config.suppress_tokens or ()).any(),
        "begin_suppress_tokens": lambda row: row[len(form.begin) :][0:1].tolist() in _alone(config),
        "no_repeat_ngram_size": lambda row: _repeats(row.tolist(), config.no_repeat_ngram_size or 0),
    }
    for name, forbids in reasons.items():
        forbidden = share([bool(forbids(row)) for row in ids.targets])
        if forbidden >= _SOME:
            yield Finding(
                code="targets_cannot_be_generated",
                severity="warning",
                message=f"{forbidden:.0%} of the targets could not be generated: the model's generation_config has "
                f"{name}={getattr(config, name)}.",
                fix=f"give the model other options: dataclasses.replace(model, generation_config=dataclasses.replace("
                f"model.generation_config, {name}=None)), or change generation_config.json.",
                evidence={"option": name, "share": forbidden},
            )


def _alone(config: GenerationConfig) -> list[list[int]]:
    return [[one] for one in config.begin_suppress_tokens or ()]  # pyright: ignore[reportGeneralTypeIssues]


def _ended(row: np.ndarray, form: TargetForm) -> bool:
    return bool(np.isin(row[-1], form.ends or ()))


def _repeats(row: list[int], size: int) -> bool:
    grams = [tuple(row[at : at + size]) for at in range(len(row) - size + 1)] if size else []
    return len(set(grams)) < len(grams)
