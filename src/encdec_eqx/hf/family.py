"""What a family is: how its Hugging Face config reads and writes, and the names of its tensors.

A config's attribute is handled (it has a default in `Family.attributes`), ignored for a reason (every family's are in
`ignored.IGNORED`), or allowed only at one value (`attributes.FIXED`): of anything else nothing is known. It is left
out of the model, kept for saving, and named by whoever loads (`Family.unknown`).
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from .._quoting import quoted
from ..config import StackConfig
from ..inputs.tokens import constant_positions
from ..stack.unrolled import schedule
from .attributes import COMMON, FIXED, OF_THE_FILE, at_fixed, check_kind, tokens
from .ignored import GENERATION, IGNORED
from .names import NameTable, Row

Role = Literal["encoder", "decoder"]

_WHY_ABSENT = {
    "cross": "cross-attention, which this model does not have",
    "pooler": "the pooler, which a decoder does not have",
    "head": "the language-model head, which an encoder does not have",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Whole:
    """How one checkpoint holds an encoder and a decoder of the same family.

    Attributes:
        architecture: torch's class, as a saved config names it.
        saves_positions: whether torch's class writes constant tables of positions.
        shared: whether the pieces share one token table, by the attributes of the config.
        write: attributes that describe neither piece alone, from both configs and whether they share.
    """

    architecture: str
    saves_positions: bool = True
    shared: Callable[[Mapping[str, Any]], bool] = lambda hf: True
    write: Callable[[StackConfig, StackConfig, bool], dict[str, Any]] = lambda encoder, decoder, shared: {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """One family of models.

    Attributes:
        model_type: its name in configs.
        architectures: torch's classes for an encoder and for a decoder, as a saved config names them; a role that is
            absent is one that the family cannot take.
        prefixes: for each role, the prefixes that files may put before the base model's names; the first is how torch's
            class with a head writes them.
        attributes: attributes that are handled, with the family's defaults.
        ignored: attributes of this family that change no number of a model, and why.
        fixed: attributes of this family that are accepted only at the value given, and why.
        spellings: other names of handled attributes.
        fresh: attributes to write for a model that came from no file, in which torch's defaults would mean another one.
        layer: the checkpoint's name of the n-th distinct layer, as a pattern with `{i}` or a function of n and the
            config.
        rows: groups of rows: `base`, `layer` (below one layer), `cross` (likewise), `pooler`, `head`. A row counts only
            if the config has the part that it fills.
        optional: paths of ours that a file may lack, because they are constants (sinusoids) or may be empty (a fixed
            bias), to whether a piece writes them even so.
        buffers: tensors that nothing reads but torch's class expects, and their shapes, by the config.
        unused: patterns of tensors that are not used, and why.
        duplicates: a tensor that repeats another in some files, and the one that it repeats.
        tied_copy: the output matrix's name and the token table's, of which files with tied weights may hold either.
        read: attributes, all present, to a `StackConfig`.
        write: a `StackConfig` to the attributes that express it.
        remarks: what a user should know of a config that is read, one sentence each.
        other_role: attributes that only one role reads, by the role that does not.
        generation: defaults of torch's config class for generating.
        old_generation: what a config says about generating in words of older versions, in today's; it counts where
            today's are absent or null.
        whole: how checkpoints hold encoder and decoder together, if the family has such.
    """

    model_type: str
    architectures: Mapping[Role, str]
    prefixes: Mapping[Role, tuple[str, ...]]
    attributes: Mapping[str, Any]
    ignored: Mapping[str, str]
    layer: str | Callable[[int, StackConfig], str]
    rows: Mapping[str, tuple[Row, ...]]
    unused: tuple[tuple[str, str], ...]
    duplicates: Mapping[str, str]
    tied_copy: tuple[str, str]
    read: Callable[[Mapping[str, Any]], StackConfig]
    write: Callable[[StackConfig], dict[str, Any]]
    spellings: Mapping[str, str] = dataclasses.field(default_factory=dict)
    fresh: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    fixed: Mapping[str, tuple[Any, str]] = dataclasses.field(default_factory=dict)
    optional: Mapping[str, bool] = dataclasses.field(default_factory=dict)
    buffers: Callable[[StackConfig], Mapping[str, tuple[int, ...]]] = lambda config: {}
    remarks: Callable[[Mapping[str, Any]], tuple[str, ...]] = lambda hf: ()
    other_role: Mapping[Role, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    generation: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    old_generation: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda hf: {}
    whole: Whole | None = None

    def from_hf(self, hf: Mapping[str, Any]) -> StackConfig:
        """Read a Hugging Face config. Attributes that nothing is known of are left to `unknown`.

        Raises:
            ValueError: an attribute has a value that is not supported.
        """
        try:
            attributes = self._attributes(hf)
            if attributes["is_decoder"] and "decoder" not in self.architectures:
                raise ValueError("is_decoder is true, but models of this family can only be encoders; set it to false")
            return self.read(attributes)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"the {self.model_type} config cannot be used: {error}") from None

    def to_hf(self, config: StackConfig, role: Role) -> dict[str, Any]:
        """Write a Hugging Face config that reads back as the same `StackConfig`.

        Raises:
            ValueError: the format cannot express the config; the message names the field.
        """
        written = {"model_type": self.model_type, **_common(config, role), **self.write(config)}
        if self.whole is not None:
            written["is_encoder_decoder"] = False
        again = self.from_hf(written)
        if again != config:
            differing = [
                f"{field.name} = {getattr(config, field.name)!r} (it would read back as {getattr(again, field.name)!r})"
                for field in dataclasses.fields(config)
                if getattr(config, field.name) != getattr(again, field.name)
            ]
            raise ValueError(
                f"a {self.model_type} config.json cannot express {'; '.join(differing)}. Change that, or keep the "
                "arrays with equinox.tree_serialise_leaves, which needs no format."
            )
        return written

    def handles(self, name: str) -> bool:
        """Whether an attribute of this name has an effect."""
        return self.spellings.get(name, name) in {**COMMON, **self.attributes}

    def unknown(self, hf: Mapping[str, Any]) -> dict[str, Any]:
        """The attributes of a config that nothing is known of."""
        known = {*COMMON, *self.attributes, *self.spellings, *self.fixed, *FIXED, *self.ignored, *IGNORED}
        return {name: value for name, value in hf.items() if name not in known}

    def unused_attributes(self, hf: Mapping[str, Any]) -> dict[str, Any]:
        """The attributes of a config that reading it does not use, to be written back on saving."""
        skipped = self.other_role.get("decoder" if hf.get("is_decoder") else "encoder", ())
        kept = {name: value for name, value in hf.items() if name in self.ignored or name in skipped}
        kept |= {name: value for name, value in hf.items() if name in IGNORED and name not in OF_THE_FILE}
        return kept | self.unknown(hf)

    def generation_options(self, hf: Mapping[str, Any]) -> dict[str, Any]:
        """What a config says about generating, its class's defaults included; null where it says "none"."""
        said = {**self.generation, **{name: value for name, value in hf.items() if name in GENERATION}}
        old = self.old_generation({**COMMON, **self.attributes, **hf})
        return said | {name: value for name, value in old.items() if said.get(name) is None}

    def table(self, config: StackConfig, role: Role) -> NameTable:
        """The name table of one model.

        Args:
            config: the model's config.
            role: `"encoder"`, or `"decoder"` with a language-model head.
        """
        if role not in self.architectures:
            raise ValueError(f"{self.model_type} models cannot be {role}s; expected {', '.join(self.architectures)}.")
        present = config if config.cross_attention else _with_cross(config)
        before = self.prefixes[role][0] if role == "decoder" else ""
        groups = {
            "base": _prefixed(before, self._rows(config, "base") + self._layers(config, "layer")),
            "cross": _prefixed(before, self._layers(present, "cross")),
            "pooler": _prefixed(before, self._rows(present, "pooler")),
            "head": self._rows(config, "head") if role == "decoder" else self.rows.get("head", ()),
        }
        kept = ("base", *(("head",) if role == "decoder" else ()), *(("pooler",) if config.pooler else ()))
        kept += ("cross",) if config.cross_attention else ()
        untied = config.head is not None and not config.head.tied
        duplicates = dict(self.duplicates)
        if role == "decoder" and not untied:
            duplicates[self.tied_copy[0]] = self.tied_copy[1]
        absent = [(group, row) for group, rows in groups.items() if group not in kept for row in rows]
        return NameTable(
            groups={group: groups[group] for group in kept if groups[group]},
            scopes=tuple(("", prefix) for prefix in self.prefixes[role]),
            duplicates=duplicates,
            settings={self.tied_copy[0]: "tie_word_embeddings"} if role == "decoder" and not untied else {},
            unused=tuple(("", pattern, reason) for pattern, reason in self.unused)
            + tuple(("", _literal(_bare(row[1], self.prefixes[role])), _WHY_ABSENT[group]) for group, row in absent),
            computed=self._computed(config),
            buffers={f"{before}.{name}" if before else name: shape for name, shape in self.buffers(config).items()},
        )

    def _computed(self, config: StackConfig) -> dict[str, tuple[Callable[[], np.ndarray], bool]]:
        """Arrays that a file may lack: how they are made, and whether they are written even so."""
        makers = {
            "embeddings.positions.weight": lambda: constant_positions(config),
            "head.bias": lambda: np.zeros((config.vocab_size,), np.float32),
        }
        constant = {
            "embeddings.positions.weight": config.positions.kind != "learned",
            "head.bias": config.head is not None and config.head.fixed_bias,
        }
        return {ours: (makers[ours], written) for ours, written in self.optional.items() if constant[ours]}

    def _rows(self, config: StackConfig, group: str) -> tuple[Row, ...]:
        return tuple(row for row in self.rows.get(group, ()) if _has(config, row[0]))

    def _layers(self, config: StackConfig, group: str) -> tuple[Row, ...]:
        distinct = schedule(config.layers)
        first = [distinct.index(number) for number in range(max(distinct) + 1)]
        rows = self._rows(config, group)
        return tuple(
            (f"stack.blocks.{i}.{ours}", f"{self._layer(i, config)}.{theirs}", transform)
            for i, at in enumerate(first)
            if group != "cross" or config.layers[at].cross_attention
            for ours, theirs, transform in rows
        )

    def _layer(self, i: int, config: StackConfig) -> str:
        return self.layer.format(i=i) if isinstance(self.layer, str) else self.layer(i, config)

    def _attributes(self, hf: Mapping[str, Any]) -> dict[str, Any]:
        result = {**COMMON, **self.attributes}
        for name, value in hf.items():
            own = self.spellings.get(name, name)
            if own != name and own in hf and hf[own] != value:
                raise ValueError(
                    f"{name!r} is {quoted(value)} and {own!r} is {quoted(hf[own])}, two names of one attribute; "
                    "expected one of them"
                )
            if own in result:
                check_kind(name, value, result[own])
                result[own] = float(value) if isinstance(result[own], float) and value is not None else value
            elif name in self.fixed or (name in FIXED and name not in self.ignored):
                allowed, why = {**FIXED, **self.fixed}[name]
                if not at_fixed(value, allowed):
                    raise ValueError(f"attribute {name!r} is {quoted(value)}; expected {allowed!r}: {why}")
        if isinstance(result["eos_token_id"], list):
            result["eos_token_id"] = tuple(result["eos_token_id"])
        return result


def _common(config: StackConfig, role: Role) -> dict[str, Any]:
    eos = config.eos_token_id
    return {
        "is_decoder": role == "decoder",
        "add_cross_attention": config.cross_attention,
        "cross_attention_hidden_size": config.cross_attention_hidden_size,
        "tie_word_embeddings": config.head is None or config.head.tied,
        **tokens(dataclasses.asdict(config)),
        "eos_token_id": list(eos) if isinstance(eos, tuple) else eos,
    }


def _has(config: StackConfig, ours: str) -> bool:
    """Whether a model of this config has the array that a row fills."""
    parts = {
        r"embeddings\.norm\..*": config.embeddings.norm,
        r"embeddings\.projection\..*": config.embeddings.projection,
        r"embeddings\.token_types\..*": config.embeddings.token_type_size > 0,
        r"embeddings\.task_types\..*": config.embeddings.task_type_size > 0,
        r"stack\.shared\.final_norm\..*": config.norm.final,
        r"stack\.shared\.relative_bias\..*": config.attention.relative_bias is not None,
        r"self_attention\.distances\..*": config.attention.relative_positions != "none",
        r"(self_attention\.qkv|cross_attention\.(q|kv))\.bias": config.attention.qkv_bias,
        r"head\.projection\..*": config.head is not None and not config.head.tied,
    }
    return all(present for pattern, present in parts.items() if re.fullmatch(pattern, ours))


def _with_cross(config: StackConfig) -> StackConfig:
    return config.replace(layers=tuple(dataclasses.replace(layer, cross_attention=True) for layer in config.layers))


def _prefixed(prefix: str, rows: tuple[Row, ...]) -> tuple[Row, ...]:
    return tuple((ours, f"{prefix}.{theirs}", transform) for ours, theirs, transform in rows) if prefix else rows


def _bare(name: str, prefixes: tuple[str, ...]) -> str:
    """The name without the prefix of the base model, as names are compared."""
    return next((name[len(prefix) + 1 :] for prefix in prefixes if name.startswith(f"{prefix}.")), name)


def _literal(name: str) -> str:
    return name.replace(".", r"\.")
