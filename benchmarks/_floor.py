"""What the machine can do at best: copy bandwidth, read bandwidth and matrix-product rate, the better of both sides.

It must not import JAX or torch: the workers measure.
"""

import argparse
from typing import Any

from benchmarks._harness import Worker, workers

COPY_MEGABYTES = 256  # far beyond the caches


def measure(settings: argparse.Namespace, *, repeats: int = 7) -> dict[str, Any]:
    """Rates of each side and the best of both: `copy` and `read` in bytes a second, `matmul` in FLOPs a second.

    The best run counts, not the median: a floor must be below what a lucky run reaches.

    Args:
        settings: the shared options.
        repeats: runs of each kind and side.
    """
    width = 2048 if settings.device == "cpu" else 8192
    with workers(settings) as sides:
        rates = {
            "copy": _best(sides, repeats, "copy", megabytes=COPY_MEGABYTES),
            "read": _best(sides, repeats, "read", megabytes=COPY_MEGABYTES),
            "matmul": _best(sides, repeats, "matmul", width=width),
        }
    best = {kind: max(of_sides.values()) for kind, of_sides in rates.items()}
    return {"sides": rates, **best, "bandwidth": max(best["copy"], best["read"])}


def _best(sides: dict[str, Worker], repeats: int, question: str, **arguments: Any) -> dict[str, float]:
    best = dict.fromkeys(sides, 0.0)
    for _ in range(repeats):
        for name, worker in sides.items():
            answer = worker.ask(question, **arguments)
            best[name] = max(best[name], answer["amount"] / answer["seconds"])
    return best
