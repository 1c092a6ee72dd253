"""Generation on a CPU in float32, bfloat16 and int8, and CTranslate2's beside it where it is installed.

`python -m benchmarks.int8 --sizes base --batches 1,8 --out benchmarks/results`; with CTranslate2, `python -m
benchmarks._bart_checkpoint FOLDER` once and then `--bart FOLDER`. Each dtype has a process of its own, and they take
turns. It only asks and collects; it must not import JAX.
"""

import argparse
import contextlib
import pathlib
from typing import Any

from benchmarks import _harness, _results
from benchmarks._harness import Worker

OURS = {"ours " + dtype: ("benchmarks._int8_side", dtype) for dtype in ("float32", "bfloat16", "int8")}
THEIRS = {"CTranslate2 " + dtype: ("benchmarks._ctranslate2_side", dtype) for dtype in ("float32", "int8")}


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = _harness.parser("Generation in eight bits.", sizes="base", torch=False)
    parser.add_argument("--batches", default=(1, 8), type=_harness.integers, help="sentences at once")
    parser.add_argument("--source", default=128, type=int, help="source positions of each sentence")
    parser.add_argument("--new-tokens", default=64, type=int, help="tokens generated for each sentence")
    parser.add_argument("--bart", type=pathlib.Path, help="folder of benchmarks._bart_checkpoint, for CTranslate2")
    return parser


def measure_model(settings: argparse.Namespace, model: str, sides: dict[str, tuple[str, str]]) -> list[dict[str, Any]]:
    """All dtypes and batches of one model."""
    rows = []
    with contextlib.ExitStack() as stack:
        workers = {name: Worker(module, settings=settings) for name, (module, _) in sides.items()}
        for worker in workers.values():
            stack.callback(worker.close)
        files = {
            name: workers[name].ask("prepare", model=model, dtype=dtype)["file"] for name, (_, dtype) in sides.items()
        }
        for batch in settings.batches:
            sizes = {"batch": batch, "source": settings.source, "new_tokens": settings.new_tokens}
            first = {name: worker.ask("generate", **sizes) for name, worker in workers.items()}
            times = _harness.take_turns(workers, settings.repeats, "generate", **sizes)
            reference = next(iter(first.values()))["tokens"]
            for name in sides:
                side = {"side": name, "seconds": times[name], "file": files[name], "peak": first[name].get("peak")}
                rows.append(
                    {"model": model, **sizes, **side, "agreement": _agreement(first[name]["tokens"], reference)}
                )
    return rows


def _agreement(tokens: list[list[int]], others: list[list[int]]) -> float:
    """The fraction of places with the same token: one that differs changes what follows."""
    pairs = [pair for row, other in zip(tokens, others, strict=True) for pair in zip(row, other, strict=True)]
    return sum(one == other for one, other in pairs) / len(pairs)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measures every size, and BART where it is given."""
    settings = options().parse_args(arguments)
    bart, settings.bart = settings.bart, settings.bart is not None
    rows = []
    for name in settings.sizes:
        rows += measure_model(settings, name, OURS)
    if bart is not None:
        rows += [{**row, "model": "bart-base"} for row in measure_model(settings, str(bart.resolve()), OURS | THEIRS)]
    return _results.finish("int8", settings, rows)


if __name__ == "__main__":
    main()
