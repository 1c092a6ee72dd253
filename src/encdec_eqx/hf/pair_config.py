"""The `config.json` of an encoder and a decoder together: of any two as a pair, or of one family's whole checkpoint."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from .._quoting import quoted
from ..config import StackConfig
from .attributes import FIXED, TOKENS, at_fixed, check_kind, differing_fields
from .family import Family, Whole
from .ignored import IGNORED, OF_THE_FILE
from .names import NameTable, Row

MODEL_TYPE = "encoder-decoder"

SHARED = "embeddings.tokens.weight"
"""The path of the array that the pieces of a whole checkpoint may share."""

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


def check_only_values(hf: Mapping[str, Any]) -> None:
    """That attributes of both pieces are at the only value that is supported.

    Raises:
        ValueError: one has another.
    """
    for name in (name for name in hf if name in _FIXED):
        allowed, why = _FIXED[name]
        if not at_fixed(hf[name], allowed):
            raise ValueError(f"attribute {name!r} = {quoted(hf[name])}; expected {allowed!r}: {why}")


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
    check_only_values(hf)
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


@dataclasses.dataclass(frozen=True)
class WholeFormat:
    """The format of one family's whole checkpoints, such as `BartForConditionalGeneration`'s.

    Attributes:
        family: the family.
        whole: its `whole`.
    """

    family: Family
    whole: Whole

    @property
    def architecture(self) -> str:
        """Torch's class, as a saved config names it."""
        return self.whole.architecture

    def read(self, hf: Mapping[str, Any]) -> PairConfig:
        """Take a `config.json` that describes both pieces apart.

        Raises:
            ValueError: the pieces share more than the embedding matrix.
        """
        check_kinds(hf)
        if hf.get("tie_encoder_decoder"):
            raise ValueError(
                "tie_encoder_decoder is true; expected false: pieces of one checkpoint share their embedding matrix "
                "only. If the file holds the tensors of both, set it to false in config.json"
            )
        unused = self.family.unused_attributes(hf)
        encoder = {**hf, "is_decoder": False, "add_cross_attention": False, "cross_attention_hidden_size": None}
        return PairConfig(
            encoder=encoder,
            decoder={**hf, "is_decoder": True, "add_cross_attention": True},
            tied=self.whole.shared(hf),
            tokens={name: hf.get(name) for name in TOKENS},
            others={name: value for name, value in unused.items() if not self.family.handles(name)},
            unknown=self.family.unknown(hf),
        )

    def write(
        self,
        encoder: StackConfig,
        decoder: StackConfig,
        *,
        shared: bool,
        tokens: Mapping[str, Any],
        others: Mapping[str, Any],
    ) -> dict[str, Any]:
        """The `config.json` of both: the inverse of `read`.

        Raises:
            ValueError: one config cannot express both pieces.
        """
        # padding is part of the architecture (rows without gradient): it stays what the pieces say
        starts = {name: value for name, value in tokens.items() if name != "pad_token_id" and value is not None}
        written = {
            **others,
            **self.family.to_hf(decoder, "decoder"),
            **self.family.to_hf(encoder, "encoder"),
            **self.whole.write(encoder, decoder, shared),
            **starts,
            "tie_word_embeddings": decoder.head is None or decoder.head.tied,
            "architectures": [self.whole.architecture],
            "is_encoder_decoder": True,
        }
        again = self.read(written)
        for name, config, hf in (("encoder", encoder, again.encoder), ("decoder", decoder, again.decoder)):
            # the special tokens of a whole checkpoint are the model's, not a piece's
            fields = differing_fields(config, self.family.from_hf(hf))
            if differing := [one for one in fields if one not in TOKENS or one == "pad_token_id"]:
                raise ValueError(
                    f"one {self.family.model_type} config.json cannot express both pieces: the {name}'s "
                    f"{', '.join(differing)} "
                    "would be lost. Save the pieces apart (`model.pieces()`), or make both alike."
                )
        if again.tied != shared:
            raise ValueError(
                f"{self.family.model_type} checkpoints hold one token table for both pieces; these have one each. Save "
                "them as a pair: EncoderDecoder.from_pieces(*model.pieces())."
            )
        return written

    def table(self, encoder: StackConfig, decoder: StackConfig, *, shared: bool) -> NameTable:
        """The name table of both."""
        ours = self.family.table(encoder, "encoder"), self.family.table(decoder, "decoder")
        groups: dict[str, tuple[Row, ...]] = {}
        base = self.whole.base
        for group, rows in ours[0].groups.items():
            own = [row for row in rows if not (shared and row[0] == SHARED)]
            place = f"{base}encoder."
            full = [(a, place + b.removeprefix(place), how) for a, b, how in own]
            groups[f"encoder {group}"] = tuple((f"encoder.{a}", b, how) for a, b, how in full)
        for group, rows in ours[1].groups.items():
            place = "" if group == "head" else f"{base}decoder."
            full = [(a, place + b.removeprefix(place), how) for a, b, how in rows]
            named = [(a, f"{base}shared.weight" if shared and a == SHARED else b, how) for a, b, how in full]
            groups[f"decoder {group}"] = tuple((f"decoder.{a}", b, how) for a, b, how in named)
        tokens = "shared.weight" if shared else "decoder.embed_tokens.weight"
        copies = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight") if shared else ()
        duplicates: dict[str, str] = dict.fromkeys(copies, tokens)
        settings: dict[str, str] = {}
        if decoder.head is not None and decoder.head.tied:
            duplicates["lm_head.weight"] = tokens
            settings["lm_head.weight"] = "tie_word_embeddings"
        written = {"embeddings.positions.weight": self.whole.saves_positions, "head.bias": True}
        return NameTable(
            groups=groups,
            scopes=(("", base.removesuffix(".")),),
            duplicates=duplicates,
            settings=settings,
            # with a head of its own torch ties nothing, and takes each piece's table as the file has it
            equal_copies=() if decoder.head is None or decoder.head.tied else copies,
            unused=(
                ("", r"(encoder|decoder)\.version", "a mark of older versions"),
                ("", r"(classification_head|qa_outputs)\..*", "the head of another task"),
                *(("", pattern, reason) for pattern, reason in self.whole.unused),
            ),
            computed={
                f"{piece}.{path}": (make, written[path])
                for piece, table in zip(("encoder", "decoder"), ours, strict=True)
                for path, (make, _) in table.computed.items()
            },
        )
