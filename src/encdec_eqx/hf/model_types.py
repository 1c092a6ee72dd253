"""The `model_type` of a config: as it says, as the caller says, or as the class in its `architectures` says.

Configs from before 2020 have none. Knows the names of torch's classes from the families; must not know what is in them.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from .._quoting import printable, quoted
from .files.folder import CONFIG

PAIRS = ("encoder-decoder", "encoder_decoder")
"""What configs of pairs call themselves."""

# What torch puts behind the name of a family to name a class.
_KIND = r"(Model|LMHeadModel|DoubleHeadsModel|MTModel|PreTrainedModel|Encoder|Decoder|DecoderWrapper|For[A-Z]\w*)"
_FRAMEWORK = r"(TF|Flax)?"


def with_model_type(
    hf: Mapping[str, Any], given: str | None, classes: Mapping[str, Iterable[str]], place: object, argument: str
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The config with its `model_type`, and notes for the report where the file does not say it.

    Args:
        hf: the config.
        given: what the caller says; it wins.
        classes: of each family, some of torch's classes.
        place: the file, for messages.
        argument: the name of the caller's argument.

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
    if isinstance(hf.get("encoder"), Mapping) and isinstance(hf.get("decoder"), Mapping):
        return {**hf, "model_type": PAIRS[0]}, (f"{CONFIG} has no model_type; it describes an encoder and a decoder",)
    named = hf.get("architectures")
    named = [name for name in named if isinstance(name, str)] if isinstance(named, list) else []
    found = sorted({family for name in named for family in _families(name, classes)})
    if len(found) == 1:
        why = f"{CONFIG} has no model_type; architectures = {quoted(named)} is of {found[0]!r}"
        return {**hf, "model_type": found[0]}, (why,)
    what = f"names {quoted(named)}, of {' and '.join(found) or 'no family that is known'}" if named else "is absent too"
    raise ValueError(
        f"{printable(str(place))}: model_type is None, and architectures, which could stand in for it, {what}. Say "
        f"it with {argument}='bert' (or another of {', '.join(sorted(classes))})."
    )


def _families(name: str, classes: Mapping[str, Iterable[str]]) -> list[str]:
    """The families whose classes are named like this one."""
    if re.fullmatch(f"{_FRAMEWORK}EncoderDecoderModel", name):
        return [PAIRS[0]]
    return [
        family
        for family, examples in classes.items()
        if any(re.fullmatch(f"{_FRAMEWORK}{re.escape(_stem(example))}{_KIND}", name) for example in examples)
    ]


def _stem(name: str) -> str:
    """`Bert` of `BertModel`, `XLMRoberta` of `XLMRobertaForCausalLM`."""
    return re.sub(f"{_KIND}$", "", name)
