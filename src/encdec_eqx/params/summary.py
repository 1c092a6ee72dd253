"""What is trained and what it costs in bytes, part by part, to be read before a run begins.

Knows models by the names of their arrays, and an optimiser as something with an `init`. Computes nothing on arrays.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PyTree

from .names import places
from .selectors import Selectors
from .trainable import cut_and_trained


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartSummary:
    """One part of a model.

    Attributes:
        name: such as "encoder embeddings" or "decoder layers 6-11 cross_attention".
        trained: parameters that are trained.
        total: all its parameters.
    """

    name: str
    trained: int
    total: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainableSummary:
    """What is trained. `str()` gives a table.

    Attributes:
        parts: in the order in which the model reads them.
        trained: parameters that are trained.
        total: all parameters, those included that are carried without being read.
        parameter_bytes: of all parameters.
        gradient_bytes: of the gradients: one for each trained parameter.
        optimizer_bytes: of the optimiser's state; None if no optimiser was given.
    """

    parts: tuple[PartSummary, ...]
    trained: int
    total: int
    parameter_bytes: int
    gradient_bytes: int
    optimizer_bytes: int | None

    def __str__(self) -> str:
        rows = [*self.parts, PartSummary(name="all", trained=self.trained, total=self.total)]
        width = max(len(row.name) for row in rows)
        lines = [f"{'parameters':{width}} {'trained':>14} {'of':>14}"]
        for row in rows:
            trained = f"{row.trained:,}" if row.trained else "-"
            lines.append(f"{row.name:{width}} {trained:>14} {row.total:>14,}")
        memory = {"parameters": self.parameter_bytes, "gradients": self.gradient_bytes}
        if self.optimizer_bytes is not None:
            memory["optimiser state"] = self.optimizer_bytes
        share = 100 * self.trained / max(self.total, 1)
        sizes = ", ".join(f"{name} {_readable_bytes(size)}" for name, size in memory.items())
        return "\n".join([*lines, f"{share:.3g} % trained; {sizes}."])


def summarize_trainable(
    model: eqx.Module, trainable: PyTree[bool] | Selectors | None = None, *, optimizer: Any = None
) -> TrainableSummary:
    """What a run would train, and how many bytes that takes. Nothing is computed on the model's arrays.

    Args:
        model: the model, in either layout.
        trainable: as `init_train_state` takes it: selectors, a tree of bools, or None for all that the model reads.
        optimizer: whose state is counted, an `optax.GradientTransformation`.
    """
    trained: Any = None

    def parts(model: eqx.Module) -> tuple[eqx.Module, eqx.Module]:
        nonlocal trained
        whole, trained = cut_and_trained(model, trainable)
        return whole, eqx.filter(whole, trained)

    whole, params = eqx.filter_eval_shape(parts, model)
    state = ()
    if optimizer is not None:
        with jax.numpy_dtype_promotion("standard"):
            state = eqx.filter_eval_shape(optimizer.init, params)
    found = tuple(_parts(whole, jax.tree.leaves(trained)))
    return TrainableSummary(
        parts=found,
        trained=sum(part.trained for part in found),
        total=sum(part.total for part in found),
        parameter_bytes=_nbytes(whole),
        gradient_bytes=_nbytes(params),
        optimizer_bytes=None if optimizer is None else _nbytes(state),
    )


def _parts(model: eqx.Module, trained: list[bool]) -> Iterator[PartSummary]:
    """Each part once: layers with the same sums together, their sublayers apart only where some are trained."""
    counts: dict[tuple[str, tuple[int, ...]], dict[str, list[int]]] = {}
    leaves = jax.tree.leaves(model)
    for place in places(model):
        leaf = leaves[place.leaf]
        if not hasattr(leaf, "shape"):
            continue
        size = math.prod(leaf.shape if place.at is None else leaf.shape[1:])
        base, layers, sublayer = _position(place.names)
        count = counts.setdefault((base, layers), {}).setdefault(sublayer, [0, 0])
        count[0] += size * trained[place.leaf]
        count[1] += size
    rows = [(base, layers, _condensed(sublayers)) for (base, layers), sublayers in counts.items()]
    for (base, sums), run in itertools.groupby(rows, key=lambda row: (row[0], row[2])):
        numbers = [layers for _, layers, _ in run]
        layers = [layer for each in numbers for layer in each]
        where = base
        if layers:
            where = f"{base} {min(layers)}-{max(layers)}" if len(layers) > 1 else f"{base[:-1]} {layers[0]}"
        for sublayer, part, total in sums:
            name = f"{where} {sublayer}".rstrip()
            yield PartSummary(name=name, trained=part * len(numbers), total=total * len(numbers))


def _position(names: tuple[str, ...]) -> tuple[str, tuple[int, ...], str]:
    """Of "decoder.layers.3.cross_attention.q.weight": "decoder layers", (3,) and "cross_attention"."""
    words = names[0].split(".")
    if "layers" not in words[:-2]:
        return " ".join(words[: 2 if words[0] in ("encoder", "decoder") else 1]), (), ""
    at = words.index("layers")
    layers = tuple(int(name.split(".")[at + 1]) for name in names)
    return " ".join(words[: at + 1]), layers, words[at + 2] + (" lora" if "lora" in words else "")


def _condensed(sublayers: dict[str, list[int]]) -> tuple[tuple[str, int, int], ...]:
    rows = tuple((name, trained, total) for name, (trained, total) in sublayers.items())
    trained, total = sum(row[1] for row in rows), sum(row[2] for row in rows)
    return rows if 0 < trained < total and len(rows) > 1 else (("", trained, total),)


def _nbytes(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype"))


def _readable_bytes(size: int) -> str:
    for unit, step in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= step:
            return f"{size / step:.3g} {unit}"
    return f"{size} B"
