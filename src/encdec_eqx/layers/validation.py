"""What the configs of parts have in common: their form, the bounds of their numbers, and the checks."""

import dataclasses
from typing import Any, TypeVar, dataclass_transform

from .._quoting import quoted

_Config = TypeVar("_Config")

MAX_SIZE = 2**24
"""Largest size of anything: of a vocabulary (the largest published have a million entries), of a table of positions, of
a width. Beyond is a damaged or a malicious config, whose arrays no machine holds."""

LEAST_REAL, LARGEST_REAL = 2.0**-126, 1e30
"""Reals of a config that float32 tells from 0, and that leave room for what is computed with them."""


@dataclass_transform(kw_only_default=True, frozen_default=True)
def part_config(cls: type[_Config]) -> type[_Config]:
    """A frozen dataclass of keywords, which judges its own values: checkers of annotations leave wrong ones to it."""
    made = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    made.__no_type_check__ = True  # pyright: ignore[reportAttributeAccessIssue]
    return made


def positive(config: Any, *names: str) -> None:
    """Refuse fields that are no whole number from 1 to `MAX_SIZE`."""
    for name in names:
        value, what = getattr(config, name), f"{type(config).__name__}.{name}"
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{what} is {quoted(value)}; expected a whole number of at least 1.")
        if value > MAX_SIZE:
            raise ValueError(f"{what} is {quoted(value)}; expected at most {MAX_SIZE}.")


def positive_real(config: Any, *names: str) -> None:
    """Refuse fields that are not above 0, or that float32 does not hold."""
    for name in names:
        value = getattr(config, name)
        if not LEAST_REAL <= value <= LARGEST_REAL:
            raise ValueError(
                f"{type(config).__name__}.{name} is {quoted(value)}; it must be above 0, and finite, in float32: from "
                f"{LEAST_REAL:.3g} to {LARGEST_REAL:g}."
            )


def rate(config: Any, name: str) -> None:
    """Refuse a dropout rate outside [0, 1)."""
    value = getattr(config, name)
    if not 0 <= value < 1:
        raise ValueError(
            f"{type(config).__name__}.{name} is {quoted(value)}; a dropout rate is at least 0 and below 1."
        )


def one_of(config: Any, name: str, choices: tuple[str, ...]) -> None:
    """Refuse a field that is none of the choices."""
    value = getattr(config, name)
    if value not in choices:
        raise ValueError(f"{type(config).__name__}.{name} is {quoted(value)}; expected one of {', '.join(choices)}.")
