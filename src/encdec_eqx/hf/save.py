"""Writing a model's arrays and JSON files to a folder, all or nothing.

Files are written into a folder beside the target and moved into place when all are complete, so a failed save changes
nothing.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import equinox as eqx
import jax
import numpy as np

from .._quoting import printable
from .._trees import path_name
from .._writing import check_writable, folder_aside, in_one_go, remove
from . import transforms
from .files.folder import CONFIG, GENERATION_CONFIG, INT8_WEIGHTS, WEIGHTS, write_json
from .files.safetensors_file import Tensor, write_file
from .files.shards import DEFAULT_SIZE, files_of, index_name, layout, size_in_bytes
from .gathering import gathered, is_written_here, spans_processes, together_if_spread, write_together
from .model_card import README, may_write
from .names import NameTable
from .transforms import How


def save(
    folder: str | os.PathLike,
    model: Any,
    table: NameTable,
    *,
    config: Mapping[str, Any],
    generation_config: Mapping[str, Any] | None = None,
    folders: Mapping[str, Callable[[Path], None]] = MappingProxyType({}),
    weights: str = WEIGHTS,
    max_shard_size: int | str = DEFAULT_SIZE,
    card: str = "",
) -> None:
    """Write `config.json`, `model.safetensors` and, if given, `generation_config.json` and folders beside them.

    The folder is made if it does not exist; files in it that are not replaced stay, but for weights of an older save.
    The table has rows for every array of the model. `folders` are names, each with what writes into a new folder;
    `weights` is the name of the file of tensors, which become shards with an index where they are more than
    `max_shard_size`. A `card` becomes `README.md`, unless there is one that somebody wrote or edited. Of a model that
    is spread over several processes all must call this, and the first writes.

    Raises:
        TypeError: `max_shard_size` is of another kind than a size.
        ValueError: it is none that a file can have; the folder cannot be written to; or the model has an array that the
            format cannot hold, or lacks one that it must.
    """
    limit = size_in_bytes(max_shard_size)
    target = Path(folder).expanduser().resolve()
    with together_if_spread(model, "looking at where to save"):
        if is_written_here(model):
            if target.exists() and not target.is_dir():
                raise ValueError(
                    f"cannot save to {target}: it is a file; expected a folder, or a path where none is yet."
                )
            check_writable(target.parent, f"cannot save to {printable(target)}:")
    spread = layout(_tensors(model, table), weights, limit)

    def write(files: Mapping[str, Sequence[Tensor]]) -> None:
        with folder_aside(target) as aside:
            for name, tensors in files.items():
                write_file(aside / name, tensors)
            if spread.index is not None:
                write_json(aside / index_name(weights), spread.index)
            write_json(aside / CONFIG, config)
            if generation_config is not None:
                write_json(aside / GENERATION_CONFIG, generation_config)
            if card and may_write(target / README):
                (aside / README).write_text(card, encoding="utf-8")
            for name, into in folders.items():
                (aside / name).mkdir()
                into(aside / name)
            with in_one_go():
                _move_into_place(aside, target)

    if spans_processes(model):
        write_together(spread.files, write)
    else:
        write(spread.files)


def recorded_dtype(model: Any) -> dict[str, str]:
    """The dtype of all arrays as a config records it; nothing if they differ."""
    names = {leaf.dtype.name for leaf in jax.tree_util.tree_leaves(eqx.filter(model, eqx.is_array))}
    return {"dtype": names.pop()} if len(names) == 1 else {}


def _tensors(model: Any, table: NameTable) -> list[Tensor]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(eqx.filter(model, eqx.is_array))
    arrays = {path_name(path): leaf for path, leaf in leaves}
    rows = [row for _, row in table.rows()]
    missing = sorted({ours for ours, _, _ in rows} - set(arrays))
    extra = sorted(set(arrays) - {ours for ours, _, _ in rows})
    if any(".lora." in path for path in extra):
        raise ValueError(
            "the model holds low-rank adapters (LoRA), which the family's format cannot hold: save "
            "encdec_eqx.training.merge_lora(model) instead, or the adapters apart with save_lora(model, folder)."
        )
    if missing or extra:
        raise ValueError(
            f"the model cannot be saved in its family's format: got arrays it has no name for ({extra[:5]}), or lacks "
            f"ones it must hold ({missing[:5]}). Merge adapters and undo other surgery on the model before saving."
        )
    buffers: list[Tensor] = [
        (name, shape, np.dtype(np.float32), functools.partial(np.zeros, shape, np.float32))
        for name, shape in table.buffers.items()
    ]
    parts: dict[str, list[tuple[How, jax.Array]]] = {}
    for ours, theirs, how in rows:
        if _written(arrays[ours], table.computed.get(ours)):
            parts.setdefault(theirs, []).append((how, arrays[ours]))
    held: list[Tensor] = [
        (
            theirs,
            transforms.their_shape(filled[0][0], filled[0][1].shape),
            np.dtype(filled[0][1].dtype),
            lambda filled=filled: transforms.join((how, gathered(array)) for how, array in filled),
        )
        for theirs, filled in parts.items()
    ]
    return buffers + held


def _written(array: jax.Array, computed: tuple[Callable[[], np.ndarray], bool] | None) -> bool:
    """Whether a file must hold the array: not if torch's does not, and loading would make the same one."""
    if computed is None or computed[1]:
        return True
    return not np.array_equal(gathered(array), computed[0]().astype(array.dtype))


def _move_into_place(aside: Path, target: Path) -> None:
    if not target.exists():
        aside.rename(target)
        return
    written = sorted(aside.iterdir())
    for path in written:
        if path.is_dir():
            remove(target / path.name)
        path.replace(target / path.name)
    # Weights of an older save in another layout would be another model's beside this one's.
    kept = {target / path.name for path in written}
    for stale in (files_of(WEIGHTS, target) | files_of(INT8_WEIGHTS, target)) - kept:
        with contextlib.suppress(FileNotFoundError):
            stale.unlink()
