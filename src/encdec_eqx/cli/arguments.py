"""What commands read their arguments with: numbers within limits, and packages that a command needs."""

import argparse
import contextlib
import importlib
import importlib.util
import math
from collections.abc import Callable
from typing import Any


def needed(package: str, extra: str) -> Any:
    """An optional package, or an ImportError that says how to install it."""
    if importlib.util.find_spec(package) is None:
        from .._installing import install

        raise ImportError(f"{package} is not installed, which this command needs: {install(extra)}")
    return importlib.import_module(package)


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """What reads the number; argparse puts the option's name in front of the message."""

    def read(text: str) -> int:
        # the length first: Python does not read thousands of digits
        if not (text.isascii() and text.isdigit() and len(text) <= len(str(most)) and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number from {least} to {most}")
        return int(text)

    return read


def above_zero(text: str) -> float:
    """A finite number greater than 0."""
    with contextlib.suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a finite number greater than 0")
