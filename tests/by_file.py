"""How `pytest -n` deals tests out to its workers: whole files, so that a file's fixtures and programs are made once.

By pytest-xdist's own way neighbours go to different workers, and each traces what the file's tests have in common.
"""

from pathlib import Path

TESTS = Path(__file__).parent

ON_REQUEST = ("parity", "legacy", "fuzz", "browser", "services")
"""Folders that are not part of a plain run. They have few and long files, which xdist's own way shares out better."""

LONG_FILES = (
    "mesh/test_families_on_a_mesh.py",
    "cli/test_strikes.py",
    "generation/test_export.py",
    "test_docs.py",
    "test_benchmarks.py",
    "params/test_lora.py",
    "generation/test_generation_forced_words.py",
    "hf/test_family_goldens.py",
    "generation/test_generation_serving.py",
    "layers/test_attention_backends.py",
    "training/test_fit_opened.py",
    "training/test_run_checkpoints.py",
    "training/test_fit.py",
    "generation/test_generation_speculative.py",
    "doctor/test_diagnosis.py",
    "generation/test_generation_blocks.py",
    "stack/test_manners.py",
    "params/test_trainable.py",
    "training/test_step.py",
    "test_encoder_decoder.py",
)
"""What takes longest is begun first: begun last, it would keep one worker busy when the others are done."""


def rank(path: Path) -> int:
    """Where a file stands among those to begin with: the lower, the sooner."""
    file = path.relative_to(TESTS).as_posix() if path.is_relative_to(TESTS) else ""
    return LONG_FILES.index(file) if file in LONG_FILES else len(LONG_FILES)


def serves(arguments: list[str]) -> bool:
    """Whether files are dealt out whole in a run of these paths and test ids."""
    return not any(set(ON_REQUEST).intersection(Path(each.partition("::")[0]).parts) for each in arguments)
