"""What a benchmark leaves: JSON with the machine it ran on, its table on the screen, and notes on the way.

It must not import JAX, torch or the library.
"""

import argparse
import contextlib
import functools
import json
import pathlib
import platform
import subprocess
import sys
import time
from typing import Any

from benchmarks import report
from benchmarks._harness import cores


def machine(settings: argparse.Namespace) -> dict[str, Any]:
    """What a figure was measured on: processor (the GPU where that is the device), cores, versions. No host name."""
    python, versions = versions_of(settings.jax_python, OURS)
    return {
        "processor": _processor() if settings.device == "cpu" else _graphics_processor(),
        "instructions": _instructions(),
        "cores": cores(),
        "threads": settings.threads,
        "device": settings.device,
        "precision": settings.precision,
        "huge_pages": settings.huge_pages,
        "alone": vars(settings).get("alone", False),
        "python": python,
        "versions": versions | versions_of(sys.executable, THEIRS)[1],
    }


OURS, THEIRS = ("jax", "jaxlib", "equinox", "optax"), ("torch", "transformers")
"""The packages whose versions are told, of our side's Python and of torch's."""
TELLING = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8")
"""Instructions that matter for matrix products, as Linux calls them: with and without bfloat16 are two machines."""


@functools.cache
def versions_of(python: str, packages: tuple[str, ...]) -> tuple[str, dict[str, str]]:
    """The version of a Python, and those of the packages that are installed for it."""
    told = subprocess.run([python, "-c", _TELL, *packages], capture_output=True, text=True, check=True).stdout
    answer = json.loads(told)
    return answer["python"], answer["versions"]


_TELL = """
import contextlib, json, platform, sys
from importlib import metadata
versions = {}
for package in sys.argv[1:]:
    with contextlib.suppress(metadata.PackageNotFoundError):
        versions[package] = metadata.version(package)
print(json.dumps({"python": platform.python_version(), "versions": versions}))
"""


def _processor() -> str:
    """Its name, with the numbers of its family and model: virtual machines often hide the name's end."""
    names = _cpuinfo()
    name = names.get("model name") or platform.processor() or platform.machine()
    return f"{name} (family {names['cpu family']}, model {names['model']})" if "cpu family" in names else name


def _instructions() -> list[str]:
    flags = _cpuinfo().get("flags", "").split()
    return [name for name in TELLING if name in flags]


def _cpuinfo() -> dict[str, str]:
    """What Linux says of the first core; empty elsewhere."""
    with contextlib.suppress(OSError):
        lines = (line.split(":", 1) for line in pathlib.Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines())
        return {line[0].strip(): line[1].strip() for line in lines if len(line) == 2}
    return {}


def _graphics_processor() -> str:
    """Its name where NVIDIA's tool tells it."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip()
    return "unknown GPU"


_PATHS = ("cache", "out", "jax_python", "jax_pythons")
"""Options that name places of one machine."""


def save(name: str, settings: argparse.Namespace, rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """Writes `<out>/<name>.json` (`<name>_alone.json`) where `--out` is given, and returns the result."""
    options = {key: value for key, value in vars(settings).items() if key not in _PATHS}
    result = {"benchmark": name, "machine": machine(settings), "settings": options, **more, "rows": rows}
    if settings.out:
        settings.out.mkdir(parents=True, exist_ok=True)
        file = f"{name}_alone.json" if result["machine"]["alone"] else f"{name}.json"
        (settings.out / file).write_text(json.dumps(result, indent=1) + "\n")
    return result


def note(text: str) -> None:
    """Says on the error output how far a long run has come."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def finish(name: str, settings: argparse.Namespace, rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """Saves the result, prints the table, and returns the result."""
    result = save(name, settings, rows, **more)
    print(report.table(result), flush=True)
    return result
