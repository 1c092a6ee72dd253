"""A config's attributes as rows, `(theirs, ours, default, how)`, that one interpreter reads and writes.

`ours` is a dotted path into `StackConfig`, or several that take the same value. Rows of one attribute may stand more
than once: all are read, the first is written. Of two rows with one path the later is read, so that a family overrules
what is common to all. `num_hidden_layers` and `cross_attention` stand for `layers`.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple, get_args

from .._quoting import quoted
from ..config import (
    MAX_LAYERS,
    AttentionConfig,
    CrossKind,
    EmbeddingsConfig,
    FeedForwardConfig,
    HeadConfig,
    LayerSpec,
    NormConfig,
    PositionsConfig,
    RelativeBiasConfig,
    StackConfig,
)

Role = Literal["encoder", "decoder"]
"""As what a family's model serves."""


class _Absent:
    """Says that there is no value: read, it leaves ours at its default; written, it leaves the attribute out."""


ABSENT = _Absent()


class Convert(NamedTuple):
    """How an attribute's value becomes one of ours, and back.

    Attributes:
        read: takes the value and all attributes.
        write: takes our value (`ABSENT` if the config lacks the part that it belongs to) and the whole config.
    """

    read: Callable[[Any, Mapping[str, Any]], Any]
    write: Callable[[Any, StackConfig], Any]


class Attribute(NamedTuple):
    """One row.

    Attributes:
        theirs: the attribute.
        ours: where in a `StackConfig` its value stands; no path at all for what only functions of the family read.
        default: the family's default, which also says of which kind values are.
        how: how values are converted.
        role: the only role that reads and writes it.
        kinds: what kinds values may be of, where the default does not say it.
    """

    theirs: str
    ours: str | tuple[str, ...]
    default: Any = None
    how: Convert = Convert(lambda value, hf: value, lambda value, config: value)
    role: Role | None = None
    kinds: tuple[type, ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        """The places in a `StackConfig`."""
        return (self.ours,) if isinstance(self.ours, str) else self.ours


def choice(names: Mapping[Any, Any], theirs: str) -> Convert:
    """One of several words of theirs, each of which is one of ours."""
    back = {ours: word for word, ours in names.items()}

    def read(value: Any, hf: Mapping[str, Any]) -> Any:
        if value not in names:
            raise ValueError(f"{theirs} is {quoted(value)}; expected one of {', '.join(map(str, names))}")
        return names[value]

    return Convert(read, lambda value, config: back.get(value, ABSENT))


def plus(number: int) -> Convert:
    """Ours is larger by a number."""
    return Convert(lambda value, hf: value + number, lambda value, config: value - number)


def read_only(read: Callable[[Any, Mapping[str, Any]], Any]) -> Convert:
    """Follows from an attribute that another row writes."""
    return Convert(read, lambda value, config: ABSENT)


def write_only(write: Callable[[StackConfig], Any]) -> Convert:
    """Only written: a function of the family reads it."""
    return Convert(lambda value, hf: ABSENT, lambda value, config: write(config))


def write_as(write: Callable[[StackConfig], Any]) -> Convert:
    """Read as it is, unless there is no such part written by a function of the whole config."""
    return Convert(lambda value, hf: value, lambda value, config: value if value is ABSENT else write(config))


NEGATED = read_only(lambda value, hf: not value)


def root_of(width: str) -> Convert:
    """A flag of theirs: a factor of the square root of a width, or of one."""
    return Convert(lambda value, hf: math.sqrt(max(hf[width], 0)) if value else 1.0, lambda value, config: value != 1.0)


_EOS = Convert(
    lambda value, hf: tuple(value) if isinstance(value, list) else value,
    lambda value, config: list(value) if isinstance(value, tuple) else value,
)
_TIED = Convert(lambda value, hf: value, lambda value, config: value is ABSENT or value)


def _every(value: Any, hf: Mapping[str, Any]) -> Any:
    if value < 1:
        raise ValueError(f"cross_attention_every is {quoted(value)}; expected at least 1")
    return value


def _written_every(config: StackConfig) -> Any:
    """In every how many layers there is cross-attention; left out where in all, or in none, or in no such order."""
    first = next((at for at, layer in enumerate(config.layers) if layer.cross_attention), 0)
    regular = all(layer.cross_attention == ((at + 1) % (first + 1) == 0) for at, layer in enumerate(config.layers))
    return first + 1 if regular and first else ABSENT


def _written_kind(config: StackConfig) -> Any:
    kinds = {layer.cross_kind for layer in config.layers if layer.cross_attention}
    return next(iter(kinds)) if len(kinds) == 1 and kinds != {"sublayer"} else ABSENT


COMMON = (
    Attribute("model_type", "model_type"),
    Attribute("is_decoder", "causal", False),
    Attribute("add_cross_attention", "cross_attention", False),
    Attribute("cross_attention_hidden_size", "cross_attention_hidden_size"),
    # of ours, for grafted cross-attention; `Family.from_hf` reads them
    Attribute("cross_attention_every", (), 1, Convert(_every, lambda value, config: _written_every(config))),
    Attribute(
        "cross_attention_kind",
        (),
        "sublayer",
        choice({kind: kind for kind in get_args(CrossKind)}, "cross_attention_kind")._replace(
            write=lambda value, config: _written_kind(config)
        ),
    ),
    Attribute("tie_word_embeddings", "head.tied", True, _TIED),
    Attribute("bos_token_id", "bos_token_id"),
    Attribute("eos_token_id", "eos_token_id", None, _EOS),
    Attribute("pad_token_id", "pad_token_id"),
    Attribute("decoder_start_token_id", "decoder_start_token_id"),
)
"""Rows of every family."""

TOKENS = tuple(row.theirs for row in COMMON if row.theirs.endswith("_token_id"))

PARTS: Mapping[str, Callable[..., Any]] = {
    "attention": AttentionConfig,
    "attention.relative_bias": RelativeBiasConfig,
    "feed_forward": FeedForwardConfig,
    "norm": NormConfig,
    "positions": PositionsConfig,
    "embeddings": EmbeddingsConfig,
    "head": HeadConfig,
}
"""The class of each part, unless a family says another."""

_CACHE = "torch's cache would drop tokens by it, which is not built; remove it if the model was trained without"

FIXED: Mapping[str, tuple[Any, str]] = {
    "pruned_heads": ({}, "pruned attention heads are not built; load the checkpoint from before it was pruned"),
    "quantization_config": (
        None,
        "quantised weights are not supported; load the checkpoint that was quantised, or save this one from torch "
        "after `model.dequantize()`",
    ),
    "auto_map": (
        None,
        "the checkpoint comes with code of its own, which is never run. If its architecture is this family's all the "
        "same, remove 'auto_map' from config.json (of a copy: huggingface_hub.snapshot_download(id, local_dir=...))",
    ),
    "is_encoder_decoder": (
        False,
        "one encoder or decoder is expected here, not a pair. If it is one of the two, remove the attribute",
    ),
    "configuration_files": (
        [],
        "torch reads another file in place of config.json; put the one for version 4.57.6 in its place",
    ),
    "transformers_weights": (
        None,
        "torch reads the weights from that file; rename it to model.safetensors and remove the attribute",
    ),
    **dict.fromkeys(("sliding_window", "attention_chunk_size", "num_kv_shared_layers", "layer_types"), (None, _CACHE)),
}
"""Attributes that are accepted only at the value given, and why."""


def defaults(rows: Iterable[Attribute]) -> dict[str, Any]:
    """The default of each attribute: of its first row."""
    result: dict[str, Any] = {}
    for row in rows:
        result.setdefault(row.theirs, row.default)
    return result


def variant(
    rows: tuple[Attribute, ...],
    *more: Attribute,
    without: Iterable[str] = (),
    names: Mapping[str, str] | None = None,
    **changed: Any,
) -> tuple[Attribute, ...]:
    """The rows of a variant of a family.

    Args:
        rows: the family's.
        *more: rows that the variant has besides.
        without: attributes that it does not have.
        names: attributes that have other names there.
        **changed: attributes with other defaults, under the variant's names.
    """
    kept = tuple(row for row in rows if row.theirs not in without)
    own = {row.theirs for row in kept}
    # the default of an attribute that is common to all: a row of its own with that default
    kept += tuple(row for row in COMMON if row.theirs in changed and row.theirs not in own)
    names = names or {}
    named = tuple(row._replace(theirs=names.get(row.theirs, row.theirs)) for row in kept)
    return tuple(row._replace(default=changed.get(row.theirs, row.default)) for row in named) + more


def read_rows(
    rows: Iterable[Attribute],
    hf: Mapping[str, Any],
    constants: Mapping[str, Any],
    parts: Mapping[str, Callable[..., Any]],
) -> StackConfig:
    """The `StackConfig` that all attributes describe, the absent ones at their defaults.

    Besides it takes a family's rows, those common to all included, its `constants` and its `parts`.

    Raises:
        ValueError: a value is not supported.
    """
    role = "decoder" if hf["is_decoder"] else "encoder"
    values: dict[str, Any] = {}
    for row in rows:
        if row.role in (None, role) and (value := row.how.read(hf[row.theirs], hf)) is not ABSENT:
            values |= dict.fromkeys(row.paths, value)
    values |= constants
    count, cross = values.pop("num_hidden_layers"), values.pop("cross_attention")
    values["layers"] = layers(count, cross_attention=cross)
    if values.get("attention.head_dim") is None:
        values["attention.head_dim"] = head_dim(values["hidden_size"], values["attention.num_heads"])
    if not values["causal"]:
        values = {path: value for path, value in values.items() if not path.startswith("head.")}
    return _build("", StackConfig, values, {**PARTS, **parts})


def _build(prefix: str, kind: Callable[..., Any], values: Mapping[str, Any], parts: Mapping[str, Any]) -> Any:
    """A config of the values whose paths begin with the prefix, its parts first."""
    own = {path.removeprefix(prefix): value for path, value in values.items() if path.startswith(prefix)}
    fields = {name: value for name, value in own.items() if "." not in name}
    for path, part in parts.items():
        name = path.removeprefix(prefix)
        if "." in name or not path.startswith(prefix):
            continue
        # what every stack has may be all defaults
        if path in ("norm", "positions", "embeddings") or any(other.startswith(f"{name}.") for other in own):
            fields[name] = _build(f"{path}.", part, values, parts)
    if lost := [name for name in own if "." in name and name.split(".")[0] not in fields]:
        raise ValueError(
            f"a row leads to {prefix}{lost[0]}; StackConfig has no such part, or `Family.parts` no class for it"
        )
    return kind(**fields)


def write_rows(rows: Iterable[Attribute], config: StackConfig) -> dict[str, Any]:
    """The attributes that express a config, as far as the rows can: the inverse of `read_rows`."""
    role = "decoder" if config.causal else "encoder"
    result: dict[str, Any] = {}
    for row in rows:
        if row.role in (None, role) and row.theirs not in result:
            result[row.theirs] = row.how.write(_get(config, row.paths[0]) if row.paths else ABSENT, config)
    return {name: value for name, value in result.items() if value is not ABSENT}


def _get(config: Any, path: str) -> Any:
    for name in path.split("."):
        if config is None:
            return ABSENT
        config = getattr(config, name)
    return config


def check_kind(name: str, value: Any, default: Any, kinds: tuple[type, ...] | None = None) -> None:
    """JSON says what kind a value is: it must be that of the default, and token ids may be null.

    Raises:
        ValueError: it is another.
    """
    if name == "model_type":
        return
    if kinds:
        values, expected = [value], " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
    elif name == "eos_token_id" and isinstance(value, list | tuple):
        values, kinds, expected = value, (int,), "whole numbers"
    elif name.endswith("_token_id") or default is None:
        values, kinds, expected = [value], (int, type(None)), "a whole number or null"
    else:
        kind = type(default)
        kinds = (int, float) if kind is float else (kind,)
        values, expected = [value], {bool: "true or false", int: "a whole number", float: "a number"}.get(kind, "text")
    fits = all(isinstance(item, kinds) and (bool in kinds or not isinstance(item, bool)) for item in values)
    if not fits:
        raise ValueError(f"attribute {name!r} is {quoted(value)}; expected {expected}")


def at_fixed(value: Any, allowed: Any) -> bool:
    """Whether an attribute is at its only value. Null stands for what is empty or false, and for nothing else."""
    return (value is None and not allowed) or (type(value) is type(allowed) and value == allowed)


def layers(count: int, *, cross_attention: bool) -> tuple[LayerSpec, ...]:
    """`count` layers of one kind."""
    if count < 1:
        raise ValueError(f"the number of layers is {count}; expected at least 1")
    if count > MAX_LAYERS:  # before as many specs are made
        raise ValueError(f"the number of layers is {quoted(count)}; expected at most {MAX_LAYERS}")
    return (LayerSpec(cross_attention=bool(cross_attention)),) * count


def own_width(size: int | None, hf: Mapping[str, Any]) -> int | None:
    """Width of the tables, if it is not the layers'."""
    return None if size == hf["hidden_size"] else size


def head_dim(hidden_size: int, num_heads: int) -> int:
    """Width of one head.

    Raises:
        ValueError: the heads do not divide the width.
    """
    if num_heads < 1:
        raise ValueError(f"the width is {hidden_size} and the number of heads {num_heads}; expected at least 1")
    if hidden_size % num_heads:
        raise ValueError(f"the width {hidden_size} is not a multiple of the number of heads {num_heads}")
    return hidden_size // num_heads


def differing_fields(config: StackConfig, again: StackConfig) -> list[str]:
    """Names of the fields in which two configs differ."""
    return [
        field.name for field in dataclasses.fields(config) if getattr(config, field.name) != getattr(again, field.name)
    ]
