"""Arrays in files: one of whole arrays, or one for each process with the blocks that it holds; read by parts.

The name of a block says where it lies: `weight[0:4,8:16]` is rows 0 to 3 and columns 8 to 15 of `weight`.
"""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ... import _processes as processes
from ...hf.files.mapped import copy_mapped
from ...hf.files.safetensors_file import SafetensorsFile, write_file

Box = tuple[tuple[int, int], ...]
"""Where a part of an array lies: its first index on each axis, and the one behind its last."""

ARRAYS = "arrays.safetensors"
"""The file of whole arrays, which one process writes."""

_PART = re.compile(r"arrays-\d{5,}-of-(\d{5,})\.safetensors")
_BLOCK = re.compile(r"(.*)\[((?:\d+:\d+(?:,\d+:\d+)*)?)\]", re.DOTALL)


def file_name() -> str:
    """The file that this process writes."""
    if processes.count() == 1:
        return ARRAYS
    return f"arrays-{processes.number() + 1:05d}-of-{processes.count():05d}.safetensors"


def block_name(name: str, box: Box) -> str:
    """What a part of an array is called in a file of blocks."""
    return f"{name}[{','.join(f'{start}:{stop}' for start, stop in box)}]"


def box_of(index: tuple[slice, ...], shape: tuple[int, ...]) -> Box:
    """A shard's index as numbers."""
    return tuple(each.indices(axis)[:2] for each, axis in zip(index, shape, strict=True))


def write(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes this process's arrays into a folder, which is made if need be."""
    folder.mkdir(exist_ok=True)
    write_file(folder / file_name(), [(name, x.shape, x.dtype, lambda x=x: x) for name, x in arrays.items()])


class StoredArrays(Mapping[str, np.ndarray]):
    """The arrays of a folder by name, read from its mapped files."""

    def __init__(self, folder: Path):
        """Opens the files.

        Raises:
            ValueError: A file is damaged.
            OSError: It is not there.
        """
        self._blocks: dict[str, list[_Block]] = {}
        for file in map(SafetensorsFile, _files(folder)):
            for stored_as, entry in file.entries.items():
                whole = stored_as, tuple((0, axis) for axis in entry.shape)
                name, box = whole if file.path.name == ARRAYS else _parsed(stored_as)
                self._blocks.setdefault(name, []).append(_Block(box, file, stored_as))

    def __getitem__(self, name: str) -> np.ndarray:
        return self.part(name, tuple((0, axis) for axis in self.shape(name)))

    def __contains__(self, name: object) -> bool:
        return name in self._blocks

    def __iter__(self) -> Iterator[str]:
        return iter(self._blocks)

    def __len__(self) -> int:
        return len(self._blocks)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of an array, as far as it is there."""
        return tuple(
            max(stop for _, stop in axis) for axis in zip(*(block.box for block in self._blocks[name]), strict=True)
        )

    def dtype(self, name: str) -> np.dtype:
        """The dtype of an array."""
        first = self._blocks[name][0]
        return first.file.entries[first.stored_as].dtype

    def is_whole(self, name: str) -> bool:
        """Whether all of an array is there."""
        return sum(_size(block.box) for block in self._blocks[name]) == math.prod(self.shape(name))

    def part(self, name: str, box: Box) -> np.ndarray:
        """A copy of a part of an array; of the files no more than a few megabytes are in memory meanwhile."""
        part = np.empty([stop - start for start, stop in box], self.dtype(name))
        for block in self._blocks[name]:
            common = _common(block.box, box)
            if common is not None:
                copy_mapped(part[_within(common, box)], block.file.read(block.stored_as)[_within(common, block.box)])
        return part


class _Block(NamedTuple):
    box: Box
    file: SafetensorsFile
    stored_as: str


def _files(folder: Path) -> list[Path]:
    parts = sorted(path for path in folder.iterdir() if _PART.fullmatch(path.name))
    return parts or [folder / ARRAYS]


def _parsed(block: str) -> tuple[str, Box]:
    found = _BLOCK.fullmatch(block)
    if found is None:
        raise ValueError(f"{block} is no name of a block, such as weight[0:4,8:16].")
    axes = (axis.split(":") for axis in found[2].split(",") if axis)
    return found[1], tuple((int(start), int(stop)) for start, stop in axes)


def _common(one: Box, other: Box) -> Box | None:
    """What lies in both, if anything does."""
    common = tuple((max(a[0], b[0]), min(a[1], b[1])) for a, b in zip(one, other, strict=True))
    return common if all(start < stop for start, stop in common) else None


def _within(box: Box, outer: Box) -> tuple[Any, ...]:
    """The index of a part in an array that holds `outer`; a view of it, also where there is no axis."""
    return (*(slice(start - at, stop - at) for (start, stop), (at, _) in zip(box, outer, strict=True)), ...)


def _size(box: Box) -> int:
    return math.prod(stop - start for start, stop in box)
