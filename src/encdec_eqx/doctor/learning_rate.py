"""Whether the optimiser's steps go down: a few of them, on one batch, on a copy of the model; and a rate that would.

Knows the optimiser as an `optax.GradientTransformation`. Its updates are scaled, which for the usual optimisers is the
same as another learning rate, so that one compilation serves all rates.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float32, PyTree

from .._typing import Array
from ..training.optim.optimizer import Optimizer, make_optimizer
from ..training.optim.optimizer_config import OptimizerConfig
from .finding import Finding

STEPS = 8
"""Enough for Adam to leave its first steps, which are of equal size in all directions, behind."""

_FACTORS = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003)


@dataclasses.dataclass(frozen=True)
class Trial:
    """The losses of a few steps on one batch: before the first, and after each."""

    losses: tuple[float, ...]

    @property
    def ends(self) -> float:
        """The mean of the last two losses: single steps may go up."""
        return sum(self.losses[-2:]) / 2

    def rises(self, uniform: float) -> bool:
        """Whether it ends above its beginning, by more than a tenth of ln V, or not as a number.

        An optimiser that begins anew on a trained model loses some of what was learned before it finds its scale. At
        the rate that a pair had learned with, at any stage from fresh to perfect, that came to 0.003 ln V; at three
        times that rate to 0.04 to 0.18, at thirty times to 0.5 and more.
        """
        return not math.isfinite(self.ends) or self.ends > self.losses[0] + 0.1 * uniform


def attempted(
    loss_and_gradient: Callable[[PyTree], tuple[Array, PyTree]],
    params: PyTree,
    optimizer: optax.GradientTransformation,
    factor: float,
) -> Trial:
    """Takes `STEPS` steps, or fewer if the loss is no number any more or beyond hope.

    Args:
        loss_and_gradient: the loss of the trained arrays on the batch, and its gradient.
        params: the trained arrays, which are left as they are.
        optimizer: makes the steps.
        factor: what its updates are multiplied by.
    """
    with jax.numpy_dtype_promotion("standard"):
        state = jax.tree.map(lambda x: jnp.asarray(x, x.dtype) if eqx.is_array(x) else x, optimizer.init(params))
    losses = []
    for step in range(STEPS + 1):
        loss, gradient = loss_and_gradient(params)
        losses.append(float(loss))
        if step == STEPS or not losses[-1] < 3 * losses[0] + 10:  # which no number is not, either
            break
        params, state = _stepped(params, gradient, state, optimizer, jnp.asarray(factor, jnp.float32))
    return Trial(tuple(losses))


@eqx.filter_jit
def _stepped(
    params: PyTree, gradient: PyTree, state: PyTree, optimizer: optax.GradientTransformation, factor: Float32[Array, ""]
) -> tuple[PyTree, PyTree]:
    with jax.numpy_dtype_promotion("standard"):
        updates, state = optimizer.update(gradient, state, params)
        updates = jax.tree.map(lambda update: update * factor, updates)
        return optax.apply_updates(params, updates), state


def is_too_high(trial: Callable[[float], Trial], *, learning_rate: float | None, uniform: float) -> Iterator[Finding]:
    """The loss of one batch rises when steps are taken on that very batch: they are too long.

    Args:
        trial: takes the steps, with updates multiplied by a factor.
        learning_rate: the rate, where it is known.
        uniform: ln V.
    """
    first = trial(1.0)
    evidence = {"before": first.losses[0], "after": first.ends, "steps": len(first.losses) - 1}
    if len(set(first.losses)) == 1:
        yield Finding(
            code="no_update",
            severity="info",
            message=f"{STEPS} steps changed nothing: the optimiser's rate is 0 at its beginning (a warm-up?).",
            fix="give the highest rate of the schedule to diagnose(..., learning_rate=...).",
            evidence=evidence,
        )
    elif first.rises(uniform):
        better = next((factor for factor in _FACTORS if trial(factor).losses[0] > trial(factor).ends), None)
        if better is None:
            advice = f"no rate down to {_FACTORS[-1]} times it lowered the loss: look at the other findings first"
        elif learning_rate is None:
            advice = f"make it about {3 / better:.0f} times lower"
        else:
            advice = (
                f"try learning_rate={learning_rate * better / 3:.1g}, a third of the highest one that lowered the loss"
            )
        after = f"{first.ends:.3g}" if math.isfinite(first.ends) else "no number"
        rate = "" if learning_rate is None else f" {learning_rate:g}"
        yield Finding(
            code="learning_rate_too_high",
            severity="error",
            message=f"learning rate{rate}: {evidence['steps']} steps on one and the same batch took its loss from "
            f"{first.losses[0]:.3g} to {after}.",
            fix=f"{advice}; warm-up (warmup_ratio) and clipping (max_grad_norm) help too.",
            evidence=evidence if better is None else {**evidence, "factor": better},
        )


@dataclasses.dataclass(frozen=True)
class Tried:
    """What the steps are taken with.

    Attributes:
        optimizer: makes them.
        factor: what its updates are multiplied by.
        learning_rate: the rate that comes to, where it is known.
    """

    optimizer: optax.GradientTransformation
    factor: float = 1.0
    learning_rate: float | None = None

    @classmethod
    def of(cls, optimizer: Any, learning_rate: float | None) -> "Tried | None":
        """From what was given to `diagnose`; None for nothing.

        A rate alone means AdamW behind clipping, as `fit` uses by default. An `Optimizer` of this library is tried at
        the highest rate of its schedule. Both are made with a rate of 1, so that all rates share a compilation.
        """
        if learning_rate is not None:
            return cls(_constant(OptimizerConfig()), learning_rate, learning_rate)
        if not isinstance(optimizer, Optimizer):
            return None if optimizer is None else cls(optimizer)
        config = optimizer.settings.config
        highest = config.learning_rate
        rates = {part: rate / highest for part, rate in config.learning_rates.items()}
        return cls(_constant(config, learning_rates=rates), highest, highest)


def _constant(config: OptimizerConfig, **changes: Any) -> Optimizer:
    return make_optimizer(config.at_constant_rate(learning_rate=1.0, **changes), num_training_steps=STEPS)
