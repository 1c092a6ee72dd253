"""The convolution along the sequence and the layer that has one, against loops in NumPy; padding, dropout, errors."""

import dataclasses
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from encdec_eqx import Encoder, LayerSpec, PositionsConfig, StackConfig
from encdec_eqx._padding import RightPadding
from encdec_eqx.blocks import ConvolvedBlock
from encdec_eqx.config import ConvolutionConfig
from encdec_eqx.layers.convolution import Convolution
from encdec_eqx.params.param_names import param_names
from encdec_eqx.stack import Layout
from encdec_eqx.stack.unrolled import UnrolledStack
from models import decoder_config, encoder_config, random_ids, randomised
from tolerances import ORACLE, SAME_MODEL


def _convolved(kernel_size: int = 3, groups: int = 1) -> StackConfig:
    convolution = ConvolutionConfig(kernel_size=kernel_size, groups=groups)
    return encoder_config(layers=(LayerSpec(block="convolved"),), convolution=convolution)


@pytest.mark.parametrize(("kernel_size", "groups"), [(1, 1), (5, 1), (3, 2)])
def test_a_convolution_is_a_sum_over_neighbours(kernel_size: int, groups: int, key: jax.Array) -> None:
    config = ConvolutionConfig(kernel_size=kernel_size, groups=groups)
    made = randomised(Convolution.init(config, 6, scale=1.0, key=key))
    x = np.random.default_rng(0).normal(size=(2, 7, 6))
    weight, bias = np.asarray(made.weight, np.float64), np.asarray(made.bias)
    theirs = np.tile(bias.astype(np.float64), (2, 7, 1))
    width = 6 // groups
    for at in range(7):
        for place in range(kernel_size):
            other = at + place - kernel_size // 2
            for group in range(groups if 0 <= other < 7 else 0):
                part = slice(group * width, (group + 1) * width)
                theirs[:, at, part] += x[:, other, part] @ weight[part, :, place].T
    np.testing.assert_allclose(made(jnp.asarray(x, jnp.float32)), theirs, atol=ORACLE, rtol=ORACLE)


@eqx.filter_jit
def _states(encoder: Encoder, ids: np.ndarray, mask: np.ndarray | RightPadding, layout: Layout) -> Any:
    return encoder.with_layout(layout)(ids, attention_mask=mask).last_hidden_state


def test_padding_is_nothing_to_its_neighbours() -> None:
    """On either side, as a mask and as lengths, in both layouts: the states are those of the row alone."""
    config = _convolved(5).replace(positions=PositionsConfig(max_positions=24, kind="none"))
    encoder = randomised(Encoder.init(config, key=jax.random.key(0)))
    ids = random_ids(0, 2, 6)
    alone = _states(encoder, ids[1:, 2:], np.ones((1, 4), np.int32), "unrolled")[0]
    left = np.array([[1] * 6, [0, 0, 1, 1, 1, 1]], np.int32)
    np.testing.assert_allclose(_states(encoder, ids, left, "unrolled")[1, 2:], alone, rtol=0, atol=SAME_MODEL)
    lengths = RightPadding(np.array([6, 4], np.int32), 6)
    shifted = _states(encoder, np.roll(ids, -2, axis=1), lengths, "scanned")
    np.testing.assert_allclose(shifted[1, :4], alone, rtol=0, atol=SAME_MODEL)


def test_a_new_one_is_drawn_and_drops_out() -> None:
    encoder = Encoder.init(_convolved().replace(dropout=0.5), key=jax.random.key(0))
    assert isinstance(encoder.stack, UnrolledStack)
    first = encoder.stack.blocks[0]
    assert isinstance(first, ConvolvedBlock)
    assert (first.convolution.weight.shape, first.convolution.bias.shape) == ((16, 16, 3), (16,))
    assert math.isclose(first.convolution.weight.std(), encoder.config.initializer_range, rel_tol=0.1)
    ids = random_ids(0, 1, 4)
    names = [name for place in param_names(encoder).places for name in place.names]
    assert {name for name in names if "convolution" in name} == {
        f"layers.0.convolution.{name}" for name in ("weight", "bias", "norm.weight", "norm.bias")
    }
    plain, dropped = (encoder(ids, key=key).last_hidden_state for key in (None, jax.random.key(1)))
    assert not np.allclose(plain, dropped)


def test_what_configs_refuse() -> None:
    with pytest.raises(ValueError, match="kernel_size is 4; expected an odd number"):
        ConvolutionConfig(kernel_size=4)
    with pytest.raises(ValueError, match="groups is 5; expected a divisor of hidden_size"):
        _convolved(groups=5)
    with pytest.raises(ValueError, match=r"StackConfig\.convolution is None and some LayerSpec\.block is 'convolved'"):
        _convolved().replace(convolution=None)
    with pytest.raises(ValueError, match=r"no LayerSpec\.block is 'convolved': give both or neither"):
        encoder_config().replace(convolution=ConvolutionConfig(kernel_size=3))
    decoder = decoder_config()
    layers = tuple(dataclasses.replace(layer, block="convolved") for layer in decoder.layers)
    with pytest.raises(ValueError, match="looks ahead, which a decoder must not"):
        decoder.replace(layers=layers, convolution=ConvolutionConfig(kernel_size=3))
