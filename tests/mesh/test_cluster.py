"""How processes that are to train together find each other: their options, who did not come, and who does not fit."""

import json
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from encdec_eqx.training.cluster import MeetingError, Place, Processes
from encdec_eqx.training.cluster.meeting import Connections, meet
from two_processes import free_port

FACTS = {"jax": "0.10.2"}


def places(count: int) -> list[Place]:
    port = free_port()
    return [Place("127.0.0.1", port, count, number) for number in range(count)]


def at_once(*meetings: Callable[[], Connections]) -> list[Connections | MeetingError]:
    """What becomes of meetings that are held at the same time."""
    results: dict[int, Any] = {}

    def hold(index: int) -> None:
        try:
            results[index] = meetings[index]()
        except MeetingError as error:
            results[index] = error

    threads = [threading.Thread(target=hold, args=(index,)) for index in range(len(meetings))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return [results[index] for index in range(len(meetings))]


def close(*connections: Any) -> None:
    for one in connections:
        for each in one.values():
            each.close()


def said(result: Any) -> str:
    assert isinstance(result, MeetingError), result
    return str(result)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"coordinator": "localhost"}, "must be HOST:PORT"),
        ({"coordinator": "localhost:0"}, "must be HOST:PORT"),
        ({"coordinator": "localhost:65536"}, "must be HOST:PORT"),
        ({"coordinator": "fd00::1:80"}, "must be HOST:PORT"),
        ({"coordinator": "a:1"}, "needs --num-processes and --process-id too"),
        ({"coordinator": "a:1", "num_processes": 2}, "needs --process-id too"),
        ({"coordinator": "a:1", "num_processes": 2, "process_id": 2}, "--process-id must be from 0 to 1"),
        ({"coordinator": "a:1", "num_processes": 2, "process_id": -1}, "--process-id must be from 0 to 1"),
        ({"coordinator": "a:1", "num_processes": 0, "process_id": 0}, "--num-processes must be from 1"),
        ({"num_processes": 2}, "--num-processes says nothing without --coordinator"),
        ({"coordinator_timeout": 5}, "--coordinator-timeout says nothing without --coordinator"),
        ({"coordinator": "auto", "process_id": 1}, "leave --process-id out"),
        ({"coordinator": "auto", "coordinator_timeout": 0}, "--coordinator-timeout must be from 1 to 86400"),
    ],
)
def test_wrong_options_are_told_before_anything_begins(options: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        Processes(**options)


def test_a_process_has_the_place_that_its_options_say():
    assert Processes().place() is None
    assert Processes(coordinator="a:1", num_processes=1, process_id=0).place() is None
    place = Processes(coordinator="[fd00::1]:12345", num_processes=2, process_id=1).place()
    assert place == Place("fd00::1", 12345, 2, 1)
    assert place.address == "[fd00::1]:12345"


def test_a_job_of_slurm_says_the_place(monkeypatch: pytest.MonkeyPatch):
    variables = {
        "SLURM_JOB_ID": "4096", "SLURM_STEP_NODELIST": "node[003-004]", "SLURM_NTASKS": "4", "SLURM_PROCID": "3",
        "SLURM_LOCALID": "1",
    }  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    place = Processes(coordinator="auto").place()
    assert place == Place("node003", 61440, 4, 3, (1,))


def test_where_there_is_no_cluster_the_options_are_asked_for():
    with pytest.raises(ValueError, match=r"no job of SLURM .* --coordinator HOST:PORT"):
        Processes(coordinator="auto").place()


def test_all_meet_and_a_stranger_at_the_port_changes_nothing():
    first, second, third = places(3)

    def after_a_stranger() -> Connections:
        for line in (b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b""):
            with socket.socket() as stranger:
                while stranger.connect_ex(("127.0.0.1", first.port)):
                    pass
                stranger.sendall(line)
        return meet(second, FACTS, timeout=20)

    host, one, other = at_once(
        lambda: meet(first, FACTS, timeout=20), after_a_stranger, lambda: meet(third, FACTS, timeout=20)
    )
    assert isinstance(host, dict)
    assert isinstance(one, dict)
    assert isinstance(other, dict)
    assert sorted(host) == [1, 2]
    host[2].sendall(b"to the third\n")
    assert other[0].recv(100) == b"to the third\n"
    close(host, one, other)


def test_who_did_not_come_is_told_to_all_that_came():
    first, second, _, _ = places(4)
    host, one = at_once(lambda: meet(first, FACTS, timeout=1), lambda: meet(second, FACTS, timeout=1))
    assert said(host).startswith("processes 2, 3 (of 4) did not come to 127.0.0.1:")
    assert said(one) == said(host)


def test_a_coordinator_that_does_not_answer_is_told_with_the_reason():
    _, second = places(2)
    with pytest.raises(MeetingError, match=r"process 0 did not answer at .* within 0\.5 seconds \(.*refused\)"):
        meet(second, FACTS, timeout=0.5)


def test_a_port_that_is_taken_is_told():
    first, _ = places(2)
    with (
        socket.create_server(("", first.port)),
        pytest.raises(MeetingError, match=f"port {first.port}, which .* cannot be used on this host"),
    ):
        meet(first, FACTS, timeout=1)


def test_what_answers_at_the_port_may_be_something_else():
    _, second = places(2)
    with socket.create_server(("127.0.0.1", second.port)) as server:
        thread = threading.Thread(target=lambda: server.accept()[0].close())
        thread.start()
        with pytest.raises(MeetingError, match="is not process 0 of this run"):
            meet(second, FACTS, timeout=2)
        thread.join()


@pytest.mark.parametrize(
    ("second", "facts", "words"),
    [
        ({"number": 1, "count": 3}, FACTS, "process 1 was started with --num-processes 3, process 0 with"),
        ({"number": 1, "count": 2}, {"jax": "0.12.0.1"}, "jax: 0.10.2 in process 0, 0.12.0.1 in 1"),
    ],
)
def test_processes_that_do_not_fit_are_told_so_on_both_sides(second: dict[str, int], facts: Any, words: str):
    first, _ = places(2)
    other = Place("127.0.0.1", first.port, second["count"], second["number"])
    host, one = at_once(lambda: meet(first, FACTS, timeout=10), lambda: meet(other, facts, timeout=10))
    assert words in said(host)
    assert said(one) == said(host)


def test_a_number_that_two_processes_have_is_told():
    first, second, _ = places(3)
    results = at_once(*(lambda place=place: meet(place, FACTS, timeout=10) for place in (first, second, second)))
    assert {said(result) for result in results} == {
        "two processes were started with --process-id 1: each needs its own, from 0."
    }


def test_two_that_both_listen_as_process_0_are_told_by_the_port():
    first, _ = places(2)
    results = at_once(lambda: meet(first, FACTS, timeout=1), lambda: meet(first, FACTS, timeout=1))
    assert sum("cannot be used on this host" in said(result) for result in results) == 1


def test_a_process_that_was_started_again_takes_its_own_place():
    first, second, third = places(3)
    arrived = threading.Event()

    def twice() -> Connections:
        with socket.socket() as gone:
            while gone.connect_ex(("127.0.0.1", first.port)):
                pass
            gone.sendall(json.dumps({"encdec_eqx": 1, "process": 1, "of": 3, "facts": FACTS}).encode() + b"\n")
        arrived.set()
        return meet(second, FACTS, timeout=10)

    def late() -> Connections:
        arrived.wait(10)
        return meet(third, FACTS, timeout=10)

    results = at_once(lambda: meet(first, FACTS, timeout=10), twice, late)
    assert all(isinstance(result, dict) for result in results), results
    close(*results)
