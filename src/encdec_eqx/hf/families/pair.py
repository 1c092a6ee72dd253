"""The config of an encoder-decoder pair: what stands beside the configs of its two pieces. Knows nothing of files."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..._quoting import quoted
from ._attributes import COMMON, FIXED, OF_THE_FILE, at_fixed, check_kind
from ._ignored import IGNORED

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
_FIXED = {
    **{name: fixed for name, fixed in FIXED.items() if name != "is_encoder_decoder"},
    "cross_attention_hidden_size": (None, "it is an attribute of the decoder's config: put it under 'decoder'"),
}

# Of which kind the attributes are that say what something is: what torch would take for true is not always meant so.
KINDS: Mapping[str, Any] = {
    **dict.fromkeys(("is_decoder", "add_cross_attention", "tie_word_embeddings", "tie_encoder_decoder"), False),
    "is_encoder_decoder": True,
    **dict.fromkeys(("vocab_size", "hidden_size"), 0),
    **dict.fromkeys(TOKENS),
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
        unknown: those of them that nothing is known of.
    """

    encoder: Mapping[str, Any]
    decoder: Mapping[str, Any]
    tied: bool
    tokens: Mapping[str, Any]
    others: Mapping[str, Any]
    unknown: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def check_kinds(hf: Mapping[str, Any]) -> None:
    """That the attributes of both pieces are of their kinds, where they are not null.

    Raises:
        ValueError: one is not: `"tie_encoder_decoder": "false"`, a text, would count as true.
    """
    for name, default in KINDS.items():
        if hf.get(name) is not None:
            check_kind(name, hf[name], default)


def read_pair(hf: Mapping[str, Any]) -> PairConfig:
    """Take the `config.json` of a pair apart.

    Raises:
        ValueError: a piece is absent or contradicts its place, or an attribute has a value that is not supported.
    """
    for name in ("encoder", "decoder"):
        if not isinstance(hf.get(name), Mapping):
            raise ValueError(
                f"got no object {name!r}; expected the configs of both pieces under 'encoder' and 'decoder'. A single "
                "encoder or decoder is loaded with Encoder.from_pretrained or Decoder.from_pretrained"
            )
    check_kinds(hf)
    check_kinds({name: value for name, value in hf["encoder"].items() if name in ("is_decoder", "add_cross_attention")})
    if hf["encoder"].get("is_decoder") or hf["encoder"].get("add_cross_attention"):
        raise ValueError(
            "the encoder's config has is_decoder or add_cross_attention set; expected both false there. If its weights "
            "are an encoder's, set both to false in config.json"
        )
    for name in (name for name in hf if name in _FIXED):
        allowed, why = _FIXED[name]
        if not at_fixed(hf[name], allowed):
            raise ValueError(f"attribute {name!r} = {quoted(hf[name])}; expected {allowed!r}: {why}")
    known = {"model_type", "encoder", "decoder", "tie_encoder_decoder", *TOKENS, *_IGNORED, *_FIXED}
    unknown = {name: value for name, value in hf.items() if name not in known}
    ignored = {name: value for name, value in hf.items() if name in IGNORED and name not in OF_THE_FILE}
    return PairConfig(
        encoder=hf["encoder"],
        decoder={**hf["decoder"], "is_decoder": True, "add_cross_attention": True},
        tied=bool(hf.get("tie_encoder_decoder")),
        tokens={name: hf.get(name) for name in TOKENS},
        others=ignored | unknown,
        unknown=unknown,
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
