"""Notebooks as pages of the site: their text, their code, and what was kept of what they show."""

import base64
import json
from pathlib import Path
from typing import Any, NamedTuple


class NotebookPage(NamedTuple):
    """A notebook, written as Markdown.

    Attributes:
        text: the page.
        images: the pictures in it, by the name of their file.
    """

    text: str
    images: dict[str, bytes]


def notebook_page(path: Path) -> NotebookPage:
    """The page of a notebook, with a link to the notebook itself below its heading."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    parts: list[str] = []
    images: dict[str, bytes] = {}
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] != "code":
            parts.append(source)
            continue
        parts.append(_fenced("python", source))
        for output in cell["outputs"]:
            picture = output.get("data", {}).get("image/png")
            if picture is None:
                parts.append(_fenced("text", _said(output)))
                continue
            name = f"{path.stem}_{len(images) + 1}.png"
            images[name] = base64.b64decode("".join(picture))
            parts.append(f"![What the cell above draws]({name})")
    heading, _, rest = parts[0].partition("\n")
    parts[0] = f"{heading}\n\n[The notebook]({path.name}), to run and to change.\n{rest}"
    return NotebookPage("\n\n".join(parts) + "\n", images)


def _said(output: Any) -> str:
    """What a cell has printed, or the value of its last line."""
    text = output["text"] if output["output_type"] == "stream" else output["data"]["text/plain"]
    return "".join(text)


def _fenced(language: str, text: str) -> str:
    stripped = text.rstrip("\n")
    return f"````{language}\n{stripped}\n````"
