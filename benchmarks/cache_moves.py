"""What it costs that beams replace each other: ways to hold their keys and values, on the same steps of one decoder.

`python -m benchmarks.cache_moves --sizes base --beams 4 --slots 64,256 --out benchmarks/results`. Each way takes the
same random tokens and replacements; they take turns within one process. It only asks and collects; it must not import
JAX.
"""

import argparse
from typing import Any

from benchmarks import _harness, _results
from benchmarks._harness import Fixed, Worker
from benchmarks._sizes import FLOAT_BYTES, SIZES, Size

BLOCKS = {"table": 1, "blocks": 16}  # slots a block of the ways that read through a table
WAYS = ("gather", "ancestry", *BLOCKS)
SIDE = "benchmarks._cache_side"


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = _harness.parser("Ways to move beams in a cache.", sizes="small,base", torch=False)
    parser.add_argument("--beams", default=(4, 8), type=_harness.integers, help="of each sentence")
    parser.add_argument("--slots", default=(64, 256, 512), type=_slots, help="tokens a beam has room for")
    parser.add_argument("--batch", default=4, type=int, help="sentences at once")
    parser.add_argument("--source", default=128, type=int, help="source positions of each sentence")
    parser.add_argument("--steps", default=8, type=int, help="steps of a timed run")
    return parser


def _slots(text: str) -> tuple[int, ...]:
    slots = _harness.integers(text)
    if any(count % max(BLOCKS.values()) for count in slots):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected multiples of {max(BLOCKS.values())}")
    return slots


def moved_bytes(size: Size, way: str, *, batch: int, beams: int, slots: int) -> int:
    """Bytes read and written in a step only because beams replace each other, all slots counted, filled or not.

    Reading keys and values once for attention is common to all ways and left out. A way that reads through a table
    writes what attention reads and reads it again.
    """
    slot = size.layers * 2 * size.hidden * FLOAT_BYTES  # one token's keys and values
    rows = batch * beams
    if way == "ancestry":
        return 2 * rows * beams * slots  # who may attend to what, a byte each
    whole = 2 * rows * slots * slot
    if way == "gather":
        return whole
    block = BLOCKS[way]
    table = 2 * rows * (slots // block) * 4
    opened = 2 * rows * block * slot if block > 1 else 0
    return whole + opened + table


def attention_flops(size: Size, way: str, *, batch: int, beams: int, slots: int) -> int:
    """Of a step's self-attention: scores and weighted sums. With ancestry every beam meets all beams' slots."""
    keys = slots * (beams if way == "ancestry" else 1)
    return 4 * batch * beams * keys * size.hidden * size.layers


def measure_case(settings: argparse.Namespace, worker: Worker, size: Size, beams: int, slots: int) -> dict[str, Any]:
    """All ways with one number of beams and slots."""
    sizes = {"batch": settings.batch, "beams": beams, "slots": slots}
    worker.ask("forget")
    ways: dict[str, dict[str, Any]] = {}
    for way in WAYS:
        ways[way] = worker.ask("compile_way", way=way, **sizes, source=settings.source, steps=settings.steps)
        ways[way]["moved_bytes"] = moved_bytes(size, way, **sizes)
        ways[way]["attention_flops"] = attention_flops(size, way, **sizes)
    times = _harness.take_turns({way: Fixed(worker, way=way) for way in WAYS}, settings.repeats, "take")
    for way in WAYS:
        ways[way]["seconds"] = times[way]
    return {"size": size.name, **sizes, "ways": ways}


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measures every size, number of beams and number of slots."""
    parser = options()
    settings = parser.parse_args(arguments)
    if settings.steps > min(settings.slots):
        parser.error(f"--steps {settings.steps} do not fit into --slots {min(settings.slots)}")
    rows = []
    for name in settings.sizes:
        worker = Worker(SIDE, settings=settings)
        try:
            worker.ask("prepare", size=name)
            for beams in settings.beams:
                for slots in settings.slots:
                    rows.append(measure_case(settings, worker, SIZES[name], beams, slots))
                    _results.save("cache_moves", settings, rows)
                    print(f"{name}, {beams} beams, {slots} slots measured", flush=True)
        finally:
            worker.close()
    return _results.finish("cache_moves", settings, rows)


if __name__ == "__main__":
    main()
