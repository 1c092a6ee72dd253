"""What the site promises: a page for every public name, and a place for every page. CI builds the site itself."""

import ast
import importlib
import re
from pathlib import Path

import pytest
from website.public_names import MODULES, docstring, module_docstring, public_names, summary

import encdec_eqx

ROOT = Path(__file__).parent.parent
_BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
_NOT_LIBRARY = "encdec_eqx.demo"
"""What examples import from the demo is data of the demo."""


def _imported(code: str) -> set[tuple[str, str]]:
    """The module and the name of each `from encdec_eqx… import …`."""
    nodes = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)]
    return {
        (node.module, alias.name)
        for node in nodes
        if node.module is not None and node.module.split(".")[0] == "encdec_eqx"
        for alias in node.names
    }


def _codes() -> list:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    found = {page.name: "\n".join(_BLOCK.findall(page.read_text(encoding="utf-8"))) for page in pages}
    found |= {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "examples").rglob("*.py"))}
    return [pytest.param(code, id=name) for name, code in found.items() if _imported(code)]


def test_the_reference_has_all_that_the_package_says_is_public():
    assert len(set(MODULES)) == len(MODULES)
    assert {name.name for name in public_names("encdec_eqx")} | {"families"} == set(encdec_eqx.__all__)


@pytest.mark.parametrize("module", ["encdec_eqx.text", "encdec_eqx.training", "encdec_eqx.doctor", "encdec_eqx.hf"])
def test_the_reference_has_all_that_a_package_hands_on(module: str):
    loaded = importlib.import_module(module)
    handed_on = {
        name
        for name in dir(loaded)
        if not name.startswith("_") and getattr(getattr(loaded, name), "__module__", "").startswith("encdec_eqx.")
    }
    assert handed_on == {name.name for name in public_names(module)}


@pytest.mark.parametrize("code", _codes())
def test_what_pages_and_examples_import_is_in_the_reference(code: str):
    known = {(module, name.name) for module in MODULES for name in public_names(module)}
    known |= {("encdec_eqx", "families"), ("encdec_eqx.hf.families", "FAMILIES")}
    known |= {(before, name) for before, dot, name in (module.rpartition(".") for module in MODULES) if dot}
    assert {pair for pair in _imported(code) if not pair[0].startswith(_NOT_LIBRARY)} <= known


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_says_what_it_is(module: str):
    assert module_docstring(module)
    names = public_names(module)
    assert names
    assert [name.name for name in names if not summary(docstring(name))] == []


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_can_be_imported_from_there(module: str):
    loaded = importlib.import_module(module)
    for name in public_names(module):
        assert getattr(loaded, name.name) is not None


def test_every_page_has_a_place_in_the_navigation():
    listed = re.findall(r"(\w+)\.md$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    files = [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "notebooks").glob("*.ipynb")]
    pages = [path.stem for path in files]
    assert sorted(set(pages) - set(listed)) == []
    elsewhere = {"index", "benchmarks", "contributing", "changelog", "tests_on_a_gpu"}
    assert sorted(set(listed) - set(pages) - elsewhere) == []
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md", "docs"])
def test_what_stands_inside_a_list_is_indented_by_four(name: str):
    """GitHub takes two as well; the site would end the list there."""
    path = ROOT / name
    for page in sorted(path.glob("*.md")) if path.is_dir() else [path]:
        assert re.findall(r"^ {1,3}(?:```|[-*] |\d+\. ).*", page.read_text(encoding="utf-8"), re.MULTILINE) == []
