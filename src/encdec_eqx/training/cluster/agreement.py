"""What processes that train together must agree on: what they train, and after which step they stop."""

import hashlib
import json
from collections import deque
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ... import _processes
from ..._quoting import listed, quoted

_SHOWN = 8


def check_same(what: str, facts: Mapping[str, Any]) -> None:
    """Raises in every process unless all have the same facts.

    Args:
        what: What they are about, such as "settings".
        facts: By name, in values that JSON can hold.

    Raises:
        ValueError: They differ; says which, and what they are in which process.
    """
    with _processes.together(f"comparing {what}") as told:
        told.mine = {name: _short(value) for name, value in facts.items()}
    lines = []
    for number, theirs in enumerate(told.all[1:], start=1):
        first = told.all[0]
        names = sorted(name for name in {**first, **theirs} if first.get(name) != theirs.get(name))
        lines += [f"{name}: {first.get(name)} in process 0, {theirs.get(name)} in process {number}" for name in names]
    if lines:
        raise ValueError(
            f"the processes differ in {what}, and must not: {listed(lines, _SHOWN)}. Start all of them with the same "
            "file, options and data."
        )


def _short(value: Any) -> str:
    """A value as an error shows it; a long one with a digest, so that no difference is lost."""
    text = json.dumps(value, sort_keys=True)
    shown = quoted(value)
    return shown if len(text) < len(shown) + 8 else f"{shown} ({hashlib.sha256(text.encode()).hexdigest()[:8]})"


class Vote:
    """Whether any process was asked for something, known to all of them after the same step.

    A sum over the processes goes to the devices with every step and is read one step later, so that nobody waits for
    more than the step before. One process by itself knows at once.
    """

    def __init__(self, questions: int):
        """Of so many questions, nothing is asked yet."""
        self._sums: deque[jax.Array] = deque()
        self._nothing = np.zeros((1, questions), np.float32)
        self._count = _processes.count()
        if self._count > 1:
            of_each = [
                next(device for device in jax.devices() if device.process_index == number)
                for number in range(self._count)
            ]
            mesh = jax.sharding.Mesh(np.array(of_each), ("process",))
            self._mine = jax.sharding.NamedSharding(mesh, jax.P("process"))
            every = jax.sharding.NamedSharding(mesh, jax.P())
            self._total = jax.jit(lambda asked: jnp.sum(asked, axis=0), out_shardings=every)
            self._no = self._placed(self._nothing)

    def __call__(self, *asked: bool) -> tuple[bool, ...]:
        """After a step: what this process was asked, and back what any was, as of the step before.

        Args:
            asked: One for each question.
        """
        if self._count == 1:
            return asked
        mine = self._placed(self._nothing + np.array(asked, np.float32)) if any(asked) else self._no
        self._sums.append(self._total(mine))
        if len(self._sums) == 1:
            return (False,) * len(asked)
        return tuple(bool(one) for one in np.asarray(self._sums.popleft().addressable_data(0)))

    def _placed(self, row: np.ndarray) -> Any:
        return jax.make_array_from_process_local_data(self._mine, row, (self._count, row.shape[1]))
