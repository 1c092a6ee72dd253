"""Rotations against complex numbers in float64 NumPy, and what they keep."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encdec_eqx.layers.positions import sinusoids
from encdec_eqx.layers.rotary import (
    DynamicNTKScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    RotaryConfig,
    Rotation,
    YarnScaling,
    scaled_frequencies,
)
from tolerances import ORACLE, ROTARY_FAR

SCALINGS = {
    "none": None,
    "linear": LinearScaling(factor=4.0),
    "dynamic": DynamicNTKScaling(factor=4.0, max_positions=16),
    "llama3": Llama3Scaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_positions=64),
    "yarn": YarnScaling(factor=4.0, original_max_positions=64),
    "longrope": LongRopeScaling(
        short_factors=(1.0, 1.1, 1.2, 1.3), long_factors=(1.0, 2.0, 3.0, 4.0), original_max_positions=16, factor=4.0
    ),
}


def _normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _as_complex(x: np.ndarray, pairs: str) -> np.ndarray:
    half = x.shape[-1] // 2
    real, imaginary = (x[..., :half], x[..., half:]) if pairs == "halves" else (x[..., ::2], x[..., 1::2])
    return real.astype(np.float64) + 1j * imaginary


@pytest.mark.parametrize("pairs", ["halves", "neighbours"])
@pytest.mark.parametrize("dim", [None, 6, 2])
def test_pairs_rotate_by_position_times_frequency(pairs: str, dim: int | None) -> None:
    x, positions = _normal(0, 2, 3, 4, 8), np.asarray([[0, 1, 2, 3], [7, 5, 5, 40]])
    config = RotaryConfig(theta=100.0, pairs=pairs, dim=dim)  # pyright: ignore[reportArgumentType]
    ours = np.asarray(Rotation.of_positions(config, 8, jnp.asarray(positions))(jnp.asarray(x)))
    width = dim or 8
    angles = positions[:, None, :, None] * 100.0 ** (-np.arange(0, width, 2) / width)
    theirs = _as_complex(x[..., :width], pairs) * np.exp(1j * angles)
    np.testing.assert_allclose(_as_complex(ours[..., :width], pairs), theirs, atol=ORACLE)
    np.testing.assert_array_equal(ours[..., width:], x[..., width:])


def test_an_odd_share_of_a_head_spreads_its_angles_over_an_odd_number() -> None:
    x, positions = _normal(0, 2, 3, 4, 8), np.asarray([[0, 1, 2, 3], [7, 5, 5, 40]])
    config = RotaryConfig(theta=100.0, dim=4, counted=3)
    ours = np.asarray(Rotation.of_positions(config, 8, jnp.asarray(positions))(jnp.asarray(x)))
    angles = positions[:, None, :, None] * 100.0 ** (-np.arange(0, 4, 2) / 3)
    theirs = _as_complex(x[..., :4], "halves") * np.exp(1j * angles)
    np.testing.assert_allclose(_as_complex(ours[..., :4], "halves"), theirs, atol=ORACLE)
    np.testing.assert_array_equal(ours[..., 4:], x[..., 4:])


def test_rows_of_a_table_rotate_neighbours() -> None:
    x, positions = jnp.asarray(_normal(0, 2, 3, 4, 8)), jnp.asarray([[0, 1, 2, 3], [7, 5, 5, 40]])
    rows = jnp.asarray(sinusoids("sinusoidal_halves", 41, 8))[positions]
    by_angles = Rotation.of_positions(RotaryConfig(pairs="neighbours"), 8, positions)
    np.testing.assert_allclose(Rotation.of_table_rows(rows)(x), by_angles(x), atol=ORACLE)


def test_angles_are_made_in_float32_and_queries_keep_their_dtype() -> None:
    rotation = Rotation.of_positions(RotaryConfig(), 8, jnp.asarray([[4095]]))
    assert rotation.cos.dtype == jnp.float32
    assert rotation(jnp.ones((1, 1, 1, 8), jnp.bfloat16)).dtype == jnp.bfloat16
    np.testing.assert_allclose(rotation.sin[0, 0, 0], math.sin(4095), atol=ORACLE)


@pytest.mark.parametrize("scaling", SCALINGS)
@given(seed=st.integers(0, 99), start=st.integers(0, 40))
def test_rotations_keep_lengths(scaling: str, seed: int, start: int) -> None:
    config = RotaryConfig(theta=100.0, scaling=SCALINGS[scaling])
    x = _normal(seed, 1, 2, 3, 8)
    rotated = Rotation.of_positions(config, 8, start + jnp.arange(3)[None])(jnp.asarray(x))
    factor = 1.0 if config.scaling is None else config.scaling.attention_factor
    np.testing.assert_allclose(np.linalg.norm(rotated, axis=-1), factor * np.linalg.norm(x, axis=-1), rtol=ORACLE)


@pytest.mark.parametrize("pairs", ["halves", "neighbours"])
@given(seed=st.integers(0, 99), first=st.integers(0, 500), second=st.integers(0, 500), shift=st.integers(0, 500))
def test_products_depend_on_the_difference_of_positions(
    pairs: str, seed: int, first: int, second: int, shift: int
) -> None:
    config = RotaryConfig(pairs=pairs)  # pyright: ignore[reportArgumentType]
    q, k = jnp.asarray(_normal(seed, 2, 1, 1, 1, 8))

    def product(query: int, key: int) -> jax.Array:
        at = [Rotation.of_positions(config, 8, jnp.asarray([[position]])) for position in (query, key)]
        return jnp.sum(at[0](q) * at[1](k))

    np.testing.assert_allclose(product(first, second), product(first + shift, second + shift), atol=ROTARY_FAR)


def _frequencies(name: str, longest: int) -> np.ndarray:
    return np.asarray(scaled_frequencies(SCALINGS[name], 100.0, 8, jnp.asarray([[longest - 1, 0]])), np.float64)


def test_scaled_frequencies_are_their_formulas() -> None:
    plain = 100.0 ** (-np.arange(0, 8, 2) / 8)
    np.testing.assert_allclose(_frequencies("none", 5), plain, rtol=ORACLE)
    np.testing.assert_allclose(_frequencies("linear", 5), plain / 4, rtol=ORACLE)
    np.testing.assert_allclose(_frequencies("dynamic", 16), plain, rtol=ORACLE)
    base = 100.0 * (4.0 * 32 / 16 - 3) ** (8 / 6)
    np.testing.assert_allclose(_frequencies("dynamic", 32), base ** (-np.arange(0, 8, 2) / 8), rtol=ORACLE)
    np.testing.assert_allclose(_frequencies("longrope", 16), plain / [1.0, 1.1, 1.2, 1.3], rtol=ORACLE)
    np.testing.assert_allclose(_frequencies("longrope", 17), plain / [1.0, 2.0, 3.0, 4.0], rtol=ORACLE)


def test_llama3_keeps_fast_pairs_and_divides_slow_ones() -> None:
    plain, ours = _frequencies("none", 1), _frequencies("llama3", 1)
    turns = 64 * plain / (2 * math.pi)
    smooth = np.clip((turns - 1) / 3, 0, 1)
    np.testing.assert_allclose(ours, plain * smooth + plain / 8 * (1 - smooth), rtol=ORACLE)
    assert ours[0] == plain[0]
    assert abs(ours[-1] * 8 / plain[-1] - 1) < ORACLE
    assert any(0 < part < 1 for part in smooth)


def test_yarn_s_factor_follows_from_its_settings() -> None:
    assert YarnScaling(factor=4.0, original_max_positions=64).attention_factor == 0.1 * math.log(4) + 1
    assert YarnScaling(factor=1.0, original_max_positions=64).attention_factor == 1.0
    assert YarnScaling(factor=4.0, original_max_positions=64, given_attention_factor=0.7).attention_factor == 0.7
    both = YarnScaling(factor=4.0, original_max_positions=64, mscale=2.0, mscale_all_dim=1.0).attention_factor
    assert both == (0.2 * math.log(4) + 1) / (0.1 * math.log(4) + 1)


def test_what_configs_refuse() -> None:
    with pytest.raises(ValueError, match=r"RotaryConfig\.dim is 3; pairs rotate"):
        RotaryConfig(dim=3)
    with pytest.raises(ValueError, match=r"RotaryConfig\.counted is 5 and dim 8; expected dim or one less"):
        RotaryConfig(dim=8, counted=5)
    with pytest.raises(ValueError, match=r"pairs is 'odd'; expected one of halves, neighbours"):
        RotaryConfig(pairs="odd")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="expected the first to be the smaller"):
        Llama3Scaling(factor=8.0, low_freq_factor=4.0, high_freq_factor=4.0, original_max_positions=64)
    with pytest.raises(ValueError, match="has 4 factors, and 3 pairs rotate"):
        Rotation.of_positions(RotaryConfig(dim=6, scaling=SCALINGS["longrope"]), 8, jnp.asarray([[0]]))
    with pytest.raises(ValueError, match="one of each per rotating pair"):
        LongRopeScaling(short_factors=(1.0,), long_factors=(1.0, 2.0), original_max_positions=4, factor=2.0)
