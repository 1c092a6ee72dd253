"""Two sides in two processes, taking turns: options, workers, questions, medians. `_results` writes what comes of it.

A worker imports, loads and compiles once and then waits on a pipe, so that only one side works at a time and what is
timed is the run alone. This file must not import JAX, torch or the library.
"""

import argparse
import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from benchmarks._sizes import SIZES

ROOT = pathlib.Path(__file__).resolve().parent.parent
SIDES = {"jax": "benchmarks._jax_side", "torch": "benchmarks._torch_side"}
OURS = tuple(
    f"benchmarks.{name}" for name in ("_jax_side", "_jax_training", "_cache_side", "_speculative_side", "_gpu_jax")
)
"""The modules that run in the interpreter of `--jax-python`."""


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parser(
    description: str,
    *,
    sizes: str = "tiny,small,base",
    repeats: int = 5,
    torch: bool = True,
    precisions: tuple[str, ...] = ("float32", "tf32"),
    alone: bool = False,
    several_pythons: bool = False,
) -> argparse.ArgumentParser:
    """The options every benchmark shares.

    Args:
        description: the script's first line of help.
        sizes: default of `--sizes`.
        repeats: default of `--repeats`.
        torch: whether torch takes part, or at least makes a checkpoint.
        precisions: choices of `--precision`.
        alone: whether it can be measured with `--alone`.
        several_pythons: whether our side runs on each of several interpreters (`jax_pythons`).
    """
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--sizes", default=sizes, type=names_of(SIZES), help=f"comma-separated, of {', '.join(SIZES)}")
    options.add_argument("--repeats", default=repeats, type=int, help="timed runs of each, taken in turn")
    if torch:
        options.add_argument(
            "--sides", default="jax,torch", type=names_of(SIDES), help="comma-separated, of jax, torch"
        )
        options.add_argument("--cache", type=pathlib.Path, help="folder that keeps the random checkpoints between runs")
    if alone:
        options.add_argument(
            "--alone",
            action="store_true",
            help="each side alone, in a process with no other beside it; without: the sides take turns",
        )
    which = "interpreter of our side, for another version of jax than that beside torch; default this one"
    if several_pythons:
        options.add_argument(
            "--jax-python",
            dest="jax_pythons",
            default=(sys.executable,),
            type=interpreters,
            help=f"comma-separated, each an {which}",
        )
    else:
        options.add_argument("--jax-python", default=sys.executable, type=interpreter, help=which)
    options.add_argument("--device", default="cpu", choices=("cpu", "gpu"), help="where both sides run")
    options.add_argument(
        "--precision",
        default="float32",
        choices=precisions,
        help="matrix products of both sides; tf32 changes something on a GPU only",
    )
    options.add_argument("--threads", default=cores(), type=int, help="threads of both sides on the CPU")
    options.add_argument(
        "--huge-pages", action="store_true", help="both sides with GLIBC_TUNABLES=glibc.malloc.hugetlb=1 (Linux)"
    )
    options.add_argument("--out", type=pathlib.Path, help="folder for the JSON result; printed only if absent")
    return options


def names_of(known: Collection[str]) -> Callable[[str], tuple[str, ...]]:
    """A parser of comma-separated names, each of which must be in `known`."""

    def names(text: str) -> tuple[str, ...]:
        unknown = [name for name in text.split(",") if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"got {unknown}, expected names out of {list(known)}")
        return tuple(text.split(","))

    return names


def interpreter(text: str) -> str:
    """A Python of the command line; it must be there."""
    if not os.access(text, os.X_OK):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected the path of a Python, such as venv/bin/python")
    return os.path.abspath(text)  # noqa: PTH100  (a virtual environment's link must not be resolved)


def interpreters(text: str) -> tuple[str, ...]:
    """Comma-separated Pythons of the command line."""
    return tuple(interpreter(item) for item in text.split(","))


def integers(text: str) -> tuple[int, ...]:
    """Comma-separated positive integers of the command line."""
    values = tuple(int(item) for item in text.split(","))
    if min(values) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected positive integers")
    return values


class WorkerError(RuntimeError):
    """A worker failed.

    Attributes:
        reason: why, in a line.
    """

    def __init__(self, message: str, reason: str):
        super().__init__(message)
        self.reason = reason


class Worker:
    """One side in its own process, asked over a pipe; each question and each answer is a line of JSON.

    Args:
        module: what runs there; it calls `serve`.
        settings: the shared options.
        environment: variables of this worker alone.
    """

    def __init__(
        self,
        module: str,
        *,
        settings: argparse.Namespace,
        environment: Mapping[str, str] | None = None,
    ):
        self._module = module
        self._log = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115  (it lives as long as the worker)
        self._scratch = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._process = subprocess.Popen(
            [settings.jax_python if module in OURS else sys.executable, "-m", module],
            cwd=ROOT,
            env=environment_of(settings) | {"TORCHINDUCTOR_CACHE_DIR": self._scratch.name} | dict(environment or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        try:
            self.ask(
                "start",
                device=settings.device,
                precision=settings.precision,
                threads=settings.threads,
            )
        except WorkerError:
            self.close()
            raise

    def ask(self, question: str, **arguments: Any) -> dict[str, Any]:
        """Sends one question and waits for its answer.

        Raises:
            WorkerError: the worker failed; the message holds its traceback or the end of its log.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"question": question, "arguments": arguments}) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            # the pipe closes before the last words are written: they are all there once the process has ended
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=30)
            self._log.seek(0)
            died = f"died at {question!r}, exit status {self._process.poll()}"
            raise WorkerError(f"{self._module} {died}; the end of its log:\n{self._log.read()[-3000:]}", died)
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"{self._module} failed at {question!r}:\n{answer['error']}", answer["reason"])
        return answer

    def cpu_seconds(self) -> float | None:
        """Processor time of all threads so far, which neighbours on the machine disturb less than the clock."""
        with contextlib.suppress(OSError):
            fields = pathlib.Path(f"/proc/{self._process.pid}/stat").read_text().rsplit(")", 1)[1].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return None

    def kill(self) -> None:
        """Ends the process at once, from any thread; what it is being asked then fails."""
        self._process.kill()

    def close(self) -> None:
        """Ends the process; closing its input is the sign to leave."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()
        self._scratch.cleanup()


def environment_of(settings: argparse.Namespace) -> dict[str, str]:
    """The workers' environment: the source tree first, no network, and the device chosen."""
    paths = [str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = dict(os.environ) | {
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": str(settings.threads),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "JAX_ENABLE_COMPILATION_CACHE": "false",
    }
    if settings.device == "cpu":
        environment["JAX_PLATFORMS"] = "cpu"
    if settings.huge_pages:
        environment["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
    return environment


@contextlib.contextmanager
def workers(settings: argparse.Namespace, sides: Sequence[str] | None = None) -> Iterator[dict[str, Worker]]:
    """A fresh worker for each of these sides, or those asked for, so that peak memory belongs to one case alone."""
    started: dict[str, Worker] = {}
    try:
        for side in settings.sides if sides is None else sides:
            started[side] = Worker(SIDES[side], settings=settings)
        yield started
    finally:
        for worker in started.values():
            worker.close()


class Fixed:
    """A worker that is always asked with these arguments: several of them take turns within one process."""

    def __init__(self, worker: Worker, **arguments: Any):
        self._worker, self._arguments = worker, arguments

    def ask(self, question: str, **arguments: Any) -> dict[str, Any]:
        """As of the worker."""
        return self._worker.ask(question, **self._arguments, **arguments)

    def cpu_seconds(self) -> float | None:
        """As of the worker."""
        return self._worker.cpu_seconds()


def take_turns(
    sides: Mapping[str, Worker | Fixed], repeats: int, question: str, **arguments: Any
) -> dict[str, dict[str, Any]]:
    """Asks A, B, A, B, … and reports each side's seconds: median, least, all of them, and processor time.

    Args:
        sides: the workers by name.
        repeats: answers wanted of each.
        question: what to ask; the answer must hold `seconds`.
        **arguments: passed on with the question.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    spent: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, worker in sides.items():
            before = worker.cpu_seconds()
            seconds[name].append(worker.ask(question, **arguments)["seconds"])
            after = worker.cpu_seconds()
            if before is not None and after is not None:
                spent[name].append(after - before)
    return {name: _summary(seconds[name], spent[name]) for name in sides}


def _summary(seconds: list[float], spent: list[float]) -> dict[str, Any]:
    cpu = statistics.median(spent) if spent else None
    return {"median": statistics.median(seconds), "least": min(seconds), "runs": seconds, "cpu": cpu}


def reason_of(error: Exception) -> str:
    """An error in a line: its kind, and its message up to the first empty line."""
    message = " ".join(str(error).strip().split("\n\n")[0].split())
    return f"{type(error).__name__}: {message}"[:300]


def serve(handlers: dict[str, Callable[..., dict[str, Any]]]) -> None:
    """A worker's main loop: one line in, one line out, until the input closes.

    What libraries print goes to the log: the answers keep a descriptor of their own.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = handlers[request["question"]](**request["arguments"])
        except Exception as error:  # noqa: BLE001  (whatever it is, the asking side shows it)
            answer = {"error": traceback.format_exc(), "reason": reason_of(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


@contextlib.contextmanager
def checkpoints(settings: argparse.Namespace) -> Iterator[dict[str, str]]:
    """Random-weight checkpoints by size, made (with torch) where `--cache` does not hold them yet."""
    with contextlib.ExitStack() as stack:
        folder = settings.cache or pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        found = {}
        for name in settings.sizes:
            path = pathlib.Path(folder).resolve() / name
            if not (path / "model.safetensors").exists():
                command = [sys.executable, "-m", "benchmarks._checkpoint", name, str(path)]
                subprocess.run(command, cwd=ROOT, env=environment_of(settings), check=True)
            found[name] = str(path)
        yield found
