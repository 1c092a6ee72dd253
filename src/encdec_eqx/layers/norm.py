"""Normalisation with statistics in float32: by mean and variance, or by the mean of squares alone."""

from abc import abstractmethod
from typing import Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float

from .._typing import Array
from .validation import one_of, part_config, positive_real

Placement = Literal["post", "pre", "both", "output", "pre_residual"]
"""Where a block's norms stand, by their effect on the residual stream x around a sub-layer f:

- `"post"`: norm(x + f(x)) (BERT)
- `"pre"`: x + f(norm(x)) (GPT-2)
- `"both"`: x + norm₂(f(norm₁(x))) (Gemma 2)
- `"output"`: x + norm(f(x)) (OLMo 2)
- `"pre_residual"`: norm(x) + f(norm(x)), the residual is normed too (Bloom, where its config asks for it)
"""

Span = Literal["head", "each_head", "all_heads"]


@part_config
class LayerNormConfig:
    """Layer normalisation (Ba et al. 2016).

    Attributes:
        eps: added to the variance.
        placement: `"post"`, after the residual sum (BERT), `"pre"`, before each sub-layer (GPT-2), or another of
            `Placement`.
        final: whether one more norm follows the last layer.
        final_in_hidden_states: whether the last of a call's `hidden_states` is taken after that norm.
        bias: whether a learned shift follows the scale.
        scale: whether there is a learned scale; without one there is no shift either (some variants of OPT).
    """

    eps: float = 1e-12
    placement: Placement = "post"
    final: bool = False
    final_in_hidden_states: bool = True
    bias: bool = True
    scale: bool = True

    def __post_init__(self):
        one_of(self, "placement", get_args(Placement))
        positive_real(self, "eps")
        if self.bias and not self.scale:
            raise ValueError("LayerNormConfig.scale is false and bias true; a shift follows a scale: leave both out.")


@part_config
class RMSNormConfig:
    """Normalisation by the root of the mean square (Zhang & Sennrich 2019): no mean is taken off, no bias added.

    Attributes:
        eps: added to the mean square.
        placement: as in `LayerNormConfig`.
        final: whether one more norm follows the last layer.
        final_in_hidden_states: whether the last of a call's `hidden_states` is taken after that norm.
        unit_offset: whether the scale is 1 + weight, so that weights lie around 0 (Gemma).
        scale_in_float32: whether the scale multiplies before the result is cast to the dtype of the input (Gemma,
            OLMo 2), or after (T5, Llama). In float32 the two are equal.
    """

    eps: float = 1e-6
    placement: Placement = "pre"
    final: bool = True
    final_in_hidden_states: bool = True
    unit_offset: bool = False
    scale_in_float32: bool = False

    def __post_init__(self):
        one_of(self, "placement", get_args(Placement))
        positive_real(self, "eps")


@part_config
class QKNormConfig:
    """Norms of queries and of keys, before they are rotated.

    Attributes:
        norm: which norm; its placement means nothing here.
        span: `"head"`, each head by itself with one weight of head_dim for all (Qwen 3, Gemma 3); `"each_head"`, with a
            weight for every head (StableLM); `"all_heads"`, all heads of a token together (OLMo 2).
    """

    norm: LayerNormConfig | RMSNormConfig
    span: Span = "head"

    def __post_init__(self):
        one_of(self, "span", get_args(Span))


class AbstractNorm(eqx.Module):
    """Anything that normalises the last axis, or the last axes, of its input, whose shape and dtype it keeps."""

    weight: eqx.AbstractVar[Float[Array, "*size"]]

    @abstractmethod
    def __call__(self, x: Float[Array, "*batch hidden"]) -> Float[Array, "*batch hidden"]:
        """The normalised input; a weight of several axes goes with the last axes of `x`."""


class LayerNorm(AbstractNorm):
    """Normalises the last `axes` axes to mean 0 and variance 1, then scales and shifts (Ba et al. 2016)."""

    weight: Float[Array, "*size"]
    bias: Float[Array, "*size"] | None
    eps: float = eqx.field(static=True)
    axes: int = eqx.field(static=True, default=1)

    def __call__(self, x: Float[Array, "*batch hidden"]) -> Float[Array, "*batch hidden"]:
        normed = _standardised(x, self.axes, self.eps)
        scaled = normed * jnp.broadcast_to(self.weight.astype(jnp.float32), x.shape)
        if self.bias is not None:
            scaled = scaled + jnp.broadcast_to(self.bias.astype(jnp.float32), x.shape)
        return scaled.astype(x.dtype)

    @classmethod
    def init(cls, config: LayerNormConfig, *size: int, axes: int = 1) -> "LayerNorm":
        """Unit scale, zero shift."""
        return cls(jnp.ones(size), jnp.zeros(size) if config.bias else None, config.eps, axes)


class UnscaledLayerNorm(AbstractNorm):
    """Normalises the last `axes` axes to mean 0 and variance 1, and learns nothing."""

    size: tuple[int, ...] = eqx.field(static=True)
    eps: float = eqx.field(static=True)
    axes: int = eqx.field(static=True, default=1)

    @property
    def weight(self) -> Float[Array, "*size"]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The scale that there might be: ones, which no checkpoint holds."""
        return jnp.ones(self.size)

    def __call__(self, x: Float[Array, "*batch hidden"]) -> Float[Array, "*batch hidden"]:
        return _standardised(x, self.axes, self.eps).astype(x.dtype)


class RMSNorm(AbstractNorm):
    """Divides the last `axes` axes by the root of their mean square, then scales (Zhang & Sennrich 2019)."""

    weight: Float[Array, "*size"]
    eps: float = eqx.field(static=True)
    axes: int = eqx.field(static=True, default=1)
    unit_offset: bool = eqx.field(static=True, default=False)
    scale_in_float32: bool = eqx.field(static=True, default=False)

    def __call__(self, x: Float[Array, "*batch hidden"]) -> Float[Array, "*batch hidden"]:
        wide = x.astype(jnp.float32)
        square = jnp.mean(jnp.square(wide), axis=_last(self.axes), keepdims=True)
        normed = wide * jax.lax.rsqrt(square + self.eps)
        dtype = jnp.float32 if self.scale_in_float32 else x.dtype
        weight = self.weight.astype(dtype)
        scale = weight + 1 if self.unit_offset else weight
        return (normed.astype(dtype) * jnp.broadcast_to(scale, x.shape)).astype(x.dtype)

    @classmethod
    def init(cls, config: RMSNormConfig, *size: int, axes: int = 1) -> "RMSNorm":
        """Unit scale."""
        weight = jnp.zeros(size) if config.unit_offset else jnp.ones(size)
        return cls(weight, config.eps, axes, config.unit_offset, config.scale_in_float32)


def init_norm(
    config: LayerNormConfig | RMSNormConfig, *size: int, axes: int = 1
) -> LayerNorm | UnscaledLayerNorm | RMSNorm:
    """The norm that the config describes.

    Args:
        config: its kind and constants.
        size: shape of its weight, which goes with the last axes of the input.
        axes: how many of the last axes are normalised together.
    """
    if isinstance(config, LayerNormConfig):
        if not config.scale:
            return UnscaledLayerNorm(size=size, eps=config.eps, axes=axes)  # pyright: ignore[reportCallIssue]
        return LayerNorm.init(config, *size, axes=axes)
    return RMSNorm.init(config, *size, axes=axes)


def init_qk_norm(config: QKNormConfig, heads: int, head_dim: int) -> LayerNorm | UnscaledLayerNorm | RMSNorm:
    """The norm of queries, or of keys, which come as (…, heads, head_dim)."""
    if config.span == "head":
        return init_norm(config.norm, head_dim)
    return init_norm(config.norm, heads, head_dim, axes=2 if config.span == "all_heads" else 1)


def _standardised(x: Float[Array, "*batch hidden"], axes: int, eps: float) -> Float[Array, "*batch hidden"]:
    """Mean 0 and variance 1 over the last axes, in float32."""
    over, wide = _last(axes), x.astype(jnp.float32)
    centred = wide - jnp.mean(wide, axis=over, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=over, keepdims=True)
    return centred * jax.lax.rsqrt(variance + eps)


def _last(axes: int) -> tuple[int, ...]:
    return tuple(range(-axes, 0))
