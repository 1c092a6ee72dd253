"""Name tables: which tensor of a checkpoint fills which array of ours. One table serves loading and saving.

Names are compared in one canonical spelling: old names of norms renewed, the base model's prefix (`bert.`,
`transformer.`) taken off. A model that stood inside another when it was saved has names with a part more:
`torch.nn.DataParallel` puts `module.` in front, `torch.compile` `_orig_mod.`, Lightning the attribute's name, and they
nest; FSDP and activation checkpointing put theirs in the middle.
"""

import dataclasses
import functools
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from .._quoting import quoted
from ..config import StackConfig
from .files.folder import Tensors
from .transforms import Fused, How

Row = tuple[str, str, How]
"""The path of our array, the checkpoint's name, and the name of a transform."""

_LEGACY = ((re.compile(r"LayerNorm\.gamma$"), "LayerNorm.weight"), (re.compile(r"LayerNorm\.beta$"), "LayerNorm.bias"))

_INSIDE = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Attributes by which torch's wrappers hold what they wrap, wherever they are in a name: no model has such parts."""

_DEEPEST = 6
"""Most wrappers around each other that are looked through."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NameTable:
    """The rows of one model, and what else its checkpoints may hold.

    Attributes:
        groups: rows by the part of the model that they fill, which is present or absent as a whole.
        scopes: prefix of names and the base model's prefix below it, which files may have or lack.
        duplicates: canonical name of a second copy to the canonical name that it copies.
        equal_copies: those of the duplicates that must be equal to what they copy: torch would use them as they are.
        settings: canonical name of a second copy to the attribute of the config that makes it one.
        unused: prefix, pattern of what follows it, and why such a tensor is not used.
        buffers: tensors that nothing reads but torch expects, and their shapes; written as zeros.
        computed: paths of ours that a file may lack: how they are made then, and whether they are written even if they
            are as they would be made.
    """

    groups: Mapping[str, tuple[Row, ...]]
    scopes: tuple[tuple[str, str], ...] = ()
    duplicates: Mapping[str, str] = dataclasses.field(default_factory=dict)
    unused: tuple[tuple[str, str, str], ...] = ()
    computed: Mapping[str, tuple[Callable[[], np.ndarray], bool]] = dataclasses.field(default_factory=dict)
    equal_copies: tuple[str, ...] = ()
    buffers: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    settings: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def rows(self) -> Iterator[tuple[str, Row]]:
        """Every row, with the name of its group."""
        for group, rows in self.groups.items():
            for row in rows:
                yield group, row

    def canonical(self, name: str) -> str:
        """The one spelling under which a checkpoint's name is compared."""
        for pattern, new in _LEGACY:
            name = pattern.sub(new, name)
        for prefix, base in self.scopes:
            if base and name.startswith(f"{prefix}{base}."):
                return prefix + name[len(f"{prefix}{base}.") :]
        return name

    def why_unused(self, canonical: str) -> str | None:
        """Why a tensor of this name is not used, or None if nothing is known of it."""
        if canonical in self._unread:
            return "a buffer that nothing reads"
        literal, patterns = self._reasons
        if canonical in literal:
            return literal[canonical]
        return next((reason for pattern, reason in patterns if pattern.fullmatch(canonical)), None)

    @functools.cached_property
    def _unread(self) -> frozenset[str]:
        return frozenset(map(self.canonical, self.buffers))

    @functools.cached_property
    def _reasons(self) -> tuple[dict[str, str], list[tuple[re.Pattern[str], str]]]:
        """Why names are not used, by the name where the pattern is one: a file may have more than anyone would want."""
        literal: dict[str, str] = {}
        patterns = []
        for prefix, pattern, reason in self.unused:
            plain = pattern.replace(r"\.", ".")
            if re.escape(plain) == pattern:
                literal.setdefault(prefix + plain, reason)
            else:
                patterns.append((re.compile(re.escape(prefix) + f"(?:{pattern})"), reason))
        return literal, patterns

    def under(self, prefix: str) -> "NameTable":
        """The same table for a model that holds this one as the field, and the checkpoint's part, `prefix`."""
        dot = prefix + "."
        return NameTable(
            groups={
                f"{prefix} {group}": tuple((dot + ours, dot + theirs, transform) for ours, theirs, transform in rows)
                for group, rows in self.groups.items()
            },
            computed={dot + ours: how for ours, how in self.computed.items()},
            buffers={dot + name: shape for name, shape in self.buffers.items()},
            scopes=tuple((dot + scope, base) for scope, base in self.scopes),
            duplicates={dot + copy: dot + name for copy, name in self.duplicates.items()},
            settings={dot + copy: dot + name for copy, name in self.settings.items()},
            unused=tuple((dot + scope, pattern, reason) for scope, pattern, reason in self.unused),
        )


def linear(ours: str, *theirs: str, how: str = "transposed") -> tuple[Row, ...]:
    """The rows of one projection of ours, and of theirs: of several, where ours is fused from as many."""
    part = [f" part {k}" for k in range(len(theirs))] if len(theirs) > 1 else [""]
    bias = "bias" if len(theirs) > 1 else "flat"
    return tuple(
        row
        for name, k in zip(theirs, part, strict=True)
        for row in ((f"{ours}.weight", f"{name}.weight", how + k), (f"{ours}.bias", f"{name}.bias", bias + k))
    )


def projections(ours: str, q: str, k: str, v: str) -> tuple[Row, ...]:
    """The rows of attention's projections, which ours fuses where they are of one size: those of all forms it takes."""
    fused = linear(f"{ours}.qkv", q, k, v) + linear(f"{ours}.kv", k, v)
    return fused + linear(f"{ours}.q", q) + linear(f"{ours}.k", k) + linear(f"{ours}.v", v)


def fused_projections(ours: str, theirs: str) -> tuple[tuple[str, str, Callable[[StackConfig], Fused]], ...]:
    """The rows of attention's projections in all forms, where files hold them as one tensor.

    Its rows go by key-value heads: the queries that a head serves, its key, its value.
    """
    return tuple(
        row
        for part, name in enumerate("qkv")
        for leaf, how in (("weight", "transposed"), ("bias", "flat"))
        for row in (
            (
                f"{ours}.qkv.{leaf}",
                f"{theirs}.{leaf}",
                _by_head(f"{'bias' if leaf == 'bias' else how} part {part}", part),
            ),
            (f"{ours}.{name}.{leaf}", f"{theirs}.{leaf}", _by_head(how, part)),
        )
    )


def _by_head(how: str, part: int) -> Callable[[StackConfig], Fused]:
    """A part of such a tensor, by the config's heads."""

    def fused(config: StackConfig) -> Fused:
        heads, kv_heads = config.attention.num_heads, config.attention.kv_heads
        return Fused(how, kv_heads, (heads // kv_heads, 1, 1), config.attention.head_dim, part)

    return fused


def norm(ours: str, theirs: str) -> tuple[Row, ...]:
    """The rows of a norm; that of a bias counts only if it has one."""
    return tuple((f"{ours}.{leaf}", f"{theirs}.{leaf}", "same") for leaf in ("weight", "bias"))


def fused_gate(ours: str, theirs: str) -> tuple[tuple[str, str, Callable[[StackConfig], Fused]], ...]:
    """The rows of a gated feed-forward's way up, where files hold as one tensor what is activated, then its factor."""
    return tuple(
        (f"{ours}.{name}.{leaf}", f"{theirs}.{leaf}", _half(how, part))
        for part, name in enumerate(("gate", "up"))
        for leaf, how in (("weight", "transposed"), ("bias", "flat"))
    )


def _half(how: str, part: int) -> Callable[[StackConfig], Fused]:
    return lambda config: Fused(how, 1, (1, 1), config.feed_forward.size, part)


GATE: Row = ("cross_gate", "cross_attn_gate", "same")
"""The row of a gate on cross-attention, which every family's decoders may have."""

GRAFTED: tuple[Row, ...] = (
    *norm("cross_norm", "cross_attn_layernorm"),
    *projections("cross_attention", *(f"cross_attn.{name}_proj" for name in "qkv")),
    *linear("cross_attention.out", "cross_attn.o_proj"),
    *norm("cross_output_norm", "cross_attn_output_layernorm"),
    GATE,
)
"""The rows below a layer of cross-attention that torch's class for the family does not have; `docs/grafting.md`."""


def merge(*tables: NameTable) -> NameTable:
    """One table of several that have no name in common."""

    def joined(name: str) -> Any:
        values = [getattr(table, name) for table in tables]
        return sum(values, ()) if isinstance(values[0], tuple) else functools.reduce(operator.or_, map(dict, values))

    return NameTable(**{field.name: joined(field.name) for field in dataclasses.fields(NameTable)})


def split_tied(encoder: NameTable, decoder: NameTable) -> tuple[NameTable, dict[str, str]]:
    """Leave out of an encoder's table every tensor that has a namesake in the decoder's base model.

    This is `tie_encoder_decoder`: such a tensor is stored once, as the decoder's. The tables are under no prefix yet.

    Returns:
        The encoder's table without the tied rows, and the tied paths, the encoder's to the decoder's.
    """
    theirs = {
        (decoder.canonical(name), transform): ours
        for group, (ours, name, transform) in decoder.rows()
        if group in ("base", "pooler")
    }
    named = [(ours, (encoder.canonical(name), transform)) for _, (ours, name, transform) in encoder.rows()]
    pairs = {ours: theirs[key] for ours, key in named if key in theirs}
    groups = {group: tuple(row for row in rows if row[0] not in pairs) for group, rows in encoder.groups.items()}
    return dataclasses.replace(encoder, groups=groups), pairs


class Unwrapped:
    """The tensors of a checkpoint, under the names that they have without a wrapper: see `Tensors`."""

    def __init__(self, tensors: Tensors, names: Mapping[str, str]):
        self.path = tensors.path
        self.entries = {new: tensors.entries[old] for new, old in names.items()}
        self.read = lambda name: tensors.read(names[name])


def strip_wrappers(tensors: Tensors, table: NameTable) -> tuple[Tensors, str | None]:
    """The checkpoint without what wrappers put into its names, and a note on it; as it is if that finds no more."""
    wanted = {table.canonical(theirs) for _, (_, theirs, _) in table.rows()}
    best, note = tensors, None
    score = _found(tensors.entries, wanted, table)
    for names, what in _readings(list(tensors.entries)):
        if score == len(wanted):
            break
        if (more := _found(names, wanted, table)) > score:
            best, note, score = Unwrapped(tensors, names), what, more
    return best, note


def _found(names: Iterable[str], wanted: set[str], table: NameTable) -> int:
    return len(wanted.intersection(map(table.canonical, names)))


def _readings(names: list[str]) -> Iterator[tuple[dict[str, str], str]]:
    """Other readings of the names, new to old: without wrappers' parts, then without each prefix that most share."""
    current = {name: name for name in names}
    inside = sorted({part for name in names for part in name.split(".") if part in _INSIDE})
    without = {".".join(part for part in name.split(".") if part not in _INSIDE): name for name in names}
    told = f"names were read without {' and '.join(map(repr, inside))}, which a wrapper around the model put into them"
    if inside and len(without) == len(names):
        current = without
        yield current, told
    prefix = ""
    for _ in range(_DEEPEST):
        first = Counter(name.partition(".")[0] for name in current if "." in name)
        if not first:
            return
        component = f"{first.most_common(1)[0][0]}."
        prefix += component
        shorter = {name.removeprefix(component): old for name, old in current.items()}
        if len(shorter) < len(current):
            return
        current = shorter
        also = f"; {told}" if inside and len(without) == len(names) else ""
        yield current, f"names stand behind {quoted(prefix)}, which was left out{also}"
