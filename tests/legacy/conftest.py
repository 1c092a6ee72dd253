"""The tests against transformers 4.46.3, the last version that had these searches in its own code.

They share what makes models with the tests in `tests/parity`, and run in an environment of their own: see
CONTRIBUTING.md.
"""

import sys
from pathlib import Path

import pytest
import transformers

sys.path.insert(0, str(Path(__file__).parent.parent / "parity"))

from generation_pairs import models as models

VERSION = "4.46.3"


def pytest_configure(config: pytest.Config) -> None:
    if transformers.__version__ != VERSION:
        raise pytest.UsageError(
            f"tests/legacy compares with transformers {VERSION}, found {transformers.__version__}: make it an "
            "environment of its own, as CONTRIBUTING.md says."
        )
