"""Rotations as configs say them: their base, the share of a head that rotates, and `rope_scaling` with its kinds."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from .._quoting import quoted
from ..config import RotaryConfig, StackConfig
from ..layers.rotary import DynamicNTKScaling, LinearScaling, Llama3Scaling, Pairs, RotaryScaling, YarnScaling
from .attributes import Attribute, Convert, head_dim, write_only

_ORIGINAL = {"original_max_position_embeddings": "original_max_positions"}
_YARN = {"attention_factor": "given_attention_factor", "mscale": "mscale", "mscale_all_dim": "mscale_all_dim"}
_YARN |= {"beta_fast": "beta_fast", "beta_slow": "beta_slow", "truncate": "truncate"}
_LLAMA3 = {"low_freq_factor": "low_freq_factor", "high_freq_factor": "high_freq_factor"}

_KINDS: Mapping[str, tuple[Any, Mapping[str, str]]] = {
    "linear": (LinearScaling, {"factor": "factor"}),
    "dynamic": (DynamicNTKScaling, {"factor": "factor"}),
    "yarn": (YarnScaling, {"factor": "factor", **_ORIGINAL, **_YARN}),
    "llama3": (Llama3Scaling, {"factor": "factor", **_LLAMA3, **_ORIGINAL}),
}
"""Our class of each kind, and its fields by the names of those entries that torch reads."""

_OPTIONAL = {*_YARN, *_ORIGINAL}


def rotary_rows(
    theta: float,
    *,
    partial: float | None = None,
    pairs: Pairs = "halves",
    kinds: Sequence[str] = tuple(_KINDS),
    word: str = "rope_type",
) -> tuple[Attribute, ...]:
    """The rows of `rope_theta` and `rope_scaling`, and of `partial_rotary_factor` where a family has it.

    Args:
        theta: the default base.
        partial: the default share of a head that rotates; `None`: there is no such attribute, and all of it rotates.
        pairs: which entries rotate together.
        kinds: the kinds of scaling that torch's class takes.
        word: what it calls a kind when it is written.
    """

    def read(value: float, hf: Mapping[str, Any]) -> tuple[RotaryConfig, ...]:
        dim = None if partial is None else int(_head_dim(hf) * hf["partial_rotary_factor"])
        return (RotaryConfig(theta=value, dim=dim, pairs=pairs, scaling=scaling_from_hf(hf, kinds)),)

    rows = (
        Attribute("rope_theta", "attention.rotary", theta, Convert(read, lambda rotary, config: rotary[0].theta)),
        scaling_row(word),
    )
    return rows if partial is None else (*rows, Attribute("partial_rotary_factor", (), partial, write_only(share)))


def scaling_row(word: str = "rope_type") -> Attribute:
    """The row of `rope_scaling`, which that of the base reads; `word` is what a kind is called when it is written."""

    def written(config: StackConfig) -> dict[str, Any] | None:
        rotary = config.attention.rotary
        return scaling_to_hf(rotary[0].scaling, word=word) if rotary else None

    return Attribute("rope_scaling", (), None, write_only(written), kinds=(dict, type(None)))


def rotated_share(theta: float, dim: int, scaling: Any) -> RotaryConfig:
    """Rotations of the first entries of a head: of an odd number one more, by angles spread over the odd number."""
    odd = dim % 2
    return RotaryConfig(theta=theta, dim=dim + odd, counted=dim if odd else None, scaling=scaling)


def scaling_from_hf(hf: Mapping[str, Any], kinds: Sequence[str] = tuple(_KINDS)) -> RotaryScaling | None:
    """What `rope_scaling` says, its kind as `rope_type` or as `type`, the older word, which wins in torch.

    Raises:
        ValueError: the kind is unknown, or what it needs is missing or no number.
    """
    said = hf["rope_scaling"]
    if said is None or (kind := _kind(said)) == "default":
        return None
    if not isinstance(kind, str) or kind not in kinds:
        known = ", ".join(("default", *kinds))
        raise ValueError(f"rope_scaling is {quoted(said)}: its rope_type is {quoted(kind)}; expected one of {known}")
    scaling, names = _KINDS[kind]
    given = {ours: _number(kind, name, said) for name, ours in names.items() if said.get(name) is not None}
    longest = hf["max_position_embeddings"]
    if kind == "dynamic":
        given["max_positions"] = longest
    if kind == "yarn":
        given.setdefault("original_max_positions", longest)
    lacking = [n for n, ours in names.items() if ours not in given and not (kind == "yarn" and n in _OPTIONAL)]
    if lacking:
        raise ValueError(f"rope_scaling is {quoted(said)}: the kind {kind!r} needs {' and '.join(lacking)} as well")
    return scaling(**given)


def scaling_to_hf(scaling: RotaryScaling | None, *, word: str = "rope_type") -> dict[str, Any] | None:
    """The `rope_scaling` that reads back as the same, what is at its default left out."""
    for kind, (made, names) in _KINDS.items():
        if isinstance(scaling, made):
            usual = {field.name: field.default for field in dataclasses.fields(made)}
            values = {name: getattr(scaling, ours) for name, ours in names.items()}
            return {word: kind} | {n: v for n, v in values.items() if v != usual[names[n]]}
    return None


def rope_remarks(hf: Mapping[str, Any]) -> tuple[str, ...]:
    """What is to be said of entries of `rope_scaling` that its kind does not read."""
    said = hf.get("rope_scaling")
    kind = _kind(said) if isinstance(said, dict) else None
    read = {"rope_type", "type", *(_KINDS[kind][1] if isinstance(kind, str) and kind in _KINDS else ())}
    unread = [name for name in said if name not in read] if isinstance(said, dict) else []
    if not unread:
        return ()
    return (
        f"rope_scaling: {kind!r} does not read {', '.join(map(quoted, unread))}, here and in torch: not saved again",
    )


def share(config: StackConfig) -> float:
    """What part of a head the first of its rotations turns, as a number that leads back to the same entries."""
    size = config.attention.head_dim
    dim = config.attention.rotary[0].counted or config.attention.rotary[0].dim or size
    value = dim / size
    return value if int(size * value) == dim else math.nextafter(value, 1.0)


def _kind(said: Mapping[str, Any]) -> Any:
    return said.get("type", said.get("rope_type"))


def _number(kind: str, name: str, said: Mapping[str, Any]) -> Any:
    value = said[name]
    wanted = bool if name == "truncate" else int if name in _ORIGINAL else (int, float)
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        expected = "true or false" if wanted is bool else "a whole number" if wanted is int else "a number"
        raise ValueError(f"rope_scaling of the kind {kind!r} has {name} = {quoted(value)}; expected {expected}")
    return float(value) if wanted == (int, float) else value


def _head_dim(hf: Mapping[str, Any]) -> int:
    given = hf.get("head_dim")
    return head_dim(hf["hidden_size"], hf["num_attention_heads"]) if given is None else given
