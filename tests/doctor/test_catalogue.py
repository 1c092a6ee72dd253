"""The catalogue of findings: the page lists what it holds, and every entry's words can be filled in."""

import re
import string
from pathlib import Path
from typing import Any

import pytest

from encdec_eqx.doctor.catalogue import CATALOGUE, SECTIONS, found
from encdec_eqx.doctor.finding import SEVERITIES

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "diagnosis.md").read_text()
CHECKS = "".join(path.read_text() for path in sorted((ROOT / "src/encdec_eqx/doctor").glob("*.py")))


def _of_the_catalogue(section: str) -> dict[str, set[str]]:
    """Each code with the severities of all its variants."""
    severities: dict[str, set[str]] = {}
    for name, entry in SECTIONS[section].items():
        severities.setdefault(name.partition("/")[0], set()).update(entry.severities)
    return severities


def _of_the_page(section: str) -> dict[str, set[str]]:
    part = PAGE.split(f"### {section}\n")[1].split("\n#")[0]
    rows = re.findall(r"^\| `(\w+)` \| ([\w, ]+) \|", part, re.MULTILINE)
    assert len(rows) == len(dict(rows)), "a code stands twice under one heading"
    return {code: set(severities.split(", ")) for code, severities in rows}


@pytest.mark.parametrize("section", SECTIONS)
def test_the_page_lists_every_code_with_its_severities(section: str):
    assert _of_the_page(section) == _of_the_catalogue(section)


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_entry_has_words_and_a_check_that_says_them(name: str):
    entry = CATALOGUE[name]
    fields = [field for text in (entry.message, entry.fix) for _, field, *_ in string.Formatter().parse(text) if field]
    numbers: dict[str, Any] = dict.fromkeys(fields, 1)
    finding = found(name, entry.severities[0], **numbers)
    assert finding.message
    assert finding.fix.endswith((".", "?"))
    assert set(entry.severities) <= set(SEVERITIES)
    assert CHECKS.count(f'"{name}"') > 1, "no check finds it"


def test_a_check_chooses_where_an_entry_has_several_severities():
    with pytest.raises(ValueError, match="too many values"):
        found("labels_shifted", share=1.0, decoder_start_token_id=1)
