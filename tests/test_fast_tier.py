"""The tiers list nothing that is not there, the fast one looks at every folder, and a plain run leaves one out."""

import ast
from pathlib import Path
from types import SimpleNamespace

import pytest

from by_file import LONG_FILES, ON_REQUEST, rank, serves
from exhaustive_tier import EXHAUSTIVE
from fast_tier import FAST, TESTS, chosen, holds
from gpu_tier import GPU


def _files() -> list[Path]:
    files = [path.relative_to(TESTS) for path in TESTS.rglob("test_*.py")]
    return [path for path in files if path.parts[0] not in ON_REQUEST]


def test_every_folder_has_fast_tests():
    folders = {path.parent for path in _files()}
    assert not {str(folder) for folder in folders if not any(Path(entry).parent == folder for entry in FAST)}


@pytest.mark.parametrize("tier", [FAST, GPU, EXHAUSTIVE], ids=["fast", "gpu", "exhaustive"])
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


def test_nothing_is_both_quick_and_exhaustive():
    for entry in EXHAUSTIVE:
        file, _, name = entry.partition("::")
        assert not holds(TESTS / file, name, FAST)
        assert not any(
            holds(TESTS / file, other.partition("::")[2], (entry,)) for other in FAST if other.startswith(file)
        )


def test_a_run_that_is_told_its_tests_leaves_none_out():
    plain = SimpleNamespace(markexpr="", keyword="")
    assert not chosen(plain, ["tests"]) and not chosen(plain, ["tests/test_goldens.py", "tests/hf"])
    assert chosen(plain, ["tests", "tests/test_goldens.py::test_greedy_ids_equal_torchs[bert_gpt2]"])
    assert chosen(SimpleNamespace(markexpr="exhaustive", keyword=""), ["tests"])
    assert chosen(SimpleNamespace(markexpr="", keyword="llama"), ["tests"])


def test_workers_begin_with_what_takes_long():
    assert all((TESTS / file).exists() for file in LONG_FILES)
    ranks = [rank(TESTS / file) for file in (LONG_FILES[0], LONG_FILES[-1], "test_json.py", "../elsewhere.py")]
    assert ranks == [0, len(LONG_FILES) - 1, len(LONG_FILES), len(LONG_FILES)]


def test_files_are_dealt_out_whole_but_for_those_on_request():
    assert serves(["tests"]) and serves(["/somewhere/tests/hf/test_families.py::test_a"])
    assert not serves(["tests/parity"]) and not serves(["tests/hf", "/at/tests/fuzz/test_fuzz_files.py"])
