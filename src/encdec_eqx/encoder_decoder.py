"""An encoder and a decoder joined: composition, `encode`, `decode`, `__call__`, the cache, and generation.

Knows nothing of what the pieces are made of, nor of any family.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Integer

from . import _trees
from ._entrance import as_mask
from ._typing import Array, ArrayLike, PRNGKey, SourceMask, TargetIds, TargetMask, checked
from .cache import DecoderCache
from .decoder import Decoder
from .encoder import Encoder, EncoderOutput, EncoderProtocol
from .generation.settings import GenerationConfig
from .generation.special_tokens import SpecialTokens
from .layers.dropout import split_key
from .layers.linear import AbstractLinear, Linear
from .scanned import Layout
from .ties import Ties, namesakes, tie, untie


class Seq2SeqOutput(eqx.Module):
    """What `EncoderDecoder.__call__` and `.decode` return; tuples have one entry a layer (hidden states one more).

    Attributes:
        logits: scores of the next token after each target position, in float32.
        encoder_last_hidden_state: the encoder's states, not projected; `None` from `decode`.
        encoder_hidden_states: the encoder's embeddings, then each layer's output; `None` unless asked for.
        encoder_attentions: the encoder's attention weights; `None` unless asked for.
        decoder_hidden_states: the decoder's embeddings, then each layer's output; `None` unless asked for.
        decoder_attentions: the decoder's self-attention weights; `None` unless asked for.
        cross_attentions: the decoder's attention to the source, `None` for layers that have none.
        cache: from `decode` with a cache: the cache with these tokens added.
    """

    logits: Float[Array, "batch target vocab"]
    encoder_last_hidden_state: Float[ArrayLike, "batch source encoder_hidden"] | None = None
    encoder_hidden_states: tuple[Array, ...] | None = None
    encoder_attentions: tuple[Array, ...] | None = None
    decoder_hidden_states: tuple[Array, ...] | None = None
    decoder_attentions: tuple[Array, ...] | None = None
    cross_attentions: tuple[Array | None, ...] | None = None
    cache: DecoderCache | None = None


class EncoderDecoder(eqx.Module):
    """A sequence-to-sequence model: any encoder joined to a decoder with cross-attention.

    Make one with `from_pieces`, `from_pretrained` or `from_encoder_decoder_pretrained`.

    Attributes:
        encoder: the encoder.
        decoder: the decoder.
        enc_to_dec_proj: from the encoder's width to the decoder's, where they differ.
        special_tokens: the ids generation needs, with where each came from.
        generation_config: defaults for `generate`, from `generation_config.json`.
        load_report: what was loaded and what is new.
        ties: paths of arrays that the encoder shares with the decoder, which keeps them.
    """

    encoder: Any
    decoder: Decoder
    enc_to_dec_proj: AbstractLinear | None
    special_tokens: SpecialTokens = eqx.field(static=True)
    generation_config: GenerationConfig | None = eqx.field(static=True, default=None)
    load_report: Any = eqx.field(static=True, default=None)
    ties: Ties = eqx.field(static=True, default=())

    @classmethod
    def from_pieces(cls, encoder: EncoderProtocol, decoder: Decoder, *, key: PRNGKey | None = None) -> "EncoderDecoder":
        """Join two pieces.

        A projection is added where the encoder's width differs from the decoder's and the decoder's config does not set
        `cross_attention_hidden_size`; if it does, cross-attention reads the encoder's states as they are.

        Args:
            encoder: an `Encoder`, or any `eqx.Module` that meets `EncoderProtocol`.
            decoder: a decoder with cross-attention.
            key: draws the projection, normal with the decoder's `initializer_range`; default `jax.random.key(0)`.

        Returns:
            The model. Special tokens come from the decoder's config; missing ones fail at first use, not here.

        Raises:
            TypeError: a piece is not what it should be.
            ValueError: the decoder has no cross-attention, or reads states of another width.
        """
        _check_pieces(encoder, decoder)
        projection, report = None, decoder.load_report
        if _needs_projection(encoder.hidden_size, decoder):
            projection = Linear.init(
                encoder.hidden_size,
                decoder.hidden_size,
                scale=decoder.config.initializer_range,
                key=jax.random.key(0) if key is None else key,
            )
            projection = _trees.astype(projection, decoder.embeddings.tokens.weight.dtype)
        return cls(
            encoder=encoder,
            decoder=decoder,
            enc_to_dec_proj=projection,
            special_tokens=SpecialTokens.resolve(("the decoder's config", special_token_ids(decoder))),
            load_report=report,
        )

    def pieces(self) -> tuple[Any, Decoder]:
        """The encoder and the decoder, whole and independent of each other: shared arrays stand in both."""
        return untie(self.encoder, self.decoder, self.ties), self.decoder

    def encode(
        self,
        input_ids: Any = None,
        *,
        attention_mask: Any = None,
        position_ids: Any = None,
        token_type_ids: Any = None,
        inputs_embeds: Any = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        key: PRNGKey | None = None,
    ) -> EncoderOutput:
        """Run the encoder.

        Args:
            input_ids: what the encoder takes: token ids for an `Encoder`; passed through as it is.
            attention_mask: 1 for real positions, 0 for padding; default all real.
            position_ids: explicit positions; default by the encoder's rule.
            token_type_ids: segment of each token.
            inputs_embeds: token embeddings instead of ids.
            output_attentions: whether to return attention weights.
            output_hidden_states: whether to return every layer's output.
            key: turns dropout on.

        Returns:
            The states, not projected.

        Raises:
            TypeError: a shape or dtype is wrong, or the encoder returned something else than an `EncoderOutput`.
            ValueError: a value is out of range.
        """
        given = {
            "token_type_ids": token_type_ids,
            "inputs_embeds": inputs_embeds,
            "output_attentions": output_attentions or None,
            "output_hidden_states": output_hidden_states or None,
        }
        options = {name: value for name, value in given.items() if value is not None}
        inputs = () if input_ids is None else (input_ids,)
        encoder = untie(self.encoder, self.decoder, self.ties)
        out = encoder(*inputs, attention_mask=attention_mask, position_ids=position_ids, key=key, **options)
        if not isinstance(out, EncoderOutput):
            raise TypeError(
                f"the encoder returned {type(out).__name__}; an encoder must return an EncoderOutput with its states in "
                "`last_hidden_state`."
            )
        return out

    @checked
    def init_cache(
        self,
        encoder_outputs: EncoderOutput,
        max_length: int,
        *,
        encoder_attention_mask: SourceMask | None = None,
    ) -> DecoderCache:
        """An empty cache for `decode`, with cross-attention's keys and values computed.

        Args:
            encoder_outputs: what `encode` returned.
            max_length: capacity in tokens, prompt or start token included.
            encoder_attention_mask: 1 for real source positions; default all. A mask inside `encoder_outputs` wins.

        Raises:
            TypeError: a shape or dtype is wrong.
            ValueError: `max_length` is below 1 or exceeds the decoder's table of positions.
        """
        longest = self.decoder.config.positions.longest
        if not 1 <= max_length <= longest:
            raise ValueError(
                f"max_length is {max_length}; expected 1 to {longest}, the positions of this decoder's table."
            )
        states, mask = self.for_cross_attention(encoder_outputs, encoder_attention_mask)
        return self.decoder.init_cache(states, mask, rows=states.shape[0], slots=max_length)

    @checked
    def decode(
        self,
        decoder_input_ids: TargetIds,
        encoder_outputs: EncoderOutput | None = None,
        *,
        encoder_attention_mask: SourceMask | None = None,
        decoder_attention_mask: TargetMask | None = None,
        decoder_position_ids: Integer[ArrayLike, "batch target"] | None = None,
        cache: DecoderCache | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        key: PRNGKey | None = None,
    ) -> Seq2SeqOutput:
        """Run the decoder over encoder states.

        Args:
            decoder_input_ids: target ids; with a cache, only those that follow the tokens in it.
            encoder_outputs: what `encode` returned. With a cache it may be given and is not read.
            encoder_attention_mask: 1 for real source positions; default all. With a cache it is not read.
            decoder_attention_mask: 1 for real target positions; with a cache, of the new tokens alone.
            decoder_position_ids: explicit positions; default by the decoder's rule, continued from the cache.
            cache: made by `init_cache` or by an earlier call; it stays valid.
            output_attentions: whether to return attention weights; with a cache, self-attention's have all slots.
            output_hidden_states: whether to return every layer's output.
            key: turns dropout on.

        Raises:
            TypeError: a shape or dtype is wrong.
            ValueError: a value is out of range, the cache is full, or there are neither states nor a cache.
        """
        states = mask = None
        if cache is None:
            if encoder_outputs is None:
                raise ValueError("`decode` needs `encoder_outputs` (from `encode`) or a `cache` (from `init_cache`).")
            states, mask = self.for_cross_attention(encoder_outputs, encoder_attention_mask)
            if states.shape[0] != decoder_input_ids.shape[0]:
                raise TypeError(
                    f"`decoder_input_ids` have batch {decoder_input_ids.shape[0]}; the encoder's states have batch "
                    f"{states.shape[0]}."
                )
        out = self.decoder(
            decoder_input_ids,
            encoder_hidden_states=states,
            encoder_attention_mask=mask,
            attention_mask=decoder_attention_mask,
            position_ids=decoder_position_ids,
            cache=cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            key=key,
        )
        return Seq2SeqOutput(
            logits=out.logits,
            decoder_hidden_states=out.hidden_states,
            decoder_attentions=out.attentions,
            cross_attentions=out.cross_attentions,
            cache=out.cache,
        )

    def __call__(
        self,
        input_ids: Any = None,
        decoder_input_ids: Any = None,
        *,
        attention_mask: Any = None,
        decoder_attention_mask: Any = None,
        position_ids: Any = None,
        decoder_position_ids: Any = None,
        token_type_ids: Any = None,
        inputs_embeds: Any = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        key: PRNGKey | None = None,
    ) -> Seq2SeqOutput:
        """Logits for every target position: `encode`, then `decode`.

        Labels are not an argument: shift them with `shift_tokens_right` and compare with `seq2seq_loss`.

        Args:
            input_ids: what the encoder takes: source ids for an `Encoder`.
            decoder_input_ids: target ids.
            attention_mask: 1 for real source positions, 0 for padding; default all real.
            decoder_attention_mask: the same of the target.
            position_ids: explicit source positions.
            decoder_position_ids: explicit target positions.
            token_type_ids: segment of each source token.
            inputs_embeds: source embeddings instead of ids.
            output_attentions: whether to return all attention weights.
            output_hidden_states: whether to return every layer's output.
            key: turns dropout on; `None` is deterministic.

        Raises:
            TypeError: a shape or dtype is wrong.
            ValueError: a value is out of range.
        """
        if decoder_input_ids is None:
            raise TypeError(
                "`decoder_input_ids` are missing: make them from labels with "
                "shift_tokens_right(labels, pad_token_id, decoder_start_token_id), or call `generate`."
            )
        encoder_key, decoder_key = split_key(key, 2)
        encoded = self.encode(
            input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            token_type_ids=token_type_ids,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            key=encoder_key,
        )
        out = self.decode(
            decoder_input_ids,
            encoded,
            encoder_attention_mask=attention_mask,
            decoder_attention_mask=decoder_attention_mask,
            decoder_position_ids=decoder_position_ids,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            key=decoder_key,
        )
        return dataclasses.replace(
            out,
            encoder_last_hidden_state=encoded.last_hidden_state,
            encoder_hidden_states=encoded.hidden_states,
            encoder_attentions=encoded.attentions,
        )

    def for_cross_attention(
        self, encoder_outputs: EncoderOutput, mask: Any
    ) -> tuple[Float[Array, "batch source cross"], Bool[Array, "batch source"]]:
        """The states as cross-attention reads them, and which of them it may attend to.

        Raises:
            TypeError: the states or the mask have a wrong shape, width or dtype.
        """
        if encoder_outputs.attention_mask is not None:
            mask = encoder_outputs.attention_mask
        states, mask = _checked_states(encoder_outputs.last_hidden_state, encoder_attention_mask=mask)
        if states.shape[-1] != self.encoder.hidden_size:
            raise TypeError(
                f"`encoder_outputs.last_hidden_state` has width {states.shape[-1]}; the encoder's hidden_size is "
                f"{self.encoder.hidden_size}."
            )
        return (states if self.enc_to_dec_proj is None else self.enc_to_dec_proj(states)), mask

    def with_special_tokens(self, **ids: Any) -> "EncoderDecoder":
        """The same model with other special tokens.

        Args:
            **ids: any of `bos_token_id`, `eos_token_id` (an id or several), `pad_token_id`, `decoder_start_token_id`.

        Raises:
            TypeError: another name, or an id that is not an integer.
            ValueError: an id is negative.
        """
        return dataclasses.replace(self, special_tokens=self.special_tokens.override("with_special_tokens", **ids))

    def with_layout(self, layout: Layout, *, remat: bool = False) -> "EncoderDecoder":
        """The same weights, bit for bit, in the other layout of stacks.

        Args:
            layout: "unrolled" (fastest decoding) or "scanned" (fastest and smallest training and compilation).
            remat: with "scanned": recompute each layer's insides in the backward pass instead of keeping them.

        Raises:
            ValueError: the layout is unknown, or `remat` is asked of the unrolled layout.
        """
        encoder, decoder = self.pieces()
        if isinstance(encoder, Encoder):
            encoder = encoder.with_layout(layout, remat=remat)
        decoder = decoder.with_layout(layout, remat=remat)
        ties = namesakes(encoder, decoder) if self.ties else ()
        return dataclasses.replace(self, encoder=tie(encoder, ties), decoder=decoder, ties=ties)

    def astype(self, dtype: DTypeLike) -> "EncoderDecoder":
        """The same model with its arrays cast to a floating-point dtype; a part alone: `model.decoder.astype(…)`."""
        return _trees.astype(self, dtype)


def special_token_ids(decoder: Decoder) -> dict[str, Any]:
    """The special tokens that a decoder's config names."""
    config = decoder.config
    return {
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
        "decoder_start_token_id": config.decoder_start_token_id,
    }


@checked
def _checked_states(
    last_hidden_state: Float[ArrayLike, "batch source hidden"], *, encoder_attention_mask: SourceMask | None
) -> tuple[Float[Array, "batch source hidden"], Bool[Array, "batch source"]]:
    mask = as_mask("encoder_attention_mask", encoder_attention_mask)
    if mask is None:
        mask = jnp.ones(last_hidden_state.shape[:2], jnp.bool_)
    return jnp.asarray(last_hidden_state), mask


def _check_pieces(encoder: Any, decoder: Any) -> None:
    if not isinstance(decoder, Decoder):
        raise TypeError(
            f"the decoder is a {type(decoder).__name__}; expected a Decoder (Decoder.from_pretrained or .init)."
        )
    if not isinstance(encoder, eqx.Module) or not callable(encoder):
        raise TypeError(
            f"the encoder is a {type(encoder).__name__}; expected an Encoder, or an eqx.Module with a `hidden_size` and "
            "`__call__(inputs, *, attention_mask, position_ids, key) -> EncoderOutput`."
        )
    if not isinstance(getattr(encoder, "hidden_size", None), int):
        raise TypeError(f"the encoder {type(encoder).__name__} has no integer `hidden_size`, the width of its states.")
    if not decoder.config.cross_attention:
        raise ValueError(
            "the decoder has no cross-attention, so it could not read the encoder's states; add it with "
            "`decoder.with_cross_attention(key=key)` (Decoder.from_pretrained adds it by itself)."
        )


def _needs_projection(encoder_width: int, decoder: Decoder) -> bool:
    """The reference's rule: widths differ and the decoder does not say which width it reads.

    Raises:
        ValueError: the decoder says so, but the encoder has another width.
    """
    reads = decoder.config.cross_attention_hidden_size
    if reads is not None and reads != encoder_width:
        raise ValueError(
            f"the decoder's cross_attention_hidden_size is {reads}, but the encoder's hidden_size is {encoder_width}; they "
            "must be equal. Leave cross_attention_hidden_size unset to get a projection instead."
        )
    return reads is None and encoder_width != decoder.hidden_size
