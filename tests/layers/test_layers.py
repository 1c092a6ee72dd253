"""The layers against their formulas in float64 NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from encdec_eqx.config import ACTIVATIONS
from encdec_eqx.inputs.counting import non_padding_positions
from encdec_eqx.layers.attend import attend
from encdec_eqx.layers.context import causal_mask, relative_positions
from encdec_eqx.layers.feed_forward import ACTIVATION_FUNCTIONS
from encdec_eqx.layers.linear import Dropout, Embedding, Linear
from encdec_eqx.layers.norm import LayerNorm
from encdec_eqx.layers.positions import relative_scores
from tolerances import ORACLE


def _normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def test_linear_maps_to_several_axes() -> None:
    weight, bias, x = _normal(0, 5, 3, 2, 4), _normal(1, 3, 2, 4), _normal(2, 2, 7, 5)
    ours = Linear(jnp.asarray(weight), jnp.asarray(bias))(jnp.asarray(x))
    theirs = np.einsum("btd,dphe->btphe", x.astype(np.float64), weight) + bias
    np.testing.assert_allclose(ours, theirs, atol=ORACLE)


def test_linear_casts_its_input_to_its_own_dtype() -> None:
    linear = Linear(jnp.ones((2, 3), jnp.bfloat16), None)
    assert linear(jnp.ones((4, 2), jnp.float32)).dtype == jnp.bfloat16


def test_layer_norm() -> None:
    x, weight, bias = 3 * _normal(0, 2, 5, 8) + 1, _normal(1, 8), _normal(2, 8)
    wide = x.astype(np.float64)
    theirs = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 0.1) * weight + bias
    ours = LayerNorm(jnp.asarray(weight), jnp.asarray(bias), 0.1)(jnp.asarray(x))
    np.testing.assert_allclose(ours, theirs, atol=ORACLE)


def test_layer_norm_keeps_float32_statistics_in_half_precision() -> None:
    x = jnp.asarray(300.0 + _normal(0, 4, 64), jnp.float16)  # the sum of squares overflows float16
    out = LayerNorm(jnp.ones(64, jnp.float16), jnp.zeros(64, jnp.float16), 1e-5)(x)
    assert out.dtype == jnp.float16
    assert bool(jnp.isfinite(out).all())


def test_attention_equals_its_formula() -> None:
    q, k, v = _normal(0, 2, 3, 4, 5), _normal(1, 2, 3, 6, 5), _normal(2, 2, 3, 6, 5)
    mask = np.random.default_rng(3).random((2, 1, 4, 6)) < 0.7
    mask[..., 0] = True
    queries, keys, values = jnp.asarray(q), jnp.asarray(k), jnp.asarray(v)
    context, weights = attend(queries, keys, values, mask=jnp.asarray(mask), scale=0.3, dropout=Dropout(0.0), key=None)
    scores = np.where(mask, np.einsum("bhqe,bhke->bhqk", q.astype(np.float64), k) * 0.3, -np.inf)
    theirs = _softmax(scores)
    assert weights is not None
    np.testing.assert_allclose(weights, theirs, atol=ORACLE)
    np.testing.assert_allclose(context, np.einsum("bhqk,bhke->bqhe", theirs, v).reshape(2, 4, 15), atol=ORACLE)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_a_query_that_sees_nothing_gets_zeros_and_finite_gradients(dtype: jnp.dtype) -> None:
    q, k, v = (jnp.asarray(_normal(seed, 1, 1, 2, 4), dtype) for seed in range(3))
    mask = jnp.asarray([[[[True, True], [False, False]]]])

    def total(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
        context, _ = attend(q, k, v, mask=mask, scale=0.5, dropout=Dropout(0.0), key=None)
        return jnp.sum(context.astype(jnp.float32)), context

    grads, context = jax.grad(total, argnums=(0, 1, 2), has_aux=True)(q, k, v)
    assert bool((context[0, 1] == 0).all())
    assert bool((context[0, 0] != 0).any())
    assert all(bool(jnp.isfinite(grad).all()) for grad in grads)


@pytest.mark.parametrize("with_keys", [False, True])
def test_relative_scores(with_keys: bool) -> None:
    longest, start, q, k = 9, 3, _normal(0, 2, 2, 3, 4), _normal(1, 2, 2, 7, 4)
    table = _normal(2, 2 * longest - 1, 4)
    relative_position = relative_positions(3, 7, start)
    ours = relative_scores(
        Embedding(jnp.asarray(table)),
        jnp.asarray(q),
        jnp.asarray(k),
        relative_position=relative_position,
        with_keys=with_keys,
    )
    theirs = np.zeros((2, 2, 3, 7))
    for query in range(3):
        for slot in range(7):
            row = table[longest - 1 + start + query - slot].astype(np.float64)
            theirs[:, :, query, slot] = q[:, :, query] @ row + (k[:, :, slot] @ row if with_keys else 0)
    np.testing.assert_allclose(ours, theirs, atol=ORACLE)


def test_causal_mask_counts_from_the_first_slot() -> None:
    expected = [[[[True, True, True, False], [True, True, True, True]]]]
    np.testing.assert_array_equal(causal_mask(2, 4, 2), expected)


def test_non_padding_positions_continue() -> None:
    ids = np.asarray([[7, 1, 8, 9], [1, 1, 5, 6]], np.int32)
    whole, counted = non_padding_positions(jnp.asarray(ids), jnp.zeros(2, jnp.int32), 1)
    np.testing.assert_array_equal(whole, [[2, 1, 3, 4], [1, 1, 2, 3]])
    first, so_far = non_padding_positions(jnp.asarray(ids[:, :3]), jnp.zeros(2, jnp.int32), 1)
    last, again = non_padding_positions(jnp.asarray(ids[:, 3:]), so_far, 1)
    np.testing.assert_array_equal(np.concatenate([first, last], axis=1), whole)
    np.testing.assert_array_equal(again, counted)


def test_the_padding_row_gets_no_gradient_from_lookups() -> None:
    table = Embedding(jnp.asarray(_normal(0, 5, 3)), 2)
    grad = jax.grad(lambda t: jnp.sum(t(jnp.asarray([[0, 2, 2, 4]]))))(table).weight
    np.testing.assert_array_equal(grad.sum(1), [3, 0, 0, 0, 3])


def test_dropout_is_active_exactly_when_a_key_is_given(key: jax.Array) -> None:
    x = jnp.ones((200, 100))
    assert Dropout(0.25)(x, key=None) is x
    dropped = np.asarray(Dropout(0.25)(x, key=key))
    assert set(np.unique(dropped)) == {np.float32(0), np.float32(1 / 0.75)}
    deviation = math.sqrt(0.25 * 0.75 / dropped.size)
    assert abs((dropped == 0).mean() - 0.25) < 5 * deviation


def test_every_activation_name_has_a_function() -> None:
    assert set(ACTIVATION_FUNCTIONS) == set(ACTIVATIONS)


def _erf(x: np.ndarray) -> np.ndarray:
    return np.vectorize(math.erf)(x)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + _erf(x / math.sqrt(2)))


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("gelu", _gelu),
        ("gelu_python", _gelu),
        ("gelu_10", lambda x: np.clip(_gelu(x), -10, 10)),
        ("gelu_new", _gelu_tanh),
        ("gelu_fast", _gelu_tanh),
        ("gelu_accurate", _gelu_tanh),
        ("gelu_python_tanh", _gelu_tanh),
        ("gelu_pytorch_tanh", _gelu_tanh),
        ("quick_gelu", lambda x: x * _sigmoid(1.702 * x)),
        ("laplace", lambda x: 0.5 * (1 + _erf((x - 0.707107) / (0.282095 * math.sqrt(2))))),
        ("leaky_relu", lambda x: np.where(x > 0, x, 0.01 * x)),
        ("linear", lambda x: x),
        ("mish", lambda x: x * np.tanh(np.log1p(np.exp(x)))),
        ("relu", lambda x: np.maximum(x, 0)),
        ("relu2", lambda x: np.maximum(x, 0) ** 2),
        ("relu6", lambda x: np.clip(x, 0, 6)),
        ("sigmoid", _sigmoid),
        ("silu", lambda x: x * _sigmoid(x)),
        ("swish", lambda x: x * _sigmoid(x)),
        ("tanh", np.tanh),
    ],
)
def test_activation_formulas(name: str, formula) -> None:
    x = np.linspace(-8, 12, 201).astype(np.float32)
    ours = ACTIVATION_FUNCTIONS[name](jnp.asarray(x))
    expected = formula(x.astype(np.float64))
    np.testing.assert_allclose(ours, expected, atol=ORACLE, rtol=ORACLE)
