"""The compiled programs behind `generate`, caught as they are called, and what XLA says about their memory.

This alone of the benchmarks knows names that the library keeps to itself: those of its three programs.
"""

import contextlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from encdec_eqx import EncoderDecoder
from encdec_eqx.generation import engine, source_and_prompt

PROGRAMS: dict[str, tuple[ModuleType, str]] = {
    "encoder": (source_and_prompt, "_encode"),
    "cache": (engine, "_open_cache"),
    "loop": (engine, "advance_until"),
}


def memory_of_programs(model: EncoderDecoder, *inputs: Any, **options: Any) -> dict[str, dict[str, int]]:
    """Bytes of each program that `model.generate(*inputs, **options)` runs, as XLA's `memory_analysis` has them.

    `temporary` is what a program needs besides its arguments and results; results that take the place of donated
    arguments count as arguments (`aliased`). One token is generated: how many are to come is no part of a program.
    """
    with _caught() as found:
        next(model.stream(*inputs, tokens_at_a_time=1, **options))
    return found


@contextlib.contextmanager
def _caught() -> Iterator[dict[str, dict[str, int]]]:
    """Within the block each program is lowered and compiled once more, with its very arguments, before it runs."""
    found: dict[str, dict[str, int]] = {}
    originals = {name: getattr(*place) for name, place in PROGRAMS.items()}
    try:
        for name, (module, attribute) in PROGRAMS.items():
            setattr(module, attribute, _catching(found, name, originals[name]))
        yield found
    finally:
        for name, (module, attribute) in PROGRAMS.items():
            setattr(module, attribute, originals[name])


def _catching(found: dict[str, dict[str, int]], name: str, original: Any) -> Callable[..., Any]:
    def called(*arguments: Any, **options: Any) -> Any:
        found[name] = bytes_of(original.lower(*arguments, **options).compile().compiled)
        return original(*arguments, **options)

    return called


def bytes_of(compiled: Any) -> dict[str, int]:
    """What a program (`jax.stages.Compiled`) needs, in bytes."""
    analysis = compiled.memory_analysis()
    return {
        "temporary": analysis.temp_size_in_bytes,
        "arguments": analysis.argument_size_in_bytes,
        "results": analysis.output_size_in_bytes,
        "aliased": analysis.alias_size_in_bytes,
    }
