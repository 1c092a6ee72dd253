"""Two processes of Python that find each other by `jax.distributed` on loopback, each with a few CPU devices."""

import os
import socket
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import NamedTuple

_START = """
import os, sys
import jax
sys.stdout = open(os.environ["SAID"], "w", buffering=1)  # gloo writes to that of the system
jax.config.update("jax_num_cpu_devices", int(os.environ["DEVICES_EACH"]))
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.config.update("jax_compilation_cache_dir", os.environ["PROGRAMS"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
jax.distributed.initialize(os.environ["COORDINATOR"], 2, int(os.environ["NUMBER"]), heartbeat_timeout_seconds=10)
"""
_TESTS = Path(__file__).parent
_PROGRAMS = _TESTS.parent / ".pytest_cache" / "programs"


class Said(NamedTuple):
    """What one process printed, line by line, what else came from it, and its exit status."""

    lines: list[str]
    errors: str
    status: int


def run_two(code: str, *arguments: object, devices_each: int = 2, seconds: float = 240) -> tuple[Said, Said]:
    """Runs the code in both, which are connected when it begins; `sys.argv[1:]` are the arguments."""
    address = f"127.0.0.1:{free_port()}"
    shared = {
        **os.environ,
        "COORDINATOR": address,
        "DEVICES_EACH": str(devices_each),
        "PROGRAMS": str(_PROGRAMS),
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(
            [str(_TESTS), str(_TESTS / "mesh"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        ),
    }
    command = [sys.executable, "-c", _START + textwrap.dedent(code), *map(str, arguments)]
    with tempfile.TemporaryDirectory() as folder:
        said, errors = ([Path(folder) / f"{number}.{kind}" for number in (0, 1)] for kind in ("said", "errors"))
        started = []
        for number in (0, 1):
            with errors[number].open("w") as stream:
                own = {"NUMBER": str(number), "SAID": str(said[number])}
                started.append(subprocess.Popen(command, stdout=stream, stderr=stream, env=shared | own))
        try:
            statuses = [process.wait(seconds) for process in started]
        finally:
            for process in started:
                process.kill()
                process.wait()
        first, second = (
            Said(said[number].read_text().splitlines(), errors[number].read_text(), statuses[number])
            for number in (0, 1)
        )
    return first, second


def free_port() -> int:
    """A port of this machine that nothing listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
