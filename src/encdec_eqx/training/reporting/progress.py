"""How far a run has come and how long the rest takes: a bar on a terminal, elsewhere a plain line now and then."""

import abc
import contextlib
import importlib.util
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

_QUIET_SECONDS = 10.0
_WIDE = 120  # columns in which the newest evaluation has room in the bar too
_NARROW = 60


class Progress(abc.ABC):
    """What a run tells about itself: keeps the newest of each number and the time that is left, and shows them."""

    def __init__(self, total: int, start: int):
        """Nothing is known yet of a run of `total` steps, of which `start` are taken."""
        self._total, self._step = total, start
        self._numbers: dict[str, float] = {}
        self._evaluated = ""
        self._pace = Pace(total)
        self._compiles, self._has_evaluated = False, False

    @abc.abstractmethod
    def note(self, text: str) -> None:
        """A line for the user to read."""

    @abc.abstractmethod
    def _show(self, doing: str, numbers: Mapping[str, float] | None = None) -> None:
        """Shows where the run stands and what it is at; `numbers` are those that have just come."""

    def update(self, step: int, *, done: bool = True, **numbers: float) -> None:
        """A step is dispatched, and `done` if so; `numbers` replace those shown, if given."""
        self._step = step
        self._numbers.update(numbers)
        if self._compiles:
            self._pace.compiled(step, time.monotonic())
        elif done:
            self._pace.done(step, time.monotonic())
        self._compiles = False
        self._show("train", numbers)

    def compiling(self) -> None:
        """The next step is compiled first; all before are done."""
        self._pace.done(self._step, time.monotonic())
        self._compiles = True
        self._show("compiling")

    def evaluating(self) -> None:
        """An evaluation begins; all steps before are done."""
        self._pace.done(self._step, time.monotonic())
        self._show("eval" if self._has_evaluated else "compiling eval")

    def evaluated(self, step: int, values: Mapping[str, float]) -> None:
        """An evaluation is done."""
        if not self._has_evaluated:
            self._pace.compiled(self._step, time.monotonic())
        self._has_evaluated = True
        self._evaluated = "  ".join(f"{name} {_figure(value)}" for name, value in values.items())
        self.note(f"step {self._step}/{self._total}  eval {self._evaluated}")
        self._show("train")

    def _shown_numbers(self, room: int = sys.maxsize, with_evaluation: bool = False) -> str:
        """The numbers that have room, the most important first."""
        parts = []
        if "loss" in self._numbers:
            parts.append(f"loss {self._numbers['loss']:.4f}")
        if "learning_rate" in self._numbers:
            parts.append(f"lr {self._numbers['learning_rate']:.1e}")
        if "tokens_per_second" in self._numbers:
            parts.append(f"{self._numbers['tokens_per_second']:,.0f} tok/s")
        if with_evaluation and self._evaluated:
            parts.append(f"eval {self._evaluated}")
        while parts and len("  ".join(parts)) > room:
            parts.pop()
        return "  ".join(parts)

    def _left(self) -> str:
        """Time to the end at the pace so far."""
        left = self._pace.left(time.monotonic())
        if left is None:
            return "ETA -:--:--"
        seconds = round(left)
        return f"ETA {seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


@contextlib.contextmanager
def progress(total_steps: int, *, start: int = 0, console: Any = None, silent: bool = False) -> Iterator[Progress]:
    """Shows a run: a bar where there is a terminal and rich is installed, else a plain line every ten seconds or so.

    Args:
        total_steps: Steps of the whole run.
        start: Steps taken by earlier sessions of it.
        console: A `rich.console.Console` to write to; default: standard error.
        silent: Whether another process of the run shows it.
    """
    if silent:
        yield _Silent(total_steps, start)
        return
    if console is None and sys.stderr.isatty() and importlib.util.find_spec("rich") is not None:
        from rich.console import Console

        console = Console(stderr=True)
    if console is None or not console.is_terminal:
        lines = _Lines(total_steps, start, console)
        yield lines
        lines.finish()
        return
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as RichProgress

    bar_width = 24 if console.width >= _WIDE else 10 if console.width >= _NARROW else 4
    bar = RichProgress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=bar_width, complete_style="cyan"),
        TextColumn("[bold]{task.completed}/{task.total}"),
        TextColumn("{task.fields[numbers]}"),
        TextColumn("[cyan]{task.fields[left]}"),
        console=console,
        refresh_per_second=4,
    )
    with bar:
        yield _Bar(bar, bar_width, total_steps, start)


class _Bar(Progress):
    """On a terminal: a bar that fits, and a line above it for each evaluation."""

    def __init__(self, bar: Any, bar_width: int, total: int, start: int):
        super().__init__(total, start)
        self._bar, self._bar_width = bar, bar_width
        self._task = bar.add_task("train", total=total, completed=start, numbers="", left="")

    def note(self, text: str) -> None:
        """A line above the bar."""
        self._bar.console.print(text, markup=False, highlight=False)

    def _show(self, doing: str, numbers: Mapping[str, float] | None = None) -> None:
        left = self._left()
        others = len(doing) + self._bar_width + len(f"{self._step}/{self._total}") + len(left) + 4  # a blank between
        self._bar.update(
            self._task,
            completed=self._step,
            description=doing,
            numbers=self._shown_numbers(self._bar.console.width - others, with_evaluation=True),
            left=left,
            refresh=doing != "train",
        )


class _Silent(Progress):
    """In a process that another one speaks for."""

    def note(self, text: str) -> None:
        """Nothing."""

    def _show(self, doing: str, numbers: Mapping[str, float] | None = None) -> None:
        """Nothing."""


class _Lines(Progress):
    """In a file, a pipe or a scheduler's log: no colours, nothing that moves."""

    def __init__(self, total: int, start: int, console: Any):
        super().__init__(total, start)
        self._console = console
        self._last_line, self._said, self._has_compiled = -_QUIET_SECONDS, start, False

    def note(self, text: str) -> None:
        """A line, at once."""
        if self._console is None:
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()
        else:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def finish(self) -> None:
        """The last step's line, if it has none."""
        if self._step != self._said:
            self._say()

    def _show(self, doing: str, numbers: Mapping[str, float] | None = None) -> None:
        """Says once that something compiles: there is nothing else to be seen for a while."""
        if doing == "compiling" and not self._has_compiled:
            self.note("compiling the first step")
            self._has_compiled = True
        elif numbers and time.monotonic() - self._last_line >= _QUIET_SECONDS:
            self._say()

    def _say(self) -> None:
        self._last_line, self._said = time.monotonic(), self._step
        parts = [f"step {self._step}/{self._total}", self._shown_numbers()]
        self.note("  ".join(part for part in [*parts, self._left()] if part))


def _figure(value: float) -> str:
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.4f}"


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
