"""Every cell alone and in turns with torch, ours on each jax given: what a user gets, and what taking turns costs.

`python -m benchmarks.turns --jax-python venv/bin/python,newest/bin/python --out benchmarks/results`;
`benchmarks/cpu.sh` is short for it. For each cell: each side by itself, in a process with no other beside it; then ours
beside torch, A B A B …, as the other scripts measure. It only asks workers and collects; it must not import JAX or
torch.
"""

import argparse
import contextlib
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from benchmarks import _harness, _results
from benchmarks._contestants import CONTESTANTS, MODULES
from benchmarks._sizes import SIZES
from benchmarks.generate import Cell, cells

DEFAULT_CELLS = "base:1x1:128,base:8x1:128,base:1x4:512"
TRAINED = {"batch": 8, "source": 128, "target": 64}
TORCH = "torch"
Row = dict[str, Any]


class Side(NamedTuple):
    """Who is measured.

    Attributes:
        name: "torch", or "jax" with its version.
        kind: "jax" or "torch".
        python: the interpreter.
    """

    name: str
    kind: str
    python: str


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = _harness.parser("Alone and in turns, on one version of jax or more.", repeats=3, several_pythons=True)
    parser.add_argument(
        "--cells", default=DEFAULT_CELLS, type=cells, help=f"of generation, as in benchmarks.generate; {DEFAULT_CELLS}"
    )
    parser.add_argument(
        "--training", default=("small", "base"), type=_harness.names_of(SIZES), help="sizes of the training step"
    )
    parser.add_argument("--new-tokens", default=64, type=int, help="tokens generated for each sentence")
    parser.add_argument("--settle", default=1, type=int, help="untimed calls or steps at the start of each turn")
    parser.add_argument("--steps-per-turn", default=1, type=int, help="timed ones each turn")
    parser.add_argument("--minutes", default=12.0, type=float, help="no cell is begun after these")
    return parser


def sides_of(settings: argparse.Namespace) -> list[Side]:
    """Ours by version, and torch."""
    ours = []
    for python in settings.jax_pythons:
        version = _results.versions_of(python, ("jax",))[1].get("jax", "missing")
        ours.append(Side(f"jax {version}", "jax", python))
    known = [*ours, Side(TORCH, "torch", sys.executable)]
    return [side for side in known if side.kind in settings.sides]


@contextlib.contextmanager
def entered(settings: argparse.Namespace, side: Side, folder: str, cell: Cell | None) -> Iterator[tuple[Any, Row]]:
    """A side in a fresh process, its first step or call done; and what that took.

    Args:
        settings: the command line.
        side: whose.
        folder: of the checkpoint.
        cell: of generation; None for the training step.
    """
    of_side = argparse.Namespace(**{**vars(settings), "jax_python": side.python})
    with contextlib.closing(_harness.Worker(MODULES[side.kind], settings=of_side)) as worker:
        worker.ask("load", folder=folder)
        worker.ask("compilation")
        if cell is None:
            name = "ours" if side.kind == "jax" else "torch"
            worker.ask("prepare_training", **TRAINED, ragged=False, **CONTESTANTS[name].options)
            first = worker.ask("warm_up")
            compiled = first.get("compilation", {})
        else:
            first = {"first_seconds": worker.ask("generate", **_call(settings, cell))["seconds"]}
            compiled = worker.ask("compilation")
        seconds = sum(part["seconds"] for part in compiled.values())
        yield worker, {"first_seconds": first["first_seconds"], "compile_seconds": seconds}


def _call(settings: argparse.Namespace, cell: Cell) -> dict[str, int]:
    return {"batch": cell.batch, "source": cell.source, "beams": cell.beams, "new_tokens": settings.new_tokens}


def timed(settings: argparse.Namespace, workers: Mapping[str, Any], cell: Cell | None) -> dict[str, Row]:
    """What each took, in turns if there are two: settling calls that do not count, then those that do.

    Returns:
        By name `median`, `least`, `runs` in seconds, and `settling`, the median of each turn's first call.
    """
    runs: dict[str, list[float]] = {name: [] for name in workers}
    settling: dict[str, list[float]] = {name: [] for name in workers}
    for _ in range(settings.repeats):
        for name, worker in workers.items():
            taken = _turn(settings, worker, cell)
            settling[name] += taken[: settings.settle][:1]
            runs[name] += taken[settings.settle :]
    return {
        name: {
            "median": statistics.median(runs[name]),
            "least": min(runs[name]),
            "runs": runs[name],
            "settling": statistics.median(settling[name]) if settling[name] else None,
        }
        for name in workers
    }


def _turn(settings: argparse.Namespace, worker: Any, cell: Cell | None) -> list[float]:
    """Seconds of one turn's calls, the settling ones first."""
    if cell is None:
        turn = worker.ask("steps", settle=settings.settle, count=settings.steps_per_turn)
        return [step["seconds"] for step in [*turn["settling"], *turn["steps"]]]
    count = settings.settle + settings.steps_per_turn
    return [worker.ask("generate", **_call(settings, cell))["seconds"] for _ in range(count)]


def measure_case(settings: argparse.Namespace, folder: str, cell: Cell | None) -> dict[str, Row]:
    """One cell: by side `alone`, and of ours `turns` with `beside`, what torch took in them.

    Torch is alone until its own figure is there; only then ours comes beside it, one jax after the other.
    """
    found: dict[str, Row] = {}
    sides = sides_of(settings)
    ours = [side for side in sides if side.kind == "jax"]
    for side in ours:
        with entered(settings, side, folder, cell) as (worker, about):
            found[side.name] = about | {"alone": timed(settings, {side.name: worker}, cell)[side.name]}
    for reference in (side for side in sides if side.kind == "torch"):
        with entered(settings, reference, folder, cell) as (theirs, about):
            found[TORCH] = about | {"alone": timed(settings, {TORCH: theirs}, cell)[TORCH]}
            for side in ours:
                with entered(settings, side, folder, cell) as (worker, _):
                    taken = timed(settings, {side.name: worker, TORCH: theirs}, cell)
                    found[side.name] |= {"turns": taken[side.name], "beside": taken[TORCH]}
    return found


def main(arguments: list[str] | None = None) -> Row:
    """Measures every cell asked for, the largest training step last, until the minutes are over."""
    settings = options().parse_args(arguments)
    settings.jax_python = settings.jax_pythons[0]
    end = time.monotonic() + 60 * settings.minutes
    training = [(size, None) for size in SIZES if size in settings.training and size in settings.sizes]
    generation = [(cell.size, cell) for cell in settings.cells if cell.size in settings.sizes]
    chosen = [*training[:-1], *generation, *training[-1:]]
    settings.sizes = tuple(size for size in settings.sizes if any(size == of_cell for of_cell, _ in chosen))
    rows: list[Row] = []
    with _harness.checkpoints(settings) as folders:
        for size, cell in chosen:
            about = {"size": size, "what": "train_step", **TRAINED} if cell is None else cell._asdict()
            if time.monotonic() > end:
                rows.append({"what": "generate", **about, "sides": {}, "failed": "not begun: no time left"})
                continue
            _results.note(f"{about}")
            rows.append({"what": "generate", **about, "sides": measure_case(settings, folders[size], cell)})
            _results.save("turns", settings, rows)
    return _results.finish("turns", settings, rows)


if __name__ == "__main__":
    main()
