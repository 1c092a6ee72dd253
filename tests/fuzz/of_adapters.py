"""Damaged folders of adapters (LoRA), whose numbers are all different. Reads the damaged file with `of_checkpoints`."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from judging import attempt
from mutations import change_bytes, change_json, encoded, parsed, written
from of_checkpoints import FIRST, arrays_of, change_entries, read_safetensors

from encdec_eqx import EncoderDecoder
from encdec_eqx.training import add_lora, load_lora, save_lora, trainable
from models import tiny_pair

WEIGHTS, SETTINGS = "lora.safetensors", "lora.json"


class Adapters:
    """`lora.safetensors` and `lora.json` of a small pair."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.model = tiny_pair()
        adapted = _numbered(
            add_lora(self.model, "cross_attention | feed_forward", rank=2, alpha=3.0, key=jax.random.key(0))
        )
        save_lora(adapted, folder / "whole")
        self.whole = {name: (folder / "whole" / name).read_bytes() for name in (WEIGHTS, SETTINGS)}
        self.arrays = arrays_of(load_lora(self.model, folder / "whole"))
        self.tensors = read_safetensors(self.whole[WEIGHTS])

    def __call__(self, rng: random.Random, tell: Callable[[str], None]) -> tuple[str, list[str]]:
        """One mutation."""
        files, what = self._damaged(rng)
        tell(what)
        folder = self.folder / "lora"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        result = attempt(lambda: load_lora(self.model, folder), names=[str(folder)], unchanged=[folder])
        if result.value is None:
            return "refused", result.faults
        return "loaded", result.faults + self._wrong(result.value, files)

    def _damaged(self, rng: random.Random) -> tuple[dict[str, bytes], str]:
        files, data = dict(self.whole), self.whole[WEIGHTS]
        what = rng.choice(["settings", "settings", "bytes", "body", "header", "header", "drop"])
        if what == "settings":
            files[SETTINGS], told = change_json(rng, files[SETTINGS].decode())
        elif what == "drop":
            del files[rng.choice(sorted(files))]
            told = "a file is missing"
        elif what in ("bytes", "body"):
            start = 8 + int.from_bytes(data[:8], "little") if what == "body" else 0
            files[WEIGHTS], told = change_bytes(rng, data, start=start)
        else:
            length = int.from_bytes(data[:8], "little")
            tree = parsed(data[8 : 8 + length].decode())
            told = change_entries(rng, tree)
            header = encoded(written(tree))
            files[WEIGHTS] = len(header).to_bytes(8, "little") + header + data[8 + length :]
        return files, f"{what}: {told}"

    def _wrong(self, model: EncoderDecoder, files: dict[str, bytes]) -> list[str]:
        """Numbers of the model that are not those of the file."""
        now = read_safetensors(files[WEIGHTS])
        swaps = {
            old: new
            for name, tensor in self.tensors.items()
            if name in now and now[name].size == tensor.size
            for old, new in zip(tensor.ravel().tolist(), now[name].ravel(), strict=True)
        }
        faults, found = [], arrays_of(model)
        for path, array in found.items():
            if path not in self.arrays:
                faults.append(f"loaded {path}, which was never saved")
                continue
            # scalars of NumPy: a Python float would lose the bits of a NaN
            expected = np.asarray([swaps.get(float(old), old) for old in self.arrays[path].ravel()], array.dtype)
            if array.size != expected.size or array.ravel().tobytes() != expected.tobytes():
                faults.append(f"loaded {path} with other numbers than the file's")
        if set(self.arrays) - set(found):
            faults.append(f"left out {sorted(set(self.arrays) - set(found))[:3]}")
        scales = json.loads(files[SETTINGS])["scales"]
        if any(not isinstance(scale, int | float) or isinstance(scale, bool) for scale in scales.values()):
            faults.append(f"took {scales!r:.200} for factors")
        return faults


def _numbered(adapted: Any) -> Any:
    """The model with adapters whose numbers are all different."""
    leaves, structure = jax.tree.flatten(adapted)
    wanted = jax.tree.leaves(trainable(adapted, "lora"))
    first, result = FIRST, []
    for leaf, is_adapter in zip(leaves, wanted, strict=True):
        if is_adapter:
            leaf = jax.numpy.arange(first, first + leaf.size, dtype=leaf.dtype).reshape(leaf.shape)
            first += leaf.size
        result.append(leaf)
    return jax.tree.unflatten(structure, result)


KINDS = {"adapters": Adapters}
