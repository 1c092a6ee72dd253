"""What can be said of a model from its arrays alone, by name and whatever layout they are in; and what is trained.

Names are such as `decoder.layers.3.cross_attention.out.weight`.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..params.param_names import places
from .catalogue import found
from .finding import Finding


@dataclasses.dataclass(frozen=True)
class Size:
    """The size of an array.

    Attributes:
        rms: root of the mean square.
        low: smallest value; NaN if there is one.
        high: largest value; NaN if there is one.
        count: how many values there are.
        dtype: their dtype.
    """

    rms: float
    low: float
    high: float
    count: int
    dtype: np.dtype

    @property
    def finite(self) -> bool:
        """Whether every value is."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    @classmethod
    def of(cls, array: np.ndarray) -> "Size":
        """Of an array of floating-point numbers."""
        wide = array.astype(np.float32, copy=False).ravel()
        with np.errstate(over="ignore", invalid="ignore"):
            rms = math.sqrt(float(np.dot(wide, wide)) / max(wide.size, 1))
        return cls(rms, float(wide.min(initial=np.inf)), float(wide.max(initial=-np.inf)), wide.size, array.dtype)


class Weights(Mapping[str, Size]):
    """The size of every floating-point array of a model, or of a gradient, by its name.

    Attributes:
        model: what they are the arrays of.
    """

    def __init__(self, model: Any):
        self.model = model
        self._sizes = {name: Size.of(array) for name, array in named_arrays(model)}

    def __getitem__(self, name: str) -> Size:
        return self._sizes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sizes)

    def __len__(self) -> int:
        return len(self._sizes)

    def under(self, part: str) -> dict[str, Size]:
        """Those of one part of the model."""
        return {name: size for name, size in self.items() if name.startswith(f"{part}.")}

    @cached_property
    def cross_attentions(self) -> tuple[str, ...]:
        """Names of the decoder's cross-attentions, in order."""
        pattern = re.compile(r"decoder\.layers\.\d+\.cross_attention(?=\.)")
        return tuple(dict.fromkeys(match[0] for name in self if (match := pattern.match(name))))

    @cached_property
    def new_parts(self) -> tuple[str, ...]:
        """Cross-attentions, and the projection between the widths, that are newly initialised.

        Recognised by their biases, all exactly 0, and by the norms around them, all exactly 1: any step changes them.
        """
        return tuple(name for name in (*self.cross_attentions, "enc_to_dec_proj") if self._is_new(name))

    @property
    def cross_attention_is_new(self) -> bool:
        """Whether no cross-attention has been trained."""
        return bool(self.cross_attentions) and set(self.cross_attentions) <= set(self.new_parts)

    @property
    def cross_attention_moved(self) -> float:
        """Mean size of the biases of cross-attention's norms: 0 at first, then about learning rate times steps."""
        biases = [self[name].rms for name in self if name.endswith(".cross_attention.norm.bias")]
        return sum(biases) / max(len(biases), 1)

    def _is_new(self, name: str) -> bool:
        sizes = self.under(name)
        biases = [size for name, size in sizes.items() if name.endswith(".bias")]
        scales = [size for name, size in sizes.items() if name.endswith(".norm.weight")]
        return bool(biases) and all(b.low == b.high == 0 for b in biases) and all(s.low == s.high == 1 for s in scales)


def named_arrays(tree: Any) -> list[tuple[str, np.ndarray]]:
    """The floating-point arrays of a model, or of a gradient, on the host, layer by layer.

    Cross-attention's fused keys and values come apart, as `cross_attention.k.weight` and so on.
    """
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    named = [(found.names[0], leaves[found.leaf], found.at) for found in places(tree)]
    whole = [(name, x if at is None else x[at, ...]) for name, x, at in named if jnp.issubdtype(x.dtype, jnp.floating)]
    return [part for name, array in whole for part in _parts(name, array)]


def _parts(name: str, array: np.ndarray) -> list[tuple[str, np.ndarray]]:
    fused = re.fullmatch(r"(.*\.cross_attention)\.kv\.(weight|bias)", name)
    if fused is None:
        return [(name, array)]
    axis = array.ndim - 3  # (in, 2, heads, head_dim), or without the first
    return [(f"{fused[1]}.{part}.{fused[2]}", array.take(at, axis)) for at, part in enumerate("kv")]


def not_finite(weights: Weights) -> Iterator[Finding]:
    """NaN or infinity in an array: whatever reads it is lost."""
    bad = [name for name, size in weights.items() if not size.finite]
    if bad:
        yield found("non_finite_weights", also={"of": len(weights)}, arrays=len(bad), first=bad[0])


def are_half_precision(weights: Weights, trained: set[str]) -> Iterator[Finding]:
    """Trained arrays of 16 bits: a step's update is smaller than what they can tell apart, and is lost."""
    half = [name for name in trained if name in weights and weights[name].dtype.itemsize < 4]
    if half:
        yield found("half_precision_weights", arrays=len(half), dtype=str(weights[half[0]].dtype))


def cross_attention_is_dead(weights: Weights) -> Iterator[Finding]:
    """Cross-attention that adds nothing (its values or output are multiplied by 0), or prefers nothing (queries, keys).

    Near 0 is a ten-thousandth of the same matrix of the layer's self-attention; newly initialised ones are about equal.
    """
    dead, even = [], []
    for name in weights.cross_attentions:
        usual = _matrices(weights, name.replace("cross_attention", "self_attention.out"))
        limit = 1e-4 * min(usual, default=0.0)
        nothing = [
            part for part in ("q", "k", "v", "out") if max(_matrices(weights, f"{name}.{part}"), default=1) <= limit
        ]
        if {"v", "out"} & set(nothing):
            dead.append(name)
        elif nothing:
            even.append(name)
    projection = _matrices(weights, "enc_to_dec_proj")
    if projection and max(projection) == 0:
        dead.append("enc_to_dec_proj")
    if dead:
        yield found("dead_cross_attention", places=len(dead), first=dead[0])
    if even:
        yield found("cross_attention_uniform", places=len(even), first=even[0])


def gates_are_closed(weights: Weights, trained: set[str]) -> Iterator[Finding]:
    """Gates of cross-attention that are all 0: no fault where they are trained, though the encoder is not heard yet."""
    gates = [f"{name}.gate" for name in weights.cross_attentions if f"{name}.gate" in weights]
    if not gates or len(gates) < len(weights.cross_attentions) or any(weights[name].rms for name in gates):
        return
    opened = any(name in trained for name in gates)
    yield found("gates_closed" if opened else "gates_closed/frozen", gates=len(gates))


def embeddings_have_odd_sizes(weights: Weights) -> Iterator[Finding]:
    """Token embeddings that are far larger than the positions which are added to them, so that these drown.

    In the demo's two pieces and in MiniLM the ratio is 1.3 to 2.3, newly initialised 1. (Far below 1 is usual too:
    newly initialised embeddings with sinusoids.)
    """
    for piece in ("encoder", "decoder"):
        embeddings = getattr(getattr(weights.model, piece), "embeddings", None)
        tokens = weights.get(f"{piece}.embeddings.tokens.weight")
        positions = weights.get(f"{piece}.embeddings.positions.weight")
        if embeddings is None or tokens is None or positions is None or embeddings.position_use != "added":
            continue
        if not tokens.finite or not positions.finite or not positions.rms or not tokens.rms:
            continue
        ratio = tokens.rms * embeddings.scale / positions.rms
        if ratio > 30:
            yield found("embedding_scale", piece=piece, ratio=ratio, tokens_rms=tokens.rms, positions_rms=positions.rms)


def _matrices(weights: Weights, prefix: str) -> list[float]:
    """Sizes of what multiplies in a projection, whatever it is made of."""
    return [size.rms for name, size in weights.under(prefix).items() if not name.endswith(".bias")]


def trained_names(model: Any, trained: Any) -> set[str]:
    """Names of the arrays that a tree of bools, in the model's own layout, trains."""
    flags = jax.tree.leaves(trained)
    return {found.names[0] for found in places(model) if flags[found.leaf]}


def nothing_is_trained(trained: set[str]) -> Iterator[Finding]:
    """A tree of False only."""
    if not trained:
        yield found("nothing_trained")


def new_parts_are_frozen(weights: Weights, trained: set[str]) -> Iterator[Finding]:
    """Cross-attention, or the projection between the widths, that is newly initialised and will stay so.

    What was trained before and is frozen now is left alone.
    """
    frozen = [part for part in weights.new_parts if not any(name.startswith(f"{part}.") for name in trained)]
    if trained and frozen:
        yield found("new_parts_frozen", parts=len(frozen), first=frozen[0])
