"""Layers of eight bits against NumPy's integers, and what they are off by; single rows, bfloat16 and gradients."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from encdec_eqx.layers.int8 import Int8Embedding, Int8Linear, is_int8, is_partly_int8, quantize_rows, to_int8
from encdec_eqx.layers.linear import Embedding, Linear
from models import tiny_pair
from tolerances import INT8_SCALED, SINGLE_ROW

ROWS = [1, 2, 7]


def _rng(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _integers(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By NumPy, row by row: the largest entry becomes 127."""
    largest = np.abs(x).max(axis=-1)
    inverse = np.where(largest > 0, np.float32(127) / np.where(largest > 0, largest, np.float32(1)), np.float32(0))
    return np.rint(x * inverse[..., None]).astype(np.int64), largest / np.float32(127)


def _linear(*out: int, bias: bool = True, dtype: jnp.dtype = jnp.float32) -> Linear:
    weight = jnp.asarray(_rng(24, *out, seed=1), dtype)
    return Linear(weight, jnp.asarray(_rng(*out, seed=2), dtype) if bias else None)


def test_rows_are_numpys_integers_exactly() -> None:
    x = _rng(50, 33) * np.logspace(-6, 6, 50, dtype=np.float32)[:, None]
    x[3] = 0.0
    got, scale = jax.jit(quantize_rows)(x)
    integers, expected = _integers(x)
    np.testing.assert_array_equal(got, integers)
    np.testing.assert_allclose(scale, expected, rtol=INT8_SCALED)
    assert got.dtype == jnp.int8 and np.abs(np.asarray(got, np.int32)).max() == 127
    assert np.all(np.abs(x - integers * expected[:, None]) <= 0.5000001 * expected[:, None])


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_is_a_product_of_integers(rows: int, bias: bool) -> None:
    """The sums are exact; what is left are the roundings of three products in float32."""
    linear = _linear(3, 2, 4, bias=bias)
    layer = Int8Linear.of(linear)
    assert (layer.weight.shape, layer.weight.dtype, layer.scale.shape) == ((3, 2, 4, 24), jnp.int8, (3, 2, 4))
    x = _rng(rows, 5, 24, seed=3)[:, 0] if rows == 1 else _rng(rows, 24, seed=3)
    q, sx = _integers(x)
    w, sw = _integers(np.moveaxis(np.asarray(linear.weight), 0, -1))
    sums = np.einsum("rd,phed->rphe", q, w)
    expected = sums * sx[:, None, None, None].astype(np.float64) * sw
    expected = expected if linear.bias is None else expected + np.asarray(linear.bias)
    np.testing.assert_allclose(
        eqx.filter_jit(layer)(jnp.asarray(x)), expected, rtol=0, atol=INT8_SCALED * np.abs(expected).max()
    )


@pytest.mark.parametrize("rows", ROWS)
def test_a_layer_is_off_by_half_a_step_of_each_factor_at_most(rows: int) -> None:
    linear, x = _linear(40), _rng(rows, 24, seed=4)
    layer = Int8Linear.of(linear)
    weight, (_, sx) = np.asarray(linear.weight, np.float64), _integers(x)
    sw = np.asarray(layer.scale, np.float64)[None]
    x_sum, w_sum = np.abs(x).sum(axis=1)[:, None], np.abs(weight).sum(axis=0)[None]
    bound = x_sum * sw / 2 + w_sum * sx[:, None] / 2 + 24 * sx[:, None] * sw / 4
    error = np.abs(np.asarray(layer(jnp.asarray(x)), np.float64) - (x @ weight + np.asarray(linear.bias)))
    assert np.all(error <= bound * 1.0001)
    assert error.max() > bound.min() / 100  # the bound is not idle


def test_a_row_does_not_depend_on_the_others() -> None:
    layer, x = Int8Linear.of(_linear(6)), _rng(7, 24)
    together = np.asarray(eqx.filter_jit(layer)(jnp.asarray(x)))
    for at in range(7):
        np.testing.assert_array_equal(eqx.filter_jit(layer)(jnp.asarray(x[at : at + 1]))[0], together[at])


def test_a_table_is_looked_up_and_multiplied_with_row_by_row() -> None:
    table = Embedding(jnp.asarray(_rng(11, 24)), padding_idx=0)
    rounded = Int8Embedding.of(table)
    integers, scale = _integers(np.asarray(table.weight))
    ids = np.array([[0, 3, 10], [7, 7, 1]])
    assert (rounded.padding_idx, rounded.dtype) == (0, jnp.float32)
    np.testing.assert_allclose(rounded(jnp.asarray(ids)), integers[ids] * scale[ids][..., None], rtol=INT8_SCALED)
    hidden = _rng(2, 3, 24, seed=5)
    q, sx = _integers(hidden)
    expected = np.einsum("btd,vd->btv", q, integers) * sx[..., None].astype(np.float64) * scale
    got = rounded.attend(jnp.asarray(hidden))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, expected, rtol=0, atol=INT8_SCALED * np.abs(expected).max())


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_the_dtype_of_what_comes_out_is_that_of_the_scales(dtype: jnp.dtype) -> None:
    layer = Int8Linear.of(_linear(6, dtype=dtype))
    assert (layer.scale.dtype, layer.bias.dtype) == (jnp.float32, jnp.float32)
    assert layer(jnp.asarray(_rng(2, 24), dtype)).dtype == jnp.float32


def test_nan_and_infinity_come_out_again() -> None:
    layer, x = Int8Linear.of(_linear(6)), _rng(3, 24)
    x[1, 2], x[2, 3] = np.nan, np.inf
    finite = np.isfinite(np.asarray(layer(jnp.asarray(x))))
    assert finite[0].all() and not finite[1:].any()


def test_gradients_are_refused() -> None:
    layer = Int8Linear.of(_linear(6))
    with pytest.raises(TypeError, match=r"an int8 model has no gradients.*train the float32 model, then quantize it"):
        jax.grad(lambda x: layer(x).sum())(jnp.asarray(_rng(2, 24)))


def test_linear_layers_and_token_tables_are_rounded_and_nothing_else() -> None:
    model = tiny_pair()
    rounded = to_int8(model)
    assert is_int8(rounded) and not is_int8(model) and not is_partly_int8(rounded)
    assert isinstance(rounded.encoder.embeddings.tokens, Int8Embedding)
    assert isinstance(rounded.encoder.embeddings.positions, Embedding)
    assert rounded.decoder.stack.shared.final_norm.weight is model.decoder.stack.shared.final_norm.weight
    half = to_int8(model.encoder)
    assert is_partly_int8((half, model.decoder))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_a_single_row_gives_what_it_gives_among_others(dtype: jnp.dtype) -> None:
    """On CPUs a single row in bfloat16 is multiplied with another beside it."""
    linear, table = _linear(3, 4, dtype=dtype), Embedding(jnp.asarray(_rng(11, 24), dtype))
    x = jnp.asarray(_rng(2, 24), dtype)
    exact = np.asarray(x, np.float64) @ np.asarray(linear.weight, np.float64).reshape(24, 12)
    exact = (exact + np.asarray(linear.bias, np.float64).reshape(12)).reshape(2, 3, 4)
    for layer, expected in (
        (linear, exact),
        (lambda x: table.attend(x), np.asarray(x, np.float64) @ np.asarray(table.weight, np.float64).T),
    ):
        alone = eqx.filter_jit(layer)(x[:1])
        assert alone.shape == (1, *expected.shape[1:])
        unit = float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(alone[0].astype(jnp.float32), expected[0], rtol=0, atol=SINGLE_ROW * unit)


def test_only_a_single_row_of_bfloat16_is_padded_and_on_cpus_only() -> None:
    def dots(rows: int, dtype: jnp.dtype, platform: str) -> str:
        weight = jax.ShapeDtypeStruct((24, 8), dtype)
        lowered = jax.jit(lambda x, w: Linear(w, None)(x)).trace(jax.ShapeDtypeStruct((rows, 24), dtype), weight)
        return lowered.lower(lowering_platforms=(platform,)).as_text()

    assert "tensor<2x24xbf16>" in dots(1, jnp.bfloat16, "cpu")
    assert "tensor<2x24xbf16>" not in dots(1, jnp.bfloat16, "cuda")
    assert "tensor<2x24xf32>" not in dots(1, jnp.float32, "cpu")
