"""Checkpoints of a model that stood inside another when it was saved: every name has a part more.

`torch.nn.DataParallel` puts `module.` in front, `torch.compile` `_orig_mod.`, Lightning the attribute's name, and they
nest; FSDP and activation checkpointing put theirs in the middle. Knows names only, and no family.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from ..._quoting import quoted
from ..names import NameTable
from .folder import Tensors
from .safetensors_file import Entry

_INSIDE = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Attributes by which torch's wrappers hold what they wrap, wherever they are in a name: no model has such parts."""

_DEEPEST = 6
"""Most wrappers around each other that are looked through."""


class Unwrapped:
    """The tensors of a checkpoint, under the names that they have without a wrapper.

    Attributes:
        path: as of the checkpoint.
        entries: by the names without it.
        note: what was left out of the names, for the report.
    """

    def __init__(self, tensors: Tensors, names: Mapping[str, str], note: str):
        self.path: Path = tensors.path
        self.entries: Mapping[str, Entry] = {new: tensors.entries[old] for new, old in names.items()}
        self.note = note
        self._tensors, self._names = tensors, names

    def read(self, name: str) -> np.ndarray:
        """One tensor, by its name without the wrapper."""
        return self._tensors.read(self._names[name])


def unwrapped(tensors: Tensors, table: NameTable) -> tuple[Tensors, str | None]:
    """The checkpoint without what wrappers put into its names, and a note on it; as it is if that finds no more.

    Args:
        tensors: the checkpoint.
        table: rows of the model.
    """
    wanted = {table.canonical(theirs) for _, (_, theirs, _) in table.rows()}
    best, note = tensors, None
    score = _found(tensors.entries, wanted, table)
    for names, what in _readings(list(tensors.entries)):
        if score == len(wanted):
            break
        if (more := _found(names, wanted, table)) > score:
            best, note, score = Unwrapped(tensors, names, what), what, more
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
