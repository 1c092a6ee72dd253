"""Name tables: which tensor of a checkpoint fills which array of ours. One table serves loading and saving.

Knows nothing of any family (the families hand their tables in) and of no file. Names are compared in one canonical
spelling: old names of norms renewed, the base model's prefix (`bert.`, `transformer.`) taken off.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Mapping

import numpy as np

Row = tuple[str, str, str]
"""The path of our array, the checkpoint's name, and the name of a transform."""

_LEGACY = ((re.compile(r"LayerNorm\.gamma$"), "LayerNorm.weight"), (re.compile(r"LayerNorm\.beta$"), "LayerNorm.bias"))


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
    scopes: tuple[tuple[str, str], ...]
    duplicates: Mapping[str, str]
    unused: tuple[tuple[str, str, str], ...]
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


def merged(*tables: NameTable) -> NameTable:
    """One table of several that have no name in common."""
    return NameTable(
        groups={group: rows for table in tables for group, rows in table.groups.items()},
        scopes=tuple(scope for table in tables for scope in table.scopes),
        duplicates={copy: name for table in tables for copy, name in table.duplicates.items()},
        settings={copy: name for table in tables for copy, name in table.settings.items()},
        unused=tuple(item for table in tables for item in table.unused),
        computed={ours: how for table in tables for ours, how in table.computed.items()},
        buffers={name: shape for table in tables for name, shape in table.buffers.items()},
    )


def tied(encoder: NameTable, decoder: NameTable) -> tuple[NameTable, dict[str, str]]:
    """Leave out of an encoder's table every tensor that has a namesake in the decoder's base model.

    This is `tie_encoder_decoder`: such a tensor is stored once, as the decoder's.

    Args:
        encoder: the encoder's table, not yet under a prefix.
        decoder: the decoder's, likewise.

    Returns:
        The encoder's table without the tied rows, and the tied paths: the encoder's to the decoder's.
    """
    theirs = {
        (decoder.canonical(name), transform): ours
        for group, (ours, name, transform) in decoder.rows()
        if group in ("base", "pooler")
    }
    groups: dict[str, tuple[Row, ...]] = {}
    pairs: dict[str, str] = {}
    for group, rows in encoder.groups.items():
        kept = []
        for ours, name, transform in rows:
            namesake = theirs.get((encoder.canonical(name), transform))
            if namesake is None:
                kept.append((ours, name, transform))
            else:
                pairs[ours] = namesake
        groups[group] = tuple(kept)
    return dataclasses.replace(encoder, groups=groups), pairs
