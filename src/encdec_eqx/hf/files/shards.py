"""How tensors are spread over files of limited size, as transformers spreads them, with an index beside them."""

import dataclasses
import math
import operator
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..._quoting import quoted
from .safetensors_file import Tensor

DEFAULT_SIZE = "5GB"
"""The largest file that is written by default: transformers' default (4.57)."""

_UNITS = {
    **{unit: 1000**power for power, unit in enumerate(("KB", "MB", "GB", "TB"), start=1)},
    **{unit: 1024**power for power, unit in enumerate(("KIB", "MIB", "GIB", "TIB"), start=1)},
}
_SIZE = re.compile(r"\s*(\d{1,15}(?:\.\d{1,15})?)\s*([A-Za-z]{2,3})\s*")


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which tensors go into which file.

    Attributes:
        files: name of each file to its tensors.
        index: content of the index, if there are several files.
    """

    files: dict[str, list[Tensor]]
    index: dict[str, Any] | None


def size_in_bytes(max_shard_size: int | str) -> int:
    """The number of bytes that `"5GB"` or the like says.

    Args:
        max_shard_size: a number of bytes, or one with a unit: KB, MB, GB, TB (powers of 1000) or KiB, MiB, GiB, TiB
            (of 1024), in letters of either case.

    Raises:
        TypeError: it is neither an integer nor a string.
        ValueError: it is not above zero, or a string that says no size.
    """
    expected = "expected a number of bytes, or a string such as '5GB' or '200MB' (units: KB, MB, GB, TB, KiB, MiB, ...)"
    if isinstance(max_shard_size, str):
        found = _SIZE.fullmatch(max_shard_size)
        unit = _UNITS.get(found[2].upper()) if found is not None else None
        if found is None or unit is None:
            raise ValueError(f"max_shard_size is {quoted(max_shard_size)}; {expected}.")
        size = int(float(found[1]) * unit)
    else:
        try:
            size = operator.index(max_shard_size)
        except TypeError:
            size = None
        if size is None or isinstance(max_shard_size, bool):
            raise TypeError(f"max_shard_size is {quoted(max_shard_size)}; {expected}.")
    if size < 1:
        raise ValueError(f"max_shard_size is {quoted(max_shard_size)}, which no file can keep to; {expected}.")
    return size


def layout(tensors: Iterable[Tensor], weights: str, limit: int) -> Layout:
    """Spread tensors over files, in their order; one that is larger than the limit has a file of its own.

    Args:
        tensors: what is to be written.
        weights: name of the file if one is enough, `model.safetensors`. Several are
            `model-00001-of-00002.safetensors`, ..., and the index `model.safetensors.index.json`.
        limit: most bytes of tensors in a file.
    """
    shards: list[list[Tensor]] = []
    current: list[Tensor] = []
    room, total = limit, 0
    for tensor in tensors:
        size = math.prod(tensor[1]) * tensor[2].itemsize
        total += size
        if size > limit:
            shards.append([tensor])
            continue
        if size > room:
            shards.append(current)
            current, room = [], limit
        current.append(tensor)
        room -= size
    shards += [current] if current or not shards else []
    if len(shards) == 1:
        return Layout({weights: shards[0]}, None)
    stem, suffix = weights.removesuffix(".safetensors"), Path(weights).suffix
    files = {f"{stem}-{at:05d}-of-{len(shards):05d}{suffix}": shard for at, shard in enumerate(shards, start=1)}
    weight_map = {tensor[0]: name for name, shard in files.items() for tensor in shard}
    return Layout(files, {"metadata": {"total_size": total}, "weight_map": weight_map})


def index_name(weights: str) -> str:
    """The index of the shards that stand for a file of weights."""
    return f"{weights}.index.json"


def files_of(weights: str, folder: Path) -> set[Path]:
    """The files in a folder that hold weights under this name: one file, or an index and shards."""
    shards = folder.glob(f"{weights.removesuffix('.safetensors')}-*-of-*.safetensors")
    return {path for path in (folder / weights, folder / index_name(weights), *shards) if path.is_file()}
