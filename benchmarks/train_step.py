"""A training step (forward, backward, AdamW) of every contestant beside torch eager's, in turns.

`python -m benchmarks.train_step --sizes small,base --cache folder --out benchmarks/results`. It only asks workers and
collects; it must not import JAX or torch.
"""

import argparse
import contextlib
import pathlib
import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks import _floor, _harness, _results
from benchmarks._contestants import CONTESTANTS, MODULES, REFERENCE, USUAL
from benchmarks._sizes import SIZES, train_step_flops

DATA = ("equal", "ragged")
Row = dict[str, Any]


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = _harness.parser(
        "A training step, side by side with torch.",
        repeats=5,
        precisions=("float32", "tf32", "bf16"),
        alone=True,
    )
    parser.add_argument(
        "--contestants",
        default=USUAL,
        type=_harness.names_of(CONTESTANTS),
        help=f"comma-separated, of {', '.join(CONTESTANTS)}; default {','.join(USUAL)}",
    )
    parser.add_argument(
        "--data",
        default=DATA,
        type=_harness.names_of(DATA),
        help="equal: every batch is full; ragged: lengths with a long tail, batches made by each side's own way",
    )
    parser.add_argument("--batch", default=8, type=int, help="sentence pairs a step")
    parser.add_argument("--source", default=128, type=int, help="source positions, of ragged examples the most")
    parser.add_argument("--target", default=64, type=int, help="target positions, of ragged examples the most")
    parser.add_argument("--settle", default=1, type=int, help="untimed steps of a side at the start of each turn")
    parser.add_argument("--steps-per-turn", default=2, type=int, help="timed steps of a side each turn")
    parser.add_argument("--ragged-steps-per-turn", default=8, type=int, help="the same with ragged examples")
    return parser


@contextlib.contextmanager
def entered(settings: argparse.Namespace, name: str, folder: str, data: str) -> Iterator[tuple[Any, Row]]:
    """A contestant in a fresh process, its first step taken, and its row; where it failed, no worker but the reason."""
    contestant = CONTESTANTS[name]
    row: Row = {"data": data, "contestant": name}
    _results.note(f"{pathlib.Path(folder).name}, {data}: {contestant.title}")
    with contextlib.ExitStack() as stack:
        try:
            started = _harness.Worker(MODULES[contestant.side], settings=settings)
            worker = stack.enter_context(contextlib.closing(started))
            worker.ask("load", folder=folder)
            shape = {"batch": settings.batch, "source": settings.source, "target": settings.target}
            row |= worker.ask("prepare_training", **shape, ragged=data == "ragged", **contestant.options)
            row |= worker.ask("warm_up")
        except _harness.WorkerError as error:
            worker, row["failed"] = None, error.reason
        yield worker, row


def measure_case(settings: argparse.Namespace, folder: str, data: str) -> list[Row]:
    """Rows of every contestant with one size and kind of data.

    The reference stays; the others come one after another, and each takes turns with it. So no more than two are alive.
    With `--alone` only one is, the reference too.
    """
    names = [name for name in settings.contestants if CONTESTANTS[name].side in settings.sides]
    if data == "ragged":
        names = [name for name in names if CONTESTANTS[name].ragged]
    rows: dict[str, Row] = {}
    if settings.alone:
        rows = {name: _beside(settings, name, folder, data, None) for name in names}
        for row in rows.values():
            row["reference"] = rows.get(REFERENCE, {}).get("turns")
            _tell_compiling_apart(row)
        return list(rows.values())
    with contextlib.ExitStack() as stack:
        reference = None
        if REFERENCE in names:
            reference, rows[REFERENCE] = stack.enter_context(entered(settings, REFERENCE, folder, data))
        for name in names:
            if name != REFERENCE:
                rows[name] = _beside(settings, name, folder, data, reference)
        if reference is not None:
            beside = [row["reference"] for row in rows.values() if row.get("reference")]
            alone = beside[0] if beside else take_turns(settings, data, {REFERENCE: reference})[REFERENCE]
            rows[REFERENCE] |= {"turns": alone, "reference": alone, "memory": reference.ask("memory_of_step")}
    for name in names:
        _tell_compiling_apart(rows[name])
    return [rows[name] for name in names]


def _beside(settings: argparse.Namespace, name: str, folder: str, data: str, reference: Any) -> Row:
    """The row of one contestant that takes turns with the reference, where there is one."""
    with entered(settings, name, folder, data) as (worker, row):
        if worker is not None:
            pair = {name: worker} | ({} if reference is None else {REFERENCE: reference})
            how = "alone" if reference is None else "in turns"
            _results.note(f"its first step took {row['first_seconds']:.1f} s; now {how}")
            taken = take_turns(settings, data, pair)
            row |= {"turns": taken[name], "reference": taken.get(REFERENCE)}
            row["memory"] = worker.ask("memory_of_step")
    return row


def _tell_compiling_apart(row: Row) -> None:
    """What `torch.compile` took is what its first step took more than a later one."""
    if "turns" in row and CONTESTANTS[row["contestant"]].options.get("compiled"):
        row["compile_seconds"] = max(0.0, row["first_seconds"] - row["turns"]["median"]["seconds"])


def take_turns(settings: argparse.Namespace, data: str, sides: Mapping[str, Any]) -> dict[str, Row]:
    """Turns of A, B, A, B, …, each of them settling steps and then timed ones; what they took, summed up."""
    count = settings.ragged_steps_per_turn if data == "ragged" else settings.steps_per_turn
    turns: dict[str, list[Row]] = {name: [] for name in sides}
    for _ in range(settings.repeats):
        for name, worker in sides.items():
            turns[name].append(worker.ask("steps", settle=settings.settle, count=count))
    return {name: summary(taken) for name, taken in turns.items()}


def summary(turns: list[Row]) -> Row:
    """Medians over all timed steps of all turns, the extremes of their seconds, and every step as it was.

    Args:
        turns: answers of a worker to "steps".
    """
    steps = [step for turn in turns for step in turn["steps"]]
    settling = [turn["settling"][0]["seconds"] for turn in turns if turn["settling"]]
    seconds, tokens = [step["seconds"] for step in steps], sum(step["tokens"] for step in steps)
    return {
        "median": {kind: statistics.median(step[kind] for step in steps) for kind in steps[0]},
        "least": min(seconds),
        "most": max(seconds),
        "tokens_per_second": tokens / sum(seconds),
        "cpu_seconds_per_token": sum(step["cpu_seconds"] for step in steps) / tokens,
        "first_of_turn": statistics.median(settling) if settling else None,
        "turns": turns,
    }


def rated(row: Row, *, flops: int, peak: float) -> Row:
    """The row with the floor; and, where every step costs the same, with its rate and its share of the peak.

    Args:
        row: of a contestant.
        flops: of one step's matrix products. What is computed again for the backward pass does not count.
        peak: measured FLOPs a second of a matrix product.
    """
    if row["data"] != "equal":
        return row
    row |= {"flops": flops, "floor_seconds": flops / peak}
    if "turns" in row:
        rate = flops / row["turns"]["median"]["seconds"]
        row |= {"flops_per_second": rate, "utilisation": rate / peak}
    return row


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measures every size; the result so far is saved after each, for it may take an hour."""
    settings = options().parse_args(arguments)
    _results.note("the machine's own rates")
    floor = _floor.measure(settings)
    shape = {"batch": settings.batch, "source": settings.source, "target": settings.target}
    rows: list[Row] = []
    with _harness.checkpoints(settings) as folders:
        for name in settings.sizes:
            flops = train_step_flops(SIZES[name], **shape)
            for data in settings.data:
                for row in measure_case(settings, folders[name], data):
                    about = {"size": name, "batch": settings.batch}
                    rows.append(about | rated(row, flops=flops, peak=floor["matmul"]))
                _results.save("train_step", settings, rows, floor=floor)
    return _results.finish("train_step", settings, rows, floor=floor)


if __name__ == "__main__":
    main()
