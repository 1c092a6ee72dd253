"""From a decoder's hidden states to logits."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float

from ._typing import Array, PRNGKey
from .config import StackConfig
from .inputs.tokens import Embeddings
from .layers.attend import soft_cap
from .layers.feed_forward import ACTIVATION_FUNCTIONS
from .layers.linear import AbstractLinear, Linear
from .layers.norm import AbstractNorm, init_norm


class LMHead(eqx.Module):
    """The language-model head; without a projection of its own it is tied to the token table.

    Attributes:
        dense: the transform's dense layer, if there is a transform.
        norm: the transform's norm.
        projection: the output matrix; `None` if tied.
        bias: added to the logits.
        activation: of the transform.
        fixed_bias: whether the bias is a constant, which gets no gradient.
        scale: factor on the states that the output matrix takes.
        logit_cap: what logits are squashed to stay below.
    """

    dense: AbstractLinear | None
    norm: AbstractNorm | None
    projection: AbstractLinear | None
    bias: Float[Array, " vocab"] | None
    activation: str = eqx.field(static=True)
    fixed_bias: bool = eqx.field(static=True, default=False)
    scale: float = eqx.field(static=True, default=1.0)
    logit_cap: float | None = eqx.field(static=True, default=None)

    @jax.named_scope("head")
    def __call__(self, hidden: Float[Array, "*batch hidden"], embeddings: Embeddings) -> Float[Array, "*batch vocab"]:
        """Logits in float32."""
        if self.dense is not None and self.norm is not None:
            hidden = self.norm(ACTIVATION_FUNCTIONS[self.activation](self.dense(hidden)))
        hidden = hidden if self.scale == 1.0 else hidden * self.scale
        logits = embeddings.attend(hidden) if self.projection is None else self.projection(hidden).astype(jnp.float32)
        if self.bias is not None:
            bias = jax.lax.stop_gradient(self.bias) if self.fixed_bias else self.bias
            logits = logits + jnp.broadcast_to(bias.astype(jnp.float32), logits.shape)
        return logits if self.logit_cap is None else soft_cap(logits, self.logit_cap)

    def what_it_reads(self, embeddings: Embeddings) -> Embeddings:
        """The embeddings with None in place of every array but those that the head reads."""
        nothing = jax.tree.map(lambda _: None, embeddings)
        if self.projection is not None:
            return nothing
        return eqx.tree_at(lambda e: e.tokens, nothing, embeddings.tokens)

    @classmethod
    def init(cls, config: StackConfig, *, key: PRNGKey) -> "LMHead":
        """Normal weights of standard deviation `config.initializer_range`, zero biases.

        Raises:
            ValueError: `config.head` is `None`.
        """
        if config.head is None:
            raise ValueError("this StackConfig has no `head`: a decoder needs a HeadConfig.")
        head, scale, width = config.head, config.initializer_range, config.head_width
        dense_key, projection_key = jax.random.split(key)
        return cls(
            dense=Linear.init(config.last_size, width, scale=scale, key=dense_key) if head.transform else None,
            norm=init_norm(config.norm, width) if head.transform else None,
            projection=None
            if head.tied
            else Linear.init(width, config.vocab_size, scale=scale, bias=False, key=projection_key),
            bias=jnp.zeros((config.vocab_size,)) if head.bias else None,
            activation=head.activation,
            fixed_bias=head.fixed_bias,
            scale=head.scale,
            logit_cap=head.logit_cap,
        )
