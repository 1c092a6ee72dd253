"""Runs the notebooks beside it, each in a fresh kernel and an empty folder.

    python docs/notebooks/execute.py            # run them, and keep what they show in the files
    python docs/notebooks/execute.py --check    # only run them: what CI does

A cell that fails, or that writes to stderr, is an error, and so is a notebook that takes too long. What is kept has no
path of this machine, no times and no kernel: running a notebook again changes its file where what it shows has changed.
"""

import argparse
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
MOST_SECONDS = 240
"""For one notebook, compilation included: each takes 15 to 40 s on two cores that do nothing else."""

_PATH = re.compile(r"(?:/[\w.@+-]+){2,}/")


def executed(path: Path) -> Any:
    """The notebook as it is after a run.

    Raises:
        RuntimeError: a cell has written to stderr.
        nbclient.exceptions.CellExecutionError: a cell has failed.
        nbclient.exceptions.CellTimeoutError: one takes too long.
    """
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(
            notebook,
            timeout=MOST_SECONDS,
            kernel_name="python3",
            resources={"metadata": {"path": folder}},
        ).execute()
    for at, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", ()):
            if output.get("name") == "stderr":
                raise RuntimeError(f"{path.name}, cell {at} writes to stderr:\n{output['text']}")
    return notebook


def cleaned(notebook: Any) -> Any:
    """Without what differs from machine to machine, or from one run to the next."""
    notebook.metadata = {"language_info": {"name": "python"}}
    for at, cell in enumerate(notebook.cells):
        cell.metadata = {}
        cell.id = f"cell-{at}"
        for output in cell.get("outputs", ()):
            if "metadata" in output:
                output.metadata = {}
            if "text" in output:
                output.text = _PATH.sub("…/", output.text)
    return notebook


def main() -> int:
    parser = argparse.ArgumentParser(description="Runs the notebooks beside it, and keeps what they show.")
    parser.add_argument("--check", action="store_true", help="only run them, and leave the files as they are")
    parser.add_argument("notebooks", nargs="*", type=Path, help="which; default: all")
    chosen = parser.parse_args()
    # inherited by the kernels: pictures and numbers as on any machine, whatever it has
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    for path in chosen.notebooks or sorted(FOLDER.glob("*.ipynb")):
        start = time.perf_counter()
        notebook = executed(path)
        print(f"{path.name}: {time.perf_counter() - start:.0f} s", flush=True)
        if not chosen.check:
            nbformat.write(cleaned(notebook), path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
