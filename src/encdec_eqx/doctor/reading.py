"""Whether the decoder reads the source: what changes when every row is given another row's source.

The measure is the divergence of the predictions for the right source from those for another (nats a label), and what
the right one gains (mean loss with another source, less the loss with its own). In a model that has learned to use its
source the two are about equal, as they are by definition if its predictions are true; measured while three pairs were
trained, the gain was 1.0 to 12 times the divergence from the third step on.

Knows numbers; must not know how they were made.
"""

import dataclasses
import math
from collections.abc import Iterator

from .finding import Finding

QUIET = 1e-3
"""Divergence, in nats a label, below which the source as good as does not matter."""

GAINS = 3e-3
"""Gain, in nats a label, that shows learning: pairs trained on sources of other rows stayed below it."""

MOVED = 0.05
"""How far cross-attention must have been trained before silence means anything; see `Weights.cross_attention_moved`.
Learning pairs, in their quiet first steps, had moved by 0.02; pairs with nothing to learn from sources, in the 40 steps
after which they were quiet, by 0.12."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """What giving every row another's source changed.

    Attributes:
        divergence: of the predictions, in nats a label, where the two rows have different labels: elsewhere the source
            need not matter. NaN if they have the same everywhere.
        gain: mean loss with another's source, less that with its own, of the same labels.
        moved: whether any logit differs at all.
        states: relative change of the encoder's states: root of the mean square of the difference over that of the
            states, at positions that both rows have, of rows that differ at one of these.
        loss: mean loss with the right source.
        unigram_entropy: of the labels: what a model that knows their frequencies, and no more, must pay.
        labels: how many labels the means are taken over.
        new: whether cross-attention is as it was drawn.
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
        yield Finding(
            code="encoder_constant",
            severity="error",
            message="the encoder's states are the same for different sources, so no source can matter.",
            fix="load the encoder again (a norm or an embedding of zeros does this), and look whether its input is "
            "masked away.",
            evidence={"relative_change": reading.states},
        )


def encoder_is_ignored(reading: Reading) -> Iterator[Finding]:
    """The predictions do not depend on the source at all, to the last bit: an error, in new models too.

    Cross-attention that is as it was drawn reads next to nothing, as it should: an info. If it has been trained and the
    source still makes next to no difference, that is a warning.
    """
    if reading.states < 1e-5:
        return
    evidence = {"divergence": reading.divergence, "gain": reading.gain}
    if not reading.moved:
        yield Finding(
            code="encoder_ignored",
            severity="error",
            message="the predictions do not depend on the source at all: nothing of the encoder reaches the decoder.",
            fix="look at the cross-attention's weights and masks; Decoder.from_pretrained(path, key=key) draws it anew "
            "where a checkpoint has none.",
            evidence=evidence,
        )
    elif reading.new:
        yield Finding(
            code="cross_attention_new",
            severity="info",
            message="cross-attention is as it was drawn: the decoder does not use the source yet.",
            fix="nothing to do: training teaches it.",
            evidence=evidence,
        )
    elif _is_quiet(reading) and reading.moved_by > MOVED:
        yield Finding(
            code="encoder_ignored",
            severity="warning",
            message="cross-attention has been trained, but another row's source gives the same predictions (divergence "
            f"{reading.divergence:.2g} nats a label): the decoder has learned to do without the source.",
            fix="look whether sources and targets of the training data belong together (were they shuffled apart?), "
            "then train again from fresh cross-attention.",
            evidence={**evidence, "moved_by": reading.moved_by},
        )


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
        yield Finding(
            code="source_does_not_fit",
            severity="warning",
            message="the decoder follows its source, but a row's own source predicts its labels no better than another "
            f"row's (gain {reading.gain:.2g}, divergence {reading.divergence:.2g} nats a label).",
            fix="look whether the source was encoded with the encoder's own tokenizer, whether the mask belongs to it, "
            "and whether sources and labels stand in the same rows.",
            evidence={"divergence": reading.divergence, "gain": reading.gain},
        )
