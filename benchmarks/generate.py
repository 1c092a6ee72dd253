"""Generation, greedy and with beams, in cells of size, batch, beams and source length.

`python -m benchmarks.generate --cells base:4x4:128,base:1x1:512 --out benchmarks/results`. For each cell: seconds a
call, tokens a second, time to the first token, compilation apart, memory, and the floor. It only asks workers and
collects; it must not import JAX or torch.
"""

import argparse
from collections.abc import Sequence
from typing import Any, NamedTuple

from benchmarks import _floor, _harness, _results
from benchmarks._harness import Worker
from benchmarks._sizes import SIZES, generate_floor


class Cell(NamedTuple):
    """What one line of the table measures.

    Attributes:
        size: name of the model's size.
        batch: sentences at once.
        beams: of each sentence; 1 is greedy search.
        source: source positions of each sentence.
    """

    size: str
    batch: int
    beams: int
    source: int

    @classmethod
    def read(cls, text: str) -> "Cell":
        """The cell that the command line writes `size:batchxbeams:source`.

        Raises:
            argparse.ArgumentTypeError: it is written in another way.
        """
        try:
            size, rows, source = text.split(":")
            batch, beams = rows.split("x")
            cell = cls(size, int(batch), int(beams), int(source))
        except ValueError:
            cell = None
        if cell is None or cell.size not in SIZES or min(cell[1:]) < 1:
            raise argparse.ArgumentTypeError(
                f"got {text!r}, expected size:batchxbeams:source such as base:4x4:128, the size out of {list(SIZES)}"
            )
        return cell

    def __str__(self) -> str:
        return f"{self.size}:{self.batch}x{self.beams}:{self.source}"


DEFAULT_CELLS = (
    "tiny:1x1:128,tiny:8x1:128,"
    "small:1x1:128,small:8x1:128,small:1x1:512,small:8x4:128,small:1x4:512,"
    "base:1x1:128,base:8x1:128,base:1x1:512,base:4x4:128,base:1x4:512"
)


def cells(text: str) -> tuple[Cell, ...]:
    """Comma-separated cells of the command line."""
    return tuple(Cell.read(item) for item in text.split(","))


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = _harness.parser("Generation, side by side with torch.", alone=True)
    parser.add_argument(
        "--cells",
        default=DEFAULT_CELLS,
        type=cells,
        help="comma-separated size:batchxbeams:source, 1 beam for greedy; those of other sizes than --sizes are left "
        f"out; default {DEFAULT_CELLS}",
    )
    parser.add_argument("--new-tokens", default=64, type=int, help="tokens generated for each sentence")
    return parser


def measure_case(settings: argparse.Namespace, folder: str, cell: Cell) -> dict[str, Any]:
    """One cell in fresh processes: first calls, then timed calls, the encoder alone, memory; in turns or alone."""
    sides: dict[str, dict[str, Any]] = {}
    tokens: dict[str, list[list[int]]] = {}
    for together in [[side] for side in settings.sides] if settings.alone else [settings.sides]:
        measured, said = _measure(settings, together, folder, cell)
        sides, tokens = sides | measured, tokens | said
    same = all(rows == tokens[settings.sides[0]] for rows in tokens.values())
    return {"sides": sides, "same_tokens": same}


def _measure(
    settings: argparse.Namespace, together: Sequence[str], folder: str, cell: Cell
) -> tuple[dict[str, dict[str, Any]], dict[str, list[list[int]]]]:
    """What the sides took that take turns with each other, and their tokens."""
    shape = {"batch": cell.batch, "source": cell.source}
    call = {**shape, "beams": cell.beams, "new_tokens": settings.new_tokens}
    greedy = cell.beams == 1
    first = {**shape, "new_tokens": settings.new_tokens}
    sides: dict[str, dict[str, Any]] = {}
    tokens: dict[str, list[list[int]]] = {}
    with _harness.workers(settings, together) as workers:
        for name, worker in workers.items():
            worker.ask("load", folder=folder)
            worker.ask("compilation")  # forgets what loading compiled
            sides[name] = {}
            if greedy:
                # the process's first call: what it compiles serves the calls after it
                sides[name]["first_token_cold"] = worker.ask("first_token", **first)["seconds"]
            tokens[name] = _of_full_length(name, worker, settings.new_tokens, call)
            sides[name]["compilation"] = worker.ask("compilation")
        timed = {"seconds": _harness.take_turns(workers, settings.repeats, "generate", **call)}
        if greedy:
            timed["first_token_warm"] = _harness.take_turns(workers, settings.repeats, "first_token", **first)
        for worker in workers.values():
            worker.ask("encode", **shape)
        timed["encode_seconds"] = _harness.take_turns(workers, settings.repeats, "encode", **shape)
        for name, worker in workers.items():
            sides[name] |= {what: of_sides[name] for what, of_sides in timed.items()}
            sides[name]["memory"] = worker.ask("peak")
        if "jax" in workers:
            sides["jax"]["programs"] = workers["jax"].ask("programs", **call)
    return sides, tokens


def _of_full_length(name: str, worker: Worker, new_tokens: int, call: dict[str, Any]) -> list[list[int]]:
    """The tokens of a first call.

    Raises:
        RuntimeError: a row ended early, so that the sides need not have taken as many steps.
    """
    tokens = worker.ask("generate", **call)["tokens"]
    if any(len(row) != new_tokens + 1 for row in tokens):
        raise RuntimeError(f"{name} stopped before {new_tokens} new tokens: the runs do not compare")
    return tokens


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measures every cell asked for."""
    parser = options()
    settings = parser.parse_args(arguments)
    settings.cells = tuple(cell for cell in settings.cells if cell.size in settings.sizes)
    settings.sizes = tuple(size for size in settings.sizes if any(cell.size == size for cell in settings.cells))
    if not settings.cells:
        parser.error("none of --cells has a size of --sizes")
    floor = _floor.measure(settings)
    rows = []
    with _harness.checkpoints(settings) as folders:
        for cell in settings.cells:
            case = measure_case(settings, folders[cell.size], cell)
            least = generate_floor(
                SIZES[cell.size],
                batch=cell.batch,
                beams=cell.beams,
                source=cell.source,
                new_tokens=settings.new_tokens,
                bandwidth=floor["bandwidth"],
                peak=floor["matmul"],
            )
            rows.append({**cell._asdict(), "floor_seconds": least, **case})
            _results.save("generate", settings, rows, floor=floor)  # a run that is cut short is not lost
            print(f"{cell} measured", flush=True)
    return _results.finish("generate", settings, rows, floor=floor)


if __name__ == "__main__":
    main()
