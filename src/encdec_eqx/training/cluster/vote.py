"""What one process is asked all of them do after the same step: a signal, or a callback, that ends the run."""

from collections import deque
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ... import _processes


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
