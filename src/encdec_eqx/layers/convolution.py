"""A convolution along the sequence, which mixes neighbouring tokens (DeBERTa v2's first layer)."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float

from .._typing import Array, PRNGKey
from .feed_forward import ACTIVATIONS
from .validation import one_of, part_config, positive


@part_config
class ConvolutionConfig:
    """What a convolution sees of a sequence.

    Attributes:
        kernel_size: how many tokens it sees, its own in the middle: an odd number.
        activation: of its output, one of `ACTIVATIONS`.
        groups: how many runs of channels are convolved each by itself.
    """

    kernel_size: int
    activation: str = "tanh"
    groups: int = 1

    def __post_init__(self):
        positive(self, "kernel_size", "groups")
        one_of(self, "activation", ACTIVATIONS)
        if self.kernel_size % 2 == 0:
            raise ValueError(
                f"ConvolutionConfig.kernel_size is {self.kernel_size}; expected an odd number, with as many tokens "
                "before a token as after it."
            )


class Convolution(eqx.Module):
    """A sum over a token and its neighbours, each through a matrix of its own; beyond the ends there are zeros.

    Its weight lies as torch's does: output channels, input channels of a group, places.
    """

    weight: Float[Array, "out in kernel"]
    bias: Float[Array, " out"]
    groups: int = eqx.field(static=True)

    @jax.named_scope("convolution")
    def __call__(self, x: Float[Array, "batch length hidden"]) -> Float[Array, "batch length out"]:
        x, reach = x.astype(self.weight.dtype), self.weight.shape[-1] // 2
        if self.groups > 1:
            y = _grouped(jnp.pad(x, ((0, 0), (reach, reach), (0, 0))), self.weight, self.groups)
        else:
            padding, names = ((reach, reach),), ("NWC", "OIW", "NWC")
            y = jax.lax.conv_general_dilated(x, self.weight, (1,), padding, dimension_numbers=names)
        return y + jnp.broadcast_to(self.bias, y.shape)

    @classmethod
    def init(cls, config: ConvolutionConfig, hidden_size: int, *, scale: float, key: PRNGKey) -> "Convolution":
        """Normal weights of standard deviation `scale` and zero biases."""
        shape = (hidden_size, hidden_size // config.groups, config.kernel_size)
        return cls(scale * jax.random.normal(key, shape), jnp.zeros(hidden_size), config.groups)


def _grouped(
    x: Float[Array, "batch padded hidden"], weight: Float[Array, "out in kernel"], groups: int
) -> Float[Array, "batch length out"]:
    """Each group's product with its windows of tokens.

    XLA's own convolution of several groups gives its weight a wrong gradient, off by as much as the gradient itself and
    more, where rows lie on several devices (jax 0.10.2 and 0.12.0.1).
    """
    out, into, kernel = weight.shape
    length = x.shape[1] - kernel + 1
    windows = jnp.stack([x[:, at : at + length] for at in range(kernel)], axis=-1)
    windows = windows.reshape(x.shape[0], length, groups, into, kernel)
    y = jnp.einsum("nlgik,goik->nlgo", windows, weight.reshape(groups, out // groups, into, kernel))
    return y.reshape(x.shape[0], length, out)
