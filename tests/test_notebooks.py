"""The notebooks as they are kept: run from top to bottom, free of one machine's traces, and pages of the site.

That they run is checked by `.ci/run` (`docs/notebooks/execute.py --check`), as it needs a kernel and minutes.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from website.notebook_pages import notebook_page

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
_MOST_BYTES = 300_000
_LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)")


def _cells(path: Path, kind: str) -> list[Any]:
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def test_there_are_notebooks():
    assert len(NOTEBOOKS) >= 3


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_was_run_from_top_to_bottom_and_nothing_went_wrong(path: Path):
    cells = _cells(path, "code")
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert outputs
    assert not [one for one in outputs if one["output_type"] == "error" or one.get("name") == "stderr"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_shows_nothing_of_the_machine_that_ran_it(path: Path):
    text = path.read_text(encoding="utf-8")
    assert len(text) < _MOST_BYTES
    assert not re.findall(r"(?:/root|/home|/Users|/tmp|/var|/work|site-packages|object at 0x)", text)
    whole = json.loads(text)
    assert whole["metadata"] == {"language_info": {"name": "python"}}
    assert not [cell for cell in whole["cells"] if cell["metadata"]]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_links_of_a_notebook_lead_somewhere(path: Path):
    targets = _LINK.findall("\n".join("".join(cell["source"]) for cell in _cells(path, "markdown")))
    assert targets
    assert not [target for target in targets if not (path.parent / target).exists()]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebooks_page_has_all_of_it(path: Path):
    page = notebook_page(path)
    first, *rest = ("".join(cell["source"]) for cell in _cells(path, "markdown"))
    assert page.text.startswith(first.partition("\n")[0])
    assert first.startswith("# ")
    codes = ["".join(cell["source"]) for cell in _cells(path, "code")]
    assert all(part in page.text for part in (first.partition("\n")[2], *rest, *codes))
    outputs = [output for cell in _cells(path, "code") for output in cell["outputs"]]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(page.images) == len(pictures) > 0 or not pictures
    assert all(f"({name})" in page.text and image.startswith(b"\x89PNG") for name, image in page.images.items())
    assert page.text.count("````") == 2 * (len(codes) + len(outputs) - len(pictures))
    assert f"notebooks/{path.stem}.md" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
