"""A checkpoint's folder: its JSON files, and its tensors wherever they lie (one file, shards, or an old Flax file)."""

import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ..._json import loads
from ..._quoting import printable, quoted
from ..._writing import check_writable
from . import MissingFileError
from .flax_file import FlaxFile
from .safetensors_file import Entry, SafetensorsFile

WEIGHTS = "model.safetensors"
INT8_WEIGHTS = "model.int8.safetensors"
INDEX = "model.safetensors.index.json"
FLAX_WEIGHTS = "flax_model.msgpack"
CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"

_PICKLED_SHARD = re.compile(r"\w+-\d+-of-\d+\.bin")
LONGEST_NAME = 255
"""Longest name of a file, in bytes, on the file systems in use."""

_CONVERSION = (
    'python -c "import torch; from safetensors.torch import save_file; '
    "{read}; "
    "save_file({{k: v.clone().contiguous() for k, v in d.items()}}, 'model.safetensors', "
    "metadata={{'format': 'pt'}})\""
)


@runtime_checkable
class Tensors(Protocol):
    """Named tensors of a checkpoint: what a file, a set of shards and an old Flax file have in common."""

    @property
    def path(self) -> Path:
        """The file or folder to name in messages."""
        ...

    @property
    def entries(self) -> Mapping[str, Entry]:
        """What is known of each tensor without reading it."""
        ...

    def read(self, name: str) -> np.ndarray:
        """One tensor, as a view that the caller copies."""
        ...


class Shards:
    """The files that a `model.safetensors.index.json` lists, as one.

    Attributes:
        path: the index.
        entries: name to `Entry`.
    """

    def __init__(self, index: Path):
        self.path = index
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ValueError(f"{printable(index)} has no 'weight_map'; expected an object of names and their files.")
        names = sorted({_shard_name(index, name) for name in weight_map.values()})
        for name in names:
            if not (index.parent / name).is_file():
                raise MissingFileError(
                    f"{printable(index)} lists {printable(name)}, which is not in the folder; download or copy all the "
                    "shards."
                )
        self._files = {name: SafetensorsFile(index.parent / name) for name in names}
        for tensor, name in weight_map.items():
            if tensor not in self._files[name].entries:
                raise ValueError(
                    f"{printable(index)} says that {quoted(tensor)} is in {printable(name)}, but it is not there; the "
                    "shards disagree."
                )
        self.entries: dict[str, Entry] = {}
        for name, file in self._files.items():
            for tensor, entry in file.entries.items():
                if weight_map.get(tensor) != name:
                    where = printable(weight_map.get(tensor, "no file"))
                    raise ValueError(
                        f"{printable(file.path)} holds {quoted(tensor)}, which {index.name} places in {where}."
                    )
                self.entries[tensor] = entry
        self._weight_map = weight_map

    def read(self, name: str) -> np.ndarray:
        """One tensor, as a view of its mapped file."""
        return self._files[self._weight_map[name]].read(name)


class Unread:
    """Stands for tensors of which nothing is known: those of a format that is not read, or absent ones.

    Attributes:
        path: the folder.
        entries: none.
        why: the sentence that an attempt to load them ends with.
    """

    def __init__(self, path: Path, why: str):
        self.path, self.why = path, why
        self.entries: dict[str, Entry] = {}

    def read(self, name: str) -> np.ndarray:
        """Nothing can be read."""
        raise KeyError(name)


_HEADERS_ONLY = ContextVar("headers_only", default=False)


@contextlib.contextmanager
def headers_only() -> Iterator[None]:
    """Within it what is loaded has shapes and dtypes (`jax.ShapeDtypeStruct`, as in the files) in the place of arrays.

    All else is as in loading: every problem is found, and the `LoadReport` is the same. Files of which the header
    cannot be read alone are left out, and a note says so; whether tied tensors are equal is not looked at.
    """
    token = _HEADERS_ONLY.set(True)
    try:
        yield
    finally:
        _HEADERS_ONLY.reset(token)


def is_headers_only() -> bool:
    """Whether arrays are left where they are."""
    return _HEADERS_ONLY.get()


def open_tensors(folder: Path) -> Tensors:
    """Find and open a checkpoint's tensors.

    Raises:
        MissingFileError: there are none.
        NotImplementedError: there are, in a format that is not read.
        ValueError: a file is truncated or corrupt.
    """
    try:
        return _open(folder)
    except (NotImplementedError, MissingFileError) as error:
        if not is_headers_only():
            raise
        return Unread(folder, str(error))


def _open(folder: Path) -> Tensors:
    if (folder / WEIGHTS).is_file():
        return SafetensorsFile(folder / WEIGHTS)
    if (folder / INDEX).is_file():
        return Shards(folder / INDEX)
    if (folder / FLAX_WEIGHTS).is_file():
        return FlaxFile(folder / FLAX_WEIGHTS)
    names = sorted(path.name for path in folder.iterdir())
    present = [printable(name) for name in names]
    sharded = [name for name in names if _PICKLED_SHARD.fullmatch(name)]
    for name in sharded[:1] or names:
        if name.endswith((".bin", ".pt", ".pth", ".ckpt")):
            raise NotImplementedError(
                f"{printable(folder / name)} is a pickle, which this library never opens because a pickle can run "
                f"code; expected {WEIGHTS}. Convert it once, in that folder and with torch and safetensors installed: "
                f"{printable(_conversion(name))}"
            )
        if name in ("tf_model.h5", "flax_model.msgpack.index.json"):
            raise NotImplementedError(
                f"{printable(folder / name)} is a format that is not read; expected {WEIGHTS}, {INDEX} or "
                f"{FLAX_WEIGHTS}. Load it with the transformers version that wrote it and save it as safetensors."
            )
    raise MissingFileError(
        f"no weights in {printable(folder)}: got {', '.join(present[:12]) or 'an empty folder'}; expected {WEIGHTS}, "
        f"{INDEX} or {FLAX_WEIGHTS}.{gguf_advice(names)}"
    )


def gguf_advice(names: Iterable[str]) -> str:
    """A sentence behind a message, if llama.cpp's files are among those that were found."""
    found = next((name for name in names if name.endswith(".gguf")), None)
    call = f"encdec_eqx.hf.files.gguf_file.convert_gguf({quoted(found)}, a_new_folder)"
    return "" if found is None else f" A .gguf file is first made such a folder, by {call}."


def _conversion(name: str) -> str:
    """A command that makes `model.safetensors` of a pickle, or of all of its shards."""
    load = "torch.load({}, map_location='cpu', weights_only=True)"
    if _PICKLED_SHARD.fullmatch(name):
        pattern = f"{name.split('-')[0]}-*-of-*.bin"
        read = f"import glob; d = {{}}; [d.update({load.format('f')}) for f in sorted(glob.glob('{pattern}'))]"
    else:
        read = f"d = {load.format(repr(name))}"
    return _CONVERSION.format(read=read)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file as transformers does."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def check_new_folder(folder: Path) -> None:
    """Try whether a checkpoint can be made where nothing is yet.

    Raises:
        ValueError: something is there, or nothing can be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        why = "it is not empty" if folder.is_dir() else "it is a file"
        raise ValueError(f"cannot convert into {printable(folder)}: {why}; give a folder that is not there.")
    check_writable(folder.parent, f"cannot convert into {printable(folder)}:")


def shard_names(index: Path) -> list[str]:
    """The files that an index lists, as far as it can be read: for looking around, not for loading."""
    try:
        weight_map = read_json(index).get("weight_map")
        return sorted({_shard_name(index, name) for name in weight_map.values()}) if weight_map else []
    except (ValueError, AttributeError, TypeError):
        return []


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's `config.json`.

    Raises:
        MissingFileError: there is none.
        ValueError: it is not a JSON object.
    """
    if not (folder / CONFIG).is_file():
        advice = gguf_advice(sorted(path.name for path in folder.iterdir()))
        raise MissingFileError(
            f"no {CONFIG} in {printable(folder)}; every checkpoint needs the one that was saved with it.{advice}"
        )
    return read_json(folder / CONFIG)


def read_generation_config(folder: Path) -> dict[str, Any] | None:
    """The folder's `generation_config.json`, or None."""
    path = folder / GENERATION_CONFIG
    return read_json(path) if path.is_file() else None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        ValueError: the file holds anything else.
    """
    try:
        value = loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{printable(path)} is not valid JSON: {error}. Download or copy it again.") from None
    if not isinstance(value, dict):
        raise ValueError(f"{printable(path)} holds a JSON {type(value).__name__}; expected an object {{...}}.")
    return value


def _shard_name(index: Path, name: Any) -> str:
    plain = isinstance(name, str) and Path(name).name == name and name not in ("", "..") and "\0" not in name
    # surrogates cannot be encoded: such a name is none that a file system gives
    if not plain or len(name.encode(errors="replace")) > LONGEST_NAME:
        raise ValueError(
            f"{printable(index)} names the file {quoted(name)}; expected a plain name of a file beside it, of at most "
            f"{LONGEST_NAME} bytes."
        )
    return name
