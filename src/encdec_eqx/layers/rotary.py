"""Rotations of queries and keys by their positions (RoPE; Su et al. 2021), and rules to scale them to longer ones."""

import math
from typing import Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Integer

from .._typing import Array, ArrayLike
from .validation import one_of, part_config, positive, positive_real

Frequencies = Float[ArrayLike, " pairs"]


def base_frequencies(theta: float, dim: int) -> Float[np.ndarray, " pairs"]:
    """Angles per position of the `dim / 2` pairs, from 1 down towards 1 / theta (Su et al. 2021)."""
    return np.float32(1.0) / _powers(theta, dim)


def _powers(theta: float, dim: int) -> Float[np.ndarray, " pairs"]:
    exponents = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    # rounded once, as torch's float32 power is; NumPy's own differs from it in the last bit of every fifth
    return np.power(theta, exponents.astype(np.float64)).astype(np.float32)


@part_config
class LinearScaling:
    """All angles divided by a factor (Chen et al. 2023)."""

    factor: float

    def __post_init__(self):
        positive_real(self, "factor")

    def frequencies(self, theta: float, dim: int, longest: Integer[Array, ""]) -> Frequencies:
        """Angles per position, whatever the longest sequence of the call."""
        return base_frequencies(theta, dim) / np.float32(self.factor)

    @property
    def attention_factor(self) -> float:
        """Factor on sines and cosines."""
        return 1.0


@part_config
class DynamicNTKScaling:
    """A larger base where a call is longer than the model was trained for.

    The base follows from the largest position of the very call, as in a reference model that has seen no longer call
    before; the reference's own keeps the base of its longest call until a short one resets it. Keys in a cache keep the
    base of the call that wrote them, there and here: beyond `max_positions` a cached step and a full pass differ, and a
    sequence depends on what stands in its batch.

    Attributes:
        factor: how much longer sequences may get.
        max_positions: up to this length nothing changes.
    """

    factor: float
    max_positions: int

    def __post_init__(self):
        positive_real(self, "factor")
        positive(self, "max_positions")

    def frequencies(self, theta: float, dim: int, longest: Integer[Array, ""]) -> Frequencies:
        """Angles per position where the longest sequence of the call has `longest` tokens."""
        length = jnp.maximum(longest, self.max_positions).astype(jnp.float32)
        growth = self.factor * length / self.max_positions - (self.factor - 1)
        base = theta * growth ** (dim / (dim - 2))
        stretched = 1.0 / base ** (jnp.arange(0, dim, 2, dtype=jnp.float32) / dim)
        return jnp.where(longest > self.max_positions, stretched, jnp.asarray(base_frequencies(theta, dim)))

    @property
    def attention_factor(self) -> float:
        """Factor on sines and cosines."""
        return 1.0


@part_config
class Llama3Scaling:
    """Slow angles divided by a factor, fast ones kept, those between interpolated (Llama 3.1).

    Attributes:
        factor: the divisor.
        low_freq_factor: pairs that turn fewer times than this in the original length are slow.
        high_freq_factor: those that turn more often than this are fast.
        original_max_positions: the length of pretraining.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int

    def __post_init__(self):
        positive_real(self, "factor", "low_freq_factor", "high_freq_factor")
        positive(self, "original_max_positions")
        if self.low_freq_factor >= self.high_freq_factor:
            raise ValueError(
                f"Llama3Scaling.low_freq_factor is {self.low_freq_factor} and high_freq_factor "
                f"{self.high_freq_factor}; expected the first to be the smaller."
            )

    def frequencies(self, theta: float, dim: int, longest: Integer[Array, ""]) -> Frequencies:
        """Angles per position, whatever the longest sequence of the call."""
        plain = base_frequencies(theta, dim)
        factor, low, high = (np.float32(x) for x in (self.factor, self.low_freq_factor, self.high_freq_factor))
        length = np.float32(self.original_max_positions)
        wavelengths = np.float32(2 * math.pi) / plain
        kept = (length / wavelengths - low) / (high - low)
        between = (1 - kept) * plain / factor + kept * plain
        slow, fast = wavelengths > length / low, wavelengths < length / high
        return np.where(slow, plain / factor, np.where(fast, plain, between))

    @property
    def attention_factor(self) -> float:
        """Factor on sines and cosines."""
        return 1.0


@part_config
class YarnScaling:
    """Slow angles divided by a factor, fast ones kept, with a ramp between; sharper attention (Peng et al. 2023).

    Attributes:
        factor: the divisor.
        original_max_positions: the length of pretraining.
        given_attention_factor: factor on sines and cosines; `None` means 0.1 ln(factor) + 1, or with both of the next
            the ratio of 0.1 · mscale · ln(factor) + 1 and the same of `mscale_all_dim`.
        mscale: see there.
        mscale_all_dim: see there.
        beta_fast: pairs that turn more often than this in the original length are kept.
        beta_slow: those that turn fewer times than this are divided.
        truncate: whether the ramp's ends are rounded outwards to whole pairs.
    """

    factor: float
    original_max_positions: int
    given_attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True

    def __post_init__(self):
        positive_real(self, "factor", "beta_fast", "beta_slow")
        positive(self, "original_max_positions")

    def frequencies(self, theta: float, dim: int, longest: Integer[Array, ""]) -> Frequencies:
        """Angles per position, whatever the longest sequence of the call."""
        powers = _powers(theta, dim)
        low, high = self._ramp(theta, dim)
        pairs = np.arange(dim // 2, dtype=np.float32)
        kept = 1 - np.clip((pairs - np.float32(low)) / np.float32(high - low), 0, 1)
        one = np.float32(1.0)
        return one / (np.float32(self.factor) * powers) * (1 - kept) + one / powers * kept

    def _ramp(self, theta: float, dim: int) -> tuple[float, float]:
        low, high = (
            dim * math.log(self.original_max_positions / (turns * 2 * math.pi)) / (2 * math.log(theta))
            for turns in (self.beta_fast, self.beta_slow)
        )
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(float(low), 0.0), min(float(high), dim - 1.0)
        return low, high + 0.001 if low == high else high

    @property
    def attention_factor(self) -> float:
        """Factor on sines and cosines."""
        if self.given_attention_factor is not None:
            return self.given_attention_factor
        if self.mscale and self.mscale_all_dim:
            return self._sharpness(self.mscale) / self._sharpness(self.mscale_all_dim)
        return self._sharpness(1.0)

    def _sharpness(self, mscale: float) -> float:
        return 1.0 if self.factor <= 1 else 0.1 * mscale * math.log(self.factor) + 1.0


@part_config
class LongRopeScaling:
    """A divisor for every pair, one set for short calls and one for long ones (Ding et al. 2024).

    As with `DynamicNTKScaling`, the call's largest position decides, and keys in a cache keep what they were written
    with.

    Attributes:
        short_factors: divisors up to the original length.
        long_factors: divisors beyond it.
        original_max_positions: the length of pretraining.
        factor: how much longer sequences may get.
        given_attention_factor: factor on sines and cosines; `None` means that it follows from `factor`.
    """

    short_factors: tuple[float, ...]
    long_factors: tuple[float, ...]
    original_max_positions: int
    factor: float
    given_attention_factor: float | None = None

    def __post_init__(self):
        positive_real(self, "factor")
        positive(self, "original_max_positions")
        if len(self.short_factors) != len(self.long_factors):
            raise ValueError(
                f"LongRopeScaling has {len(self.short_factors)} short_factors and {len(self.long_factors)} "
                "long_factors; expected one of each per rotating pair."
            )

    def frequencies(self, theta: float, dim: int, longest: Integer[Array, ""]) -> Frequencies:
        """Angles per position where the longest sequence of the call has `longest` tokens."""
        if len(self.short_factors) != dim // 2:
            raise ValueError(
                f"LongRopeScaling has {len(self.short_factors)} factors, and {dim // 2} pairs rotate; expected as many."
            )
        powers = _powers(theta, dim)
        short, long = (np.asarray(each, np.float32) * powers for each in (self.short_factors, self.long_factors))
        return 1.0 / jnp.where(longest > self.original_max_positions, jnp.asarray(long), jnp.asarray(short))

    @property
    def attention_factor(self) -> float:
        """Factor on sines and cosines."""
        if self.given_attention_factor is not None:
            return self.given_attention_factor
        return math.sqrt(1 + math.log(self.factor) / math.log(self.original_max_positions)) if self.factor > 1 else 1.0


RotaryScaling = LinearScaling | DynamicNTKScaling | Llama3Scaling | YarnScaling | LongRopeScaling


def scaled_frequencies(
    scaling: RotaryScaling | None, theta: float, dim: int, positions: Integer[Array, "rows queries"]
) -> Float[Array, " pairs"]:
    """Angles per position of a call whose tokens stand at `positions`, in float32."""
    if scaling is None:
        return jnp.asarray(base_frequencies(theta, dim))
    return jnp.asarray(scaling.frequencies(theta, dim, jnp.max(positions) + 1))


Pairs = Literal["halves", "neighbours"]


@part_config
class RotaryConfig:
    """How far each pair of a head's entries rotates per position. Two bases in one stack are two of these.

    Attributes:
        theta: base of the angles: the slowest pair takes about 2π · theta positions to come round.
        pairs: `"halves"`, entry i rotates with i + dim / 2 (Llama), or `"neighbours"`, 2i with 2i + 1 (GPT-J,
            RoFormer).
        dim: how many of a head's first entries rotate, the others pass; all, if `None`.
        scaling: how angles are stretched to sequences longer than those of pretraining.
        counted: what number of entries the angles are spread over, if not `dim`: that or one less, an odd number, where
            the share of a head that a config names is one (GPT-NeoX).
    """

    theta: float = 10000.0
    pairs: Pairs = "halves"
    dim: int | None = None
    scaling: RotaryScaling | None = None
    counted: int | None = None

    def __post_init__(self):
        positive_real(self, "theta")
        one_of(self, "pairs", ("halves", "neighbours"))
        if self.dim is not None:
            positive(self, "dim")
            if self.dim % 2:
                raise ValueError(f"RotaryConfig.dim is {self.dim}; pairs rotate, so expected an even number.")
        if self.counted is not None and (self.dim is None or self.counted not in (self.dim - 1, self.dim)):
            raise ValueError(f"RotaryConfig.counted is {self.counted} and dim {self.dim}; expected dim or one less.")


class Rotation(eqx.Module):
    """By what queries and keys are rotated: made once per call, read by every layer.

    Attributes:
        cos: of the angle of every token's pairs.
        sin: likewise.
        pairs: which entries make a pair.
    """

    cos: Float[Array, "rows queries pairs"]
    sin: Float[Array, "rows queries pairs"]
    pairs: Pairs = eqx.field(static=True)

    @classmethod
    def of_positions(cls, config: RotaryConfig, head_dim: int, positions: Integer[Array, "rows queries"]) -> "Rotation":
        """The rotation of tokens at `positions`, in float32 whatever the model's dtype."""
        dim = config.counted or config.dim or head_dim
        frequencies = scaled_frequencies(config.scaling, config.theta, dim, positions)
        angles = positions.astype(jnp.float32)[..., None] * frequencies[None, None]
        factor = 1.0 if config.scaling is None else config.scaling.attention_factor
        cos, sin = jnp.cos(angles), jnp.sin(angles)
        return cls(cos, sin, config.pairs) if factor == 1.0 else cls(cos * factor, sin * factor, config.pairs)

    @classmethod
    def of_table_rows(cls, rows: Float[Array, "rows queries head_dim"]) -> "Rotation":
        """The rotation of neighbours by rows of a table that holds sines and then cosines (RoFormer)."""
        sin, cos = jnp.split(rows, 2, axis=-1)
        return cls(cos, sin, "neighbours")

    def __call__(self, x: Float[Array, "batch heads queries head_dim"]) -> Float[Array, "batch heads queries head_dim"]:
        """Queries, keys or values with their pairs rotated, in their own dtype; entries beyond the pairs pass."""
        dim = 2 * self.cos.shape[-1]
        if dim < x.shape[-1]:
            return jnp.concatenate([self(x[..., :dim]), x[..., dim:]], axis=-1)
        return self._halves(x) if self.pairs == "halves" else self._neighbours(x)

    def _halves(self, x: Array) -> Array:
        first, second = jnp.split(x, 2, axis=-1)
        cos, sin = (jnp.broadcast_to(part.astype(x.dtype)[:, None], first.shape) for part in (self.cos, self.sin))
        return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)

    def _neighbours(self, x: Array) -> Array:
        cos, sin = (jnp.repeat(part.astype(x.dtype), 2, axis=-1)[:, None] for part in (self.cos, self.sin))
        turned = jnp.stack([-x[..., 1::2], x[..., ::2]], axis=-1).reshape(x.shape)
        return x * jnp.broadcast_to(cos, x.shape) + turned * jnp.broadcast_to(sin, x.shape)
