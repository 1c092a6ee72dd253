"""Activation functions by name, and the soft cap of scores and logits."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Float

from .._typing import Array

_tanh_gelu = functools.partial(jax.nn.gelu, approximate=True)


def _exact_gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """By erf, as torch does it; `jax.nn.gelu` goes by erfc, which made a block's training step 8 % slower on CPU."""
    return 0.5 * x * (1.0 + jax.lax.erf(x * math.sqrt(0.5)))


def _laplace(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """A smooth step (Ma et al. 2022), with the published mean and deviation."""
    mean, deviation = 0.707107, 0.282095
    return 0.5 * (1.0 + jax.lax.erf((x - mean) / (deviation * math.sqrt(2.0))))


ACTIVATION_FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": _exact_gelu,
    "gelu_10": lambda x: jnp.clip(_exact_gelu(x), -10.0, 10.0),
    "gelu_accurate": _tanh_gelu,
    "gelu_fast": _tanh_gelu,
    "gelu_new": _tanh_gelu,
    "gelu_python": _exact_gelu,
    "gelu_python_tanh": _tanh_gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "laplace": _laplace,
    "leaky_relu": jax.nn.leaky_relu,
    "linear": lambda x: x,
    "mish": jax.nn.mish,
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": jax.nn.relu,
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),
    "relu6": jax.nn.relu6,
    "sigmoid": jax.nn.sigmoid,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "tanh": jnp.tanh,
}
"""The function of each name, as Hugging Face spells them."""

ACTIVATIONS = tuple(ACTIVATION_FUNCTIONS)
"""Names of activation functions."""


def soft_cap(x: Float[Array, "*shape"], cap: float) -> Float[Array, "*shape"]:
    """The input where it is small, never beyond `cap` in size (Gemma 2)."""
    return cap * jnp.tanh(x / cap)
