"""Attention with linear biases: scores grow with the key's position, by a slope per head (Press et al. 2022)."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Integer

from .._typing import Array
from .validation import part_config


@part_config
class AlibiConfig:
    """A bias of slope times position.

    Attributes:
        scaled: whether the bias is multiplied by the score scale, as scores are (Falcon), or added as it is (Bloom).
        bfloat16: whether it is rounded through bfloat16 (Falcon).
    """

    scaled: bool = False
    bfloat16: bool = False


def alibi_slopes(num_heads: int) -> Float[np.ndarray, " heads"]:
    """A geometric sequence down to 2⁻⁸ for a power of two; other numbers take every second slope of the next one."""
    power = 2 ** math.floor(math.log2(num_heads))
    slopes = _geometric(power)
    return np.concatenate([slopes, _geometric(2 * power)[::2][: num_heads - power]])


def _geometric(number: int) -> Float[np.ndarray, " heads"]:
    base = np.float32(2.0 ** (-8.0 / number))
    # powers of the float32 base, rounded once, as torch's are
    return np.power(np.float64(base), np.arange(1, number + 1)).astype(np.float32)


def alibi_positions(mask: Bool[Array, "batch keys"]) -> Integer[Array, "batch keys"]:
    """Real keys counted from 0; padding is at 0. Left padding therefore shifts nothing."""
    real = mask.astype(jnp.int32)
    return (jnp.cumsum(real, axis=1, dtype=jnp.int32) - 1) * real


def alibi_bias(
    config: AlibiConfig, num_heads: int, positions: Integer[Array, "batch keys"], *, score_scale: float
) -> Float[Array, "batch heads 1 keys"]:
    """What is added to scaled scores, in float32.

    It depends on the key alone: what a query's own position would add is the same for all its keys, and softmax does
    not see it.

    Args:
        config: how the bias is made.
        num_heads: number of heads.
        positions: of the keys; a shift of a whole row changes nothing.
        score_scale: factor on the scores.
    """
    rounded = _bfloat16 if config.bfloat16 else lambda x: x
    slopes = rounded(jnp.asarray(alibi_slopes(num_heads)))
    bias = rounded(slopes[None, :, None] * rounded(positions.astype(jnp.float32))[:, None, :])
    return (bias * score_scale if config.scaled else bias)[:, :, None, :]


def _bfloat16(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Rounded, and still float32: XLA may drop a cast to bfloat16 and back."""
    return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)
