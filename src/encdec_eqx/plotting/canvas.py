"""What all pictures have in common: figures without pyplot, colours, and files that are whole or not there."""

import importlib.util
from pathlib import Path
from typing import Any, Literal

from .._installing import install
from .._quoting import printable
from .._writing import aside_of, check_writable

INK, GRID, MUTED = "#333333", "#e3e3e3", "#7a7a7a"
DPI = 150
_MOST_PIXELS = 60_000
"""A side of a picture; matplotlib draws none of 65,536 and more."""


def new_figure(width: float, height: float, **options: Any) -> Any:
    """An empty figure of so many inches.

    Raises:
        ImportError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError(f"pictures need matplotlib, which is not installed: {install('train')}")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white", **options)
    FigureCanvasAgg(figure)
    return figure


def check_place(path: Path) -> None:
    """Try, before any work is done, whether a picture can be written there.

    Raises:
        ValueError: it is a folder, or nothing can be written in its folder.
    """
    if path.is_dir():
        raise ValueError(f"path is {printable(path)}, which is a folder; give a file.")
    check_writable(path.parent, "the folder of path,")


def saved(figure: Any, path: str | Path, kind: Literal["png", "svg"] = "png") -> Path:
    """The picture in its place at once: nobody sees half of one. The same picture is the same file."""
    import matplotlib

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = aside_of(path)
    dpi = min(DPI, _MOST_PIXELS / max(figure.get_size_inches()))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "encdec_eqx"}):
        figure.savefig(aside, format=kind, dpi=dpi, metadata={"Date": None} if kind == "svg" else None)
    aside.replace(path)
    return path
