"""What the demo prints: headings, the progress bar, tables.

Knows rich and the demo's result types; computes nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from .lexicon import Pronunciation
from .metrics import ErrorRates
from .recipe import FineTuned, Recipe
from .recipe import Progress as Step


class Show:
    """The demo's voice; give it a `rich.console.Console` to write to."""

    def __init__(self, console: Console):
        self._console = console

    def heading(self, text: str) -> None:
        """Announce the next part."""
        self._console.print(f"\n[bold]{text}[/bold]")

    def text(self, text: object) -> None:
        """Plain lines, not marked up or coloured."""
        self._console.print(str(text), markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def training(self, recipe: Recipe) -> Iterator["TrainingBar"]:
        """A progress bar for a fine-tuning run."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._console) as progress:
            yield TrainingBar(progress, recipe.steps)

    def finished(self, run: FineTuned, recipe: Recipe) -> None:
        """How long training took, and whether it was cut short."""
        self.text(f"{run.steps} steps in {run.train_seconds:.0f} s, after {run.compile_seconds:.0f} s of compiling.")
        if run.steps < recipe.steps:
            self.text(
                f"This machine was too slow or too busy: training stopped after {recipe.time_limit:.0f} s, before its "
                f"learning rate had come down. The error rates below, of {run.steps} of {recipe.steps} steps, are "
                "worse than the published ones."
            )

    def comparison(
        self, words: Sequence[str], said: Sequence[Pronunciation], accepted: Mapping[str, Sequence[Pronunciation]]
    ) -> None:
        """Words beside what the model and the dictionary say."""
        table = Table("word", "the model says", "the dictionary says", "")
        for word, phonemes in zip(words, said, strict=True):
            right = phonemes in accepted[word]
            truth = " | ".join(" ".join(variant) for variant in accepted[word])
            table.add_row(word, " ".join(phonemes), truth, "[green]right[/green]" if right else "[red]wrong[/red]")
        self._console.print(table)

    def rates(self, name: str, rates: ErrorRates) -> None:
        """Error rates in words and per cent."""
        self.text(
            f"{name}: phoneme error rate {rates.phoneme:.2%}, word error rate {rates.word:.2%} ({rates.words} words)."
        )

    def pronunciations(self, words: Sequence[str], said: Sequence[Pronunciation]) -> None:
        """The user's own words."""
        table = Table("word", "pronunciation (ARPAbet, without stress)")
        for word, phonemes in zip(words, said, strict=True):
            table.add_row(word, " ".join(phonemes))
        self._console.print(table)


class TrainingBar:
    """Shows each step; call `compiling` once before the first."""

    def __init__(self, progress: Progress, steps: int):
        self._progress = progress
        self._task = progress.add_task("compiling  ", total=steps, numbers="")

    def __call__(self, step: Step) -> None:
        """Move the bar and renew the numbers."""
        dev = "" if step.dev is None else f"  dev phoneme errors {step.dev.phoneme:.1%}"
        self._progress.update(
            self._task,
            description="fine-tuning",
            completed=step.step,
            numbers=f"loss {step.loss:.3f}  {step.tokens_per_second:,.0f} tokens/s{dev}",
        )
