"""Token, position and type embeddings, and the way back from hidden states to tied logits."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int32

from .._inputs import as_ids, as_mask, check_length
from .._padding import RightPadding
from .._typing import Array, ArrayLike, PRNGKey
from ..config import StackConfig
from ..layers.linear import AbstractEmbedding, AbstractLinear, Dropout, Embedding, Linear
from ..layers.norm import AbstractNorm, init_norm
from ..layers.positions import sinusoids
from ..layers.rotary import Rotation
from .__init__ import AbstractInputs, Embedded
from .counting import PositionRule


class Embeddings(AbstractInputs):
    """The sum of token, position and type embeddings, normalised, dropped out and projected as the config says.

    Attributes:
        tokens: the token table.
        positions: the table of positions, added, or the angles that rotate queries and keys, or only carried.
        token_types: the table of segments.
        task_types: the table of tasks, whose first row is added.
        norm: of the sum, or of the token embeddings.
        projection: from the tables' width to the layers'.
        dropout: of the normalised sum.
        position_use: what the positions are for.
        position_offset: the table's row of position 0.
        token_types_from_tokens: whether types are looked up in the token table.
        scale: factor on token embeddings.
        scale_given: whether it applies to embeddings that the caller gives, too.
        norm_first: whether the norm is of the token embeddings, before anything is added.
        projected: what the projection maps, as `EmbeddingsConfig.projected` says.
    """

    tokens: AbstractEmbedding
    positions: Embedding | None
    token_types: Embedding | None
    task_types: Embedding | None
    norm: AbstractNorm | None
    projection: AbstractLinear | None
    dropout: Dropout
    position_use: str = eqx.field(static=True)
    position_offset: int = eqx.field(static=True)
    token_types_from_tokens: bool = eqx.field(static=True)
    scale: float = eqx.field(static=True)
    scale_given: bool = eqx.field(static=True)
    norm_first: bool = eqx.field(static=True)
    projected: str = eqx.field(static=True)

    def embed(
        self,
        config: StackConfig,
        inputs: ArrayLike | None,
        *,
        attention_mask: ArrayLike | RightPadding | None = None,
        position_ids: ArrayLike | None = None,
        token_type_ids: ArrayLike | None = None,
        inputs_embeds: ArrayLike | None = None,
        key: PRNGKey | None = None,
    ) -> Embedded:
        """See `AbstractInputs`; `inputs` are token ids."""
        ids, embedded = self._embedded(config, inputs, inputs_embeds)
        batch, length = embedded.shape[:2]
        check_length("input_ids" if ids is not None else "inputs_embeds", length, longest(config, position_ids))
        mask = as_mask("attention_mask", attention_mask, (batch, length))
        if position_ids is not None:
            check_positions_used(config)
            limit = config.positions.limit
            positions = as_ids("position_ids", position_ids, limit, "the encoder's table of positions")
        else:
            counted = jnp.zeros((batch,), jnp.int32)
            positions, _ = PositionRule.of(config).of_call(ids, mask, shape=(batch, length), start=0, counted=counted)
        types = as_token_types(config, token_type_ids)
        hidden = self(embedded, positions=positions, token_type_ids=types, key=key)
        return Embedded(hidden, mask, positions, self.rotations(positions))

    def _embedded(
        self, config: StackConfig, input_ids: ArrayLike | None, inputs_embeds: ArrayLike | None
    ) -> tuple[Array | None, Array]:
        if (input_ids is None) == (inputs_embeds is None):
            given = "both" if input_ids is not None else "neither"
            raise ValueError(f"an encoder takes `input_ids` or `inputs_embeds`; got {given}.")
        if self.tokens.weight is None:
            raise ValueError(
                "this encoder shares arrays with its decoder, which holds them: call `model.encode(...)`, or take the "
                "whole encoder from `model.pieces()`."
            )
        if input_ids is not None:
            ids = as_ids("input_ids", input_ids, config.vocab_size, "the encoder's vocab_size")
            return ids, self.look_up(ids)
        assert inputs_embeds is not None
        if inputs_embeds.shape[-1] != config.embedding_size:
            raise TypeError(
                f"`inputs_embeds` has width {inputs_embeds.shape[-1]}; this encoder's token table has width "
                f"{config.embedding_size}."
            )
        if inputs_embeds.size == 0:
            raise ValueError(f"`inputs_embeds` is empty: its shape is {tuple(inputs_embeds.shape)}.")
        return None, self.given(jnp.asarray(inputs_embeds))

    @jax.named_scope("embeddings")
    def look_up(self, ids: Int32[Array, "batch length"]) -> Float[Array, "batch length embedding"]:
        """Token embeddings, scaled."""
        rows = self.tokens(ids)
        return rows if self.scale == 1.0 else rows * self.scale

    def given(self, inputs_embeds: Float[Array, "batch length embedding"]) -> Float[Array, "batch length embedding"]:
        """The caller's own token embeddings, as they are added to."""
        return inputs_embeds * self.scale if self.scale_given else inputs_embeds

    @jax.named_scope("embeddings")
    def __call__(
        self,
        embedded: Float[Array, "batch length embedding"],
        *,
        positions: Int32[Array, "batch length"],
        token_type_ids: Int32[Array, "batch length"] | None,
        key: PRNGKey | None,
    ) -> Float[Array, "batch length hidden"]:
        """Add positions and types to token embeddings (those of `look_up` or `given`)."""
        x = embedded.astype(self.tokens.dtype)
        if self.projection is not None and self.projected == "tokens":
            x = self.projection(x)
        if self.norm is not None and self.norm_first:
            x = self.norm(x)
        if token_type_ids is not None:
            x = x + self._types()(token_type_ids)
        elif self.token_types is not None:
            x = x + jnp.broadcast_to(self.token_types.weight[0], x.shape)
        if self.positions is not None and self.position_use == "added":
            x = x + self.positions(positions + self.position_offset)
        if self.task_types is not None:
            x = x + jnp.broadcast_to(self.task_types.weight[0], x.shape)
        if self.projection is not None and self.projected == "unnormed_sum":
            x = self.projection(x)
        if self.norm is not None and not self.norm_first:
            x = self.norm(x)
        x = self.dropout(x, key=key)
        return x if self.projection is None or self.projected != "sum" else self.projection(x)

    def rotations(self, positions: Int32[Array, "batch length"]) -> tuple[Rotation, ...]:
        """By what self-attention rotates, if the table of positions is for that."""
        if self.positions is None or self.position_use != "rotated":
            return ()
        return (Rotation.of_table_rows(self.positions(positions + self.position_offset)),)

    def _types(self) -> AbstractEmbedding:
        return self.tokens if self.token_types is None else self.token_types

    def attend(self, hidden: Float[Array, "*batch embedding"]) -> Float[Array, "*batch vocab"]:
        """Logits of a tied head, in float32: products with the token table."""
        return self.tokens.attend(hidden)

    @classmethod
    def init(cls, config: StackConfig, *, key: PRNGKey) -> "Embeddings":
        """Normal tables of standard deviation `config.initializer_range`."""
        scale, size, settings = config.initializer_range, config.summed_size, config.embeddings
        token_key, position_key, type_key, task_key, projection_key = jax.random.split(key, 5)

        def table(entries: int, table_key: PRNGKey) -> Embedding | None:
            return Embedding.init(entries, size, scale=scale, key=table_key) if entries else None

        return cls(
            tokens=Embedding.init(
                config.vocab_size,
                config.embedding_size,
                scale=scale,
                padding_idx=settings.padding_idx,
                key=token_key,
            ),
            positions=_init_positions(config, position_key),
            token_types=table(settings.token_type_size, type_key),
            task_types=table(settings.task_type_size, task_key),
            norm=init_norm(config.norm, size if settings.projected == "sum" else config.hidden_size)
            if settings.norm
            else None,
            projection=Linear.init(
                config.embedding_size,
                config.hidden_size,
                scale=scale,
                bias=settings.projection_bias,
                key=projection_key,
            )
            if settings.projection
            else None,
            dropout=Dropout(settings.dropout),
            position_use=config.positions.use,
            position_offset=config.positions.offset,
            token_types_from_tokens=settings.token_types_from_tokens,
            scale=settings.scale,
            scale_given=settings.scale_inputs_embeds,
            norm_first=settings.norm_before_positions,
            projected=settings.projected,
        )


def _init_positions(config: StackConfig, key: PRNGKey) -> Embedding | None:
    rule = config.positions
    if rule.kind == "none":
        return None
    if rule.kind != "learned":
        return Embedding(jnp.asarray(constant_positions(config)), fixed=True)
    size, scale = config.summed_size, config.initializer_range
    return Embedding.init(rule.max_positions, size, scale=scale, padding_idx=rule.padding_idx, key=key)


def constant_positions(config: StackConfig) -> Float[np.ndarray, "positions size"]:
    """The table of a stack whose positions are constants."""
    rule = config.positions
    size = config.attention.head_dim if rule.use == "rotated" else config.summed_size
    # fairseq's form leaves the row of the padding id empty, whichever position that row stands for
    zero_row = config.embeddings.padding_idx if rule.kind == "sinusoidal_tensor2tensor" else None
    return sinusoids(rule.kind, rule.max_positions, size, zero_row=zero_row)


def longest(config: StackConfig, position_ids: ArrayLike | None) -> int:
    """The longest sequence a stack can take: explicit positions may repeat, so they set no limit of their own."""
    if config.attention.relative_positions != "none":
        return config.positions.max_positions
    return config.positions.longest if position_ids is None else np.iinfo(np.int32).max


def check_positions_used(config: StackConfig, name: str = "position_ids") -> None:
    """That explicit positions would number something.

    Of a T5 they would not, and torch's takes none. Where torch's class takes them and they count for nothing (ALiBi's,
    DeBERTa's without a table), they are accepted here, too.

    Args:
        config: of the stack that is given positions.
        name: the argument's name, for messages.

    Raises:
        ValueError: the stack's only positions are distances between tokens, which no argument changes.
    """
    attention = config.attention
    if config.positions.kind == "none" and attention.relative_bias is not None and not attention.rotary:
        raise ValueError(
            f"`{name}` were given, but a {config.model_type} stack does not number its tokens: its biases go by how "
            "many tokens lie between two, so that padding on the left needs no positions. Leave them out."
        )


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
            f"`token_type_ids` were given, but a {config.model_type} stack without token types ignores them: leave "
            "them out."
        )
    return as_ids("token_type_ids", token_type_ids, size, "type_vocab_size")
