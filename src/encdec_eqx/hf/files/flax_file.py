"""The old Flax class's `flax_model.msgpack`, under the names that torch gives the same tensors.

Nothing is unpickled: the format is msgpack with arrays as extension values. A Flax `kernel` is a torch `weight`
transposed (for Linear and for GPT-2's Conv1D alike), `scale` and `embedding` are `weight`, and layers are numbered in
the same way, so the families' rows serve both.
"""

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ..._installing import install
from ..._quoting import LONGEST, printable, quoted
from .safetensors_file import Entry

_ARRAY, _SCALAR = 1, 3
_CHUNKED = "__msgpack_chunked_array__"
_RENAMED = {"kernel": "weight", "scale": "weight", "embedding": "weight"}


class FlaxFile:
    """A `flax_model.msgpack`, read whole: unlike safetensors it takes memory of its own while a model is loaded.

    Attributes:
        path: the file.
        entries: torch's name to `Entry`.
    """

    def __init__(self, path: Path):
        self.path = path
        self._arrays = dict(_flatten(path, _unpack(path), ()))
        self.entries = {name: Entry(array.shape, array.dtype, path, 0) for name, array in self._arrays.items()}

    def read(self, name: str) -> np.ndarray:
        """The tensor, read-only, in torch's orientation."""
        return self._arrays[name]


def _unpack(path: Path) -> dict[str, Any]:
    try:
        import msgpack
    except ImportError:
        raise ImportError(
            f"reading {printable(path)} needs msgpack, which is not installed: {install('flax')}"
        ) from None

    def array(code: int, data: bytes) -> Any:
        if code not in (_ARRAY, _SCALAR):
            raise ValueError(f"msgpack extension type {code} is not one of Flax's arrays")
        shape, dtype, content = msgpack.unpackb(data, raw=False)
        if not all(type(size) is int and size >= 0 for size in shape):
            raise ValueError(f"an array has the shape {quoted(shape)}")
        return np.frombuffer(content, _dtype(dtype)).reshape(shape)

    try:
        tree = msgpack.unpackb(path.read_bytes(), ext_hook=array, raw=False)
    except (msgpack.UnpackException, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(
            f"{printable(path)} is truncated, corrupt or no Flax checkpoint: got {type(error).__name__} "
            f"({printable(str(error), LONGEST)}); expected nested dictionaries of arrays, as "
            "flax.serialization writes them. Download or copy it again."
        ) from None
    if not isinstance(tree, dict):
        raise ValueError(
            f"{printable(path)} holds a {type(tree).__name__}; expected the dictionary of a Flax model's parameters. "
            "Download or copy it again."
        )
    return tree


def _dtype(name: Any) -> np.dtype:
    if name == "bfloat16":
        return np.dtype(ml_dtypes.bfloat16)
    if name not in ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "uint32", "bool"):
        raise ValueError(f"an array has dtype {quoted(name)}, which is not read")
    return np.dtype(name)


def _flatten(path: Path, tree: dict[str, Any], above: tuple[str, ...]) -> list[tuple[str, np.ndarray]]:
    found = []
    for key, value in tree.items():
        names = (*above, str(key))
        if isinstance(value, dict) and value.get(_CHUNKED):
            value = _joined(path, "/".join(names), value)
        if isinstance(value, dict):
            found += _flatten(path, value, names)
        elif isinstance(value, np.ndarray):
            name = ".".join((*above, _RENAMED.get(str(key), str(key))))
            found.append((name, value.T if key == "kernel" else value))
        else:
            raise ValueError(
                f"{printable(path)}: {printable('/'.join(names), LONGEST)} is a {type(value).__name__}; expected an "
                "array. Remove it, or save the parameters alone."
            )
    return found


def _joined(path: Path, name: str, value: dict[str, Any]) -> np.ndarray:
    """Flax splits an array of a gigabyte and more into chunks."""
    try:
        chunks, shape = value["chunks"], value["shape"]
        flat = np.concatenate([chunks[str(i)].reshape(-1) for i in range(len(chunks))])
        return flat.reshape([shape[str(i)] for i in range(len(shape))])
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{printable(path)}: the chunks of {printable(name, LONGEST)} do not make an array "
            f"({type(error).__name__}: {printable(str(error), LONGEST)}). Download or copy it again."
        ) from None
