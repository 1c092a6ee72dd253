"""One `.safetensors` file: a checked header, tensors as views of the mapped file, and a writer that streams.

The format (huggingface.co/docs/safetensors): 8 bytes of header length, a JSON header, then the tensors' bytes one after
another.
"""

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from ..._json import loads
from ..._quoting import printable, quoted

MAX_HEADER = 100_000_000
"""Longest header accepted, in bytes: the limit of the safetensors library."""

MAX_AXES = 64
"""Most axes of a tensor: NumPy's limit, many times what any model has."""

_MOST_BYTES = np.iinfo(np.int64).max
"""NumPy counts in 64 bits: beyond it could not index an array, empty axes aside."""

_DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}


class Entry(NamedTuple):
    """What a file's header says of one tensor.

    Attributes:
        shape: the tensor's shape.
        dtype: its dtype.
        file: the file that holds it.
        start: offset of its first byte in the file.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    file: Path
    start: int


class SafetensorsFile:
    """A checked, memory-mapped `.safetensors` file.

    Attributes:
        path: the file.
        entries: name to `Entry`, in the header's order.
    """

    def __init__(self, path: Path):
        self.path = path
        size = path.stat().st_size
        shown = printable(path)
        header, start = _read_header(path, shown, size)
        header.pop("__metadata__", None)
        self.entries = {
            name: Entry(*_entry(shown, name, value, start, size), path, start + value["data_offsets"][0])
            for name, value in header.items()
        }
        _check_cover(shown, self.entries, start, size)
        self._bytes = np.memmap(path, dtype=np.uint8, mode="r")

    def read(self, name: str) -> np.ndarray:
        """The tensor as a read-only view of the mapped file: copy it before the file may change."""
        entry = self.entries[name]
        return np.ndarray(entry.shape, entry.dtype, buffer=self._bytes, offset=entry.start)


Tensor = tuple[str, tuple[int, ...], np.dtype, Callable[[], np.ndarray]]
"""Name, shape and dtype of a tensor, and what makes its array."""


def in_file_order(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Tensors in the order in which a file has them, and in which they are made."""
    # Wide dtypes first keeps every tensor aligned; names next keeps the file the same from run to run.
    return sorted(tensors, key=lambda tensor: (-tensor[2].itemsize, tensor[0]))


def write_file(path: Path, tensors: Iterable[Tensor]) -> None:
    """Write a `.safetensors` file with the metadata that torch's readers ask for, one tensor in memory at a time.

    Of each tensor it is given the name, shape, dtype, and a function that makes the array.

    Raises:
        ValueError: a dtype that the format does not know.
    """
    ordered = in_file_order(tensors)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape, dtype, _ in ordered:
        if dtype not in _CODES:
            raise ValueError(f"tensor {quoted(name)} has dtype {dtype}, which the safetensors format does not know.")
        end = offset + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _CODES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for _, shape, dtype, make in ordered:
            array = np.ascontiguousarray(make(), dtype=dtype).reshape(shape)
            file.write(array.view(np.uint8).data if array.ndim else array.tobytes())
        file.flush()
        os.fsync(file.fileno())


def _read_header(file_path: Path, path: str, size: int) -> tuple[dict[str, Any], int]:
    if size < 8:
        raise ValueError(f"{path} is truncated: got {size} bytes, and the header's length alone takes 8.")
    with file_path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER:
            raise ValueError(
                f"{path} is corrupt or no safetensors file: its first 8 bytes say the header has {length} bytes; "
                f"expected at most {MAX_HEADER}."
            )
        if 8 + length > size:
            raise ValueError(
                f"{path} is truncated or corrupt: the header should have {length} bytes, but the file has "
                f"{size - 8} after its first 8. Download or copy it again."
            )
        text = file.read(length)
    try:
        header = loads(text, object_pairs_hook=_without_repeats)
    except _RepeatedError as error:
        raise ValueError(f"{path} is corrupt: its header names {error} more than once; expected once.") from None
    except ValueError as error:
        raise ValueError(f"{path} is corrupt or no safetensors file: its header is not JSON ({error}).") from None
    if not isinstance(header, dict):
        raise ValueError(f"{path} is corrupt: its header is a JSON {type(header).__name__}; expected an object.")
    return header, 8 + length


class _RepeatedError(ValueError):
    """A name stands in an object more than once."""


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(result := dict(pairs)) != len(pairs):
        raise _RepeatedError(quoted(Counter(name for name, _ in pairs).most_common(1)[0][0]))
    return result


def _entry(path: str, name: str, value: Any, start: int, size: int) -> tuple[tuple[int, ...], np.dtype]:
    expected = "{'dtype': str, 'shape': [int, ...], 'data_offsets': [int, int]}"
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{path} is corrupt: its header says {quoted(value)} of {quoted(name)}; expected {expected}.")
    shape, offsets = value["shape"], value["data_offsets"]
    if not (_whole_numbers(shape) and _whole_numbers(offsets) and len(offsets) == 2):
        raise ValueError(f"{path} is corrupt: its header says {quoted(value)} of {quoted(name)}; expected {expected}.")
    if not isinstance(value["dtype"], str) or value["dtype"] not in _DTYPES:
        raise ValueError(
            f"{path}: tensor {quoted(name)} has dtype {quoted(value['dtype'])}; expected one of {', '.join(_DTYPES)}. "
            "Quantised checkpoints are not read: save the model in a plain floating-point dtype first."
        )
    dtype = _DTYPES[value["dtype"]]
    if len(shape) > MAX_AXES:
        raise ValueError(
            f"{path} is corrupt: tensor {quoted(name)} has {len(shape)} dimensions; expected at most {MAX_AXES}."
        )
    count = math.prod(shape)
    begin, end = offsets
    if end - begin != count * dtype.itemsize:
        raise ValueError(
            f"{path} is corrupt: tensor {quoted(name)} of shape {quoted(tuple(shape))} and dtype "
            f"{value['dtype']} is given {quoted(end - begin)} bytes; expected {quoted(count * dtype.itemsize)}."
        )
    if math.prod(max(size, 1) for size in shape) > _MOST_BYTES // 8:
        raise ValueError(
            f"{path} is corrupt: tensor {quoted(name)} has the shape {quoted(tuple(shape))}; expected sizes that can "
            "be counted in 64 bits."
        )
    if start + end > size:
        raise ValueError(
            f"{path} is truncated: tensor {quoted(name)} ends at byte {start + end}, but the file has {size}. "
            "Download or copy it again."
        )
    return tuple(shape), dtype


def _check_cover(path: str, entries: Mapping[str, Entry], start: int, size: int) -> None:
    """The tensors must lie side by side from the header to the end of the file."""
    at, before = start, None
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, _nbytes(item[1]))):
        if entry.start != at:
            what = "overlaps" if entry.start < at else "leaves a hole after"
            raise ValueError(
                f"{path} is corrupt: tensor {quoted(name)} starts at byte {entry.start} and {what} "
                f"{'the header' if before is None else quoted(before)}; expected {at}."
            )
        at, before = at + _nbytes(entry), name
    if at != size:
        raise ValueError(f"{path} is corrupt: its tensors end at byte {at}, but the file has {size}.")


def _nbytes(entry: Entry) -> int:
    return math.prod(entry.shape) * entry.dtype.itemsize


def _whole_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)
