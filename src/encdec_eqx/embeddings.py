"""Token, position and type embeddings, and the way back from hidden states to tied logits. Knows nothing of stacks."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int32

from ._entrance import as_ids
from ._typing import Array, ArrayLike, PRNGKey
from .config import StackConfig
from .layers.dropout import Dropout
from .layers.linear import Embedding
from .layers.norm import LayerNorm


class Embeddings(eqx.Module):
    """The sum of token, position and type embeddings, normalised and dropped out as the config says."""

    tokens: Embedding
    positions: Embedding
    token_types: Embedding | None
    norm: LayerNorm | None
    dropout: Dropout
    add_positions: bool = eqx.field(static=True)
    token_types_from_tokens: bool = eqx.field(static=True)

    def __call__(
        self,
        embedded: Float[Array, "batch length hidden"],
        *,
        positions: Int32[Array, "batch length"],
        token_type_ids: Int32[Array, "batch length"] | None,
        key: PRNGKey | None,
    ) -> Float[Array, "batch length hidden"]:
        """Add positions and types to token embeddings (`self.tokens(ids)`, or the caller's own)."""
        x = embedded.astype(self.tokens.weight.dtype)
        if token_type_ids is not None:
            x = x + self._types()(token_type_ids)
        elif self.token_types is not None:
            x = x + jnp.broadcast_to(self.token_types.weight[0], x.shape)
        if self.add_positions:
            x = x + self.positions(positions)
        if self.norm is not None:
            x = self.norm(x)
        return self.dropout(x, key=key)

    def _types(self) -> Embedding:
        return self.tokens if self.token_types is None else self.token_types

    def attend(self, hidden: Float[Array, "*batch hidden"]) -> Float[Array, "*batch vocab"]:
        """Logits of a tied head, in float32: products with the token table."""
        table = self.tokens.weight
        # rows in one axis, as in `Linear`: the table's gradient then needs no transposed copy of the logits' gradient
        rows = hidden.astype(table.dtype).reshape(-1, hidden.shape[-1])
        logits = jnp.einsum("rd,vd->rv", rows, table, preferred_element_type=jnp.float32)
        return logits.reshape(*hidden.shape[:-1], table.shape[0])

    @classmethod
    def init(cls, config: StackConfig, *, key: PRNGKey) -> "Embeddings":
        """Normal tables of standard deviation `config.initializer_range`."""
        scale, size = config.initializer_range, config.hidden_size
        token_key, position_key, type_key = jax.random.split(key, 3)
        types = config.embeddings.token_type_size
        return cls(
            tokens=Embedding.init(
                config.vocab_size, size, scale=scale, padding_idx=config.embeddings.padding_idx, key=token_key
            ),
            positions=Embedding.init(
                config.positions.max_positions,
                size,
                scale=scale,
                padding_idx=config.positions.padding_idx,
                key=position_key,
            ),
            token_types=Embedding.init(types, size, scale=scale, key=type_key) if types else None,
            norm=LayerNorm.init(size, eps=config.norm.eps) if config.embeddings.norm else None,
            dropout=Dropout(config.embeddings.dropout),
            add_positions=config.positions.added,
            token_types_from_tokens=config.embeddings.token_types_from_tokens,
        )


def longest(config: StackConfig, position_ids: ArrayLike | None) -> int:
    """The longest sequence a stack can take: explicit positions may repeat, so they set no limit of their own."""
    relative = config.attention.relative_positions != "none"
    if relative:
        return config.positions.max_positions
    return config.positions.longest if position_ids is None else np.iinfo(np.int32).max


def as_token_types(config: StackConfig, token_type_ids: ArrayLike | None) -> Array | None:
    """Checked token types.

    Raises:
        ValueError: the family has none, or a type is out of range.
    """
    if token_type_ids is None:
        return None
    if config.embeddings.token_types_from_tokens:
        return as_ids("token_type_ids", token_type_ids, config.vocab_size, "vocab_size")
    size = config.embeddings.token_type_size
    if not size:
        raise ValueError(
            f"`token_type_ids` were given, but a {config.model_type} stack without token types ignores them."
        )
    return as_ids("token_type_ids", token_type_ids, size, "type_vocab_size")
