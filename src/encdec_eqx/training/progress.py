"""How far a run has come: a bar on a terminal, elsewhere a plain line now and then.

Knows numbers and their words; must not know how they are computed.
"""

import contextlib
import importlib.util
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

_QUIET_SECONDS = 10.0
_WIDE = 120  # columns in which the newest evaluation has room too


@runtime_checkable
class Progress(Protocol):
    """What a run tells about itself."""

    def update(self, step: int, **numbers: float) -> None:
        """A step is done; `numbers` (`loss`, `learning_rate`, `tokens_per_second`) replace those shown, if given."""
        ...

    def evaluating(self) -> None:
        """An evaluation begins."""
        ...

    def evaluated(self, step: int, values: Mapping[str, float]) -> None:
        """An evaluation is done."""
        ...

    def note(self, text: str) -> None:
        """A line for the user to read."""
        ...


@contextlib.contextmanager
def progress(total_steps: int, *, start: int = 0, console: Any = None) -> Iterator[Progress]:
    """Shows a run: a bar where there is a terminal and rich is installed, else a plain line every ten seconds or so.

    Args:
        total_steps: Steps of the whole run.
        start: Steps taken by earlier sessions of it.
        console: A `rich.console.Console` to write to; default: standard error.
    """
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

    wide = console.width >= _WIDE
    bar = RichProgress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24 if wide else 10, complete_style="cyan"),
        TextColumn("[bold]{task.completed}/{task.total}"),
        TextColumn("{task.fields[numbers]}"),
        TextColumn("[cyan]{task.fields[left]}"),
        console=console,
        refresh_per_second=4,
    )
    with bar:
        yield _Bar(bar, wide, total_steps, start)


class _Told:
    """The numbers to show, the newest of each."""

    def __init__(self, total: int, start: int):
        self.total, self.step = total, start
        self._numbers: dict[str, float] = {}
        self._evaluated = ""
        self._clock: tuple[int, float] | None = None

    def step_to(self, step: int, numbers: Mapping[str, float]) -> None:
        self.step = step
        self._numbers.update(numbers)
        # from the first step on, so that its compilation is not taken for the pace of the others
        self._clock = self._clock or (step, time.monotonic())

    def keep(self, values: Mapping[str, float]) -> str:
        self._evaluated = "  ".join(f"{name} {_figure(value)}" for name, value in values.items())
        return self._evaluated

    def numbers(self, with_evaluation: bool) -> str:
        parts = []
        if "loss" in self._numbers:
            parts.append(f"loss {self._numbers['loss']:.4f}")
        if "learning_rate" in self._numbers:
            parts.append(f"lr {self._numbers['learning_rate']:.1e}")
        if "tokens_per_second" in self._numbers:
            parts.append(f"{self._numbers['tokens_per_second']:,.0f} tok/s")
        if with_evaluation and self._evaluated:
            parts.append(f"eval {self._evaluated}")
        return "  ".join(parts)

    def left(self) -> str:
        """Time to the end at the pace so far."""
        if self._clock is None or self.step <= self._clock[0]:
            return "ETA -:--:--"
        first, since = self._clock
        seconds = round((time.monotonic() - since) / (self.step - first) * (self.total - self.step))
        return f"ETA {seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


class _Bar:
    """On a terminal."""

    def __init__(self, bar: Any, wide: bool, total: int, start: int):
        self._bar, self._wide, self._told = bar, wide, _Told(total, start)
        self._task = bar.add_task("train", total=total, completed=start, numbers="", left="")

    def update(self, step: int, **numbers: float) -> None:
        self._told.step_to(step, numbers)
        self._show("train")

    def evaluating(self) -> None:
        self._show("eval ")

    def evaluated(self, step: int, values: Mapping[str, float]) -> None:
        self._told.keep(values)
        self._show("train")

    def note(self, text: str) -> None:
        self._bar.console.print(text, markup=False, highlight=False)

    def _show(self, doing: str) -> None:
        self._bar.update(
            self._task,
            completed=self._told.step,
            description=doing,
            numbers=self._told.numbers(with_evaluation=self._wide),
            left=self._told.left(),
        )


class _Lines:
    """In a file, a pipe or a scheduler's log: no colours, nothing that moves."""

    def __init__(self, total: int, start: int, console: Any):
        self._told, self._console = _Told(total, start), console
        self._last_line, self._said = -_QUIET_SECONDS, start

    def update(self, step: int, **numbers: float) -> None:
        self._told.step_to(step, numbers)
        if numbers and time.monotonic() - self._last_line >= _QUIET_SECONDS:
            self._say()

    def evaluating(self) -> None:
        """Says nothing: the result will be a line."""

    def evaluated(self, step: int, values: Mapping[str, float]) -> None:
        self.note(f"step {step}/{self._told.total}  eval {self._told.keep(values)}")

    def note(self, text: str) -> None:
        if self._console is None:
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()
        else:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def finish(self) -> None:
        if self._told.step != self._said:
            self._say()

    def _say(self) -> None:
        self._last_line, self._said = time.monotonic(), self._told.step
        parts = [f"step {self._told.step}/{self._told.total}", self._told.numbers(with_evaluation=False)]
        self.note("  ".join(part for part in [*parts, self._told.left()] if part))


def _figure(value: float) -> str:
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.4f}"
