"""Compile times of the JAX side: generation and the training step in both layouts, each in a fresh process.

`python -m benchmarks.compile --out benchmarks/results`. Tracing, lowering and compiling as JAX itself reports them,
with the number of programs; `second` counts the programs a second, equal call compiles, which must be none.
Eager torch compiles nothing and takes no part.
"""

import argparse
import contextlib
from typing import Any

from benchmarks import _harness, _results
from benchmarks._contestants import MODULES

LAYOUTS = ("unrolled", "scanned")


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = _harness.parser("Compile times of the JAX side.")
    parser.set_defaults(sides=("jax",))
    parser.add_argument("--batches", default=(1, 8), type=_harness.integers, help="sentences at once in generation")
    parser.add_argument("--new-tokens", default=64, type=int, help="tokens generated for each sentence")
    parser.add_argument("--source", default=128, type=int, help="source positions of each sentence")
    parser.add_argument("--target", default=64, type=int, help="target positions of a training step")
    return parser


def _generation(settings: argparse.Namespace, folder: str, layout: str, **arguments: Any) -> dict[str, Any]:
    """Asks one fresh worker twice: the first call compiles, the second tells what it compiles again."""
    with contextlib.closing(_harness.Worker(MODULES["jax"], settings=settings)) as worker:
        worker.ask("load", folder=folder)
        worker.ask("convert", layout=layout)
        worker.ask("compilation")
        calls = []
        for _ in range(2):
            seconds = worker.ask("generate", **arguments)["seconds"]
            calls.append({"first_seconds": seconds, "compilation": worker.ask("compilation")})
    return _both(layout, *calls)


def _training(settings: argparse.Namespace, folder: str, layout: str, **arguments: Any) -> dict[str, Any]:
    """The same of a training step."""
    with contextlib.closing(_harness.Worker(MODULES["jax"], settings=settings)) as worker:
        worker.ask("load", folder=folder)
        worker.ask("prepare_training", layout=layout, remat=False, ragged=False, **arguments)
        return _both(layout, worker.ask("warm_up"), worker.ask("warm_up"))


def _both(layout: str, first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    return {
        "layout": layout,
        "first_seconds": first["first_seconds"],
        "second_seconds": second["first_seconds"],
        "compilation": first["compilation"],
        "second": second["compilation"].get("backend_compile_duration", {"count": 0})["count"],
    }


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measures every size, program and layout."""
    settings = options().parse_args(arguments)
    settings.sides = ("jax",)
    rows = []
    with _harness.checkpoints(settings) as folders:
        for name in settings.sizes:
            for layout in LAYOUTS:
                for batch in settings.batches:
                    shape = {"batch": batch, "source": settings.source, "new_tokens": settings.new_tokens}
                    case = _generation(settings, folders[name], layout, **shape)
                    rows.append({"size": name, "batch": batch, "what": "generate", **case})
                shape = {"batch": 8, "source": settings.source, "target": settings.target}
                case = _training(settings, folders[name], layout, **shape)
                rows.append({"size": name, "batch": 8, "what": "train_step", **case})
    return _results.finish("compile", settings, rows)


if __name__ == "__main__":
    main()
