"""A process of its own for what may abort, hang or take all memory, used again and again. Knows no kind of mutation."""

import dataclasses
import multiprocessing
import os
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path

WALL = 40.0
"""Seconds without an answer after which the process is ended: far more than the processor time that is allowed."""

HERE = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of one mutation.

    Attributes:
        index: its number.
        what: what was done, in words.
        result: how the library took it, in a word, such as "refused".
        faults: what is wrong about that.
    """

    index: int
    what: str
    result: str
    faults: tuple[str, ...]


class Worker:
    """Runs mutations in one child process, and starts another when that one is lost."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._child: subprocess.Popen | None = None
        self._pipe: Connection | None = None
        self._started = 0

    def run(self, kind: str, seed: int, index: int) -> Outcome:
        """One mutation of a kind."""
        pipe = self._pipe or self._start()
        pipe.send((kind, seed, index))
        what = "(not yet said)"
        while True:
            try:
                if not pipe.poll(WALL):
                    return self._lost(index, what, f"no answer within {WALL:g} s")
                name, *values = pipe.recv()
            except (EOFError, ConnectionResetError):
                return self._lost(index, what, "the process ended")
            if name == "does":
                what = values[0]
            elif name == "done":
                return Outcome(index, what, values[0], tuple(values[1]))
            else:
                raise RuntimeError(f"the fuzzer itself failed at {kind} {index} of seed {seed}:\n{values[0]}")

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
        if self._pipe is not None:
            self._pipe.close()
        self._child = self._pipe = None

    def _start(self) -> Connection:
        self._started += 1
        folder = self.folder / f"child-{self._started}"
        folder.mkdir(parents=True)
        ours, theirs = multiprocessing.Pipe()
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(str(Path(place).resolve()) for place in sys.path),  # the same sources
            "JAX_PLATFORMS": "cpu",
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        with (folder / "said.txt").open("wb") as said:
            self._child = subprocess.Popen(
                [sys.executable, str(HERE / "served.py"), str(theirs.fileno()), str(folder)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                env=environment,
            )
        theirs.close()
        self._pipe = ours
        return ours

    def _lost(self, index: int, what: str, why: str) -> Outcome:
        """The outcome of a mutation that took the child with it."""
        assert self._child is not None
        if "answer" in why:
            self._child.kill()
        code = self._child.wait()
        said = (self.folder / f"child-{self._started}" / "said.txt").read_text(errors="replace")[-600:]
        self.close()
        return Outcome(index, what, "lost", (f"{why} (status {code}): {said}",))
