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

READS = 1e-4
"""Divergence below which the source as good as does not matter. Fresh cross-attention showed 2e-4 to 7e-3, learning
pairs 2e-4 and more from the third step on, and pairs trained on sources of other rows below 5e-5 after 40 steps."""

GAINS = 3e-3
"""Gain that shows learning all the same: it was 4e-3 and more from the third step on; of no use sources, below 1e-3."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """What giving every row another's source changed.

    Attributes:
        divergence: of the predictions, in nats a label.
        gain: mean loss with another's source, less that with its own.
        states: relative change of the encoder's states: root of the mean square of the difference over that of the
            states, at positions that both rows have.
        uniformity: how evenly the sharpest head of any layer attends, 1 being no preference at all.
        loss: mean loss with the right source.
        uniform_loss: that of predicting all tokens alike.
        new: whether cross-attention is as it was drawn.
    """

    divergence: float
    gain: float
    states: float
    uniformity: float
    loss: float
    uniform_loss: float
    new: bool


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
    """Cross-attention has been trained, and still the predictions do not depend on the source.

    Cross-attention that is as it was drawn reads next to nothing, as it should: an info. Where nothing at all arrives,
    new or not, it is an error.
    """
    if reading.states < 1e-5 or not math.isfinite(reading.divergence):
        return
    evidence = {"divergence": reading.divergence, "gain": reading.gain}
    if reading.divergence < 1e-9 and abs(reading.gain) < 1e-6:
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
    elif reading.divergence < READS and reading.gain < GAINS and reading.loss < reading.uniform_loss:
        yield Finding(
            code="encoder_ignored",
            severity="warning",
            message="cross-attention has been trained, but another row's source gives the same predictions (divergence "
            f"{reading.divergence:.2g} nats a label): the decoder has learned to do without the source.",
            fix="look whether sources and targets of the training data belong together (were they shuffled apart?), "
            "then train again from fresh cross-attention with a lower learning rate for the decoder.",
            evidence=evidence,
        )


def source_does_not_fit(reading: Reading) -> Iterator[Finding]:
    """The decoder follows its source, but its own row's helps no more than another's.

    From a divergence of 0.2 nats on, that is in a model that has learned to read; its gain should be about as large,
    and a quarter of it is far from anything that was measured on good data.
    """
    if reading.divergence > 0.2 and reading.gain < 0.25 * reading.divergence and not reading.new:
        yield Finding(
            code="source_does_not_fit",
            severity="error",
            message="the decoder follows its source, but a row's own source predicts its labels no better than another "
            f"row's (gain {reading.gain:.2g}, divergence {reading.divergence:.2g} nats a label).",
            fix="look whether the source was encoded with the encoder's own tokenizer, whether the mask belongs to it, "
            "and whether sources and labels stand in the same rows.",
            evidence={"divergence": reading.divergence, "gain": reading.gain},
        )


def attention_is_uniform(reading: Reading) -> Iterator[Finding]:
    """Trained cross-attention that prefers no position, in any layer and head: its queries or keys are dead.

    Freshly drawn heads reach 0.9999 of the largest entropy; those that learned to read, 0.99 and less.
    """
    if not reading.new and reading.uniformity > 0.99999:
        yield Finding(
            code="cross_attention_uniform",
            severity="warning",
            message="cross-attention attends to all source positions alike, in every layer and head, though it has "
            "been trained.",
            fix="look whether the weights of its queries and keys are 0; Decoder.from_pretrained(path, key=key) draws "
            "cross-attention anew where a checkpoint has none.",
            evidence={"uniformity": reading.uniformity},
        )
