"""Whether a run may be resumed: what must be equal (its fingerprint), and what may change (its length and schedule)."""

import dataclasses
import functools
import hashlib
import inspect
import types
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
from .state_arrays import described, in_pieces

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
    digest = hashlib.sha256()
    for piece in in_pieces(leaf):
        digest.update(piece.tobytes())
    return digest.hexdigest()[:16]


def in_words(value: Any, depth: int = 8) -> str:
    """An optimizer or a loss by the names of its functions and the plain values they close over, as far as `depth`.

    Such as `scale_by_adam(b1=0.9, b2=0.999, ...)`: the same in every process, and other where a setting is.
    """
    if value is None or isinstance(value, bool | int | float | str | Schedule):
        return repr(value)
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return f"{value.dtype}{list(np.shape(value))} {hashlib.sha256(np.asarray(value).tobytes()).hexdigest()[:8]}"
    if depth == 0:
        return type(value).__name__
    inside: dict[str, Any] = {}
    if isinstance(value, functools.partial):
        return f"{in_words(value.func, depth - 1)} with {in_words((value.args, value.keywords), depth - 1)}"
    if isinstance(value, tuple | list):
        return f"[{', '.join(in_words(one, depth - 1) for one in value)}]"
    if isinstance(value, Mapping):
        inside = {str(name): one for name, one in value.items()}
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        inside = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif isinstance(value, types.FunctionType):
        inside = {name: cell for name, cell in inspect.getclosurevars(value).nonlocals.items() if cell is not value}
    name = getattr(value, "__qualname__", type(value).__name__).replace(".<locals>", "")
    return f"{name}({', '.join(f'{key}={in_words(one, depth - 1)}' for key, one in inside.items())})"


RUN_SCHEDULE = ("num_train_epochs", "max_steps", *(name for name in SCHEDULE if name != "learning_rate"))
"""Settings that a resumed run may change as far as the steps taken are not concerned."""

RunSchedule = Mapping[str, Any]


def schedule_of(config: TrainConfig, total_steps: int, *, scheduled: bool = True) -> dict[str, Any]:
    """What decides the length and the rates of a run, in values that JSON can hold.

    Unless it is `scheduled`, by the config, the rates are the optimizer's own, of which nothing is known.
    """
    values = config.to_dict()
    rates = config if scheduled else config.at_constant_rate()
    values |= {name: getattr(rates, name) for name in SCHEDULE}
    values["lr_scheduler_kwargs"] = dict(rates.lr_scheduler_kwargs)
    return {**{name: values.get(name) for name in (*RUN_SCHEDULE, "learning_rate")}, "total_steps": total_steps}


def check_schedule(then: RunSchedule, now: RunSchedule, *, step: int, output_dir: Path) -> None:
    """Refuses to go on, after `step` steps under one length and schedule, under another that does not fit these.

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
    before, after = (_rates(_schedule(settings), step) for settings in (then, now))
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


def _schedule(settings: RunSchedule) -> Schedule:
    return make_schedule(**{name: settings[name] for name in SCHEDULE}, num_training_steps=settings["total_steps"])


def _rates(schedule: Schedule, steps: int) -> np.ndarray:
    return np.asarray(jax.vmap(schedule)(jnp.arange(steps)))


def _length(settings: RunSchedule) -> str:
    name = "max_steps" if settings["max_steps"] is not None else "num_train_epochs"
    return f"{name}={settings[name]}" if settings[name] is not None else "the default of 3 epochs"


def _reason(now: RunSchedule) -> str:
    if now["warmup_ratio"]:
        return f"warmup_ratio={now['warmup_ratio']} is a share of the whole run, so that its length moves every rate."
    return f"{now['lr_scheduler_type']!r} spreads its decay over the whole run, so that its length moves every rate."


def _way_out(then: RunSchedule, now: RunSchedule, step: int, taken: np.ndarray, output_dir: Path) -> str:
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
