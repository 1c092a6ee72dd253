"""Processes that run together under `jax.distributed`: which one writes files, and what they tell each other.

What goes between them here are words, by way of jax's coordination service: no device takes part, so that a thread may
wait beside a step that runs. One process by itself needs none of it, and nothing is sent.
"""

import collections
import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import jax

Value = TypeVar("Value")

WAITED = 20 * 60.0
"""Seconds that a process waits for the others. One that has died is found sooner, by jax's own heartbeat."""

_met: collections.Counter[str] = collections.Counter()
"""How often processes have met for each purpose: no two meetings have one name."""


class OtherProcessError(RuntimeError):
    """Another process failed, or did not come. Says which, and why."""


def count() -> int:
    """How many processes run together."""
    return jax.process_count()


def number() -> int:
    """The number of this one, from 0."""
    return jax.process_index()


def is_first() -> bool:
    """Whether this is the process that writes what is written once."""
    return jax.process_index() == 0


class Told(Generic[Value]):
    """What the processes tell each other at a meeting.

    Attributes:
        mine: What this one tells: any JSON. Set it within the block.
        all: What each has told, by its number. There after the block.
    """

    mine: Value | None = None
    all: tuple[Any, ...] = ()


@contextlib.contextmanager
def together(purpose: str) -> Iterator[Told]:
    """A block that all processes run, and leave together; an error in one of them is an error in all.

    Each must come to it, from whatever thread, in the same order among the blocks of one purpose.

    Args:
        purpose: What it is for, in words that follow "while": "opening the checkpoints".

    Raises:
        OtherProcessError: Another process failed in its block, or did not come.
    """
    told: Told = Told()
    if count() == 1:
        yield told
        told.all = (told.mine,)
        return
    try:
        yield told
    except Exception as error:
        with contextlib.suppress(OtherProcessError):  # this error says more
            _exchange(purpose, {"error": f"{type(error).__name__}: {error}"})
        raise
    answers = _exchange(purpose, {"value": told.mine})
    failed = [f"process {index}: {answer['error']}" for index, answer in enumerate(answers) if "error" in answer]
    if failed:
        raise OtherProcessError(f"another process failed while {purpose}: {'; '.join(failed)}")
    told.all = tuple(answer["value"] for answer in answers)


def on_first(purpose: str, action: Callable[[], Value]) -> Value:
    """What `action` gives in the first process, told to all: any JSON. The others wait for it.

    Args:
        purpose: As for `together`.
        action: Called in the first process alone.

    Raises:
        OtherProcessError: It failed there; that process raises its own error.
    """
    with together(purpose) as told:
        if is_first():
            told.mine = action()
    return told.all[0]


def _exchange(purpose: str, mine: dict[str, Any]) -> list[dict[str, Any]]:
    """What each process says, by its number."""
    client = _client()
    _met[purpose] += 1
    topic = f"encdec_eqx/{purpose.replace(' ', '_')}"
    meeting, before = f"{topic}/{_met[purpose]}", f"{topic}/{_met[purpose] - 1}"
    try:
        client.key_value_set(f"{meeting}/{number()}", json.dumps(mine))
        client.wait_at_barrier(meeting, int(1000 * WAITED))
        if is_first():  # as all are here, all have read what was said the last time
            client.key_value_delete(before)
        return [
            json.loads(client.blocking_key_value_get(f"{meeting}/{index}", int(1000 * WAITED)))
            for index in range(count())
        ]
    except jax.errors.JaxRuntimeError as error:
        reason = (str(error).splitlines() or ["no details"])[0]
        raise OtherProcessError(
            f"a process has died or did not come within {WAITED:.0f} seconds, while {purpose} ({reason}). Start all "
            "of them again; a run goes on from its newest checkpoint with resume=True (--resume)."
        ) from error


def _client() -> Any:
    """The client of jax's coordination service; it has no public name, and orbax takes it from here too."""
    from jax._src import distributed

    client = distributed.global_state.client
    if client is None:
        raise RuntimeError(
            f"jax runs in {count()} processes, but not by jax.distributed.initialize: call that before anything else."
        )
    return client
