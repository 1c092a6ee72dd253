"""A training step (forward, backward, AdamW): seconds, compilation apart, peak memory, and the floor.

`python -m benchmarks.train_step --sizes small --layouts scanned,unrolled --out benchmarks/results`. It only asks
workers and collects; it must not import JAX or torch.
"""

import argparse
import copy
from typing import Any

from benchmarks import _floor, _harness
from benchmarks._sizes import SIZES, train_floor


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = _harness.parser("A training step, side by side with torch.", repeats=3)
    parser.add_argument("--batch", default=8, type=int, help="sentence pairs a step")
    parser.add_argument("--source", default=128, type=int, help="source positions of each sentence")
    parser.add_argument("--target", default=64, type=int, help="target positions of each")
    parser.add_argument("--layouts", default=("scanned",), type=_layouts, help="of the JAX model: scanned, unrolled")
    parser.add_argument("--torch-compile", action="store_true", help="torch.compile the torch model")
    return parser


def _layouts(text: str) -> tuple[str, ...]:
    if not set(text.split(",")) <= {"scanned", "unrolled"}:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected names out of scanned, unrolled")
    return tuple(text.split(","))


def measure_case(settings: argparse.Namespace, folder: str, *, layout: str) -> dict[str, Any]:
    """One size and layout in fresh processes: first step, then alternating timed steps, memory."""
    sides: dict[str, dict[str, Any]] = {}
    with _harness.workers(settings) as workers:
        for name, worker in workers.items():
            worker.ask("load", folder=folder)
            worker.ask(
                "prepare_training",
                batch=settings.batch,
                source=settings.source,
                target=settings.target,
                layout=layout,
                compiled=settings.torch_compile,
            )
            worker.ask("compilation")  # forgets what loading and preparing compiled
            first = worker.ask("train_step")
            sides[name] = {
                "first_seconds": first["seconds"],
                "first_loss": first["loss"],
                "compilation": worker.ask("compilation"),
            }
        times = _harness.take_turns(workers, settings.repeats, "train_step")
        for name, worker in workers.items():
            sides[name] |= {"seconds": times[name], "memory": worker.ask("peak")}
    return {"sides": sides}


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measures every size; torch runs beside the first layout only."""
    settings = options().parse_args(arguments)
    floor = _floor.measure(settings)
    rows = []
    with _harness.checkpoints(settings) as folders:
        for name in settings.sizes:
            least = train_floor(
                SIZES[name], batch=settings.batch, source=settings.source, target=settings.target, peak=floor["matmul"]
            )
            for index, layout in enumerate(settings.layouts):
                chosen = copy.copy(settings)
                if index > 0:
                    chosen.sides = tuple(side for side in settings.sides if side != "torch")
                case = measure_case(chosen, folders[name], layout=layout)
                rows.append({"size": name, "batch": settings.batch, "layout": layout, "floor_seconds": least, **case})
    return _harness.finish("train_step", settings, rows, floor=floor)


if __name__ == "__main__":
    main()
