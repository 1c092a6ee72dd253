"""The fast tier looks at every folder of tests, and lists nothing that is not there."""

import ast
from pathlib import Path

import pytest

from fast_tier import FAST, TESTS, holds
from gpu_tier import GPU

ON_REQUEST = ("parity", "legacy", "fuzz")
"""Folders that are not part of a plain run."""


def _files() -> list[Path]:
    files = [path.relative_to(TESTS) for path in TESTS.rglob("test_*.py")]
    return [path for path in files if path.parts[0] not in ON_REQUEST]


def test_every_folder_has_fast_tests():
    folders = {path.parent for path in _files()}
    assert not {str(folder) for folder in folders if not any(Path(entry).parent == folder for entry in FAST)}


@pytest.mark.parametrize("tier", [FAST, GPU])
def test_what_is_listed_is_there(tier: tuple[str, ...]):
    for entry in tier:
        file, _, name = entry.partition("::")
        tests = {node.name for node in ast.parse((TESTS / file).read_text()).body if isinstance(node, ast.FunctionDef)}
        assert not name or name.partition("[")[0] in tests, f"{file} has no {name}"
    assert len(set(tier)) == len(tier) and list(tier) == sorted(tier, key=lambda entry: ("/" in entry, entry))


def test_a_test_is_recognised_by_file_and_name():
    assert holds(TESTS / "test_house.py") and holds(TESTS / "test_house.py", "test_anything[with-parameters]")
    assert holds(TESTS / "test_goldens.py", "test_greedy_ids_equal_torchs[bert_gpt2]")
    assert not holds(TESTS / "test_goldens.py", "test_greedy_ids_equal_torchs[roberta_roberta]")
    assert not holds(TESTS / "test_goldens.py", "test_greedy")
    assert not holds(TESTS / "test_examples.py")
