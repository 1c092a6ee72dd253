"""What is measured by running the model on a batch, and which checks get the numbers."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int

from .._inputs import IGNORED
from ..generation.special_tokens import SpecialTokens
from ..params.trainable import trainable as default_trainable
from ..targets import TargetForm
from ..text.texts import source_config
from . import forward, losses
from .finding import Finding
from .forward import Inputs, RunOutput, TrialSettings, rows
from .ids import Ids, is_causal_lm
from .weights import Weights

_ROWS = 16
"""Rows of the batch that the model is run on: enough to tell, few enough for a CPU."""

_ORDERS = 4
"""Orders of the labels that are tried: a single one may happen to be a likely one."""

_FEW = 4
"""Fewer different rows, or labels, than that say nothing of a whole file: it may be sorted."""

_OF_SOURCE = ("input_ids", "attention_mask", "token_type_ids", "position_ids")


class Runs:
    """The runs of one diagnosis, which share one compilation.

    Attributes:
        measured: numbers for the report, by name.
        skipped: what could not be looked at, and why.
    """

    def __init__(self, model: Any, trained: Any, sizes: Weights):
        self.measured: dict[str, float] = {}
        self.skipped: list[str] = []
        self._model, self._sizes = model, sizes
        # without the ids that no run reads, so that models which differ in them share the compilation
        self._bare = dataclasses.replace(model, special_tokens=SpecialTokens(), generation_config=None)
        self._trained = trained
        self._form = TargetForm.of(model)
        # the gradient of all that is read, whatever is frozen, so that freezing costs no compilation
        self._read, self._rest = eqx.partition(self._bare, default_trainable(self._bare))
        self._uniform = math.log(model.decoder.config.vocab_size)

    def findings(self, ids: Ids, tried: TrialSettings | None) -> list[Finding]:
        """All that the runs show on a batch whose ids are in range and some of whose labels count."""
        inputs = self._inputs(ids)
        seen, gradient = self._run(inputs)
        finite = np.asarray(seen.finite)
        if not finite.all():
            where = forward.locate_nonfinite(self._model, rows(inputs, np.flatnonzero(~finite)[:1]))
            return list(forward.are_not_finite(where, int((~finite).sum()), len(finite)))
        counted = np.asarray(inputs["labels"]) != IGNORED
        loss = float(seen.loss)
        norms = losses.norms(Weights(self._of_trained(gradient)))
        self.measured |= {
            "loss": loss,
            "ln_vocab": self._uniform,
            "unigram_entropy": _entropy(np.asarray(inputs["labels"])[counted]),
            "gradient_norm": losses.total(norms),
            "encoder_gradient_norm": losses.total({part: x for part, x in norms.items() if part.startswith("encoder")}),
        }
        found = list(self._loss(seen, loss))
        found += losses.does_not_reach(norms, loss)
        found += losses.is_too_large(norms)
        found += self._reading(inputs, seen, counted, loss)
        if ids.decoder_inputs is None:
            found += self._order(inputs, seen, counted)
            found += self._start(inputs, seen, counted)
        if tried is None:
            self.skipped.append("the learning rate: neither optimizer nor learning_rate was given.")
        else:
            found += self._learning_rate(inputs, tried)
        return found

    def _run(self, inputs: Inputs) -> tuple[RunOutput, Any]:
        return forward.run(self._read, self._rest, inputs)

    def _of_trained(self, tree: Any) -> Any:
        """The entries of a tree like the model that are trained."""
        flags = jax.tree.unflatten(jax.tree.structure(self._bare), jax.tree.leaves(self._trained))
        return eqx.filter(tree, flags)

    def _learning_rate(self, inputs: Inputs, tried: TrialSettings) -> Iterator[Finding]:
        def loss_and_gradient(params: Any) -> tuple[Any, Any]:
            seen, gradient = forward.run(eqx.combine(params, self._read), self._rest, inputs)
            return seen.loss, self._of_trained(gradient)

        params = self._of_trained(self._read)
        yield from forward.is_too_high(
            lambda factor: forward.run_trial(loss_and_gradient, params, tried.optimizer, factor * tried.factor),
            learning_rate=tried.learning_rate,
            uniform=self._uniform,
        )

    def _inputs(self, ids: Ids) -> Inputs:
        """Rows that have labels, from all over the batch, with the decoder's inputs."""
        chosen = rows(dict(ids.given), ids.rows[_evenly_spaced(len(ids.rows), _ROWS)])
        for name in ("attention_mask", "decoder_attention_mask"):
            if name in chosen:
                chosen[name] = chosen[name].astype(bool)
        chosen = {name: x.astype(np.int32) if np.issubdtype(x.dtype, np.integer) else x for name, x in chosen.items()}
        if "attention_mask" not in chosen and ids.source is not None and source_config(self._model) is not None:
            chosen["attention_mask"] = np.ones(chosen["input_ids"].shape, bool)  # what no mask means
        if "decoder_input_ids" not in chosen:
            chosen["decoder_input_ids"] = self._shift_right(chosen["labels"])
        return {name: jnp.asarray(value) for name, value in chosen.items()}

    def _shift_right(self, labels: np.ndarray, start: int | None = None) -> np.ndarray:
        """The labels moved right after the start token: `shift_tokens_right` on the host, which compiles nothing."""
        first = np.broadcast_to(self._form.starts(labels) if start is None else start, len(labels))
        shifted = np.concatenate([first[:, None], labels[:, :-1]], axis=1)
        pad: Any = self._form.pad
        return np.where(shifted == IGNORED, pad, shifted).astype(np.int32)

    def _loss(self, seen: RunOutput, loss: float) -> Iterator[Finding]:
        spread = float(jnp.mean(jnp.std(seen.logits, axis=-1)))
        joined_now = self._sizes.cross_attention_is_new or "enc_to_dec_proj" in self._sizes.new_parts
        yield from losses.is_above_uniform(
            loss,
            self._uniform,
            spread,
            may_be_high=joined_now and self._decoder_is_loaded and not is_causal_lm(self._model),
        )

    @property
    def _decoder_is_loaded(self) -> bool:
        return bool(self._model.decoder.load_report.loaded)

    def _reading(self, inputs: Inputs, seen: RunOutput, counted: np.ndarray, loss: float) -> Iterator[Finding]:
        """Every row with the source of one half the batch away; rows whose sources are equal say nothing.

        Of a sorted file neighbours are alike, and the farther a row is the less.
        """
        order = np.roll(np.arange(len(counted)), max(1, len(counted) // 2))
        swapped = {**inputs, **rows({name: inputs[name] for name in _OF_SOURCE if name in inputs}, order)}
        differ = _rows_that_differ(inputs, swapped)
        if not differ.any():
            self.skipped.append("whether the decoder reads the source: that takes two rows with different sources.")
            return
        other, _ = self._run(swapped)
        labels = np.asarray(inputs["labels"])
        weight = counted & differ[:, None]
        telling = weight & (labels != labels[order])
        apart = np.asarray(forward.divergence(seen.logits, other.logits, inputs["labels"]))
        gain = np.asarray(other.token_loss) - np.asarray(seen.token_loss)
        measured = losses.Reading(
            divergence=float(apart[telling].mean()) if telling.any() else math.nan,
            gain=float(gain[telling].mean()) if telling.any() else math.nan,
            moved=bool(np.asarray(jnp.any(seen.logits != other.logits, axis=-1))[weight].any()),
            states=_relative_change(seen, other, *_apart(inputs, swapped)),
            loss=loss,
            unigram_entropy=self.measured["unigram_entropy"],
            labels=int(telling.sum()),
            new=self._sizes.cross_attention_is_new,
            moved_by=self._sizes.cross_attention_moved / (self._model.decoder.config.initializer_range or 1.0),
        )
        self.measured |= {"source_divergence": float(apart[weight].mean()), "source_gain": float(gain[weight].mean())}
        yield from losses.encoder_is_constant(measured)
        yield from losses.encoder_is_ignored(measured)
        yield from losses.source_does_not_fit(measured)

    def _order(self, inputs: Inputs, seen: RunOutput, counted: np.ndarray) -> Iterator[Finding]:
        """The labels of every row in a random order, its last (the end) left where it is.

        Looked at are rows of which at least half came to another place, for `a a a a` reads the same in any order.
        """
        just_joined = self._sizes.cross_attention_is_new and self._decoder_is_loaded
        if not (just_joined and is_causal_lm(self._model)):
            return
        random, labels = np.random.default_rng(0), np.asarray(inputs["labels"])
        seen_loss, own, other = np.asarray(seen.token_loss), [], []
        for _ in range(_ORDERS):
            scrambled = _scramble(labels, counted, random)
            moved = ((scrambled != labels).sum(axis=1) >= 0.5 * counted.sum(axis=1)) & (counted.sum(axis=1) > 3)
            if len({row.tobytes() for row in labels[moved]}) < _FEW:
                return
            of_scrambled, _ = self._run(
                {
                    **inputs,
                    "labels": jnp.asarray(scrambled),
                    "decoder_input_ids": jnp.asarray(self._shift_right(scrambled)),
                }
            )
            own.append(seen_loss[moved][counted[moved]].mean())
            other.append(np.asarray(of_scrambled.token_loss)[moved][counted[moved]].mean())
        self.measured["loss_of_scrambled_labels"] = float(np.mean(other))
        yield from losses.order_does_not_matter(float(np.mean(own)), float(np.mean(other)), self._uniform)

    def _start(self, inputs: Inputs, seen: RunOutput, counted: np.ndarray) -> Iterator[Finding]:
        """The first label with each of the model's other special tokens in front, if the model was ever trained.

        After a token that generation forces, which is the same in every row, it is the second label.
        """
        tokens, place = self._model.special_tokens, len(self._form.begin)
        start: Any = tokens.decoder_start_token_id
        knows = not self._sizes.cross_attention_is_new or (self._decoder_is_loaded and is_causal_lm(self._model))
        if not knows or place >= counted.shape[1]:
            return
        others = {tokens.bos_token_id, tokens.pad_token_id, *(tokens.eos_token_id or ())} - {None, start}
        labels = np.asarray(inputs["labels"])
        first = np.where(counted[:, place], labels[:, place], IGNORED)
        if len(set(first.tolist()) - {IGNORED}) < _FEW:
            self.skipped.append(f"whether another start token suits better: that takes {_FEW} different first labels.")
            return
        costs = {}
        for other in sorted(others):
            other_inputs = {**inputs, "decoder_input_ids": jnp.asarray(self._shift_right(labels, other))}
            costs[other] = _by_label(self._run(other_inputs)[0], first, place)
        yield from losses.another_start_is_better(_by_label(seen, first, place), costs, start)


def _entropy(labels: np.ndarray) -> float:
    """Of the labels' own frequencies: the loss of the best guess that reads nothing, on this batch."""
    counts = np.unique(labels, return_counts=True)[1]
    probabilities = counts / counts.sum()
    return float(-(probabilities * np.log(probabilities)).sum())


def _scramble(
    labels: Int[np.ndarray, "batch target"], counted: Bool[np.ndarray, "batch target"], random: np.random.Generator
) -> Int[np.ndarray, "batch target"]:
    """The labels of every row in a random order, its last (the end) left where it is."""
    result = labels.copy()
    for row, counts in zip(result, counted, strict=True):
        inside = np.flatnonzero(counts)[:-1]
        row[inside] = row[random.permutation(inside)]
    return result


def _by_label(seen: RunOutput, first: Int[np.ndarray, " batch"], place: int) -> dict[int, float]:
    """The mean loss at a position, by the label there."""
    loss = np.asarray(seen.token_loss)[:, place]
    return {label: float(loss[first == label].mean()) for label in set(first.tolist()) - {IGNORED}}


def _evenly_spaced(number: int, most: int) -> Int[np.ndarray, " few"]:
    """Some of `number` indices, at equal distances; all if they are few."""
    return np.unique(np.linspace(0, number - 1, min(number, most)).round().astype(int))


def _rows_that_differ(inputs: Inputs, others: Inputs) -> Bool[np.ndarray, " batch"]:
    """Rows of which something that may be attended is different: what a mask hides need not be."""
    masks = [np.asarray(one["attention_mask"]) for one in (inputs, others) if "attention_mask" in one]
    different = np.zeros(len(inputs["labels"]), bool)
    for name in _OF_SOURCE:
        if name not in inputs:
            continue
        apart = np.asarray(inputs[name]) != np.asarray(others[name])
        if masks and name != "attention_mask" and apart.shape[:2] == masks[0].shape:
            apart &= np.logical_or(*masks).reshape(*masks[0].shape, *[1] * (apart.ndim - 2))
        different |= apart.reshape(len(apart), -1).any(axis=1)
    return different


def _apart(
    inputs: Inputs, others: Inputs
) -> tuple[Bool[np.ndarray, " batch"], Bool[np.ndarray, "batch source"] | None]:
    """Rows that differ at a position which both show, and what both show.

    A causal encoder's states of `a b` and of `a b c` are equal at both positions, as they should be.
    """
    apart, shown = np.asarray(inputs["input_ids"]) != np.asarray(others["input_ids"]), None
    if "attention_mask" in inputs:
        shown = np.asarray(inputs["attention_mask"]) & np.asarray(others["attention_mask"])
    if shown is not None and shown.shape == apart.shape:
        apart &= shown
    return apart.reshape(len(apart), -1).any(axis=1), shown


def _relative_change(
    seen: RunOutput,
    other: RunOutput,
    differ: Bool[np.ndarray, " batch"],
    shown: Bool[np.ndarray, "batch source"] | None,
) -> float:
    """Of the encoder's states, at the positions that both rows have; infinite if there are none, 0 of zeros."""
    one, two = (np.asarray(run.states, np.float32)[differ] for run in (seen, other))
    if shown is not None and shown.shape[1] == one.shape[1]:
        one, two = one[shown[differ]], two[shown[differ]]
    if not one.size:
        return math.inf
    size = float(np.square(one).mean())
    return math.sqrt(float(np.square(one - two).mean()) / size) if size else 0.0
