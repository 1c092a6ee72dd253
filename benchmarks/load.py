"""Loading a checkpoint: seconds until `from_pretrained` returns, seconds until every byte was read, and memory.

`python -m benchmarks.load --out benchmarks/results`. Both sides map the file into memory, so returning says little:
the second figure is the one that compares. The file is in the page cache: the disk is not measured.
"""

import argparse
from typing import Any

from benchmarks import _floor, _harness, _results


def options() -> argparse.ArgumentParser:
    """The command line."""
    return _harness.parser("Loading a checkpoint, side by side with torch.")


def measure_case(settings: argparse.Namespace, folder: str) -> dict[str, Any]:
    """One size in fresh processes; the first load of each is apart, it imports and compiles."""
    sides: dict[str, dict[str, Any]] = {}
    with _harness.workers(settings) as workers:
        for name, worker in workers.items():
            before = worker.ask("peak")
            first = worker.ask("load", folder=folder)
            sides[name] = {
                "first_seconds": first["seconds"],
                "bytes": first["bytes"],
                "anonymous_growth": first["grown"],
                "resident_before": before.get("resident"),
            }
            worker.ask("load", folder=folder, touch=True)
        plain = _harness.take_turns(workers, settings.repeats, "load", folder=folder)
        touched = _harness.take_turns(workers, settings.repeats, "load", folder=folder, touch=True)
        for name, worker in workers.items():
            sides[name] |= {
                "seconds": plain[name],
                "touched_seconds": touched[name],
                "memory": worker.ask("peak"),
            }
    return {"sides": sides}


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measures every size; the floor is one read of the bytes."""
    settings = options().parse_args(arguments)
    floor = _floor.measure(settings)
    rows = []
    with _harness.checkpoints(settings) as folders:
        for name in settings.sizes:
            case = measure_case(settings, folders[name])
            size = max(side["bytes"] for side in case["sides"].values())
            rows.append({"size": name, "floor_seconds": size / floor["bandwidth"], **case})
    return _results.finish("load", settings, rows, floor=floor)


if __name__ == "__main__":
    main()
