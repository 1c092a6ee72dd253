"""Where numbers stop being finite: the first linear map of the model that reads, or makes, NaN or infinity.

The model is run once more, one operation after another and with every linear map watched, which costs no compilation
of a whole program. Knows linear maps; must not know what they are for.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._typing import Array
from ..layers.linear import AbstractLinear
from ..params.param_names import places, slots
from .finding import Finding
from .forward import Inputs


class Watched(AbstractLinear):
    """A linear map that notes whether what it reads and makes is finite.

    Attributes:
        inner: the map.
        name: its name.
        notes: what was noted, in the order of the calls: name, finite input, finite output.
    """

    inner: AbstractLinear
    name: str = eqx.field(static=True)
    notes: list[tuple[str, bool, bool]] = eqx.field(static=True)

    def __call__(self, x: Array) -> Array:
        """The map's own output."""
        y = self.inner(x)
        self.notes.append((self.name, _finite(x), _finite(y)))
        return y


def first_bad(model: Any, inputs: Inputs) -> str:
    """Where the first NaN or infinity comes up, in words.

    Args:
        model: in either layout.
        inputs: a batch, best of a single row.
    """
    notes: list[tuple[str, bool, bool]] = []
    watched = _watched(model, notes)
    given = {name: value for name, value in inputs.items() if name != "labels"}
    ids, decoder_ids = given.pop("input_ids"), given.pop("decoder_input_ids")
    out = watched(ids, decoder_ids, **given)
    before = None
    for name, reads, makes in notes:
        if not reads:
            return _before(name, before)
        if not makes:
            return name
        before = name
    return "the logits" if not _finite(out.logits) else "nowhere in this row"


def not_finite(where: str, bad_rows: int, rows: int) -> Iterator[Finding]:
    """NaN or infinity in what the model computes from this batch."""
    yield Finding(
        code="non_finite_activations",
        severity="error",
        message=f"the model computes NaN or infinity for {bad_rows} of {rows} rows; it begins in {where}.",
        fix="look at the weights there: load the checkpoint again, or go back to the last one before the loss became "
        "NaN; in float16, load with dtype=jnp.float32 or compute in bfloat16.",
        evidence={"first": where, "rows": bad_rows},
    )


def _watched(model: Any, notes: list[tuple[str, bool, bool]]) -> Any:
    """The model, unrolled, with every linear map inside a `Watched`."""
    unrolled = model.with_layout("unrolled")
    names = {found.leaf: found.names[0] for found in places(unrolled)}

    def is_linear(node: Any) -> bool:
        return isinstance(node, AbstractLinear)

    def watch(node: Any, slot: Any) -> Any:
        if not is_linear(node):
            return node
        own = [names[leaf.leaf] for leaf in jax.tree.leaves(slot)]
        name = _common(own)
        return Watched(node, name, notes)

    return jax.tree.map(watch, unrolled, slots(unrolled), is_leaf=is_linear)


def _common(names: list[str]) -> str:
    """The part that holds all these arrays."""
    parts = [name.split(".")[:-1] for name in names]
    levels = itertools.takewhile(lambda level: len(set(level)) == 1, zip(*parts, strict=False))
    return ".".join(level[0] for level in levels)


def _before(name: str, before: str | None) -> str:
    """Where something went wrong that a map reads; `before` is the map that was called before it."""
    piece, _, rest = name.partition(".")
    if rest == "layers.0.self_attention.qkv":
        return f"{piece}.embeddings"
    return "the inputs or the encoder" if before is None else f"between {before} and {name}"


def _finite(x: Array) -> bool:
    return bool(np.isfinite(np.asarray(x, dtype=jnp.float32)).all())
