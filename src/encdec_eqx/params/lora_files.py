"""From the two files that `save_lora` writes to low-rank factors, all of it judged. Must not know models."""

import math
import os
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._quoting import printable, quoted
from ..hf.adapter import read_adapter
from ..layers.low_rank import LowRank

FORMAT = "encdec_eqx-lora"
"""What `lora.json` says that the files are."""


def read_factors(folder: str | os.PathLike) -> dict[str, LowRank]:
    """The factors of each layer, by its name.

    Raises:
        MissingFileError: a file is not there (a FileNotFoundError and a ValueError).
        ValueError: the files are damaged, or disagree.
    """
    tensors, settings = read_adapter(folder)
    scales, where = settings.get("scales"), printable(folder)
    if settings.get("format") != FORMAT or not isinstance(scales, dict):
        raise ValueError(f"lora.json in {where} is not what save_lora writes; save the adapters again.")
    expected = {f"{name}.lora.{part}" for name in scales for part in "ab"}
    if expected != set(tensors):
        raise ValueError(
            f"lora.json and lora.safetensors in {where} disagree, for example on "
            f"{quoted(sorted(expected ^ set(tensors))[0])}; save the adapters again."
        )
    return {name: _factors(name, scale, tensors, where) for name, scale in scales.items()}


def _factors(name: str, scale: Any, tensors: Mapping[str, np.ndarray], where: str) -> LowRank:
    a, b = tensors[f"{name}.lora.a"], tensors[f"{name}.lora.b"]
    damaged = f"the adapter of {quoted(name)} in {where} is damaged"
    if a.ndim != 2 or b.ndim < 2 or a.shape[1] != b.shape[0]:
        raise ValueError(f"{damaged}: A is {a.shape}, B is {b.shape}; expected (in, rank) and (rank, *out).")
    if not (jnp.issubdtype(a.dtype, jnp.floating) and a.dtype == b.dtype):
        raise ValueError(f"{damaged}: A holds {a.dtype}, B {b.dtype}; expected one floating-point dtype.")
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not _in_range(scale):
        raise ValueError(f"{damaged}: its factor is {quoted(scale)}; expected a finite number.")
    return LowRank(jnp.asarray(a), jnp.asarray(b), float(scale))


def _in_range(scale: int | float) -> bool:
    """Whether float32 has the number; a whole one may be beyond what a float holds at all."""
    most = float(np.finfo(np.float32).max)
    return -most <= scale <= most and not math.isnan(scale)
