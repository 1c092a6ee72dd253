"""`diagnose`: all checks of a model and a batch, which of them can be made, and which findings explain others."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from ..encoder_decoder import EncoderDecoder
from ..params.trainable import cut_and_trained
from ..stack import ScannedStack
from ..training.batch import checked_entries
from ..training.train_config import check_learning_rate
from . import ids as batch_ids
from . import labels, tokenizer_checks, weights
from .finding import Diagnosis, Finding
from .forward import TrialSettings
from .ids import Ids
from .runs import Runs
from .weights import Weights

_BLOCK_RUNS = {
    "half_precision_weights",
    "ids_out_of_range",
    "mask_values",
    "no_labels",
    "nothing_trained",
    "sequence_too_long",
    "special_token_missing",
    "special_token_out_of_range",
}
"""Findings with which the model cannot be run on the batch."""

_EXPLAINS = {
    "dead_cross_attention": ("encoder_ignored", "gradient_zero"),
    "gates_closed": ("encoder_ignored", "gradient_zero"),
    "encoder_constant": ("gradient_zero",),
    "nothing_to_attend": ("encoder_ignored", "gradient_zero"),
    "attention_mask_inverted": ("nothing_to_attend", "attention_mask_missing"),
    "labels_hold_padding": ("labels_without_eos",),
    "labels_shifted": ("labels_without_forced_bos",),
    "labels_of_another_vocabulary": ("loss_above_uniform",),
    "wrong_start_token": ("loss_above_uniform",),
}
"""Findings that explain others, which are then left out."""


def check_before_training(
    model: Any, batch: Mapping[str, Any], *, tokenizers: Any = None, targets: Sequence[str] | None = None
) -> tuple[Finding, ...]:
    """What can be found in a batch without running the model: special tokens, labels, masks, ranges. Milliseconds.

    Args:
        model: an `EncoderDecoder`, in either layout.
        batch: as for `make_train_step`.
        tokenizers: a `TokenizerPair`; with it, whether its tokenizers made the batch and fit the model.
        targets: target texts of the data; with `tokenizers`, whether they come back from ids as they were.

    Raises:
        TypeError: the model or the batch is of the wrong kind.
        ValueError: the batch holds a name that no model reads, or lacks one; or targets are given without tokenizers.
    """
    ids = _ids(model, batch)
    found = [*_of_ids(model, ids, tokenizers), *_of_texts(model, tokenizers, targets)]
    return Diagnosis(findings=tuple(_without_explained(found))).findings


def diagnose(
    model: Any,
    batch: Mapping[str, Any] | None,
    *,
    tokenizers: Any = None,
    targets: Sequence[str] | None = None,
    optimizer: Any = None,
    learning_rate: float | None = None,
    trainable: Any = None,
) -> Diagnosis:
    """Looks for what goes wrong in training: in the model's arrays, in a batch, and in what the one makes of the other.

    Without dropout, on 16 of the rows that have labels. One program is compiled for all runs (forward and backward),
    in the scanned layout unless `trainable` is a tree; the model itself is left as it is. `docs/diagnosis.md` lists
    what is looked for.

    Args:
        model: an `EncoderDecoder`, in either layout.
        batch: as for `make_train_step`: a typical one of the training data, of 8 rows or more. None looks at the arrays
            alone.
        tokenizers: a `TokenizerPair`; with it, whether its tokenizers made the batch and fit the model.
        targets: target texts of the data; with `tokenizers`, whether they come back from ids as they were.
        optimizer: what training steps with: a few steps are tried on a copy. One of `make_optimizer` is tried at the
            highest rate of its schedule, any other from its first step on.
        learning_rate: instead of it, the rate of AdamW with clipping: the highest of the schedule.
        trainable: what is trained, as for `init_train_state`: selectors, or a tree of bools. Default: all that is read.

    Returns:
        The findings, the worst first.

    Raises:
        TypeError: the model or the batch is of the wrong kind.
        ValueError: the batch holds a name that no model reads or lacks one, optimizer and learning_rate are both given,
            the rate is out of range, or targets are given without tokenizers.
    """
    start = time.perf_counter()
    if optimizer is not None and learning_rate is not None:
        raise ValueError("optimizer and learning_rate are both given: an optimizer has its own rate, leave one out.")
    if learning_rate is not None:
        check_learning_rate(learning_rate)
    ids = None if batch is None else _ids(model, batch)
    if trainable is None or isinstance(trainable, str | list | tuple):  # no tree like the model: fits any layout
        model = _in_fast_layout(model)
    model, trained = cut_and_trained(model, trainable)
    sizes, names = Weights(model), weights.trained_names(model, trained)
    findings = [*_of_weights(sizes, names), *_of_ids(model, ids, tokenizers)]
    findings += _of_texts(model, tokenizers, targets)
    runs = Runs(model, trained, sizes)
    blocking = [finding.code for finding in findings if finding.code in _BLOCK_RUNS and finding.severity == "error"]
    if ids is None:
        runs.skipped.append("what the model makes of a batch: none was given.")
    elif blocking:
        runs.skipped.append(f"what the model makes of the batch: mend {blocking[0]} first.")
    else:
        findings += runs.findings(ids, TrialSettings.of(optimizer, learning_rate))
    return Diagnosis(
        findings=tuple(_without_explained(findings)),
        measured=runs.measured,
        skipped=tuple(runs.skipped),
        seconds=time.perf_counter() - start,
    )


def _ids(model: Any, batch: Mapping[str, Any]) -> Ids:
    if not isinstance(model, EncoderDecoder):
        raise TypeError(f"model must be an EncoderDecoder, got {type(model).__name__}; from_pieces makes one.")
    return Ids.of(checked_entries(batch))


def _in_fast_layout(model: Any) -> Any:
    """Scanned, which compiles several times faster, if the layers can be."""
    pieces = [piece for piece in (model.encoder, model.decoder) if hasattr(piece, "stack")]
    if all(isinstance(piece.stack, ScannedStack) for piece in pieces):
        return model
    try:
        return model.with_layout("scanned")
    except NotImplementedError:
        return model


def _of_weights(sizes: Weights, trained: set[str]) -> Iterator[Finding]:
    yield from weights.not_finite(sizes)
    yield from weights.are_half_precision(sizes, trained)
    yield from weights.cross_attention_is_dead(sizes)
    yield from weights.gates_are_closed(sizes, trained)
    yield from weights.embeddings_have_odd_sizes(sizes)
    yield from weights.nothing_is_trained(trained)
    yield from weights.new_parts_are_frozen(sizes, trained)


def _of_ids(model: Any, ids: Ids | None, tokenizers: Any) -> Iterator[Finding]:
    yield from labels.missing(ids, model)
    yield from labels.out_of_range(model)
    yield from labels.forced_end_is_none(model)
    yield from batch_ids.pieces_swapped(model)
    if tokenizers is not None:
        yield from tokenizer_checks.do_not_fit(tokenizers, model)
    if ids is None:
        return
    yield from batch_ids.ids_out_of_range(ids, model)
    yield from batch_ids.too_long(ids, model)
    yield from batch_ids.mask_values(ids)
    yield from labels.none_counts(ids)
    yield from labels.hold_padding(ids, model)
    yield from labels.begin_with_start(ids, model)
    yield from labels.lack_eos(ids, model)
    yield from labels.inputs_are_not_shifted(ids, model)
    yield from labels.lack_the_forced_first(ids, model, tokenizers)
    yield from labels.are_of_another_language(ids, model)
    yield from labels.cannot_be_generated(ids, model)
    yield from labels.are_all_the_same(ids)
    yield from labels.start_is_a_word(ids, model)
    yield from labels.start_differs(ids, model)
    yield from batch_ids.has_no_mask(ids, model)
    yield from batch_ids.mask_is_inverted(ids, model)
    yield from batch_ids.nothing_is_shown(ids)
    yield from batch_ids.hidden_ids_are_odd(ids, model)
    yield from batch_ids.is_mostly_padding(ids)
    if tokenizers is not None:
        yield from tokenizer_checks.unknown_tokens(ids, tokenizers)
        yield from tokenizer_checks.made_by_another(ids, tokenizers, model)


def _of_texts(model: Any, tokenizers: Any, targets: Sequence[str] | None) -> Iterator[Finding]:
    if targets is not None and tokenizers is None:
        raise ValueError("targets are looked at with their tokenizers, and none were given: add tokenizers=...")
    if targets:
        yield from tokenizer_checks.targets_do_not_survive(targets, tokenizers, model)


def _without_explained(findings: Iterable[Finding]) -> Iterator[Finding]:
    found = list(findings)
    explained = set(chain.from_iterable(_EXPLAINS.get(finding.code, ()) for finding in found))
    return (finding for finding in found if finding.code not in explained)
