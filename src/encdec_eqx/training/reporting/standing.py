"""Which evaluation is the best so far, and whether the run should go on.

Knows numbers only: no model, no metric's meaning beyond whether more is better.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Standing:
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

    def after(self, step: int, values: Mapping[str, float]) -> "Standing":
        """The standing after an evaluation."""
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
        return {
            "best": self.best,
            "best_step": self.best_step,
            "best_values": None if self.best_values is None else dict(self.best_values),
            "waited": self.waited,
        }

    def restored(self, saved: Mapping[str, Any]) -> "Standing":
        """This standing with an earlier one's `state`."""
        return dataclasses.replace(self, **saved)


def loss_of(values: Mapping[str, float] | None) -> float:
    """The loss that decides between evaluations of equal value; infinite where there is none."""
    loss = (values or {}).get("loss", math.inf)
    return math.inf if math.isnan(loss) else loss
