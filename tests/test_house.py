"""The order of the house: who may import whom, and what every file owes its reader.

Works on the source text alone (by `ast`), except the last tests, which import the package in a new interpreter.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "encdec_eqx"

# A file imports from rows with a smaller number, or from its own folder; `docs/design.md` says what each part holds.
ROWS = {
    "_signals": 1,
    "_installing": 0,
    "_moved": 0,
    "_writing": 0,
    "_typing": 0,
    "_padding": 0,
    "_json": 0,
    "_quoting": 0,
    "_processes": 0,
    "_inputs": 1,
    "_old_words": 1,
    "cache": 1,
    "_trees": 1,
    "layers": 2,
    "config": 3,
    "inputs": 4,
    "blocks": 5,
    "heads": 5,
    "stack": 6,
    "hf": 7,
    "encoder": 8,
    "decoder": 8,
    "params": 10,
    "params.sharding": 6,
    "generation": 10,
    "surgery": 7,
    "targets": 11,
    "joining": 11,
    "encoder_decoder": 12,
    "text": 13,
    "alignment": 14,
    "plotting": 15,
    "inspection": 14,
    "conversion": 14,
    "training.loss": 14,
    "training.toml": 14,
    "training.data": 14,
    "training.optim": 14,
    "training.batch": 15,
    "training.metrics": 14,
    "training.train_config": 15,
    "doctor": 16,
    "training": 17,
    "verification": 18,
    "doctor.command": 18,
    "__init__": 19,
    "demo": 20,
    "serve": 20,
    "cli": 21,
    "__main__": 22,
}

# Third-party packages that only one part of the house may know; an empty set: none may.
ONLY_IN = {
    "safetensors": set(),
    "huggingface_hub": {"hf"},
    "gguf": {"hf"},
    "msgpack": {"hf"},
    "optax": {"training", "doctor"},
    "orbax": set(),
    "tokenizers": {"text", "generation"},  # there in the script of an exported program alone
    "sacrebleu": {"training"},
    "rouge_score": {"training"},
    "pyarrow": {"training"},
    "grain": {"training"},
    "tensorboardX": {"training"},
    "wandb": {"training"},
    "mlflow": {"training"},
    "matplotlib": {"plotting"},
    "tyro": {"cli"},
    "shtab": {"cli"},
    "starlette": {"serve"},
    "uvicorn": {"serve"},
    "prometheus_client": {"serve"},
    "torch": {"verification", "hf"},
    "transformers": {"verification"},
    "flax": set(),
}

PUBLIC_NAMES = {
    "Decoder",
    "Encoder",
    "EncoderDecoder",
    "EncoderOutput",
    "GenerationConfig",
    "LoadReport",
    "SpecialTokens",
    "StackConfig",
    "seq2seq_loss",
    "shift_tokens_right",
}

MOST_FILES = 290

SOURCES = sorted(PACKAGE.rglob("*.py"))
ALL_FILES = sorted(
    path for folder in ("src", "tests", "examples", "benchmarks") for path in (ROOT / folder).rglob("*.py")
)


def _name(path: Path) -> str:
    """The module's dotted name below the package: `layers.linear`, `layers.__init__`, `__init__`."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


MODULES = {_name(path): ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}


def _part(module: str) -> str:
    """The longest name of the table that a module is or lies in."""
    parts = module.split(".")
    names = [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
    return next((name for name in names if name in ROWS), parts[0])


def _resolve(parts: list[str], name: str | None) -> str:
    """The module of this package that `from <parts> import <name>` reads."""
    inside = [*parts, name] if name else parts
    for candidate in (inside, [*inside, "__init__"], parts, [*parts, "__init__"]):
        if ".".join(candidate) in MODULES:
            return ".".join(candidate)
    raise AssertionError(f"no module of the package answers to {'.'.join(inside)!r}")


def _imports(module: str) -> Iterator[tuple[str, bool]]:
    """Everything a module imports, wherever in it: (name, whether it is a module of this package)."""
    folder = module.split(".")[:-1]
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top, *rest = alias.name.split(".")
                yield (_resolve(rest, None), True) if top == "encdec_eqx" else (alias.name, False)
        elif isinstance(node, ast.ImportFrom):
            parts = node.module.split(".") if node.module else []
            if node.level:
                parts = folder[: len(folder) + 1 - node.level] + parts
            elif parts[0] == "encdec_eqx":
                parts = parts[1:]
            else:
                yield node.module or "", False
                continue
            for alias in node.names:
                yield _resolve(parts, alias.name), True


def _own(module: str) -> set[str]:
    return {name for name, ours in _imports(module) if ours}


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_from_rows_above(module: str):
    part = _part(module)
    assert part in ROWS, f"{module} has no row: give it one here and in docs/design.md"
    wrong = {other for other in _own(module) if _part(other) != part and not ROWS[_part(other)] < ROWS[part]}
    assert not wrong, f"{module} (row {ROWS[part]}) imports {sorted(wrong)}, which stand beside or below it"


def test_the_rows_are_those_of_the_design_page():
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| (\d+) \| ((?:`[\w.]+`(?:, )?)+) \|", page, re.MULTILINE)
    told = {part: int(row) for row, parts in table for part in re.findall(r"[\w.]+", parts)}
    assert told == ROWS, f"the page and this file differ in {sorted(told.items() ^ ROWS.items())}"


def test_every_row_has_a_file():
    empty = [part for part in ROWS if not any(module == part or module.startswith(f"{part}.") for module in MODULES)]
    assert not empty


def test_there_are_no_import_cycles():
    graph = {module: _own(module) - {module} for module in MODULES}
    while True:
        leaves = {module for module, needs in graph.items() if not needs}
        if not leaves:
            break
        graph = {module: needs - leaves for module, needs in graph.items() if module not in leaves}
    assert not graph, f"these modules import each other in a circle, or stand on one: {sorted(graph)}"


@pytest.mark.parametrize("module", MODULES)
def test_third_party_packages_stay_in_their_place(module: str):
    for name, ours in _imports(module):
        top = name.split(".")[0]
        if not ours and top in ONLY_IN:
            assert module.split(".")[0] in ONLY_IN[top], (
                f"{module} imports {name}: allowed in {ONLY_IN[top] or 'no module'}"
            )


def test_no_file_name_stands_twice():
    names = [path.name for path in SOURCES if path.name not in ("__init__.py", "__main__.py")]
    assert not {name for name in names if names.count(name) > 1}


def test_files_do_not_multiply():
    """What is only ever read together stands together: before adding a file, look which one it belongs to."""
    assert len(SOURCES) <= MOST_FILES


@pytest.mark.parametrize("path", ALL_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_file_opens_with_a_docstring_and_keeps_annotations_live(path: Path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), "the file must open with a docstring: what it is for"
    future = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    assert not future, "jaxtyping and beartype read annotations at run time: no `from __future__ import annotations`"


def _python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_importing_the_package_is_light():
    heavy = ["optax", "orbax", "torch", "transformers", "flax", "tokenizers", "huggingface_hub", "rich", "msgpack"]
    heavy += ["matplotlib", "tyro", "shtab", "pyarrow", "sacrebleu", "rouge_score"]
    # all but the two that train, which need optax
    names = "[getattr(encdec_eqx, name) for name in encdec_eqx.__all__ if 'train_s' not in name]"
    loaded = _python(f"import sys, encdec_eqx; {names}; print([name for name in {heavy} if name in sys.modules])")
    assert loaded == "[]"


def test_importing_the_package_does_not_wait_for_jax():
    assert _python("import sys, encdec_eqx, encdec_eqx.cli; print('jax' in sys.modules)") == "False"
    assert _python("import encdec_eqx; print(encdec_eqx.decoder.Decoder is encdec_eqx.Decoder)") == "True"


def test_every_public_name_is_told_to_type_checkers_and_to_the_import():
    code = "import encdec_eqx; print(*sorted([*encdec_eqx._PLACES, 'families']))"
    told = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    [block] = [node for node in told.body if isinstance(node, ast.If)]
    assert _python(code).split() == sorted(one.names[0].name for one in block.body if isinstance(one, ast.ImportFrom))


def test_the_public_names_are_there():
    missing = _python(
        f"import encdec_eqx; print(sorted(name for name in {sorted(PUBLIC_NAMES)} if not hasattr(encdec_eqx, name)))"
    )
    assert missing == "[]"


def test_a_star_brings_every_public_name():
    code = "import encdec_eqx; from encdec_eqx import *; print(encdec_eqx._PLACES.keys() - globals().keys())"
    assert _python(code) == "set()"
