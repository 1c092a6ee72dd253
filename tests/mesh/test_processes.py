"""What processes tell each other: alone there is nobody to ask, and two hear of each other's values and errors."""

import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from encdec_eqx import _processes as processes

TWO = """
    import sys
    import jax
    number, port = int(sys.argv[1]), sys.argv[2]
    jax.config.update("jax_num_cpu_devices", 1)
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, number)
    from encdec_eqx import _processes as processes

    for turn in range(2):
        with processes.together("counting") as told:
            told.mine = [number, turn]
        print(told.all)
    print(processes.on_first("asking", lambda: {"asked": processes.number()}))
    try:
        with processes.together("opening it"):
            if number == 1:
                raise ValueError("no such thing")
    except (ValueError, processes.OtherProcessError) as error:
        print(type(error).__name__, error)
"""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_one_process_asks_nobody():
    with processes.together("counting") as told:
        told.mine = object()  # it goes nowhere, so that it need not be JSON
    assert told.all == (told.mine,)
    assert processes.on_first("asking", lambda: 3) == 3
    assert (processes.count(), processes.number(), processes.is_first()) == (1, 0, True)
    with pytest.raises(KeyError), processes.together("failing"):
        raise KeyError("its own")


def test_two_processes_hear_of_each_others_values_and_errors(tmp_path: Path):
    port = _free_port()
    code = textwrap.dedent(TWO)
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(number), str(port)],
            stdout=subprocess.PIPE,
            stderr=(tmp_path / f"{number}.err").open("w"),
            text=True,
        )
        for number in (0, 1)
    ]
    said = [process.communicate(timeout=120)[0].splitlines() for process in started]
    assert [process.returncode for process in started] == [0, 0], (tmp_path / "0.err").read_text()
    heard = ["([0, 0], [1, 0])", "([0, 1], [1, 1])", "{'asked': 0}"]
    assert said[0] == [
        *heard,
        "OtherProcessError another process failed while opening it: process 1: ValueError: no such thing",
    ]
    assert said[1] == [*heard, "ValueError no such thing"]
