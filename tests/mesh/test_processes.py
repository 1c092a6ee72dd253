"""What processes tell each other: alone there is nobody to ask, and two hear of each other's values and errors."""

import pytest

from encdec_eqx import _processes as processes
from two_processes import run_two

TWO = """
    from encdec_eqx import _processes as processes

    number = processes.number()
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


def test_one_process_asks_nobody():
    with processes.together("counting") as told:
        told.mine = object()  # it goes nowhere, so that it need not be JSON
    assert told.all == (told.mine,)
    assert processes.on_first("asking", lambda: 3) == 3
    assert (processes.count(), processes.number(), processes.is_first()) == (1, 0, True)
    with pytest.raises(KeyError), processes.together("failing"):
        raise KeyError("its own")


def test_two_processes_hear_of_each_others_values_and_errors():
    said = run_two(TWO)
    assert [one.status for one in said] == [0, 0], said[0].errors
    heard = ["([0, 0], [1, 0])", "([0, 1], [1, 1])", "{'asked': 0}"]
    assert said[0].lines == [
        *heard,
        "OtherProcessError another process failed while opening it: process 1: ValueError: no such thing",
    ]
    assert said[1].lines == [*heard, "ValueError no such thing"]
