"""What every test runs under: strict dtype promotion, no implicit rank broadcasting, full float32 products.

Shape checks come from jaxtyping's pytest hook and warnings are errors; both are set in `pyproject.toml`.
Knows nothing of the library itself, so that a broken import shows up as the failure of a test.
"""

from collections.abc import Iterator

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# GPUs and TPUs multiply float32 in fewer bits by default; parity with torch needs all of them.
jax.config.update("jax_default_matmul_precision", "highest")


@pytest.fixture
def key() -> jax.Array:
    """A fixed PRNG key; `jax.random.split` it or `fold_in` for more."""
    return jax.random.key(0)


@pytest.fixture
def standard_promotion() -> Iterator[None]:
    """Relaxes dtype promotion for one test: optax mixes dtypes inside its updates."""
    with jax.numpy_dtype_promotion("standard"):
        yield
