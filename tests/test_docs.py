"""The pages in `docs/` that promise to run as they stand do. Knows nothing of what they say."""

import re
from pathlib import Path

import jax
import pytest

from encdec_eqx.hf.families import FAMILIES

ROOT = Path(__file__).parent.parent
_BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


def _blocks(text: str) -> list[str]:
    """A page's Python, each block behind as many empty lines as stand before it: errors name the page's lines."""
    return ["\n" * text.count("\n", 0, match.start(1)) + match[1] for match in _BLOCK.finditer(text)]


@pytest.mark.parametrize(
    "page",
    [
        "quickstart",
        "generation",
        "constrained_decoding",
        "training",
        "data",
        "text",
        "fine_tuning",
        "from_scratch",
        "resuming",
        "diagnosis",
        "adding_a_family",
        "accelerators",
        "grafting",
    ],
)
def test_page_runs_from_top_to_bottom(page: str):
    path = ROOT / "docs" / f"{page}.md"
    names: dict = {"__name__": page}
    blocks = _blocks(path.read_text(encoding="utf-8"))
    assert blocks
    # as in a user's process, without this suite's strict promotion: optax by itself does not work under it
    with jax.numpy_dtype_promotion("standard"):
        for block in blocks:
            exec(compile(block, path, "exec"), names)


def test_the_readme_counts_the_families():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    counted = {
        role: sum(role in family.architectures for family in FAMILIES.values()) for role in ("encoder", "decoder")
    }
    assert re.findall(r"(\d+) families", text) == [str(counted["encoder"]), str(counted["decoder"])]
    assert f"- **Families**: {len(FAMILIES)} of them" in text


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda path: path.name
)
def test_links_lead_somewhere(path: Path):
    targets = re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8"))
    local = [target for target in targets if "://" not in target]
    missing = [target for target in local if not (path.parent / target).exists()]
    assert not missing
