"""The child's side of `worker`: takes the numbers of mutations from a pipe and answers with what came of them.

Started as a script. A kind is a class in one of the modules below: made with a folder of its own, and called with a
random generator and a function to say what it does, it returns a word for how it went and a list of faults.
"""

import importlib
import os
import random
import resource
import sys
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MODULES = ("of_checkpoints", "of_adapters", "of_text", "of_data", "of_jobs", "of_patterns", "of_runs", "of_streams")
ROOM = 4 * 2**30
"""Address space beyond what the process has when it starts: a bomb ends in MemoryError, not in the machine's memory."""


def kinds() -> dict[str, Any]:
    """Every kind, by name."""
    return {name: kind for module in MODULES for name, kind in importlib.import_module(module).KINDS.items()}


def main() -> None:
    """Answer until the pipe is closed."""
    pipe, folder = Connection(int(sys.argv[1])), Path(sys.argv[2])
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    known, ready = kinds(), {}
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    (folder / "here").mkdir()
    os.chdir(folder / "here")
    while True:
        try:
            name, seed, index = pipe.recv()
        except EOFError:
            return
        try:
            if name not in ready:
                (folder / name).mkdir()
                ready[name] = known[name](folder / name)
                _limit_memory()
            rng = random.Random(f"{seed}/{name}/{index}")
            result, faults = ready[name](rng, lambda what: pipe.send(("does", what)))
            if any((folder / "here").iterdir()):
                faults = [*faults, "wrote into the current folder"]
            pipe.send(("done", result, faults))
        except Exception:  # noqa: BLE001 -- whatever it is, the parent tells it
            pipe.send(("failed", traceback.format_exc()))


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    if pages:
        limit = pages * resource.getpagesize() + ROOM
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


if __name__ == "__main__":
    main()
