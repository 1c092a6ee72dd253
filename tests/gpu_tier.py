"""What `pytest -m gpu` runs, on a GPU before all: numbers against torch's, generation, the kernels of attention.

See `gpu.md` beside this file for the command.
"""

from pathlib import Path

from fast_tier import TESTS

GPU = (
    "test_goldens.py",
    "test_padding.py",
    "generation/test_generation.py",
    "generation/test_generation_beams.py",
    "hf/test_family_goldens.py",
    "layers/test_attend.py",
    "layers/test_attention_kernels.py",
    "training/test_step.py",
)


def holds(path: Path) -> bool:
    """Whether a file's tests are in the tier."""
    return path.is_relative_to(TESTS) and path.relative_to(TESTS).as_posix() in GPU
