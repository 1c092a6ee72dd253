"""Speculative decoding: tokens a pass and speed beside plain greedy search, for a draft decoder and for prompt lookup.

`python -m benchmarks.speculative --sizes base --out benchmarks/results`. The weights are random, so how often proposals
are right is chosen, not found: what is measured is what a pass costs, and with it from how many tokens a pass it pays.
It only asks and collects; it must not import JAX.
"""

import argparse
from typing import Any

from benchmarks import _harness, _results
from benchmarks._harness import Fixed, Worker

SIDE = "benchmarks._speculative_side"


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = _harness.parser("Speculative decoding.", sizes="small,base", torch=False)
    parser.add_argument("--batches", default=(1,), type=_harness.integers, help="sentences at once")
    parser.add_argument("--source", default=128, type=int, help="source positions of each sentence")
    parser.add_argument("--new-tokens", default=64, type=int, help="tokens generated for each sentence")
    parser.add_argument("--ahead", default=(4,), type=_harness.integers, help="tokens proposed at a time")
    parser.add_argument(
        "--strengths",
        default=(0.0, 0.02, 0.05, 0.15),
        type=_strengths,
        help="how much the layers add that the draft has not got, from 0 (it is always right) to 1",
    )
    parser.add_argument(
        "--spans", default=(64, 16, 4), type=_harness.integers, help="lengths of the spans that the source is made of"
    )
    return parser


def _strengths(text: str) -> tuple[float, ...]:
    values = tuple(float(item) for item in text.split(","))
    if min(values) < 0 or max(values) > 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected numbers from 0 to 1")
    return values


def measure_pair(worker: Worker, repeats: int, proposer: str, **how: Any) -> dict[str, Any]:
    """Plain search and one proposer, in turn.

    Args:
        worker: prepared.
        repeats: timed runs of each.
        proposer: what the table calls it.
        **how: arguments of the worker's `generate`.
    """
    sides = {"plain": Fixed(worker, how="plain", ahead=0, span=1), "proposed": Fixed(worker, **how)}
    first = {name: side.ask("generate") for name, side in sides.items()}
    return {
        "proposer": proposer,
        "ahead": how["ahead"],
        "passes": {name: answer["passes"] for name, answer in first.items()},
        "same_tokens": first["plain"]["tokens"] == first["proposed"]["tokens"],
        "seconds": _harness.take_turns(sides, repeats, "generate"),
    }


def measure_case(settings: argparse.Namespace, worker: Worker, ahead: int) -> list[dict[str, Any]]:
    """Drafts of all strengths, then sources of all spans."""
    rows = []
    for strength in settings.strengths:
        layers = worker.ask("weaken", strength=strength)["draft_layers"]
        proposer = f"draft, {layers} layer{'s'[: layers - 1]}, the others at {strength:g}"
        rows.append(measure_pair(worker, settings.repeats, proposer, how="draft", ahead=ahead, span=1))
    worker.ask("weaken", strength=1.0)  # whose tokens the source was made of
    for span in settings.spans:
        proposer = f"lookup, spans of {min(span, settings.new_tokens)}"
        rows.append(measure_pair(worker, settings.repeats, proposer, how="lookup", ahead=ahead, span=span))
    return rows


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measures every size, batch and number of proposals."""
    settings = options().parse_args(arguments)
    rows = []
    for name in settings.sizes:
        for batch in settings.batches:
            worker = Worker(SIDE, settings=settings)
            try:
                shape = {"source": settings.source, "new_tokens": settings.new_tokens}
                worker.ask("prepare", size=name, batch=batch, **shape)
                for ahead in settings.ahead:
                    cases = measure_case(settings, worker, ahead)
                    rows += [{"size": name, "batch": batch, **case} for case in cases]
                    _results.save("speculative", settings, rows)
                    print(f"{name}, batch {batch}, {ahead} ahead measured", flush=True)
            finally:
                worker.close()
    return _results.finish("speculative", settings, rows)


if __name__ == "__main__":
    main()
