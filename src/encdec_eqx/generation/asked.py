"""All that was asked of one run, with who asked for it: a file is forgiven what a caller is not.

Must not know: what the options mean, and how they combine (`resolve`).
"""

from collections.abc import Mapping
from typing import Any

from .._quoting import quoted
from . import options
from .settings import GenerationConfig, option_names

FILE = "the model's generation_config"
PASSED = "generation_config="
ARGUMENT = "argument"


class Asked:
    """What was asked for, the call's arguments before a config, and notes on what was dropped."""

    def __init__(self, arguments: Mapping[str, Any], passed: GenerationConfig | None, file: GenerationConfig | None):
        base = passed if passed is not None else file if file is not None else GenerationConfig()
        self.arguments = dict(arguments)
        self.base_origin = FILE if passed is None else PASSED
        self.others = dict(base.others)
        # Validates the types and ranges of the arguments, with the same words as a config's.
        own: dict[str, Any] = {name: value for name, value in self.arguments.items() if name in option_names()}
        self.arguments.update(_validated(own))
        self.base = {name: getattr(base, name) for name in option_names() if getattr(base, name) is not None}
        self.notes: list[str] = []

    def get(self, name: str, default: Any = None) -> Any:
        """The value of an option, from the strongest that names it."""
        return self.arguments.get(name, self.base.get(name, default))

    def origin(self, name: str) -> str:
        """Who asks for it."""
        return ARGUMENT if name in self.arguments else self.base_origin

    def refuse_or_drop(self, name: str, neutral: Any, why: str) -> None:
        """An option that cannot apply: an error from a caller, a note from a file. Its neutral value is always fine."""
        value = self.get(name)
        if value is None or value == neutral:
            return
        if self.origin(name) != FILE:
            raise ValueError(f"{name}={quoted(value)} ({self.origin(name)}) would do nothing: {why}.")
        self.notes.append(f"{name}={quoted(value)} of {FILE} is dropped: {why}.")

    def refuse_not_built(self) -> None:
        """An error for an option that is not built and would have an effect."""
        for name, value in {**self.others, **self.arguments}.items():
            if name in options.NOT_BUILT and not options.does_nothing(name, value):
                raise options.not_built(name, value, self.origin(name))


def _validated(given: Mapping[str, Any]) -> dict[str, Any]:
    checked = GenerationConfig(**given)
    return {name: getattr(checked, name) for name in given}
