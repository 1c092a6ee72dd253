"""Whether a run may be resumed: what must be equal (its fingerprint), and what may change (its length and schedule)."""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..._trees import path_name
from ..optim.optimizer_config import SCHEDULE
from ..optim.schedules import Schedule, make_schedule
from ..train_config import TrainConfig
from .state_arrays import described, on_host

Fingerprint = dict[str, dict[str, Any]]

_TITLES = {
    "run": "",
    "architecture": "model's ",
    "frozen": "frozen array ",
    "state": "trained or optimiser's array ",
}
_ABSENT = "absent"
_SHOWN = 8


def fingerprint(frozen: eqx.Module, run: Mapping[str, Any]) -> Fingerprint:
    """All that stays as it is during a run and has to be equal for it to be resumed, in values that JSON can hold."""
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(frozen, eqx.is_array))
    return {
        "run": _flat(run),
        "architecture": _architecture(frozen),
        "frozen": {path_name(path): f"{described(leaf)} {_digest(leaf)}" for path, leaf in leaves},
    }


def differences(then: Fingerprint, now: Fingerprint) -> list[str]:
    """What differs, one line each, a few for each kind; empty if nothing does."""
    lines: list[str] = []
    for kind, title in _TITLES.items():
        old, new = then[kind], now[kind]
        names = [name for name in {**old, **new} if old.get(name, _ABSENT) != new.get(name, _ABSENT)]
        names.sort(key=lambda name: name.startswith("opt_state"))  # which only follows the parameters
        lines += [
            f"{title}{name}: {old.get(name, _ABSENT)!s} in the checkpoint, {new.get(name, _ABSENT)!s} now"
            for name in names[:_SHOWN]
        ]
        if len(names) > _SHOWN:
            lines.append(f"{title}... and {len(names) - _SHOWN} more")
    return lines


def _architecture(model: Any) -> dict[str, str]:
    """The configs and special tokens of a pair: what shapes alone do not tell, such as an activation."""
    facts: dict[str, Any] = {}
    for part in ("encoder.config", "decoder.config", "special_tokens"):
        node = model
        for name in part.split("."):
            node = getattr(node, name, None)
        if dataclasses.is_dataclass(node) and not isinstance(node, type):
            compared = {field.name for field in dataclasses.fields(node) if field.compare}
            values = dataclasses.asdict(node).items()
            facts |= _flat({part: {name: value for name, value in values if name in compared}})
    return {name: str(value) for name, value in facts.items()}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _digest(leaf: jax.Array) -> str:
    return hashlib.sha256(on_host(leaf).tobytes()).hexdigest()[:16]


COURSE = (
    "num_train_epochs",
    "max_steps",
    *(name for name in SCHEDULE if name != "learning_rate"),
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
    return make_schedule(**{name: course[name] for name in SCHEDULE}, num_training_steps=course["total_steps"])


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
