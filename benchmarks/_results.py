"""What a benchmark leaves: JSON with the machine it ran on, its table on the screen, and notes on the way.

It must not import JAX, torch or the library.
"""

import argparse
import contextlib
import json
import pathlib
import platform
import subprocess
import sys
import time
from importlib import metadata
from typing import Any

from benchmarks import report
from benchmarks._harness import cores


def machine(settings: argparse.Namespace) -> dict[str, Any]:
    """What a figure was measured on: processor (the GPU where that is the device), cores, versions. No host name."""
    versions = {}
    for package in ("jax", "jaxlib", "equinox", "optax", "torch", "transformers"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "processor": _processor() if settings.device == "cpu" else _graphics_processor(),
        "cores": cores(),
        "threads": settings.threads,
        "device": settings.device,
        "precision": settings.precision,
        "huge_pages": settings.huge_pages,
        "python": platform.python_version(),
        "versions": versions,
    }


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _graphics_processor() -> str:
    """Its name where NVIDIA's tool tells it."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip()
    return "unknown GPU"


def save(name: str, settings: argparse.Namespace, rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """Writes `<out>/<name>.json` where `--out` is given, and returns the result."""
    options = {key: value for key, value in vars(settings).items() if key not in ("cache", "out")}
    result = {"benchmark": name, "machine": machine(settings), "settings": options, **more, "rows": rows}
    if settings.out:
        settings.out.mkdir(parents=True, exist_ok=True)
        (settings.out / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    return result


def note(text: str) -> None:
    """Says on the error output how far a long run has come."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def finish(name: str, settings: argparse.Namespace, rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """Saves the result, prints the table, and returns the result."""
    result = save(name, settings, rows, **more)
    print(report.table(result), flush=True)
    return result
