"""Compile times of the JAX side: generation and the training step in both layouts, each in a fresh process.

`python -m benchmarks.compile --out benchmarks/results`. Tracing, lowering and compiling as JAX itself reports them,
with the number of programs; `second` counts the programs a second, equal call compiles, which must be none.
Eager torch compiles nothing and takes no part.
"""

import argparse
from typing import Any

from benchmarks import _harness

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


def _twice(settings: argparse.Namespace, folder: str, layout: str, question: str, **arguments: Any) -> dict[str, Any]:
    """Asks one fresh worker twice: the first call compiles, the second tells what it compiles again."""
    with _harness.workers(settings) as workers:
        worker = workers["jax"]
        worker.ask("load", folder=folder)
        if question == "train_step":
            prepare = arguments | {"layout": layout, "compiled": False}
            worker.ask("prepare_training", **prepare)
        else:
            worker.ask("convert", layout=layout)
        worker.ask("compilation")
        first = worker.ask(question, **arguments)["seconds"]
        compiled = worker.ask("compilation")
        second = worker.ask(question, **arguments)["seconds"]
        again = worker.ask("compilation")
    return {
        "layout": layout,
        "first_seconds": first,
        "second_seconds": second,
        "compilation": compiled,
        "second": again.get("backend_compile_duration", {"count": 0})["count"],
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
                    case = _twice(settings, folders[name], layout, "generate", **shape)
                    rows.append({"size": name, "batch": batch, "what": "generate", **case})
                shape = {"batch": 8, "source": settings.source, "target": settings.target}
                case = _twice(settings, folders[name], layout, "train_step", **shape)
                rows.append({"size": name, "batch": 8, "what": "train_step", **case})
    return _harness.finish("compile", settings, rows)


if __name__ == "__main__":
    main()
