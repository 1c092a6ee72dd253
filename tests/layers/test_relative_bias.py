"""Buckets of relative positions and slopes of linear biases, against plain Python."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encdec_eqx.layers.alibi import AlibiConfig, alibi_bias, alibi_positions, alibi_slopes
from encdec_eqx.layers.relative_bias import RelativeBias, RelativeBiasConfig, bucket
from tolerances import EXACT, ORACLE


@st.composite
def _configs(draw: st.DrawFn) -> RelativeBiasConfig:
    bidirectional = draw(st.booleans())
    buckets = draw(st.integers(4 if bidirectional else 2, 70))
    exact = buckets // (4 if bidirectional else 2)
    return RelativeBiasConfig(
        entries=buckets,
        buckets=buckets,
        max_distance=draw(st.integers(exact + 1, 300)),
        bidirectional=bidirectional,
    )


def _buckets(config: RelativeBiasConfig, *relative: int) -> list[int]:
    return np.asarray(bucket(config, jnp.asarray([relative])))[0].tolist()


@settings(max_examples=10)  # each number of buckets is a program of its own
@given(config=_configs())
def test_buckets_grow_with_distance_and_the_last_is_shared(config: RelativeBiasConfig) -> None:
    count = config.buckets // 2 if config.bidirectional else config.buckets
    behind = _buckets(config, *range(600))
    assert behind == sorted(behind)
    assert behind[: count // 2] == list(range(count // 2))
    assert set(behind[config.max_distance :]) == {count - 1}
    ahead = _buckets(config, *range(0, -600, -1))
    if config.bidirectional:
        assert ahead[1:] == [count + each for each in behind[1:]]
    else:
        assert set(ahead) == {0}


def test_the_usual_buckets() -> None:
    two_sided, causal = RelativeBiasConfig(), RelativeBiasConfig(bidirectional=False)
    assert _buckets(two_sided, 0, 7, 8, 15, 16, 127, 128, -1, -8, -500) == [0, 7, 8, 9, 10, 15, 15, 17, 24, 31]
    assert _buckets(causal, 0, 15, 16, 17, 127, 128, -1, -500) == [0, 15, 16, 16, 31, 31, 0, 0]


def test_the_bias_of_each_head_is_looked_up(key: jax.Array) -> None:
    bias = RelativeBias.init(RelativeBiasConfig(), 3, scale=1.0, key=key)
    relative = jnp.arange(2)[:, None] - jnp.arange(5)[None]
    ours, rows = bias(relative), bucket(bias.config, relative)
    assert ours.shape == (1, 3, 2, 5)
    np.testing.assert_allclose(ours[0], np.moveaxis(np.asarray(bias.weight)[np.asarray(rows)], -1, 0), atol=EXACT)


def test_what_a_relative_bias_refuses() -> None:
    with pytest.raises(ValueError, match=r"buckets is 33 and entries 32; expected a row a bucket"):
        RelativeBiasConfig(buckets=33)
    with pytest.raises(ValueError, match=r"max_distance 8: 8 distances have a bucket of their own"):
        RelativeBiasConfig(max_distance=8)


@pytest.mark.parametrize("heads", [1, 2, 8, 64])
def test_slopes_of_powers_of_two(heads: int) -> None:
    theirs = [2 ** (-8 * (head + 1) / heads) for head in range(heads)]
    np.testing.assert_allclose(alibi_slopes(heads), theirs, rtol=ORACLE)


@given(heads=st.integers(1, 130))
def test_slopes_of_any_number_of_heads(heads: int) -> None:
    slopes = alibi_slopes(heads)
    power = 2 ** math.floor(math.log2(heads))
    assert len(slopes) == heads == len(set(slopes.tolist()))
    np.testing.assert_array_equal(slopes[:power], alibi_slopes(power))
    np.testing.assert_array_equal(slopes[power:], alibi_slopes(2 * power)[::2][: heads - power])


def test_linear_biases_count_real_keys() -> None:
    mask = jnp.asarray([[False, False, True, True, True], [True, True, True, True, False]])
    positions = alibi_positions(mask)
    np.testing.assert_array_equal(positions, [[0, 0, 0, 1, 2], [0, 1, 2, 3, 0]])
    bias = alibi_bias(AlibiConfig(), 2, positions, score_scale=0.5)
    theirs = np.asarray(alibi_slopes(2))[None, :, None, None] * np.asarray(positions)[:, None, None, :]
    np.testing.assert_allclose(bias, theirs, rtol=ORACLE)
    np.testing.assert_allclose(alibi_bias(AlibiConfig(scaled=True), 2, positions, score_scale=0.5), theirs / 2)


def test_rounding_through_bfloat16_is_not_optimised_away() -> None:
    positions = jnp.asarray([[0, 1, 257, 300]])
    make = jax.jit(lambda at: alibi_bias(AlibiConfig(bfloat16=True), 12, at, score_scale=1.0))
    slopes = jnp.asarray(alibi_slopes(12)).astype(jnp.bfloat16)
    theirs = slopes[None, :, None] * positions[:, None, :].astype(jnp.bfloat16)
    assert float(positions[0, 2].astype(jnp.bfloat16)) == 256
    np.testing.assert_array_equal(make(positions)[:, :, 0], theirs.astype(jnp.float32))
