"""What is kept while steps go by: the mean loss and speed since the last line, and the best evaluation so far."""

import dataclasses
import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np


class TrainingDivergedError(FloatingPointError):
    """The loss is not a finite number: the parameters are of no use any more."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stretch:
    """One stretch of steps.

    Attributes:
        loss: mean per label, over the stretch.
        grad_norm: global norm of the last step's gradient, before clipping.
        steps: steps in the stretch.
        tokens_per_second: source and target tokens, padding not counted; compilation is.
    """

    loss: float
    grad_norm: float
    steps: int
    tokens_per_second: float


class StepMetrics:
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

    def add(self, metrics: Mapping[str, Any], batch: Mapping[str, np.ndarray], parts: int = 1) -> None:
        """Counts one step: what it returned, and the batch it was given, or one of so many equal parts of it.

        The tokens of the other parts are taken to be as many: they only tell the speed.
        """
        self._steps.append(metrics)
        mask = batch.get("attention_mask", batch["input_ids"])
        self._tokens += parts * (int(np.count_nonzero(mask)) + int(np.count_nonzero(batch["labels"] >= 0)))

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

    def read(self, step: int) -> Stretch:
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
        speed = self._tokens / max(self._seconds, 1e-9)
        reading = Stretch(loss=loss, grad_norm=self._grad_norm, steps=self._number, tokens_per_second=speed)
        self._loss_sum, self._labels, self._number, self._tokens, self._seconds = 0.0, 0.0, 0, 0, 0.0
        self.go_on()
        return reading

    def settle(self) -> None:
        """Waits until the steps so far are done. Their sums are the same however often this is called."""
        for metrics in self._steps:
            labels = float(metrics.get("weight", metrics["tokens"]))
            self._loss_sum += float(metrics["loss"]) * labels
            self._labels += labels
            self._number += 1
            self._grad_norm = float(metrics["grad_norm"])
        self._steps.clear()


@dataclasses.dataclass(frozen=True, kw_only=True)
class BestTracker:
    """The best evaluation, and how many have followed it without improvement.

    Attributes:
        metric: name of the number that is compared.
        greater_is_better: whether more of it is better.
        threshold: improvements up to this do not count against waiting.
        patience: evaluations without improvement after which the run is over; None: never.
        best: best value; None before the first evaluation.
        best_step: its step; of equal values that of the lower loss, then the later one.
        best_values: everything that was evaluated at that step.
        waited: evaluations without improvement since then; an equal value is none.
    """

    metric: str
    greater_is_better: bool
    threshold: float = 0.0
    patience: int | None = None
    best: float | None = None
    best_step: int | None = None
    best_values: Mapping[str, float] | None = None
    waited: int = 0

    def after(self, step: int, values: Mapping[str, float]) -> "BestTracker":
        """The tracker after an evaluation."""
        value = values[self.metric]
        gain = self._gain(value)
        waited = 0 if gain > self.threshold else self.waited + 1
        if gain > 0 or (gain == 0 and loss_of(values) <= loss_of(self.best_values)):
            return dataclasses.replace(self, best=value, best_step=step, best_values=dict(values), waited=waited)
        return dataclasses.replace(self, waited=waited)

    def _gain(self, value: float) -> float:
        """By how much a value is better than the best one; NaN never is."""
        if math.isnan(value):
            return -math.inf
        if self.best is None:
            return math.inf
        return value - self.best if self.greater_is_better else self.best - value

    @property
    def exhausted(self) -> bool:
        """Whether patience has run out."""
        return self.patience is not None and self.waited >= self.patience

    def state(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {name: getattr(self, name) for name in ("best", "best_step", "best_values", "waited")}

    def restored(self, saved: Mapping[str, Any]) -> "BestTracker":
        """This tracker with an earlier one's `state`."""
        return dataclasses.replace(self, **saved)


def loss_of(values: Mapping[str, float] | None) -> float:
    """The loss that decides between evaluations of equal value; infinite where there is none."""
    loss = (values or {}).get("loss", math.inf)
    return math.inf if math.isnan(loss) else loss
