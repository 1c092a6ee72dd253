"""Which family a config is of: as it says, as the caller says, or as the class in its `architectures` says.

Configs from before 2020 have no `model_type`.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .._quoting import printable, quoted
from ..config import StackConfig
from .families import FAMILIES, NESTED
from .family import Family, Role
from .files.folder import CONFIG
from .pair_config import MODEL_TYPE
from .report import warn_of_unknown

PAIRS = (MODEL_TYPE, "encoder_decoder")
"""What configs of pairs call themselves."""

# What torch puts behind the name of a family to name a class.
_KIND = r"(Model|LMHeadModel|DoubleHeadsModel|MTModel|PreTrainedModel|Encoder|Decoder|DecoderWrapper|For[A-Z]\w*)"
_FRAMEWORK = r"(TF|Flax)?"


def read_config(hf: Mapping[str, Any], *, strict: bool) -> StackConfig:
    """The `StackConfig` of one encoder's or decoder's config; what `StackConfig.from_hf` calls.

    Raises:
        ValueError: the family is unknown, or an attribute has a value that is not supported.
    """
    model_type = hf.get("model_type")
    if isinstance(model_type, str) and model_type in NESTED:
        inside = " and ".join(map(repr, NESTED[model_type].keys))
        raise ValueError(f"a config of {model_type!r} holds that of a piece under {inside}: give that one.")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise ValueError(f"unknown model_type {quoted(model_type)} in a config; known families: {known}.")
    family = FAMILIES[model_type]
    config = family.from_hf(hf)
    warn_of_unknown(f"the {family.model_type} config", family.unknown(hf), strict=strict)
    return config


def part_of(hf: Mapping[str, Any], role: Role, place: Path | str) -> Mapping[str, Any]:
    """The config of a piece: the one given, or the part of it that describes the piece.

    Raises:
        ValueError: the part is absent, or not what it should be.
    """
    nested = NESTED.get(str(hf.get("model_type")))
    try:
        return hf if nested is None else nested.part(hf, role)
    except ValueError as error:
        raise ValueError(f"{place}: {error}.") from None


def family_of(hf: Mapping[str, Any], place: Path | str, role: Role) -> Family:
    """The family that a config names.

    Raises:
        ValueError: it names none that is known, or one that cannot take the role.
    """
    model_type = hf.get("model_type")
    if model_type in PAIRS:
        raise ValueError(
            f"{place} describes a pair of encoder and decoder; expected one of the two. Load it with "
            "EncoderDecoder.from_pretrained and take its `.pieces()`."
        )
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise ValueError(
            f"{place}: model_type is {quoted(model_type)}; expected one of {', '.join(sorted(FAMILIES))}. Other "
            "families are not built yet: docs/adding_a_family.md adds one, and EncoderDecoder.from_pieces takes any "
            "eqx.Module as its encoder that meets EncoderProtocol. One of these under another name loads with "
            "model_type=... (for a piece of a pair: encoder_model_type, decoder_model_type)."
        )
    if role not in FAMILIES[model_type].architectures:
        able = ", ".join(sorted(name for name, family in FAMILIES.items() if role in family.architectures))
        other = "an encoder" if role == "decoder" else "a decoder"
        raise ValueError(
            f"{place}: model_type is {quoted(model_type)}, a family whose models can only be {other}; expected, for "
            f"the {role}, one of {able}."
        )
    return FAMILIES[model_type]


def stack_config(family: Family, hf: Mapping[str, Any], place: Path | str) -> StackConfig:
    """Read one config, naming the file in any error."""
    try:
        return family.from_hf(hf)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None


def with_model_type(
    hf: Mapping[str, Any], given: str | None, place: object, argument: str, *, pair: bool = False
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The config with its `model_type`, and notes for the report where the file does not say it.

    Args:
        hf: the config.
        given: what the caller says; it wins.
        place: the file, for messages.
        argument: the name of the caller's argument.
        pair: whether it may be a pair's, by its class.

    Raises:
        ValueError: nobody says it, or `architectures` names classes of several families.
    """
    said = hf.get("model_type")
    if given is not None:
        note = f"model_type is {quoted(given)}, as the argument {argument} says"
        note += "" if said is None else f"; {CONFIG} says {quoted(said)}"
        return {**hf, "model_type": given}, () if said == given else (note,)
    if said is not None:
        return dict(hf), ()
    named = hf.get("architectures")
    named = [name for name in named if isinstance(name, str)] if isinstance(named, list) else []
    nested = [form.model_type for form in NESTED.values() if form.architecture in named]
    if len(nested) == 1:
        return {**hf, "model_type": nested[0]}, (f"{CONFIG} has no model_type; architectures = {quoted(named)}",)
    if isinstance(hf.get("encoder"), Mapping) and isinstance(hf.get("decoder"), Mapping):
        return {**hf, "model_type": PAIRS[0]}, (f"{CONFIG} has no model_type; it describes an encoder and a decoder",)
    found = sorted({family for name in named for family in _families(name)})
    if len(found) == 1:
        why = f"{CONFIG} has no model_type; architectures = {quoted(named)} is of {found[0]!r}"
        return {**hf, "model_type": found[0]}, (why,)
    what = f"names {quoted(named)}, of {' and '.join(found) or 'no family that is known'}" if named else "is absent too"
    known = sorted([*FAMILIES, MODEL_TYPE] if pair else FAMILIES)
    raise ValueError(
        f"{printable(str(place))}: model_type is None, and architectures, which could stand in for it, {what}. Say "
        f"it with {argument}='bert' (or another of {', '.join(known)})."
    )


def _families(name: str) -> Iterable[str]:
    """The families whose classes are named like this one."""
    if re.fullmatch(f"{_FRAMEWORK}EncoderDecoderModel", name):
        return [PAIRS[0]]
    return [
        model_type
        for model_type, family in FAMILIES.items()
        if any(
            # `Bert` of `BertModel`, `XLMRoberta` of `XLMRobertaForCausalLM`
            re.fullmatch(f"{_FRAMEWORK}{re.escape(re.sub(f'{_KIND}$', '', example))}{_KIND}", name)
            for example in family.architectures.values()
        )
    ]
