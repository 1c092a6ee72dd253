"""What happened since the last line of the log: mean loss, tokens a second, gradient norm.

Knows the metrics of a step and a clock; must not know where they are shown. Metrics stay on the device until they are
read, so that steps need not wait for each other.
"""

import dataclasses
import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np


class TrainingDivergedError(FloatingPointError):
    """The loss is not a finite number: the parameters are of no use any more."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """One stretch of steps.

    Attributes:
        loss: mean for each label, over the stretch.
        grad_norm: global norm of the last step's gradient, before clipping.
        steps: steps in the stretch.
        tokens_per_second: source and target tokens, padding not counted; compilation is.
    """

    loss: float
    grad_norm: float
    steps: int
    tokens_per_second: float


class Meter:
    """Adds up steps, and reads them out when asked."""

    def __init__(self, saved: Mapping[str, Any] | None = None):
        """Empty, or with what `saved` (an earlier meter's `state`) held."""
        self._steps: list[Mapping[str, Any]] = []
        self._loss_sum, self._labels, self._number, self._grad_norm = 0.0, 0.0, 0, math.nan
        if saved:
            self._loss_sum, self._labels = saved["loss_sum"], saved["labels"]
            self._number, self._grad_norm = saved["steps"], saved["grad_norm"]
        self._tokens, self._seconds = 0, 0.0
        self._started: float | None = None

    def add(self, metrics: Mapping[str, Any], batch: Mapping[str, np.ndarray]) -> None:
        """Counts one step: what it returned, and the batch it was given."""
        self._steps.append(metrics)
        mask = batch.get("attention_mask", batch["input_ids"])
        self._tokens += int(np.count_nonzero(mask)) + int(np.count_nonzero(batch["labels"] >= 0))

    def pause(self) -> None:
        """Stops the clock, if it runs, after the steps so far are done: an evaluation or a checkpoint follows."""
        self.settle()
        if self._started is not None:
            self._seconds += time.perf_counter() - self._started
            self._started = None

    def go_on(self) -> None:
        """Starts the clock."""
        self._started = time.perf_counter()

    def state(self) -> dict[str, Any]:
        """What a resumed run needs to write the same lines."""
        self.settle()
        return {"loss_sum": self._loss_sum, "labels": self._labels, "steps": self._number, "grad_norm": self._grad_norm}

    def read(self, step: int) -> Reading:
        """The stretch that ends with `step`; the next one begins.

        Raises:
            TrainingDivergedError: The loss of a step was not finite.
        """
        self.pause()
        loss = self._loss_sum / max(self._labels, 1.0)
        if not math.isfinite(loss):
            raise TrainingDivergedError(
                f"the loss is {loss} within the {self._number} steps up to step {step}: training has diverged. Lower "
                "learning_rate (a tenth, to begin with), set warmup_ratio=0.1 or max_grad_norm=1.0; "
                "encdec_eqx.training.diagnose(model, batch) looks for other reasons. Earlier checkpoints are intact."
            )
        reading = Reading(
            loss=loss,
            grad_norm=self._grad_norm,
            steps=self._number,
            tokens_per_second=self._tokens / max(self._seconds, 1e-9),
        )
        self._loss_sum, self._labels, self._number, self._tokens, self._seconds = 0.0, 0.0, 0, 0, 0.0
        self.go_on()
        return reading

    def settle(self) -> None:
        """Waits until the steps so far are done. Their sums are the same however often this is called."""
        for metrics in self._steps:
            labels = float(metrics["tokens"])
            self._loss_sum += float(metrics["loss"]) * labels
            self._labels += labels
            self._number += 1
            self._grad_norm = float(metrics["grad_norm"])
        self._steps.clear()
