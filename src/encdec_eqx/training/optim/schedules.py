"""Learning rates by step, under the names and with the numbers of Hugging Face's `get_scheduler`."""

import dataclasses
import difflib
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Float32

from ..._quoting import quoted
from ..._typing import Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """The learning rate of each step, counted from 0. Equal settings make equal schedules.

    Attributes:
        learning_rate: the highest rate.
        lr_scheduler_type: the shape, a key of `SHAPES`.
        num_training_steps: length of the run.
        warmup_steps: steps in which the rate rises from 0, the first of which therefore changes nothing.
        options: of the shape, by name.
    """

    learning_rate: float
    lr_scheduler_type: str
    num_training_steps: int
    warmup_steps: int
    options: tuple[tuple[str, Any], ...]

    def __call__(self, step: Any) -> Float32[Array, ""]:
        """The rate of a step; the number may be traced.

        Args:
            step: counted from 0.
        """
        return self.learning_rate * self.fraction(step)

    def fraction(self, step: Any) -> Float32[Array, ""]:
        """The rate of a step as a fraction of the highest.

        Args:
            step: counted from 0; may be traced.
        """
        step = jnp.asarray(step, jnp.int32)
        shape = SHAPES[self.lr_scheduler_type]
        after = shape.fraction(
            step - self.warmup_steps, self.num_training_steps - self.warmup_steps, dict(self.options)
        )
        rising = shape.warmup(_as_float(step) / max(1, self.warmup_steps), dict(self.options))
        return jnp.where(step < self.warmup_steps, rising, after)


def make_schedule(
    *,
    learning_rate: float,
    lr_scheduler_type: str,
    num_training_steps: int,
    warmup_steps: int = 0,
    warmup_ratio: float = 0.0,
    lr_scheduler_kwargs: Mapping[str, Any] | None = None,
) -> Schedule:
    """The schedule that these settings of Hugging Face's `TrainingArguments` mean.

    Args:
        learning_rate: the highest rate.
        lr_scheduler_type: "linear", "cosine", "cosine_with_restarts", "cosine_with_min_lr", "polynomial", "constant",
            "constant_with_warmup", "inverse_sqrt" or "warmup_stable_decay".
        num_training_steps: length of the run.
        warmup_steps: steps in which the rate rises from 0.
        warmup_ratio: their fraction of the run, rounded up, instead.
        lr_scheduler_kwargs: what else the shape takes, such as `{"num_cycles": 3}`, `{"lr_end": 1e-6, "power": 2.0}`,
            `{"min_lr_rate": 0.1}`, `{"timescale": 1000}`, `{"num_decay_steps": 500}`.

    Raises:
        ValueError: a value is out of its range, unknown to the shape, or would do nothing.
    """
    if lr_scheduler_type not in SHAPES:
        near = difflib.get_close_matches(str(lr_scheduler_type), SHAPES, n=1)
        hint = f"; did you mean {quoted(near[0])}?" if near else "."
        raise ValueError(f"lr_scheduler_type is {quoted(lr_scheduler_type)}{hint} Known: {', '.join(SHAPES)}.")
    if not learning_rate > 0 or num_training_steps < 1:
        raise ValueError(
            f"learning_rate must be above 0 and num_training_steps at least 1, got {learning_rate} and "
            f"{num_training_steps}."
        )
    if warmup_steps and warmup_ratio:
        raise ValueError(f"warmup_steps={warmup_steps} and warmup_ratio={warmup_ratio} are both given: leave one out.")
    if warmup_steps < 0 or not 0 <= warmup_ratio <= 1:
        raise ValueError(
            f"warmup_steps must be at least 0 and warmup_ratio in [0, 1], got {warmup_steps} and {warmup_ratio}."
        )
    warmup = warmup_steps or math.ceil(num_training_steps * warmup_ratio)
    if warmup and lr_scheduler_type == "constant":
        raise ValueError("'constant' has no warm-up, so that warmup_steps do nothing: use 'constant_with_warmup'.")
    shape = SHAPES[lr_scheduler_type]
    options = _options(lr_scheduler_type, shape, dict(lr_scheduler_kwargs or {}))
    ready = shape.prepared(options, learning_rate, num_training_steps, warmup)
    return Schedule(
        learning_rate=learning_rate,
        lr_scheduler_type=lr_scheduler_type,
        num_training_steps=num_training_steps,
        warmup_steps=warmup,
        options=tuple(sorted(ready.items())),
    )


def _options(name: str, shape: "_Shape", given: dict[str, Any]) -> dict[str, Any]:
    unknown = sorted(set(given) - set(shape.defaults))
    if unknown:
        known = ", ".join(shape.defaults) or "none"
        raise ValueError(f"lr_scheduler_kwargs hold {', '.join(unknown)}, unknown to {quoted(name)}; it takes {known}.")
    return {**shape.defaults, **given}


def _as_float(x: Any) -> Array:
    return jnp.asarray(x, jnp.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Shape:
    """One shape.

    Attributes:
        fraction: from the step after the warm-up, the number of steps after it and the options to one of the rate.
        defaults: what options there are.
        prepared: the options with what follows from the other settings; raises where they make no sense.
        warmup: from the fraction of the warm-up that has passed to a fraction of the rate.
    """

    fraction: Callable[[Array, int, dict[str, Any]], Any]
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    prepared: Callable[..., dict[str, Any]] = lambda options, *_: options
    warmup: Callable[[Array, dict[str, Any]], Array] = lambda passed, _: passed


def _progress(step: Array, steps: int) -> Array:
    return _as_float(step) / max(1, steps)


def _linear(step: Array, steps: int, _: dict[str, Any]) -> Array:
    return jnp.maximum(0.0, _as_float(steps - step) / max(1, steps))


def _wave(progress: Array, cycles: float) -> Array:
    return 0.5 * (1.0 + jnp.cos(2.0 * math.pi * cycles * progress))


def _cosine(step: Array, steps: int, options: dict[str, Any]) -> Array:
    return jnp.maximum(0.0, _wave(_progress(step, steps), options["num_cycles"]))


def _restarts(step: Array, steps: int, options: dict[str, Any]) -> Array:
    # in whole numbers, so that rounding cannot move a restart by a step
    place = (step * options["num_cycles"]) % max(1, steps)
    return jnp.where(step >= steps, 0.0, _wave(_progress(place, steps), 0.5))


def _cosine_with_floor(step: Array, steps: int, options: dict[str, Any]) -> Array:
    floor = options["min_lr_rate"]
    return jnp.maximum(0.0, _wave(_progress(step, steps), options["num_cycles"]) * (1.0 - floor) + floor)


def _polynomial(step: Array, steps: int, options: dict[str, Any]) -> Array:
    end = options["end_fraction"]
    left = jnp.maximum(0.0, 1.0 - _progress(step, steps))
    return (1.0 - end) * left ** options["power"] + end


def _inverse_sqrt(step: Array, steps: int, options: dict[str, Any]) -> Array:
    del steps
    # below 0 is the warm-up, whose fractions are not these
    return jnp.sqrt(options["timescale"] / (_as_float(jnp.maximum(step, 0)) + options["timescale"]))


_CURVES: dict[str, Callable[[Array, float], Array]] = {
    "linear": lambda left, _: left,
    "cosine": lambda left, cycles: _wave(1.0 - left, cycles),
    "1-sqrt": lambda left, _: 1.0 - jnp.sqrt(1.0 - left),
}


def _stable_decay(step: Array, steps: int, options: dict[str, Any]) -> Array:
    del steps
    floor, decaying = options["min_lr_ratio"], options["num_decay_steps"]
    into = jnp.clip(step - options["num_stable_steps"], 0, decaying)
    curve = _CURVES[options["decay_type"]](1.0 - _progress(into, decaying), options["num_cycles"])
    fraction = jnp.maximum(0.0, curve * (1.0 - floor) + floor)
    return jnp.where(into >= decaying, floor, jnp.where(step < options["num_stable_steps"], 1.0, fraction))


def _stable_warmup(passed: Array, options: dict[str, Any]) -> Array:
    floor = options["min_lr_ratio"]
    passed = jnp.minimum(passed, 1.0)
    # of a cosine, half a wave whatever `num_cycles` is
    return jnp.maximum(0.0, _CURVES[options["warmup_type"]](passed, 0.5) * (1.0 - floor) + floor)


def _prepared_restarts(options: dict[str, Any], *_: Any) -> dict[str, Any]:
    if not isinstance(options["num_cycles"], int) or options["num_cycles"] < 1:
        raise ValueError(f"num_cycles of 'cosine_with_restarts' must be a whole number, got {options['num_cycles']}.")
    return options


def _prepared_floor(options: dict[str, Any], learning_rate: float, *_: Any) -> dict[str, Any]:
    low, rate = options.pop("min_lr"), options["min_lr_rate"]
    if (low is None) == (rate is None):
        raise ValueError("'cosine_with_min_lr' needs one of min_lr and min_lr_rate in lr_scheduler_kwargs.")
    return {**options, "min_lr_rate": low / learning_rate if rate is None else rate}


def _prepared_polynomial(options: dict[str, Any], learning_rate: float, steps: int, warmup: int) -> dict[str, Any]:
    end = options.pop("lr_end")
    if not end < learning_rate:
        raise ValueError(f"lr_end must be below the learning_rate, got {end} and {learning_rate}.")
    if warmup >= steps:
        raise ValueError(f"'polynomial' needs steps after the warm-up: it has {warmup} of {steps} steps.")
    return {**options, "end_fraction": end / learning_rate}


def _prepared_inverse_sqrt(options: dict[str, Any], learning_rate: float, steps: int, warmup: int) -> dict[str, Any]:
    del learning_rate, steps
    timescale = options["timescale"]
    return {"timescale": (warmup or 10_000) if timescale is None else timescale}


def _prepared_stable(options: dict[str, Any], learning_rate: float, steps: int, warmup: int) -> dict[str, Any]:
    del learning_rate
    for name in ("warmup_type", "decay_type"):
        if options[name] not in _CURVES:
            raise ValueError(f"{name} is {quoted(options[name])}; expected one of {', '.join(_CURVES)}.")
    if options["num_decay_steps"] is None:
        raise ValueError("'warmup_stable_decay' needs num_decay_steps in lr_scheduler_kwargs.")
    if options["num_stable_steps"] is None:
        options["num_stable_steps"] = steps - warmup - options["num_decay_steps"]
    if options["num_stable_steps"] < 0:
        raise ValueError(
            f"'warmup_stable_decay' has {warmup} steps of warm-up and {options['num_decay_steps']} of decay, more than "
            f"num_training_steps={steps}."
        )
    return options


SHAPES: dict[str, _Shape] = {
    "linear": _Shape(fraction=_linear),
    "cosine": _Shape(fraction=_cosine, defaults={"num_cycles": 0.5}),
    "cosine_with_restarts": _Shape(fraction=_restarts, defaults={"num_cycles": 1}, prepared=_prepared_restarts),
    "cosine_with_min_lr": _Shape(
        fraction=_cosine_with_floor,
        defaults={"num_cycles": 0.5, "min_lr": None, "min_lr_rate": None},
        prepared=_prepared_floor,
    ),
    "polynomial": _Shape(fraction=_polynomial, defaults={"lr_end": 1e-7, "power": 1.0}, prepared=_prepared_polynomial),
    "constant": _Shape(fraction=lambda step, steps, _: jnp.ones(())),
    "constant_with_warmup": _Shape(fraction=lambda step, steps, _: jnp.ones(())),
    "inverse_sqrt": _Shape(fraction=_inverse_sqrt, defaults={"timescale": None}, prepared=_prepared_inverse_sqrt),
    "warmup_stable_decay": _Shape(
        fraction=_stable_decay,
        defaults={
            "num_decay_steps": None,
            "num_stable_steps": None,
            "warmup_type": "linear",
            "decay_type": "cosine",
            "min_lr_ratio": 0.0,
            "num_cycles": 0.5,
        },
        prepared=_prepared_stable,
        warmup=_stable_warmup,
    ),
}
"""The shapes, by Hugging Face's names. `reduce_lr_on_plateau` is not among them: it needs the evaluations' results."""
