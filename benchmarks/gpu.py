"""Everything that is measured on a GPU, in one command of under eight minutes: `benchmarks/gpu.sh`.

Checks first what is there and says what is missing; it installs nothing. Then cell after cell, the most important ones
first, each side alone in its process, each cell with a limit of its own. What comes is written as it comes, a line of
JSON each and the tables anew; a cell that fails leaves the reason and the run goes on. It only asks workers and
collects; it must not import JAX or torch.
"""

import argparse
import contextlib
import json
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

from benchmarks import _gpu_table, _harness, _results
from benchmarks._gpu_cells import JAX, PARTS, Cell, cells

ROOT = _harness.ROOT
LEAST_SECONDS = 10.0
"""With less time left, nothing is begun."""
Row = dict[str, Any]


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description="Every GPU cell, checks and tests included.")
    parser.add_argument("--platform", default="gpu", choices=("gpu", "cpu"), help="where both sides run")
    parser.add_argument("--tiny", action="store_true", help="every cell at a size that a CPU takes in seconds")
    parser.add_argument(
        "--only", default=PARTS, type=_harness.names_of(PARTS), help=f"comma-separated, of {', '.join(PARTS)}"
    )
    parser.add_argument("--minutes", default=7.5, type=float, help="no longer than this, whatever is left")
    parser.add_argument(
        "--jax-python", default=sys.executable, type=_harness.interpreter, help="interpreter of our side"
    )
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "benchmarks/results/gpu", help="folder of results")
    return parser


# --- what is there ---------------------------------------------------------------------------------------------------

_TRY_JAX = "import equinox, optax, jaxtyping, jax; import encdec_eqx; print(jax.devices()[0].platform)"
_TRY_TORCH = "import torch, transformers; print('cuda' if torch.cuda.is_available() else 'cpu')"
_TRY_TESTS = "import pytest, hypothesis, beartype; print('found')"


def check(settings: argparse.Namespace) -> tuple[set[str], list[str]]:
    """What can be measured ("jax", "torch", "tests"), and a line for all that is missing and what would mend it."""
    able, lines = set(), []
    said = _tried(settings.jax_python, _TRY_JAX, settings)
    wanted = ("gpu", "cuda", "rocm") if settings.platform == "gpu" else ("cpu",)
    if said.endswith(wanted):
        able.add("jax")
    else:
        lines.append(f'our side: no {settings.platform} for jax ({said}); pip install -e . "jax[cuda13]" (or cuda12)')
    said = _tried(sys.executable, _TRY_TORCH, settings)
    if said == ("cuda" if settings.platform == "gpu" else said) and said in ("cuda", "cpu"):
        able.add("torch")
    else:
        lines.append(f"torch's side is left out: {said}; pip install torch transformers, with CUDA for a GPU")
    said = _tried(settings.jax_python, _TRY_TESTS, settings)
    if said == "found":
        able.add("tests")
    else:
        lines.append(f'the tests are left out: {said}; pip install -e ".[dev]"')
    return able, lines


def _tried(python: str, code: str, settings: argparse.Namespace) -> str:
    """The last line that code printed, or the last line of its error."""
    environment = _harness.environment_of(settings)
    with contextlib.suppress(subprocess.TimeoutExpired):
        done = subprocess.run(
            [python, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment, timeout=90
        )
        lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
        return lines[-1] if lines else f"exit status {done.returncode}"
    return "no answer within 90 s"


# --- the run ---------------------------------------------------------------------------------------------------------


class Run:
    """One run: the time that is left, the process that is alive, the rows so far.

    Args:
        settings: the command line, and what workers are started with.
        head: what stands above the tables: machine, versions, what is missing.
    """

    def __init__(self, settings: argparse.Namespace, head: Row):
        self.head, self.rows = head, []
        self._settings = settings
        self._patience = (
            1.0 if settings.platform == "gpu" else 10.0
        )  # a CPU may be a busy one, and only tries the script
        self._end = time.monotonic() + 60 * settings.minutes
        self._worker: _harness.Worker | None = None
        self._last: Cell | None = None
        self._lines = settings.out / "gpu.jsonl"
        settings.out.mkdir(parents=True, exist_ok=True)
        self._lines.write_text(json.dumps(head) + "\n")

    def left(self) -> float:
        """Seconds."""
        return self._end - time.monotonic()

    def add(self, row: Row) -> None:
        """Keeps a row: in the file of lines, and in the tables."""
        self.rows.append(row)
        with self._lines.open("a") as file:
            file.write(json.dumps(row) + "\n")
        (self._settings.out / "gpu.md").write_text(_gpu_table.text(self.head, self.rows))
        said = row.get("failed") or _gpu_table.short(row)
        _results.note(f"{row['part']}: {row['name']}, {row['side']}: {said}")

    def take(self, cell: Cell) -> None:
        """Measures one cell, whatever comes of it."""
        row: Row = {"part": cell.part, "name": cell.name, "side": cell.side, "flops": cell.flops, "bytes": cell.bytes}
        row |= {"environment": cell.environment, "arguments": cell.arguments}
        begin, budget = time.monotonic(), min(self._patience * cell.seconds, self.left())
        if budget < LEAST_SECONDS:
            self.add(row | {"failed": "not begun: no time left"})
            return
        try:
            self._prepare(cell, budget)
            row |= self._ask(cell.question, budget - (time.monotonic() - begin), **cell.arguments)
        except _harness.WorkerError as error:
            late = time.monotonic() - begin >= budget - 0.1
            row["failed"] = f"given up after {budget:.0f} s" if late else error.reason
            self.close()
        self.add(row | {"took": time.monotonic() - begin})

    def _prepare(self, cell: Cell, budget: float) -> None:
        """Sees to it that the process alive is one that the cell can be asked of."""
        if self._worker is not None and cell.shares_process(self._last):
            return
        self.close()
        begin = time.monotonic()
        self._worker = _harness.Worker(cell.module, settings=self._settings, environment=cell.environment)
        self._last = cell
        if cell.module not in self.head["rates"]:
            self.head["rates"][cell.module] = self._ask("rates", budget, tiny=self._settings.tiny)
        self._ask("make", budget - (time.monotonic() - begin), **cell.model.asked())

    def _ask(self, question: str, budget: float, **arguments: Any) -> Row:
        """The worker's answer; after `budget` seconds it is killed instead."""
        assert self._worker is not None
        watch = threading.Timer(max(budget, 0.1), self._worker.kill)
        watch.start()
        try:
            return self._worker.ask(question, **arguments)
        finally:
            watch.cancel()

    def close(self) -> None:
        """Ends the process that is alive."""
        if self._worker is not None:
            self._worker.close()
        self._worker = self._last = None

    def test(self, name: str, selection: list[str], seconds: float) -> None:
        """Runs tests of the repository, and keeps how many passed."""
        begin, budget = time.monotonic(), min(self._patience * seconds, self.left())
        row: Row = {"part": "tests", "name": name, "side": "ours", "command": f"pytest {' '.join(selection)}"}
        if budget < LEAST_SECONDS:
            self.add(row | {"failed": "not begun: no time left"})
            return
        self.close()
        command = [self._settings.jax_python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *selection]
        with tempfile.TemporaryFile(mode="w+") as log:
            try:
                status = subprocess.run(
                    command,
                    cwd=ROOT,
                    env=_harness.environment_of(self._settings) | {"XLA_FLAGS": ""},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    timeout=budget,
                ).returncode
            except subprocess.TimeoutExpired:
                status = None
            log.seek(0)
            lines = log.read().strip().splitlines()
        if status is None:
            passed = sum(line.count(".") for line in lines if set(line.split(" ")[0]) <= set(".sFExX"))
            row["failed"] = f"given up after {budget:.0f} s, {passed} passed so far"
        elif status == 5:
            row["failed"] = "no test is selected"
        elif status:
            row |= {"failed": lines[-1], "log": lines[-40:]}
        self.add(row | {"passed": lines[-1] if lines else "", "took": time.monotonic() - begin})


def tests(tiny: bool) -> dict[str, tuple[list[str], float]]:
    """Selections of the repository's tests (`tests/gpu.md`), with the seconds that they may take.

    The suite multiplies matrices at precision "highest", wherever it runs.
    """
    kernels = "tests/layers/test_attention_kernels.py"
    few = {
        "goldens": (["tests/test_goldens.py", *(["-k", "bert_gpt2 and greedy"] if tiny else [])], 60.0),
        "cuDNN's attention": ([kernels, "-m", "needs_gpu"], 40.0),
    }
    return few if tiny else {**few, "all that a GPU should run": (["-m", "gpu"], 120.0)}


def main(arguments: list[str] | None = None) -> int:
    """Checks, measures, writes; returns the exit status: 2 where our side cannot run at all."""
    settings = options().parse_args(arguments)
    settings.device, settings.precision, settings.huge_pages = settings.platform, "bf16", False
    settings.threads, settings.alone = _harness.cores(), True
    able, missing = check(settings)
    for line in missing:
        print(f"missing: {line}", file=sys.stderr, flush=True)
    if "jax" not in able:
        return 2
    head: Row = {"machine": _results.machine(settings), "missing": missing, "rates": {}, "tiny": settings.tiny}
    run = Run(settings, head)
    chosen = [cell for cell in cells(tiny=settings.tiny) if cell.module == JAX or "torch" in able]
    try:
        for part in (part for part in PARTS if part in settings.only):
            for cell in (cell for cell in chosen if cell.part == part):
                run.take(cell)
            if part == "tests" and "tests" in able:
                for name, (selection, seconds) in tests(settings.tiny).items():
                    run.test(name, selection, seconds)
    finally:
        run.close()
    print(_gpu_table.text(head, run.rows), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
