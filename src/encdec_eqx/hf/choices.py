"""What was chosen where a folder holds two sets of weights, or a file two tensors for one array; and how to differ.

Knows names of files and tensors; must not know models.
"""

from pathlib import Path

from .._quoting import LONGEST, printable
from .files.folder import CONFIG, FLAX_WEIGHTS, INDEX, WEIGHTS, Tensors, shard_names
from .load import Loaded

_OTHERS = (
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "tf_model.h5",
    "flax_model.msgpack.index.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
)
"""Weights of formats that are not read, and adapters of PEFT, which a model beside them does without."""


def choices(folder: Path, tensors: Tensors, loaded: Loaded, *, argument: bool) -> tuple[str, ...]:
    """What was chosen where a folder or a file holds two of a thing, and how to choose otherwise.

    Args:
        folder: the checkpoint's.
        tensors: those that were read.
        loaded: what reading them did.
        argument: whether attributes of the config are arguments of `from_pretrained`.
    """
    told = [text] if (text := _other_sets(folder, tensors.path)) is not None else []
    by_setting: dict[str | None, list[tuple[str, str]]] = {}
    for name, original, setting in loaded.dropped:
        by_setting.setdefault(setting, []).append((name, original))
    for setting, pairs in by_setting.items():
        name, original = (printable(text, LONGEST) for text in pairs[0])
        names = name if len(pairs) == 1 else f"{name} and {len(pairs) - 1} more tensors"
        how = "as in transformers"
        if setting is not None:
            *inside, attribute = setting.split(".")
            under = "".join(f" under {part!r}" for part in inside)
            how = f"because {attribute} is true; to use what is left out, set {attribute} to false{under} in {CONFIG}"
            how += f", or pass {attribute}=False" if argument else ""
        told.append(f"left out {names}: the values differ from those of {original}, which are used, {how}")
    return tuple(told)


def _other_sets(folder: Path, chosen: Path) -> str | None:
    """What is to be said of the weights that lie beside those that are read, or None if there are none.

    Which are read is transformers' choice (4.57): `model.safetensors`, then shards with an index, then other formats.

    Args:
        folder: the checkpoint's.
        chosen: the file, or the index of shards, that is read.
    """
    found = [name for name in (WEIGHTS, FLAX_WEIGHTS, *_OTHERS) if (folder / name).is_file() and name != chosen.name]
    if chosen.name != INDEX and (folder / INDEX).is_file():
        shards = shard_names(folder / INDEX)
        if shards and all((folder / name).is_file() for name in shards):
            found.insert(0, f"{INDEX} with its {len(shards)} shards")
    if not found:
        return None
    return (
        f"{', '.join(found)} {'lies' if len(found) == 1 else 'lie'} beside {chosen.name}, which is the one that was "
        f"read (transformers chooses the same). If it is not the newest, move it out of {printable(folder)} and load "
        "again"
    )
