"""The length and the schedule of a run, and whether a run that was begun under others may go on under these.

Steps that were taken stay as they are: a run goes on if their learning rates are the same under both, and then ends as
if it had had the new settings from the start. Knows settings and rates; must not know checkpoints or the loop.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .config import TrainConfig
from .optim.schedules import Schedule, make_schedule

COURSE = (
    "num_train_epochs",
    "max_steps",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_ratio",
    "warmup_steps",
)
"""Settings that a resumed run may change as far as the steps taken are not concerned."""

Course = Mapping[str, Any]


def course_of(config: TrainConfig, total_steps: int) -> dict[str, Any]:
    """What decides the length and the rates of a run, in values that JSON can hold."""
    values = config.to_dict()
    rest = {"learning_rate": config.learning_rate, "total_steps": total_steps}
    return {**{name: values.get(name) for name in COURSE}, **rest}


def check_course(then: Course, now: Course, *, step: int, output_dir: Path) -> None:
    """Refuses to go on under another course that does not fit the steps taken.

    Args:
        then: the course of the run so far.
        now: the course it is to go on with.
        step: how many steps it has taken.
        output_dir: its folder.

    Raises:
        ValueError: a rate of these steps would have been another one, or the run is already as long.
    """
    if then == now:
        return
    total = now["total_steps"]
    if total != then["total_steps"] and total <= step:
        raise ValueError(
            f"the run in {output_dir} has taken {step} steps, and {_length(now)} asks for {total} in all: give more, "
            "or a new output_dir."
        )
    before, after = (_rates(_schedule(course), step) for course in (then, now))
    differing = np.flatnonzero(before != after)
    if not differing.size:
        return
    first = int(differing[0])
    changes = [f"{name}: {then[name]} in the checkpoint, {now[name]} now" for name in then if then[name] != now[name]]
    raise ValueError(
        f"the run in {output_dir} cannot go on with another schedule for the steps that it has taken:\n  "
        + "\n  ".join(changes)
        + f"\n  the rate of step {first + 1} was {before[first]:.3g} and would be {after[first]:.3g}: {_reason(now)}\n"
        + _way_out(then, now, step, before, output_dir)
    )


def _schedule(course: Course) -> Schedule:
    return make_schedule(
        learning_rate=course["learning_rate"],
        lr_scheduler_type=course["lr_scheduler_type"],
        num_training_steps=course["total_steps"],
        warmup_steps=course["warmup_steps"],
        warmup_ratio=course["warmup_ratio"],
        lr_scheduler_kwargs=course["lr_scheduler_kwargs"],
    )


def _rates(schedule: Schedule, steps: int) -> np.ndarray:
    return np.asarray(jax.vmap(schedule)(jnp.arange(steps)))


def _length(course: Course) -> str:
    name = "max_steps" if course["max_steps"] is not None else "num_train_epochs"
    return f"{name}={course[name]}" if course[name] is not None else "the default of 3 epochs"


def _reason(now: Course) -> str:
    if now["warmup_ratio"]:
        return f"warmup_ratio={now['warmup_ratio']} is a share of the whole run, so that its length moves every rate."
    return f"{now['lr_scheduler_type']!r} spreads its decay over the whole run, so that its length moves every rate."


def _way_out(then: Course, now: Course, step: int, taken: np.ndarray, output_dir: Path) -> str:
    """What the user can do: with a fixed number of warm-up steps, if that is all; else from the finished model."""
    warmup = _schedule(then).warmup_steps
    fixed = {**now, "warmup_ratio": 0.0, "warmup_steps": warmup}
    if now["warmup_ratio"] and np.array_equal(_rates(_schedule(fixed), step), taken):
        return f"Give warmup_steps={warmup} in place of warmup_ratio, which keeps the warm-up as it was."
    return (
        "Resume with the former settings. To train further, start a new run in another output_dir from the finished "
        f"model, which is in {output_dir / 'model'} (model_name_or_path). Runs with lr_scheduler_type "
        "'constant', 'constant_with_warmup' or 'inverse_sqrt' can be lengthened."
    )
