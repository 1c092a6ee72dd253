"""Saved int8 models: what `config.json` says of them, and their tensors, under the paths of our own arrays.

The file has a name of its own: transformers warns of a method that it does not know and goes on, and would put random
weights where it finds none of its names.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax

from .._quoting import printable, quoted
from .._trees import path_name
from ..layers.int8 import is_int8, is_partly_int8
from .files import MissingFileError
from .files.folder import CONFIG, INT8_WEIGHTS, WEIGHTS, Shards, Tensors
from .files.safetensors_file import SafetensorsFile
from .files.shards import index_name
from .names import NameTable

ATTRIBUTE = "quantization_config"
METHOD = "encdec_eqx_int8"
VERSION = 1


def split_int8(hf: Mapping[str, Any], place: Path) -> tuple[dict[str, Any], bool]:
    """The config without what `save_pretrained` wrote into it of an int8 model, and whether it had.

    Other methods stay where they are, for whoever reads the config to refuse.

    Raises:
        ValueError: the method is ours, in a version that is not.
    """
    said = hf.get(ATTRIBUTE)
    if not isinstance(said, Mapping) or said.get("quant_method") != METHOD:
        return dict(hf), False
    if said.get("version") != VERSION:
        raise ValueError(
            f"{printable(place)}: {ATTRIBUTE} has version {quoted(said.get('version'))}; expected {VERSION}. Load it "
            "with the version of encdec_eqx that saved it, or quantize the float32 model again."
        )
    return {name: value for name, value in hf.items() if name != ATTRIBUTE}, True


def open_int8(folder: Path) -> Tensors:
    """The tensors of an int8 model.

    Raises:
        MissingFileError: there are none.
        ValueError: the file is truncated or corrupt.
    """
    index = folder / index_name(INT8_WEIGHTS)
    if not (folder / INT8_WEIGHTS).is_file() and index.is_file():
        return Shards(index)
    if not (folder / INT8_WEIGHTS).is_file():
        raise MissingFileError(
            f"no {INT8_WEIGHTS} in {printable(folder)}, which by its {CONFIG} holds an int8 model; download or "
            "copy the whole folder."
        )
    return SafetensorsFile(folder / INT8_WEIGHTS)


@dataclasses.dataclass(frozen=True)
class FileFormat:
    """How a model is written.

    Attributes:
        table: a row for each array.
        weights: name of the file of tensors.
        config: what `config.json` says besides.
    """

    table: NameTable
    weights: str = WEIGHTS
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def file_format(model: Any, table: NameTable) -> FileFormat:
    """How to save a model: a float one by the rows of its family.

    Raises:
        ValueError: the model is quantized in part.
    """
    if not is_int8(model):
        return FileFormat(table)
    if is_partly_int8(model):
        raise ValueError(
            "the model is quantized in part, which no file can say: join the float32 pieces and quantize the whole, "
            "quantize(EncoderDecoder.from_pieces(encoder, decoder), 'int8')."
        )
    return FileFormat(paths_as_names(model), INT8_WEIGHTS, {ATTRIBUTE: {"quant_method": METHOD, "version": VERSION}})


def paths_as_names(model: Any) -> NameTable:
    """A row for each array of a model, or of its skeleton, under its own path."""
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(model, lambda leaf: hasattr(leaf, "shape")))
    return NameTable(groups={"all": tuple((path_name(path), path_name(path), "same") for path, _ in leaves)})


def own_names(table: NameTable) -> NameTable:
    """A family's rows with our paths for names, before there is a skeleton: to hold sizes against a file."""
    paths = dict.fromkeys(ours for _, (ours, _, _) in table.rows())
    return NameTable(groups={"all": tuple((path, path, "same") for path in paths)})
