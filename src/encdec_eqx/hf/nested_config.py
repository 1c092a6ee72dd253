"""Configs that hold a piece's config as an object of their own: T5Gemma's both pieces, Gemma 3 with images its text.

Such a model has a `model_type` of its own, beside that of the family whose config is nested.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from .._quoting import quoted
from ..config import StackConfig
from .attributes import FIXED, TOKENS, differing_fields
from .family import Family, Role
from .ignored import GENERATION, IGNORED, OF_THE_FILE
from .names import NameTable, Row
from .pair_config import PairConfig, check_kinds, check_only_values

_NESTED: tuple[Role, Role] = ("encoder", "decoder")

_OF_BOTH = ("vocab_size", "dropout_rate", "attention_dropout")
"""What the config of both says for both, whatever theirs say."""

_UNUSED = {
    **IGNORED,
    "initializer_range": "each piece has its own, which is the one that counts",
    "classifier_dropout_rate": "of classification heads",
    **dict.fromkeys(("is_decoder", "add_cross_attention", "is_encoder_decoder"), "said by the model type"),
}


@dataclasses.dataclass(frozen=True)
class NestedText:
    """A model of more than text, whose text model is a decoder of a family.

    Attributes:
        model_type: its name in configs.
        architecture: torch's class, as a saved config names it.
        family: the `model_type` of the text model.
        keys: the attribute that holds its config, alone.
    """

    model_type: str
    architecture: str
    family: str
    keys: tuple[str]

    def part(self, hf: Mapping[str, Any], role: Role) -> dict[str, Any]:
        """The text model's config, with what the whole says of tokens and of generating.

        Raises:
            ValueError: it is no object.
        """
        said = {name: hf[name] for name in (*TOKENS, *GENERATION) if hf.get(name) is not None}
        return {**_nested(hf, self.keys[0], self.family), **said}


@dataclasses.dataclass(frozen=True)
class NestedFormat:
    """The format of one family's whole checkpoints, where each piece has a config and a token table of its own.

    Attributes:
        model_type: its name in configs.
        architecture: torch's class, as a saved config names it.
        family: the family of both pieces.
    """

    model_type: str
    architecture: str
    family: Family

    @property
    def keys(self) -> tuple[str, ...]:
        """The attributes that hold the pieces' configs."""
        return _NESTED

    def part(self, hf: Mapping[str, Any], role: Role) -> dict[str, Any]:
        """The config of one piece, with what that of both says for it.

        Raises:
            ValueError: it is no object, or of another family.
        """
        check_kinds(hf)
        defaults = self.family.attributes
        common = {name: hf.get(name, defaults[name]) for name in _OF_BOTH}
        encoder = {
            **_nested(hf, "encoder", self.family.model_type),
            **common,
            "is_decoder": False,
            "add_cross_attention": False,
            "cross_attention_hidden_size": None,
        }
        if role == "encoder":
            return encoder
        return {
            **_nested(hf, "decoder", self.family.model_type),
            **common,
            **{name: hf[name] for name in GENERATION if name in hf},
            "is_decoder": True,
            "add_cross_attention": True,
            "cross_attention_hidden_size": encoder.get("hidden_size", defaults["hidden_size"]),
            "tie_word_embeddings": hf.get("tie_word_embeddings", True),
        }

    def read(self, hf: Mapping[str, Any]) -> PairConfig:
        """Take a `config.json` of both pieces apart.

        Raises:
            ValueError: a piece's config is absent, or an attribute has a value that is not supported.
        """
        check_only_values(hf)
        encoder, decoder = (self.part(hf, role) for role in _NESTED)
        if hf.get("tie_encoder_decoder"):
            raise ValueError("tie_encoder_decoder is true; expected false: the pieces have no tensor in common")
        known = {"model_type", *_NESTED, "tie_word_embeddings", "tie_encoder_decoder", *_OF_BOTH, *TOKENS, *_UNUSED}
        known |= {*FIXED, "cross_attention_hidden_size"}
        unknown = {name: value for name, value in hf.items() if name not in known}
        unused = {name: value for name, value in hf.items() if name in _UNUSED and name not in OF_THE_FILE}
        roles = {role: {**hf[role], "is_decoder": role == "decoder"} for role in _NESTED}
        nested = {role: self.family.unused_attributes(said) for role, said in roles.items()}
        inside = {f"{role}.{name}": value for role in _NESTED for name, value in self.family.unknown(hf[role]).items()}
        return PairConfig(
            encoder=encoder,
            decoder=decoder,
            tied=False,
            tokens={name: hf.get(name) for name in TOKENS},
            others=unused | unknown | nested,
            unknown=unknown | inside,
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
        assert not shared, "each piece has a table of its own"
        pieces: dict[Role, StackConfig] = {"encoder": encoder, "decoder": decoder}
        nested = {name: {**others.get(name, {}), **self.family.to_hf(pieces[name], name)} for name in _NESTED}
        nested["decoder"]["cross_attention_hidden_size"] = encoder.hidden_size
        written = {
            **others,
            **nested,
            **{name: nested["decoder"][name] for name in (*_OF_BOTH, "tie_word_embeddings")},
            **{name: value for name, value in tokens.items() if value is not None},
            "model_type": self.model_type,
            "architectures": [self.architecture],
            "is_encoder_decoder": True,
        }
        for name, config in pieces.items():
            if differing := differing_fields(config, self.family.from_hf(self.part(written, name))):
                raise ValueError(
                    f"one {self.model_type} config.json cannot express both pieces: the {name}'s "
                    f"{', '.join(differing)} would be lost. Save the pieces apart (`model.pieces()`), or make both "
                    "alike."
                )
        return written

    def table(self, encoder: StackConfig, decoder: StackConfig, *, shared: bool) -> NameTable:
        """The name table of both."""
        groups: dict[str, tuple[Row, ...]] = {}
        for name, config in zip(_NESTED, (encoder, decoder), strict=True):
            for group, rows in self.family.table(config, name).groups.items():
                prefix = "" if group == "head" else f"model.{name}."
                groups[f"{name} {group}"] = tuple((f"{name}.{a}", prefix + b, how) for a, b, how in rows)
        copies = {}
        if decoder.head is None or decoder.head.tied:
            head, tokens = self.family.tied_copy
            copies[head] = f"decoder.{tokens}"
        return NameTable(
            groups=groups,
            scopes=(("", "model"),),
            duplicates=copies,
            settings=dict.fromkeys(copies, "tie_word_embeddings"),
            unused=(("", r"score\..*", "the head of another task"),),
        )


def _nested(hf: Mapping[str, Any], key: str, model_type: str) -> dict[str, Any]:
    """The config that another holds under a key.

    Raises:
        ValueError: there is none, or it is of another family.
    """
    said = hf.get(key)
    if not isinstance(said, Mapping):
        raise ValueError(
            f"{key!r} is {quoted(said)}; expected an object, as a {hf.get('model_type')} config holds a {model_type} "
            "one under that name"
        )
    if said.get("model_type", model_type) != model_type:
        raise ValueError(f"{key!r} has the model_type {quoted(said['model_type'])}; expected {model_type!r}")
    return {**said, "model_type": model_type}
