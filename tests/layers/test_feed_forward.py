"""The feed-forward parts against their formulas in float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from encdec_eqx.layers.attend import soft_cap
from encdec_eqx.layers.feed_forward import MLP, GatedMLP, GatedMLPConfig, MLPConfig, init_feed_forward
from tolerances import ORACLE


def _silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def _affine(linear, x: np.ndarray) -> np.ndarray:
    return x @ np.asarray(linear.weight, np.float64) + (0 if linear.bias is None else np.asarray(linear.bias))


def _randomised(module, key: jax.Array):
    """Every array, biases too, of size 1."""
    leaves, structure = jax.tree.flatten(module)
    keys = jax.random.split(key, len(leaves))
    return structure.unflatten([jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)])


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", [MLPConfig, GatedMLPConfig])
def test_feed_forward(kind: type, bias: bool, key: jax.Array) -> None:
    config = kind(size=6, activation="silu", bias=bias)
    part = _randomised(init_feed_forward(config, 4, scale=1.0, keys=(key, key)), key)
    x = np.asarray(jax.random.normal(key, (2, 3, 4)), np.float64)
    if isinstance(part, GatedMLP):
        inner = _silu(_affine(part.gate, x)) * _affine(part.up, x)
    else:
        inner = _silu(_affine(part.up, x))
    assert len(jax.tree.leaves(part)) == (3 if isinstance(part, GatedMLP) else 2) * (1 + bias)
    np.testing.assert_allclose(
        part(jnp.asarray(x, jnp.float32), key=None), _affine(part.down, inner), atol=ORACLE, rtol=ORACLE
    )


def test_inner_activations_are_dropped(key: jax.Array) -> None:
    x = jnp.ones((1, 1, 4))
    for config in (MLPConfig(size=5, dropout=0.5), GatedMLPConfig(size=5, dropout=0.5)):
        part = init_feed_forward(config, 4, scale=1.0, keys=(key, key))
        draws = jnp.stack([part(x, key=k) for k in jax.random.split(key, 8)])
        assert float(jnp.std(draws, axis=0).max()) > 0.01
        np.testing.assert_array_equal(part(x, key=None), part(x, key=None))


def test_new_weights_are_drawn_apart(key: jax.Array) -> None:
    config = GatedMLPConfig(size=64)
    part = GatedMLP.init(config, 64, scale=0.02, keys=tuple(jax.random.split(key)))
    weights = jax.tree.leaves(part)
    assert len(weights) == 3, "no biases"
    assert all(abs(float(weight.std()) - 0.02) < 0.001 for weight in weights)
    assert float(jnp.abs(weights[0] - weights[1]).max()) > 0.02
    assert isinstance(init_feed_forward(MLPConfig(size=4), 4, scale=0.02, keys=(key, key)), MLP)


def test_what_configs_refuse() -> None:
    with pytest.raises(ValueError, match=r"GatedMLPConfig\.size is 0; expected a whole number"):
        GatedMLPConfig(size=0)
    with pytest.raises(ValueError, match="'swiglu'; expected one of gelu"):
        GatedMLPConfig(size=4, activation="swiglu")
    with pytest.raises(ValueError, match=r"GatedMLPConfig\.dropout is 1\.0; a dropout rate"):
        GatedMLPConfig(size=4, dropout=1.0)


def test_a_soft_cap_bounds_and_keeps_what_is_small() -> None:
    x = np.asarray([-1e4, -30.0, -1e-3, 0.0, 1e-3, 30.0, 1e4], np.float32)
    ours = np.asarray(soft_cap(jnp.asarray(x), 30.0))
    np.testing.assert_allclose(ours, 30 * np.tanh(x.astype(np.float64) / 30), atol=30 * ORACLE)
    assert (np.abs(ours) <= 30).all()
