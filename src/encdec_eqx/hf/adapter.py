"""The two files of an adapter saved apart from its model: `lora.safetensors` and `lora.json`."""

import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .._writing import aside_of
from .files import MissingFileError
from .files.folder import read_json
from .files.safetensors_file import SafetensorsFile, write_file

ADAPTER_WEIGHTS = "lora.safetensors"
ADAPTER_SETTINGS = "lora.json"


def write_adapter(folder: str | os.PathLike, tensors: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> None:
    """Write both files. Each appears whole or not at all; other files in the folder stay.

    Raises:
        ValueError: the folder is a file.
    """
    target = Path(folder).expanduser().resolve()
    if target.exists() and not target.is_dir():
        raise ValueError(f"cannot save to {target}: it is a file; expected a folder, or a path where none is yet.")
    target.mkdir(parents=True, exist_ok=True)
    aside = {name: aside_of(target / name) for name in (ADAPTER_WEIGHTS, ADAPTER_SETTINGS)}
    try:
        entries = [
            (name, array.shape, array.dtype, functools.partial(np.asarray, array)) for name, array in tensors.items()
        ]
        write_file(aside[ADAPTER_WEIGHTS], entries)
        text = json.dumps(settings, indent=2, sort_keys=True) + "\n"
        aside[ADAPTER_SETTINGS].write_text(text, encoding="utf-8")
        for name, path in aside.items():
            path.replace(target / name)
    finally:
        for path in aside.values():
            path.unlink(missing_ok=True)


def read_adapter(folder: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Copies of the tensors by name, and the settings.

    Raises:
        MissingFileError: a file is not there (a FileNotFoundError and a ValueError).
        ValueError: a file is damaged.
    """
    source = Path(folder).expanduser()
    for name in (ADAPTER_WEIGHTS, ADAPTER_SETTINGS):
        if not (source / name).is_file():
            raise MissingFileError(f"there is no {name} in {source}; expected a folder that save_lora wrote.")
    file = SafetensorsFile(source / ADAPTER_WEIGHTS)
    return {name: np.array(file.read(name)) for name in file.entries}, read_json(source / ADAPTER_SETTINGS)
