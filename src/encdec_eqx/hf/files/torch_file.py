"""PyTorch's `pytorch_model.bin`, one file or shards, for conversion alone: read by torch, without running its code."""

import importlib
import pickle
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ..._quoting import LONGEST, printable, quoted
from . import MissingFileError
from .folder import read_json, shard_names
from .safetensors_file import Entry

WEIGHTS, INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"

_INSIDE = ("state_dict", "model_state_dict")
"""Where a trainer's checkpoint has the tensors."""


class TorchFile:
    """The tensors of one pickle or several, mapped from the disk where torch can do that.

    Attributes:
        path: the file, or the index.
        entries: name to `Entry`.
    """

    def __init__(self, path: Path):
        """Open the file.

        Raises:
            ImportError: torch is not installed.
            MissingFileError: a shard is not there.
            ValueError: a file is damaged, holds more than tensors, or what only code could make.
        """
        self.path = path
        files = [path]
        if path.name.endswith(".index.json"):
            names = read_json(path).get("weight_map", {}) and shard_names(path)
            files = [path.parent / name for name in names]
            for file in files:
                if not file.is_file():
                    raise MissingFileError(
                        f"{printable(path)} lists {printable(file.name)}, which is not in the folder."
                    )
        self._tensors: dict[str, Any] = {}
        for file in files:
            self._tensors |= _tensors_of(file)
        self.entries = {
            name: Entry(tuple(tensor.shape), _dtype(path, name, tensor), path, 0)
            for name, tensor in self._tensors.items()
        }

    def read(self, name: str) -> np.ndarray:
        """The tensor."""
        torch = importlib.import_module("torch")
        tensor = self._tensors[name].detach()
        if tensor.dtype == torch.bfloat16:
            return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return tensor.numpy()


def _tensors_of(file: Path) -> dict[str, Any]:
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        raise ImportError(
            f"{printable(file)} is a pickle, which torch alone reads, and torch is not installed: pip install torch"
        ) from None
    try:
        try:
            loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except (RuntimeError, OSError):  # in torch's format before 1.6, which cannot be mapped
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{printable(file)} holds more than tensors, and what else there is could run code, or it is damaged; "
            f"it is not opened. {printable(str(error).splitlines()[0], LONGEST)}"
        ) from None
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, AttributeError) as error:
        first = (str(error).splitlines() or [""])[0]
        raise ValueError(
            f"{printable(file)} is truncated or corrupt: {type(error).__name__}: {printable(first, LONGEST)}. Download "
            "or copy it again."
        ) from None
    if isinstance(loaded, dict):
        loaded = next((loaded[name] for name in _INSIDE if isinstance(loaded.get(name), dict)), loaded)
    wrong = [name for name, value in loaded.items() if not torch.is_tensor(value)] if isinstance(loaded, dict) else [""]
    if wrong:
        raise ValueError(
            f"{printable(file)} holds no plain names and tensors (such as {quoted(wrong[0])}); expected what "
            "torch.save(model.state_dict(), file) writes."
        )
    return loaded


def _dtype(path: Path, name: str, tensor: Any) -> np.dtype:
    torch = importlib.import_module("torch")
    if tensor.dtype == torch.bfloat16:
        return np.dtype(ml_dtypes.bfloat16)
    try:
        return np.dtype(str(tensor.dtype).removeprefix("torch."))
    except TypeError:
        raise ValueError(
            f"{printable(path)}: tensor {quoted(name)} has dtype {tensor.dtype}, which is not read."
        ) from None
