"""What a compiled program sends between devices, counted in its text."""

import re
from collections import Counter
from typing import Any

_SENT = re.compile(
    r"= (.*?) (all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all|collective-broadcast)(?:-start)?\("
)
_CALLED = re.compile(r"(?:body|condition|to_apply|calls|branch_computations)=\{?(%[\w.\-]+(?:, %[\w.\-]+)*)")


def in_program(text: str) -> Counter[str]:
    """Every collective of a compiled program: its kind and what comes out of it, such as `all-reduce f32[8,1,32]`.

    Several arrays that are sent as one count as one.
    """
    return Counter(f"{found[2]} {re.sub(r'{[^}]*}', '', found[1])}" for found in _SENT.finditer(text))


def in_loop(text: str) -> Counter[str]:
    """Those of its loops, their conditions among them: what every turn sends."""
    parts = _computations(text)
    entry = next(name for name, body in parts.items() if body.startswith("ENTRY"))
    seen: set[str] = set()
    waiting = [name for line in parts[entry].splitlines() if " while(" in line for name in _called(line)]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += _called(parts[name])
    return sum((in_program(parts[name]) for name in sorted(seen)), Counter())


def compiled_text(program: Any, *args: Any) -> str:
    """The text of an `eqx.filter_jit` program for these arguments."""
    return program.lower(*args).compile().compiled.as_text()


def _called(text: str) -> list[str]:
    return [name for names in _CALLED.findall(text) for name in names.split(", ")]


def _computations(text: str) -> dict[str, str]:
    """The computations of a program by their names."""
    whole = re.findall(r"^((?:ENTRY )?(%[\w.\-]+) \(.*?^\})", text, re.M | re.S)
    return {name: body for body, name in whole}
