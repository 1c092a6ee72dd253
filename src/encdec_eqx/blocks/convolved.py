"""The layer beside which a convolution of its input runs (DeBERTa v2's first; He et al. 2021, arXiv:2006.03654)."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp

from .._padding import dense_mask
from .._typing import PRNGKey
from ..config import LayerSpec, StackConfig
from ..layers.context import AttentionContext, LayerContext
from ..layers.convolution import Convolution
from ..layers.feed_forward import ACTIVATION_FUNCTIONS
from ..layers.linear import split_key
from ..layers.norm import AbstractNorm, init_norm
from .block import Block, BlockOutput, Stream


class ConvolvedBlock(Block):
    """norm(block(x) + activation(convolution(x))), where x is zero at padding; its arrays are a `Block`'s and these.

    Attributes:
        convolution: of the layer's input.
        convolution_norm: of the sum.
        activation: of the convolution's output.
    """

    convolution: Convolution
    convolution_norm: AbstractNorm
    activation: str = eqx.field(static=True)

    def __call__(self, x: Stream, context: AttentionContext, layer: LayerContext) -> BlockOutput:
        """Run the layer on the residual stream of the new tokens."""
        block_key, dropout_key = split_key(layer.key, 2)
        out = super().__call__(x, context, dataclasses.replace(layer, key=block_key))
        # it sees its neighbours whether they are real or not
        if context.mask.keys is not None:
            x = jnp.where(jnp.asarray(dense_mask(context.mask.keys))[..., None], x, jnp.zeros((), x.dtype))
        # the reference drops out before the activation
        convolved = self.dropout(self.convolution(x), key=dropout_key)
        added = ACTIVATION_FUNCTIONS[self.activation](convolved).astype(out.hidden.dtype)
        return dataclasses.replace(out, hidden=self.convolution_norm(out.hidden + added))

    @classmethod
    def init(cls, config: StackConfig, spec: LayerSpec, *, key: PRNGKey) -> "ConvolvedBlock":
        """Normal weights of standard deviation `config.initializer_range`, zero biases, unit norms."""
        assert config.convolution is not None
        block_key, convolution_key = jax.random.split(key)
        block = Block.init(config, spec, key=block_key)
        return cls(
            **{field.name: getattr(block, field.name) for field in dataclasses.fields(block)},
            convolution=Convolution.init(
                config.convolution, config.hidden_size, scale=config.initializer_range, key=convolution_key
            ),
            convolution_norm=init_norm(config.norm, config.hidden_size),
            activation=config.convolution.activation,
        )
