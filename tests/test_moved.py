"""Import paths of earlier versions lead to today's modules, and every import that a page or an example shows works."""

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from encdec_eqx._moved import PATHS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SCRIPTS = sorted([*(ROOT / "examples").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")])


@pytest.mark.parametrize("old", PATHS)
def test_a_moved_module_is_the_one_at_its_new_place(old: str):
    module = importlib.import_module(f"encdec_eqx.{old}")
    assert module is importlib.import_module(f"encdec_eqx.{PATHS[old]}")
    assert module.__name__ == f"encdec_eqx.{PATHS[old]}"


def _below(package: str) -> list[str]:
    found = importlib.import_module(f"encdec_eqx.{package}")
    return [name for _, name, _ in pkgutil.iter_modules(getattr(found, "__path__", []))]


_INSIDE = [(old, new, name) for old, new in PATHS.items() for name in _below(new) if f"{old}.{name}" not in PATHS]


@given(st.sampled_from(_INSIDE))
def test_what_lies_below_a_moved_package_is_found_below_the_new_one(place: tuple[str, str, str]):
    old, new, name = place
    module = importlib.import_module(f"encdec_eqx.{old}.{name}")
    assert module is importlib.import_module(f"encdec_eqx.{new}.{name}")


@given(st.from_regex(r"[a-z]{1,8}(\.[a-z]{1,8})?", fullmatch=True))
def test_other_paths_are_not_found(name: str):
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(f"encdec_eqx.{name}_")


def _imports(text: str) -> Iterator[tuple[str, str | None]]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "encdec_eqx":
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names if alias.name.split(".")[0] == "encdec_eqx")


def _programs(path: Path) -> list[str]:
    """The Python of a page, block by block, or of a script; blocks that are no whole program are left out."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return [text]
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [
        line
        for block in blocks
        for line in re.findall(r"^(?:from .* import \([^()]*\)|(?:from|import) .*)$", block, re.M)
    ]


@pytest.mark.parametrize("path", [*PAGES, *SCRIPTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_that_are_shown_work(path: Path):
    for program in _programs(path):
        for module, name in _imports(program):
            found = importlib.import_module(module)
            if name not in (None, "*") and not hasattr(found, name):
                importlib.import_module(f"{module}.{name}")
