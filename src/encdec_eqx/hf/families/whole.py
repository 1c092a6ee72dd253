"""Checkpoints that hold an encoder and a decoder of one family in that family's own format. Knows nothing of files."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ...config import StackConfig
from ._family import Family, Row
from .pair import TOKENS, PairConfig, check_kinds

_TABLE = "embeddings.tokens.weight"


@dataclasses.dataclass(frozen=True)
class WholeFormat:
    """The format of one family's whole checkpoints, such as `BartForConditionalGeneration`'s.

    Attributes:
        family: the family, which has a `whole`.
    """

    family: Family

    def read(self, hf: Mapping[str, Any]) -> PairConfig:
        """Take a `config.json` that describes both pieces apart.

        Raises:
            ValueError: the pieces share more than the token table.
        """
        assert self.family.whole is not None
        check_kinds(hf)
        if hf.get("tie_encoder_decoder"):
            raise ValueError(
                "tie_encoder_decoder is true; expected false: pieces of one checkpoint share their token table only. "
                "If the file holds the tensors of both, set it to false in config.json"
            )
        unused = self.family.unused_attributes(hf)
        encoder = {**hf, "is_decoder": False, "add_cross_attention": False, "cross_attention_hidden_size": None}
        return PairConfig(
            encoder=encoder,
            decoder={**hf, "is_decoder": True, "add_cross_attention": True},
            tied=self.family.whole.shared(hf),
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
        assert self.family.whole is not None
        # padding is part of the architecture (rows without gradient): it stays what the pieces say
        starts = {name: value for name, value in tokens.items() if name != "pad_token_id" and value is not None}
        written = {
            **others,
            **self.family.to_hf(decoder, "decoder"),
            **self.family.to_hf(encoder, "encoder"),
            **self.family.whole.write(encoder, decoder, shared),
            **starts,
            "tie_word_embeddings": decoder.head is None or decoder.head.tied,
            "architectures": [self.family.whole.architecture],
            "is_encoder_decoder": True,
        }
        again = self.read(written)
        for name, config, hf in (("encoder", encoder, again.encoder), ("decoder", decoder, again.decoder)):
            differing = _differing(config, self.family.from_hf(hf))
            if differing:
                raise ValueError(
                    f"one {self.family.model_type} config.json cannot express both pieces: the {name}'s {differing} "
                    "would be lost. Save the pieces apart (`model.pieces()`), or make both alike."
                )
        if again.tied != shared:
            raise ValueError(
                f"{self.family.model_type} checkpoints hold one token table for both pieces; these have one each. Save "
                "them as a pair: EncoderDecoder.from_pieces(*model.pieces())."
            )
        return written

    def table(self, encoder: StackConfig, decoder: StackConfig, *, shared: bool) -> dict[str, Any]:
        """The name table of both: the keyword arguments of the loader's `NameTable`."""
        assert self.family.whole is not None
        ours = self.family.table(encoder, "encoder"), self.family.table(decoder, "decoder")
        groups = {f"encoder {group}": _encoder_rows(rows, shared) for group, rows in ours[0]["groups"].items()}
        groups |= {f"decoder {group}": _decoder_rows(rows, shared) for group, rows in ours[1]["groups"].items()}
        tokens = "shared.weight" if shared else "decoder.embed_tokens.weight"
        copies = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight") if shared else ()
        duplicates: dict[str, str] = dict.fromkeys(copies, tokens)
        settings: dict[str, str] = {}
        if decoder.head is not None and decoder.head.tied:
            duplicates["lm_head.weight"] = tokens
            settings["lm_head.weight"] = "tie_word_embeddings"
        written = {"embeddings.positions.weight": self.family.whole.saves_positions, "head.bias": True}
        return {
            "groups": groups,
            "scopes": (("", "model"),),
            "duplicates": duplicates,
            "settings": settings,
            # with a head of its own torch ties nothing, and takes each piece's table as the file has it
            "equal_copies": () if decoder.head is None or decoder.head.tied else copies,
            "unused": (
                ("", r"(encoder|decoder)\.version", "a mark of older versions"),
                ("", r"(classification_head|qa_outputs)\..*", "the head of another task"),
            ),
            "computed": {
                f"{piece}.{path}": (make, written[path])
                for piece, table in zip(("encoder", "decoder"), ours, strict=True)
                for path, (make, _) in table["computed"].items()
            },
        }

    def ties(self, shared: bool) -> tuple[str, ...]:
        """Paths of the arrays that the pieces share."""
        return (_TABLE,) if shared else ()


def _encoder_rows(rows: tuple[Row, ...], shared: bool) -> tuple[Row, ...]:
    return tuple(
        (f"encoder.{ours}", f"model.encoder.{theirs}", transform)
        for ours, theirs, transform in rows
        if not (shared and ours == _TABLE)
    )


def _decoder_rows(rows: tuple[Row, ...], shared: bool) -> tuple[Row, ...]:
    return tuple(
        (f"decoder.{ours}", "model.shared.weight" if shared and ours == _TABLE else theirs, transform)
        for ours, theirs, transform in rows
    )


def _differing(config: StackConfig, again: StackConfig) -> str:
    names = [field.name for field in dataclasses.fields(config)]
    # the special tokens of a whole checkpoint are the model's, not a piece's
    return ", ".join(
        name
        for name in names
        if getattr(config, name) != getattr(again, name) and (not name.endswith("_token_id") or name == "pad_token_id")
    )
