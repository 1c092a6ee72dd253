"""Norms against their formulas in float64 NumPy, and what their configs make and refuse."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encdec_eqx.layers.norm import (
    LayerNorm,
    LayerNormConfig,
    QKNormConfig,
    RMSNorm,
    RMSNormConfig,
    Span,
    init_norm,
    init_qk_norm,
)
from tolerances import ORACLE


def _normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _rms(x: np.ndarray, axes: tuple[int, ...] = (-1,), eps: float = 0.1) -> np.ndarray:
    wide = x.astype(np.float64)
    return wide / np.sqrt((wide**2).mean(axes, keepdims=True) + eps)


@pytest.mark.parametrize("unit_offset", [False, True])
def test_rms_norm(unit_offset: bool) -> None:
    x, weight = 3 * _normal(0, 2, 5, 8) + 1, _normal(1, 8)
    ours = RMSNorm(jnp.asarray(weight), 0.1, unit_offset=unit_offset)(jnp.asarray(x))
    np.testing.assert_allclose(ours, _rms(x) * (weight + unit_offset), atol=ORACLE)


def test_layer_norm_without_a_bias() -> None:
    x, weight = 3 * _normal(0, 2, 5, 8) + 1, _normal(1, 8)
    wide = x.astype(np.float64)
    theirs = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 0.1) * weight
    np.testing.assert_allclose(LayerNorm(jnp.asarray(weight), None, 0.1)(jnp.asarray(x)), theirs, atol=ORACLE)


def test_a_layer_norm_that_learns_nothing() -> None:
    x, config = 3 * _normal(0, 2, 5, 8) + 1, LayerNormConfig(eps=0.1, scale=False, bias=False)
    wide = x.astype(np.float64)
    theirs = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 0.1)
    ours = init_norm(config, 8)
    np.testing.assert_allclose(ours(jnp.asarray(x)), theirs, atol=ORACLE)
    assert not jax.tree.leaves(ours)
    assert ours.weight.shape == (8,)
    assert ours(jnp.asarray(x, jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize("scale_in_float32", [False, True])
def test_the_scale_of_an_rms_norm_multiplies_before_the_cast_or_after(scale_in_float32: bool) -> None:
    x, weight = jnp.asarray(_normal(0, 40, 64), jnp.bfloat16), jnp.asarray(_normal(1, 64), jnp.bfloat16)
    out = RMSNorm(weight, 1e-6, scale_in_float32=scale_in_float32)(x)
    normed, scale = jnp.asarray(_rms(np.asarray(x, np.float32), eps=1e-6), jnp.float32), weight.astype(jnp.float32)
    after = normed.astype(jnp.bfloat16).astype(jnp.float32) * scale[None]
    theirs = (normed * scale[None] if scale_in_float32 else after).astype(jnp.bfloat16)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_array_equal(out, theirs)


def test_an_rms_norm_sums_squares_in_float32() -> None:
    x = jnp.asarray(300.0 + _normal(0, 4, 64), jnp.float16)  # the sum of squares overflows float16
    assert bool(jnp.isfinite(RMSNorm(jnp.ones(64, jnp.float16), 1e-6)(x)).all())


@pytest.mark.parametrize("span", get_args(Span))
@pytest.mark.parametrize("kind", [LayerNormConfig, RMSNormConfig])
def test_norms_of_queries_and_keys(kind: type, span: Span) -> None:
    norm = init_qk_norm(QKNormConfig(norm=kind(eps=0.1), span=span), 3, 4)
    weight, x = 1 + _normal(1, *norm.weight.shape), _normal(0, 2, 5, 3, 4)
    norm = type(norm)(**{**vars(norm), "weight": jnp.asarray(weight)})
    axes = (-2, -1) if span == "all_heads" else (-1,)
    assert weight.shape == ((4,) if span == "head" else (3, 4))
    centred = x - (x.astype(np.float64).mean(axes, keepdims=True) if kind is LayerNormConfig else 0.0)
    np.testing.assert_allclose(norm(jnp.asarray(x)), _rms(centred, axes) * weight, atol=ORACLE)


@pytest.mark.parametrize("config", [LayerNormConfig(), LayerNormConfig(bias=False), RMSNormConfig()])
@pytest.mark.parametrize("offset", [False, True])
def test_new_norms_scale_by_one(config: LayerNormConfig | RMSNormConfig, offset: bool) -> None:
    if isinstance(config, RMSNormConfig):
        config = RMSNormConfig(unit_offset=offset)
    x = jnp.asarray(_normal(0, 5, 64))
    squares = jnp.mean(jnp.square(init_norm(config, 64)(x)), axis=-1)
    np.testing.assert_allclose(squares, np.ones(5), atol=1e-5)


@given(scale=st.floats(0.01, 100), seed=st.integers(0, 99))
def test_rms_norm_does_not_see_the_size_of_its_input(scale: float, seed: int) -> None:
    x, norm = jnp.asarray(_normal(seed, 3, 8)), RMSNorm(jnp.asarray(_normal(1, 8)), 1e-30)
    np.testing.assert_allclose(norm(x * scale), norm(x), atol=ORACLE)


def test_what_configs_refuse() -> None:
    with pytest.raises(ValueError, match=r"RMSNormConfig\.eps is 0\.0; it must be above 0"):
        RMSNormConfig(eps=0.0)
    with pytest.raises(ValueError, match=r"scale is false and bias true; a shift follows a scale"):
        LayerNormConfig(scale=False)
    with pytest.raises(ValueError, match=r"placement is 'sideways'; expected one of post, pre, both, output"):
        RMSNormConfig(placement="sideways")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"span is 'token'; expected one of head, each_head, all_heads"):
        QKNormConfig(norm=RMSNormConfig(), span="token")  # pyright: ignore[reportArgumentType]
