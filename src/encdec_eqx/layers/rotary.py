"""Rotations of queries and keys by their positions (RoPE; Su et al. 2021)."""

from typing import Literal

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Float, Integer

from .._typing import Array
from .rotary_scaling import RotaryScaling, scaled_frequencies
from .validation import one_of, part_config, positive, positive_real

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
    """

    theta: float = 10000.0
    pairs: Pairs = "halves"
    dim: int | None = None
    scaling: RotaryScaling | None = None

    def __post_init__(self):
        positive_real(self, "theta")
        one_of(self, "pairs", ("halves", "neighbours"))
        if self.dim is not None:
            positive(self, "dim")
            if self.dim % 2:
                raise ValueError(f"RotaryConfig.dim is {self.dim}; pairs rotate, so expected an even number.")


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
        frequencies = scaled_frequencies(config.scaling, config.theta, config.dim or head_dim, positions)
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
