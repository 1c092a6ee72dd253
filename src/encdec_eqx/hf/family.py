"""What a family is: how its Hugging Face config reads and writes, and the names of its tensors.

A config's attribute is handled (it has a row), ignored for a reason (every family's are in `ignored.IGNORED`), or
allowed only at one value (`attributes.FIXED`). Of anything else nothing is known: it is left out of the model, kept for
saving, and named by whoever loads (`Family.unknown`).
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import equinox as eqx
import jax
import numpy as np

from .._quoting import quoted
from .._trees import path_name
from ..config import SINUSOIDS, LayerSpec, StackConfig, with_cross_layers
from ..heads import LMHead
from ..inputs.tokens import Embeddings, constant_positions
from ..layers.linear import Linear
from ..stack.unrolled import UnrolledStack, schedule
from .attributes import (
    COMMON,
    FIXED,
    Attribute,
    at_fixed,
    check_kind,
    defaults,
    differing_fields,
    read_rows,
    write_rows,
)
from .attributes import Role as Role
from .ignored import GENERATION, IGNORED, OF_THE_FILE
from .names import GATE, NameTable, Row
from .transforms import How

WHY_ABSENT = {
    "cross": "cross-attention, which this model does not have",
    "pooler": "the pooler, which a decoder does not have",
    "head": "the language-model head, which an encoder does not have",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Whole:
    """How one checkpoint holds an encoder and a decoder of the same family.

    Attributes:
        architecture: torch's class, as a saved config names it.
        base: what stands in front of the names of torch's base model, which both pieces are parts of.
        unused: patterns of tensors that are not used, and why.
        saves_positions: whether torch's class writes constant tables of positions.
        shared: whether the pieces share one embedding matrix, by the attributes of the config.
        write: attributes that describe neither piece alone, from both configs and whether they share.
    """

    architecture: str
    base: str = "model."
    unused: tuple[tuple[str, str], ...] = ()
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
        config_rows: the attributes that are handled; those of `attributes.COMMON` need no mention.
        constants: what the family fixes whatever the config says, by its path in `StackConfig`.
        parts: classes of parts, by their paths, where they are not those of `attributes.PARTS`.
        finish: what is not a row, from the config that the rows make and all attributes.
        ignored: attributes of this family that change no number of a model, and why.
        fixed: attributes of this family that are accepted only at the value given, and why.
        spellings: other names of handled attributes.
        when_new: attributes to write for a model that came from no file, as torch's defaults would mean another one.
        layer: the checkpoint's name of the n-th distinct layer, as a pattern with `{i}` or a function of n and the
            config.
        rows: groups of rows `(ours, theirs, transform)`: `base`, `layer` (below one layer), `cross` (likewise),
            `pooler`, `head`. A row counts only if a model of the config has the array, and only in the role that stands
            as its fourth element, if one does. Name and transform may be functions of the config; where the second
            returns several transforms, each is of a tensor of its own, whose number in the name is `{k}`.
        optional: paths of ours that a file may lack, because they are constants (sinusoids) or may be empty (a fixed
            bias), to whether a piece writes them even so.
        buffers: tensors that nothing reads but torch's class expects, and their shapes, by the config.
        unused: patterns of tensors that are not used, and why.
        duplicates: a tensor that repeats another in some files, and the one that it repeats.
        tied_copy: names of the output and the embedding matrix; files with tied weights may hold either.
        remarks: what a user should know of a config that is read, one sentence each.
        generation: defaults of torch's config class for generating.
        old_generation: what a config says about generating in words of older versions, in today's; it counts where
            today's are absent or null.
        whole: how checkpoints hold encoder and decoder together, if the family has such.
    """

    model_type: str
    architectures: Mapping[Role, str]
    prefixes: Mapping[Role, tuple[str, ...]]
    config_rows: tuple[Attribute, ...]
    ignored: Mapping[str, str]
    layer: str | Callable[[int, StackConfig], str]
    rows: Mapping[str, tuple[tuple[Any, ...], ...]]
    unused: tuple[tuple[str, str], ...]
    duplicates: Mapping[str, str]
    tied_copy: tuple[str, str]
    constants: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    parts: Mapping[str, Callable[..., Any]] = dataclasses.field(default_factory=dict)
    finish: Callable[[StackConfig, Mapping[str, Any]], StackConfig] = lambda config, hf: config
    spellings: Mapping[str, str] = dataclasses.field(default_factory=dict)
    when_new: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    fixed: Mapping[str, tuple[Any, str]] = dataclasses.field(default_factory=dict)
    optional: Mapping[str, bool] = dataclasses.field(default_factory=dict)
    buffers: Callable[[StackConfig], Mapping[str, tuple[int, ...]]] = lambda config: {}
    remarks: Callable[[Mapping[str, Any]], tuple[str, ...]] = lambda hf: ()
    generation: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    old_generation: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda hf: {}
    whole: Whole | None = None

    @functools.cached_property
    def attributes(self) -> Mapping[str, Any]:
        """The family's own attributes that are handled, and those of all families with a default of its own."""
        common = defaults(COMMON)
        own = defaults(self.config_rows)
        return {name: default for name, default in own.items() if name not in common or default != common[name]}

    @functools.cached_property
    def other_role(self) -> Mapping[Role, tuple[str, ...]]:
        """Attributes that only one role reads, by the role that does not."""
        roles: dict[Role, Role] = {"encoder": "decoder", "decoder": "encoder"}
        return {role: tuple(row.theirs for row in self.config_rows if row.role == roles[role]) for role in roles}

    def from_hf(self, hf: Mapping[str, Any]) -> StackConfig:
        """Read a Hugging Face config. Attributes that nothing is known of are left to `unknown`.

        Raises:
            ValueError: an attribute has a value that is not supported.
        """
        try:
            values = self._values(hf)
            if values["is_decoder"] and "decoder" not in self.architectures:
                raise ValueError("is_decoder is true, but models of this family can only be encoders; set it to false")
            rows = (*COMMON, *self.config_rows)
            return _crossing(self.finish(read_rows(rows, values, self.constants, self.parts), values), values)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"the {self.model_type} config cannot be used: {error}") from None

    def to_hf(self, config: StackConfig, role: Role) -> dict[str, Any]:
        """Write a Hugging Face config that reads back as the same `StackConfig`.

        Raises:
            ValueError: the format cannot express the config; the message names the field.
        """
        written = write_rows((*COMMON, *self.config_rows), config)
        written |= {"model_type": self.model_type, "is_decoder": role == "decoder"}
        if self.whole is not None:
            written["is_encoder_decoder"] = False
        again = self.from_hf(written)
        if again != config:
            lost = [
                f"{name} = {getattr(config, name)!r} (it would read back as {getattr(again, name)!r})"
                for name in differing_fields(config, again)
            ]
            raise ValueError(
                f"a {self.model_type} config.json cannot express {'; '.join(lost)}. Change that, or keep the "
                "arrays with equinox.tree_serialise_leaves, which needs no format."
            )
        return written

    def handles(self, name: str) -> bool:
        """Whether an attribute of this name has an effect."""
        return self.spellings.get(name, name) in self._defaults

    def unknown(self, hf: Mapping[str, Any]) -> dict[str, Any]:
        """The attributes of a config that nothing is known of."""
        known = {*self._defaults, *self.spellings, *self.fixed, *FIXED, *self.ignored, *IGNORED}
        return {name: value for name, value in hf.items() if name not in known}

    def unused_attributes(self, hf: Mapping[str, Any]) -> dict[str, Any]:
        """The attributes of a config that reading it does not use, to be written back on saving."""
        skipped = self.other_role["decoder" if hf.get("is_decoder") else "encoder"]
        kept = {name: value for name, value in hf.items() if name in self.ignored or name in skipped}
        kept |= {name: value for name, value in hf.items() if name in IGNORED and name not in OF_THE_FILE}
        return kept | self.unknown(hf)

    def generation_options(self, hf: Mapping[str, Any]) -> dict[str, Any]:
        """What a config says about generating, its class's defaults included; null where it says "none"."""
        said = {**self.generation, **{name: value for name, value in hf.items() if name in GENERATION}}
        old = self.old_generation({**self._defaults, **hf})
        return said | {name: value for name, value in old.items() if said.get(name) is None}

    def table(self, config: StackConfig, role: Role) -> NameTable:
        """The name table of one model: of an encoder, or of a decoder with its language-model head."""
        if role not in self.architectures:
            raise ValueError(f"{self.model_type} models cannot be {role}s; expected {', '.join(self.architectures)}.")
        before, prefixes = self.prefixes[role][0] if role == "decoder" else "", self.prefixes[role]
        present = {
            "base": _prefixed(before, [*self._rows(config, role, "base"), *self._layers(config, role, "layer")]),
            "head": tuple(self._rows(config, role, "head")),
            "pooler": _prefixed(before, self._rows(config, role, "pooler")),
            "cross": _prefixed(before, self._layers(config, role, "cross")),
        }
        absent = {
            "head": [] if role == "decoder" else self.rows.get("head", ()),
            "pooler": [] if config.pooler else self.rows.get("pooler", ()),
            "cross": [] if config.cross_attention else self._layers(config, role, "cross", absent=True),
        }
        duplicates, tied = dict(self.duplicates), role == "decoder" and (config.head is None or config.head.tied)
        if tied:
            duplicates[self.tied_copy[0]] = self.tied_copy[1]
        return NameTable(
            groups={group: rows for group, rows in present.items() if rows},
            scopes=tuple(("", prefix) for prefix in sorted(prefixes, key=len, reverse=True)),
            duplicates=duplicates,
            settings={self.tied_copy[0]: "tie_word_embeddings"} if tied else {},
            unused=tuple(("", pattern, reason) for pattern, reason in self.unused)
            + tuple(
                ("", _bare(row[1], prefixes).replace(".", r"\."), WHY_ABSENT[group])
                for group, rows in absent.items()
                for row in rows
            ),
            computed=self._computed(config),
            buffers={f"{before}.{name}" if before else name: shape for name, shape in self.buffers(config).items()},
        )

    @functools.cached_property
    def _defaults(self) -> Mapping[str, Any]:
        return {**defaults(COMMON), **defaults(self.config_rows)}

    def _values(self, hf: Mapping[str, Any]) -> dict[str, Any]:
        """All attributes, the absent ones at their defaults, each of its kind."""
        result = dict(self._defaults)
        kinds = {row.theirs: row.kinds for row in self.config_rows if row.kinds}
        for name, value in hf.items():
            own = self.spellings.get(name, name)
            if own != name and own in hf and hf[own] != value:
                raise ValueError(
                    f"{name!r} is {quoted(value)} and {own!r} is {quoted(hf[own])}, two names of one attribute; "
                    "expected one of them"
                )
            if own in result:
                check_kind(name, value, self._defaults[own], kinds.get(own))
                result[own] = float(value) if isinstance(result[own], float) and value is not None else value
            elif name in self.fixed or (name in FIXED and name not in self.ignored):
                allowed, why = {**FIXED, **self.fixed}[name]
                if not at_fixed(value, allowed):
                    raise ValueError(f"attribute {name!r} is {quoted(value)}; expected {allowed!r}: {why}")
        return result

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

    def _rows(self, config: StackConfig, role: Role, group: str) -> Iterator[Row]:
        """The rows of a group whose arrays a model has."""
        present = arrays(_one_of_each_kind(config), role)
        return (row for row in _of_role(self.rows.get(group, ()), role, config) if row[0] in present)

    def _layers(self, config: StackConfig, role: Role, group: str, *, absent: bool = False) -> Iterator[Row]:
        """The rows of a group below each layer: those whose arrays it has, or all of them."""
        distinct = schedule(config.layers)
        kinds = _kinds(config)
        present = arrays(_one_of_each_kind(config), role)
        rows = tuple(_of_role(self.rows.get(group, ()), role, config))
        if group == "cross" and GATE not in rows:
            rows += (GATE,)
        for i in range(max(distinct) + 1):
            kind = kinds.index(_kind(config.layers[distinct.index(i)]))
            layer = self.layer.format(i=i) if isinstance(self.layer, str) else self.layer(i, config)
            for ours, theirs, transform in rows:
                if absent or f"stack.blocks.{kind}.{ours}" in present:
                    yield f"stack.blocks.{i}.{ours}", f"{layer}.{theirs}", transform


def _crossing(config: StackConfig, values: Mapping[str, Any]) -> StackConfig:
    """The config with cross-attention as the attributes say that it was grafted."""
    every, kind = values["cross_attention_every"], values["cross_attention_kind"]
    if not (values["is_decoder"] and config.cross_attention) or (every, kind) == (1, "sublayer"):
        return config
    return with_cross_layers(config, every, kind)


@functools.lru_cache(maxsize=256)
def arrays(config: StackConfig, role: Role) -> frozenset[str]:
    """The names of a model's arrays: nothing is computed, its parts are only traced."""
    key = jax.random.key(0)

    def build() -> dict[str, Any]:
        parts: dict[str, Any] = {"embeddings": Embeddings.init(config, key=key)}
        parts["stack"] = UnrolledStack.init(config, key=key)
        parts["head"] = LMHead.init(config, key=key) if role == "decoder" else None
        parts["pooler"] = Linear.init(1, 1, scale=1.0, key=key) if config.pooler else None
        return parts

    leaves, _ = jax.tree_util.tree_flatten_with_path(eqx.filter_eval_shape(build))
    return frozenset(path_name(path) for path, _ in leaves)


def _one_of_each_kind(config: StackConfig) -> StackConfig:
    """A config whose models have the same kinds of arrays in few layers, and no tables that would be computed."""
    positions = config.positions
    if positions.kind in SINUSOIDS:
        positions = dataclasses.replace(positions, kind="learned")
    return config.replace(layers=_kinds(config), positions=positions)


def _kinds(config: StackConfig) -> tuple[LayerSpec, ...]:
    return tuple(dict.fromkeys(map(_kind, config.layers)))


def _kind(layer: LayerSpec) -> LayerSpec:
    """What decides which arrays a layer has."""
    return dataclasses.replace(layer, weights=None, score_scale=None, hidden_state=True)


def _of_role(rows: tuple[tuple[Any, ...], ...], role: Role, config: StackConfig) -> Iterator[Row]:
    for ours, theirs, transform, *only in rows:
        if only not in ([], [role]):
            continue
        name = theirs if isinstance(theirs, str) else theirs(config)
        how = transform if isinstance(transform, How) else transform(config)
        if isinstance(how, tuple):
            yield from ((ours, name.format(k=k), part) for k, part in enumerate(how))
        else:
            yield ours, name, how


def _prefixed(prefix: str, rows: Iterator[Row] | list[Row]) -> tuple[Row, ...]:
    return tuple((ours, f"{prefix}.{theirs}" if prefix else theirs, transform) for ours, theirs, transform in rows)


def _bare(name: str, prefixes: tuple[str, ...]) -> str:
    """The name without the prefix of the base model, as names are compared."""
    return next((name[len(prefix) + 1 :] for prefix in prefixes if name.startswith(f"{prefix}.")), name)
