"""What a diagnosis says: one finding, or all of them with the numbers that were measured, as text or as a table."""

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

from .._installing import install
from ..training.toml import spoken

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
"""From the worst to the mildest."""

_COLOURS = {"error": "bold red", "warning": "yellow", "info": "cyan"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    Attributes:
        code: its name, which never changes: look it up in `docs/diagnosis.md`.
        severity: "error": training or generating goes wrong; "warning": it most likely does; "info": nothing is wrong,
            but it is good to know.
        message: what was seen, in a sentence or two.
        fix: what to do about it, in one sentence.
        evidence: the numbers behind it.
    """

    code: str
    severity: Severity
    message: str
    fix: str
    evidence: Mapping[str, float | int | str] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        object.__setattr__(self, "evidence", MappingProxyType(dict(self.evidence)))

    def __str__(self) -> str:
        lines = textwrap.wrap(f"{self.severity}: {spoken(self.message)} [{self.code}]", 100, subsequent_indent="  ")
        return "\n".join(
            [*lines, *textwrap.wrap(f"fix: {spoken(self.fix)}", 100, initial_indent="  ", subsequent_indent="  ")]
        )


class DiagnosedError(ValueError):
    """A run that would go wrong was not begun.

    Attributes:
        findings: the errors that were found.
    """

    def __init__(self, findings: Sequence[Finding]):
        self.findings = tuple(findings)
        what = "1 error" if len(findings) == 1 else f"{len(findings)} errors"
        lines = [f"the diagnosis finds {what}, so the run was not begun:", *map(str, findings)]
        lines.append('To train all the same: on_diagnosed_errors="report".')
        super().__init__("\n".join(lines))


def stop_on_errors(findings: Sequence[Finding]) -> None:
    """Nothing, if there is no error among the findings.

    Raises:
        DiagnosedError: there is.
    """
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        raise DiagnosedError(errors)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What `diagnose` found; `str()` is a readable report.

    Attributes:
        findings: the worst first.
        measured: numbers that were measured on the way, by name.
        skipped: checks that could not be made, and why.
        seconds: how long it took.
    """

    findings: tuple[Finding, ...]
    measured: Mapping[str, float] = dataclasses.field(default_factory=dict)
    skipped: tuple[str, ...] = ()
    seconds: float = 0.0

    def __post_init__(self):
        ordered = sorted(self.findings, key=lambda finding: SEVERITIES.index(finding.severity))
        object.__setattr__(self, "findings", tuple(ordered))
        object.__setattr__(self, "measured", MappingProxyType(dict(self.measured)))

    @property
    def ok(self) -> bool:
        """Whether there is no error and no warning."""
        return all(finding.severity == "info" for finding in self.findings)

    @property
    def codes(self) -> tuple[str, ...]:
        """The findings' codes, the worst first."""
        return tuple(finding.code for finding in self.findings)

    def of(self, severity: Severity) -> tuple[Finding, ...]:
        """The findings of one severity.

        Args:
            severity: "error", "warning" or "info".
        """
        return tuple(finding for finding in self.findings if finding.severity == severity)

    def __str__(self) -> str:
        notes = [textwrap.fill(line, 100, subsequent_indent="  ") for line in self.footnotes]
        return "\n".join([self.headline, *map(str, self.findings), *notes])

    @property
    def footnotes(self) -> tuple[str, ...]:
        """What was measured, and what was not looked at, one line each."""
        numbers = ", ".join(f"{name} {_short(value)}" for name, value in self.measured.items())
        measured = [f"measured: {numbers}"] if numbers else []
        return (*measured, *(f"not looked at: {reason}" for reason in self.skipped))

    @property
    def headline(self) -> str:
        """The counts in one line."""
        counts = [f"{len(self.of(severity))} {severity}s" for severity in ("error", "warning") if self.of(severity)]
        told = " and ".join(count[:-1] if count.startswith("1 ") else count for count in counts)
        return f"diagnosis: {told or 'nothing wrong was found'} ({self.seconds:.1f} s)"


def _short(value: float) -> str:
    return f"{value:d}" if isinstance(value, int) else f"{value:.4g}"


def show(diagnosis: Diagnosis, console: Any = None) -> None:
    """Prints the findings with their fixes, what was measured, and what was not looked at.

    Args:
        diagnosis: what was found.
        console: a `rich.console.Console`; default: one on stdout.

    Raises:
        ImportError: rich is not installed.
    """
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        raise ImportError(f"the table needs rich, which is not installed: {install('train')}") from None

    console = Console() if console is None else console
    console.print(Text(diagnosis.headline, style="bold" if diagnosis.ok else _COLOURS["error"]))
    if diagnosis.findings:
        table = Table(show_lines=True)
        for heading in ("", "what was seen", "what to do"):
            table.add_column(heading, overflow="fold")
        for one in diagnosis.findings:
            label = Text(f"{one.severity}\n{one.code}", style=_COLOURS[one.severity])
            table.add_row(label, Text(spoken(one.message)), Text(spoken(one.fix)))
        console.print(table)
    for line in diagnosis.footnotes:
        console.print(Text(line, style="dim"))
