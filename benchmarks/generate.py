"""Greedy generation: seconds a call, milliseconds a token, compilation apart, peak memory, and the floor.

`python -m benchmarks.generate --sizes small --batches 1,8 --out benchmarks/results`. It only asks workers and
collects; it must not import JAX or torch.
"""

import argparse
from typing import Any

from benchmarks import _floor, _harness
from benchmarks._sizes import SIZES, generate_floor


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = _harness.parser("Greedy generation, side by side with torch.")
    parser.add_argument("--batches", default=(1, 8), type=_harness.integers, help="sentences at once")
    parser.add_argument("--new-tokens", default=64, type=int, help="tokens generated for each sentence")
    return parser


def measure_case(settings: argparse.Namespace, folder: str, *, batch: int) -> dict[str, Any]:
    """One size and batch in fresh processes: first call, then alternating timed calls, the encoder alone, memory."""
    shape = {"batch": batch, "source": settings.source}
    sides: dict[str, dict[str, Any]] = {}
    with _harness.workers(settings) as workers:
        tokens = {}
        for name, worker in workers.items():
            worker.ask("load", folder=folder)
            worker.ask("compilation")  # forgets what loading compiled
            first = worker.ask("generate", **shape, new_tokens=settings.new_tokens)
            tokens[name] = first["tokens"]
            sides[name] = {"first_seconds": first["seconds"], "compilation": worker.ask("compilation")}
            if any(len(row) != settings.new_tokens + 1 for row in first["tokens"]):
                raise RuntimeError(f"{name} stopped before {settings.new_tokens} new tokens: the runs do not compare")
        times = _harness.take_turns(workers, settings.repeats, "generate", **shape, new_tokens=settings.new_tokens)
        for worker in workers.values():
            worker.ask("encode", **shape)
        encoders = _harness.take_turns(workers, settings.repeats, "encode", **shape)
        for name, worker in workers.items():
            sides[name] |= {"seconds": times[name], "encode_seconds": encoders[name], "memory": worker.ask("peak")}
    same = all(rows == tokens[settings.sides[0]] for rows in tokens.values())
    return {"sides": sides, "same_tokens": same}


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measures every size and batch asked for."""
    settings = options().parse_args(arguments)
    floor = _floor.measure(settings)
    rows = []
    with _harness.checkpoints(settings) as folders:
        for name in settings.sizes:
            for batch in settings.batches:
                case = measure_case(settings, folders[name], batch=batch)
                least = generate_floor(
                    SIZES[name],
                    batch=batch,
                    source=settings.source,
                    new_tokens=settings.new_tokens,
                    bandwidth=floor["bandwidth"],
                    peak=floor["matmul"],
                )
                rows.append({"size": name, "batch": batch, "floor_seconds": least, **case})
    return _harness.finish("generate", settings, rows, floor=floor)


if __name__ == "__main__":
    main()
