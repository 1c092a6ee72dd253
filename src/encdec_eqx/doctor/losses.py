"""What the numbers of a run tell: its loss, its gradients, and whether the decoder reads the source.

The last is what changes when every row is given another row's source: the divergence of the predictions for the right
source from those for another (nats per label), and what the right one gains (mean loss with another source, less the
loss with its own). In a model that has learned to use its source the two are about equal, as they are by definition if
its predictions are true; measured while three pairs were trained, the gain was 1.0 to 12 times the divergence from the
third step on.

`loss` is a mean over the labels in nats, and `uniform` ln V, that of predicting all tokens alike.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from .catalogue import found
from .finding import Finding
from .weights import Weights

ByLabel = Mapping[int, float]
"""A mean loss for each of some labels."""


def is_above_uniform(loss: float, uniform: float, logits_spread: float, *, may_be_high: bool) -> Iterator[Finding]:
    """A loss well above that of predicting all tokens alike: the model is sure, and wrong.

    A newly initialised head starts within 0.25 of ln V, and trained models lie below it, so more than half a nat (or a
    tenth of ln V) above it is a fault. Not so where a decoder that never learned to continue a text, or one that
    learned to read another encoder, was just joined: those begin high, and come down. A trained model may also meet
    rows that are unlike all that it has learned, so it is an error only where the logits themselves are out of all
    proportion (`logits_spread` is their standard deviation at a position).
    """
    if loss <= uniform + max(0.5, 0.1 * uniform):
        return
    numbers: dict[str, Any] = {"loss": loss, "ln_vocab": uniform, "logits_spread": logits_spread}
    if may_be_high:
        yield found("loss_starts_high", **numbers)
    else:
        yield found("loss_above_uniform/large_logits" if logits_spread > 15 else "loss_above_uniform", **numbers)


def order_does_not_matter(loss: float, scrambled: float, uniform: float) -> Iterator[Finding]:
    """A pretrained language model finds the labels no likelier than the same tokens in another order.

    Text in its own language it finds likelier by far: the demo's phoneme model by 1.8 nats, and with its ids permuted
    by -0.3 to 0.6. More than that is asked for only where the loss is near guessing. For decoders that are pretrained
    to continue text and have just been joined. Targets may also be no text at all (codes, numbers): a warning.
    `loss` and `scrambled` are of the rows that have been put into another order, before and after.
    """
    if scrambled - loss < 0.7 and loss > 0.8 * uniform:
        yield found("labels_of_another_vocabulary", loss=loss, scrambled=scrambled)


def another_start_is_better(own: ByLabel, others: dict[int, ByLabel], start: int) -> Iterator[Finding]:
    """With another special token in front, a trained model finds first labels likelier, by a whole nat or more.

    In a trained model the start token that it was trained with is far the best one. Every label counts once, however
    many rows begin with it, and nearly all must be likelier: after a token that the model has never read first it may
    favour some label or other, and a sorted file's targets may all begin with that one. A warning, because setting
    another start token than its own would break the model. `others` are the losses with these ids as the start token.
    """
    if not others:
        return
    first, costs = _mean(own), {token: _mean(by_label) for token, by_label in others.items()}
    best = min(costs, key=lambda token: costs[token])
    likelier = sum(others[best][label] < own[label] for label in own) / len(own)
    if costs[best] < first - 1.0 and likelier >= 0.75:
        yield found(
            "wrong_start_token/by_run",
            also={"labels": len(own)},
            first=first,
            best=best,
            with_best=costs[best],
            decoder_start_token_id=start,
        )


def _mean(by_label: ByLabel) -> float:
    return sum(by_label.values()) / len(by_label)


LARGE = 1e3
"""Norm of a mean loss's gradient that no good run came near: newly initialised and trained pairs had 0.002 to 18."""

SMALL = 1e-7
"""Fraction of the whole norm below which a part learns nothing; the encoders of good runs had 1e-4 and more."""

_PARTS = (
    "encoder.embeddings",
    "encoder.layers",
    "enc_to_dec_proj",
    "decoder.embeddings",
    "decoder.layers",
    "decoder.lm_head",
)


def norms(gradient: Weights) -> dict[str, float]:
    """The gradient's norm by part: of encoder, decoder, their embeddings, and all cross-attention together."""
    parts: dict[str, list[float]] = {}
    for name, size in gradient.items():
        part = next((part for part in _PARTS if name.startswith(f"{part}.")), name.split(".")[0])
        part = "decoder cross-attention" if ".cross_attention." in name else part
        parts.setdefault(part, []).append(size.rms**2 * size.count)
    return {part: math.sqrt(sum(squares)) for part, squares in parts.items()}


def total(by_part: dict[str, float]) -> float:
    """The norm of several parts together."""
    return math.sqrt(sum(norm**2 for norm in by_part.values()))


def does_not_reach(by_part: dict[str, float], loss: float) -> Iterator[Finding]:
    """Trained parts whose gradient is 0, or vanishes beside the whole.

    A loss of next to nothing has next to no gradient, so it is not looked at.
    """
    whole = total(by_part)
    if loss < 1e-4 or not math.isfinite(whole):
        return
    silent = [part for part, norm in by_part.items() if norm <= SMALL * whole]
    if silent:
        yield found(
            "gradient_zero",
            also={"silent": " and ".join(silent)},
            **{part.replace(" ", "_"): by_part[part] for part in silent},
        )


def is_too_large(by_part: dict[str, float]) -> Iterator[Finding]:
    """A gradient far beyond that of good runs, or that is no number though the loss is one."""
    whole = total(by_part)
    if not whole <= LARGE:
        most = max(by_part, key=lambda part: (not math.isfinite(by_part[part]), by_part[part]))
        yield found("gradient_exploding", also={"of_part": by_part[most]}, norm=whole, part=most)


QUIET = 1e-3
"""Divergence, in nats per label, below which the source hardly matters."""

GAINS = 3e-3
"""Gain, in nats per label, that shows learning: pairs trained on sources of other rows stayed below it."""

MOVED = 0.05
"""How far cross-attention must have been trained before silence means anything; see `Weights.cross_attention_moved`.
Learning pairs, in their quiet first steps, had moved by 0.02; pairs with nothing to learn from sources, in the 40 steps
after which they were quiet, by 0.12."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """What giving every row another's source changed.

    Attributes:
        divergence: of the predictions, in nats per label, where the two rows have different labels: elsewhere the
            source need not matter. NaN if they have the same everywhere.
        gain: mean loss with another's source, less that with its own, of the same labels.
        moved: whether any logit differs at all.
        states: relative change of the encoder's states: root of the mean square of the difference over that of the
            states, at positions that both rows have, of rows that differ at one of these.
        loss: mean loss with the right source.
        unigram_entropy: of the labels: what a model that knows their frequencies, and no more, has as its loss.
        labels: how many labels the means are taken over.
        new: whether cross-attention is newly initialised.
        moved_by: how far it has been trained since.
    """

    divergence: float
    gain: float
    moved: bool
    states: float
    loss: float
    unigram_entropy: float
    labels: int
    new: bool
    moved_by: float

    @property
    def chance(self) -> float:
        """Two standard errors of the gain, if the source were of no use: its variance is about twice the divergence."""
        return 2 * math.sqrt(2 * max(self.divergence, 0.0) / max(self.labels, 1))


def encoder_is_constant(reading: Reading) -> Iterator[Finding]:
    """The encoder says the same whatever it reads.

    States of different sources differ by about their own size, after training and before; a hundred-thousandth is
    rounding.
    """
    if reading.states < 1e-5:
        yield found("encoder_constant", relative_change=reading.states)


def encoder_is_ignored(reading: Reading) -> Iterator[Finding]:
    """The predictions do not depend on the source at all, to the last bit: an error, in new models too.

    Newly initialised cross-attention reads next to nothing, as it should: an info. If it has been trained and the
    source still makes next to no difference, that is a warning.
    """
    if reading.states < 1e-5:
        return
    evidence: dict[str, Any] = {"divergence": reading.divergence, "gain": reading.gain}
    if not reading.moved:
        yield found("encoder_ignored", **evidence)
    elif reading.new:
        yield found("cross_attention_new", **evidence)
    elif _is_quiet(reading) and reading.moved_by > MOVED:
        yield found("encoder_ignored/trained", **evidence, moved_by=reading.moved_by)


def _is_quiet(reading: Reading) -> bool:
    """Next to no divergence, no gain beyond chance, in a decoder that knows more than its tokens' frequencies.

    Until it does, in a cold start, cross-attention is often quiet for a hundred steps and more; it comes to life later.
    """
    knows = reading.loss < 0.9 * reading.unigram_entropy
    return knows and reading.divergence < QUIET and reading.gain < min(GAINS, reading.chance)


def source_does_not_fit(reading: Reading) -> Iterator[Finding]:
    """The decoder follows its source, but its own row's helps no more than another's.

    From a divergence of 0.2 nats on, that is in a model that has learned to read; its gain should be about as large,
    and a quarter of it, less a standard error, is far from anything that was measured on good data. A warning: a model
    that has learned another task reads its sources too, and nothing is wrong with teaching it this one.
    """
    enough = 0.25 * reading.divergence - reading.chance / 2
    if reading.divergence > 0.2 and reading.gain < enough and not reading.new:
        yield found("source_does_not_fit", divergence=reading.divergence, gain=reading.gain)
