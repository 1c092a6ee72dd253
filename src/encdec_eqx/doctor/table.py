"""A diagnosis as a table on a terminal. Knows findings and rich; must not know how anything was found."""

from typing import Any

from .._installing import install
from ..training.toml import spoken
from .finding import Diagnosis

_COLOURS = {"error": "bold red", "warning": "yellow", "info": "cyan"}


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
