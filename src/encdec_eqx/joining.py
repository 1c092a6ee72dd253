"""What joining two pieces checks, adds between them, and takes over from the decoder's config."""

import json
from typing import Any

import equinox as eqx
import jax

from . import _trees
from ._quoting import printable
from ._typing import PRNGKey
from .decoder import Decoder
from .generation.generation_config import GenerationConfig
from .generation.special_tokens import TOKEN_NAMES
from .hf.families import FAMILIES
from .hf.piece import how_drawn
from .layers.linear import Linear


def check_pieces(encoder: Any, decoder: Any) -> None:
    """Refuse what cannot be joined.

    Raises:
        TypeError: a piece is not what it should be.
        ValueError: the decoder has no cross-attention.
    """
    if not isinstance(decoder, Decoder):
        raise TypeError(
            f"the decoder is a {type(decoder).__name__}; expected a Decoder (Decoder.from_pretrained or .init)."
        )
    if isinstance(encoder, Decoder):
        raise TypeError(
            "the encoder is a Decoder, which returns logits; load the checkpoint with Encoder.from_pretrained (GPT-2 "
            "can be an encoder too)."
        )
    if not isinstance(encoder, eqx.Module) or not callable(encoder):
        raise TypeError(
            f"the encoder is a {type(encoder).__name__}; expected an Encoder, or an eqx.Module with a `hidden_size` "
            "and `__call__(inputs, *, attention_mask, position_ids, key) -> EncoderOutput`."
        )
    if not isinstance(getattr(encoder, "hidden_size", None), int):
        raise TypeError(f"the encoder {type(encoder).__name__} has no integer `hidden_size`, the width of its states.")
    if not decoder.config.cross_attention:
        raise ValueError(
            "the decoder has no cross-attention, so it could not read the encoder's states; add it with "
            "`decoder.with_cross_attention(key=key)` (Decoder.from_pretrained adds it by itself)."
        )


def projection(
    encoder_width: int, decoder: Decoder, *, key: PRNGKey | None
) -> tuple[Linear | None, tuple[tuple[str, str], ...]]:
    """The projection between the pieces, and what a report says of it.

    The reference's rule: one is needed where widths differ and the decoder does not say which width it reads.

    Raises:
        ValueError: the decoder says so, but the encoder has another width.
    """
    reads = decoder.config.cross_attention_hidden_size
    if reads is not None and reads != encoder_width:
        raise ValueError(
            f"the decoder's cross_attention_hidden_size is {reads}, but the encoder's hidden_size is {encoder_width}; "
            "they must be equal. Leave cross_attention_hidden_size unset to get a projection instead."
        )
    if reads is not None or encoder_width == decoder.hidden_size:
        return None, ()
    scale = decoder.config.initializer_range
    drawn = Linear.init(encoder_width, decoder.hidden_size, scale=scale, key=jax.random.key(0) if key is None else key)
    linear = _trees.astype(drawn, decoder.embeddings.tokens.dtype)
    return linear, (("enc_to_dec_proj", f"projection between the widths; {how_drawn(scale, key)}"),)


def decoder_settings(decoder: Decoder) -> GenerationConfig | None:
    """What the config of a decoder that was loaded says about generating, its class's defaults included."""
    if not decoder.load_report.source:
        return None
    said = {**special_token_ids(decoder), **json.loads(decoder.load_report.attributes)}
    options = FAMILIES[decoder.config.model_type].generation_options(said)
    try:
        found = GenerationConfig.from_hf(None, None, options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{printable(decoder.load_report.source)}, config.json: {error} Correct it there.") from None
    return None if found == GenerationConfig() else found


def special_token_ids(decoder: Decoder) -> dict[str, Any]:
    """The special tokens that a decoder's config names."""
    return {name: getattr(decoder.config, name) for name in TOKEN_NAMES}
