"""How long the rest of a run takes, by the steps that nothing was compiled in.

Knows numbers of steps and a clock's seconds; must not know where either comes from.
"""


class Pace:
    """Adds up stretches of steps and their seconds.

    Steps are dispatched before they are done, so that only moments at which they are known to be done say anything.
    """

    def __init__(self, total: int):
        """Nothing is known yet of a run of `total` steps."""
        self._total = total
        self._steps, self._seconds = 0, 0.0
        self._mark: tuple[int, float] | None = None

    def done(self, step: int, now: float) -> None:
        """All steps up to this one are done: those since the last call are a measure of the others."""
        if self._mark is not None:
            first, since = self._mark
            self._steps, self._seconds = self._steps + step - first, self._seconds + now - since
        self._mark = step, now

    def compiled(self, step: int, now: float) -> None:
        """The same, after something was compiled: the time since the last call says nothing of the others."""
        self._mark = step, now

    def left(self, now: float) -> float | None:
        """Seconds to the end; None as long as no step was measured."""
        if self._mark is None or not self._steps:
            return None
        first, since = self._mark
        return max(0.0, self._seconds / self._steps * (self._total - first) - (now - since))
