"""The config of an encoder-decoder pair: what stands beside the configs of its two pieces. Knows nothing of files."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ._attributes import COMMON, FIXED, IGNORED, unused_attributes

MODEL_TYPE = "encoder-decoder"
TOKENS = tuple(name for name in COMMON if name.endswith("_token_id"))

# What the pair's config may say besides, and why it is not used.
_IGNORED = {
    **IGNORED,
    **dict.fromkeys(
        ("vocab_size", "hidden_size", "is_decoder", "add_cross_attention", "tie_word_embeddings"),
        "each piece has its own, which is the one that counts",
    ),
    "is_encoder_decoder": "said by the model type",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairConfig:
    """A pair's config, taken apart.

    Attributes:
        encoder: the encoder's config, as an encoder's.
        decoder: the decoder's config, as that of a decoder with cross-attention.
        tied: whether the encoder shares its tensors with the decoder.
        tokens: the special tokens that the pair itself names.
        others: attributes that are not used, to be written back on saving.
    """

    encoder: Mapping[str, Any]
    decoder: Mapping[str, Any]
    tied: bool
    tokens: Mapping[str, Any]
    others: Mapping[str, Any]


def read_pair(hf: Mapping[str, Any]) -> PairConfig:
    """Take the `config.json` of a pair apart.

    Raises:
        ValueError: a piece is absent or contradicts its place, or an attribute is unknown.
    """
    for name in ("encoder", "decoder"):
        if not isinstance(hf.get(name), Mapping):
            raise ValueError(
                f"got no object {name!r}; expected the configs of both pieces under 'encoder' and 'decoder'"
            )
    if hf["encoder"].get("is_decoder") or hf["encoder"].get("add_cross_attention"):
        raise ValueError("the encoder's config has is_decoder or add_cross_attention set; expected both false there")
    for name, value in hf.items():
        known = name in ("model_type", "encoder", "decoder", "tie_encoder_decoder", *TOKENS) or name in _IGNORED
        if not known and value is not None and not (name in FIXED and value == FIXED[name][0]):
            raise ValueError(
                f"attribute {name!r} = {value!r} is not known; expected it, if at all, in a piece's config"
            )
    return PairConfig(
        encoder=hf["encoder"],
        decoder={**hf["decoder"], "is_decoder": True, "add_cross_attention": True},
        tied=bool(hf.get("tie_encoder_decoder")),
        tokens={name: hf.get(name) for name in TOKENS},
        others=unused_attributes(hf),
    )


def write_pair(pair: PairConfig) -> dict[str, Any]:
    """The `config.json` of a pair: the inverse of `read_pair`."""
    return {
        **pair.others,
        "model_type": MODEL_TYPE,
        "architectures": ["EncoderDecoderModel"],
        "is_encoder_decoder": True,
        "tie_encoder_decoder": pair.tied,
        **{name: value for name, value in pair.tokens.items() if value is not None},
        "encoder": dict(pair.encoder),
        "decoder": dict(pair.decoder),
    }
