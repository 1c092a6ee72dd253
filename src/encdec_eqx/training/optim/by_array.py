"""Arrays of a model as an optimizer sees them: matrices and vectors, and their own factors on the learning rate."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from ..._trees import path_name
from ..._typing import Array
from ...params.param_names import ParamNames, param_names
from ...params.selectors import select
from ...stack.unrolled import AbstractStack

_TABLES = {"embeddings", "lm_head", "distances", "relative_bias", "relative_positions"}
"""Words in the names of arrays whose rows belong to tokens, positions or distances, and of the way back to tokens."""


@dataclasses.dataclass(frozen=True)
class Leaf:
    """What is known of one array besides its shape.

    Attributes:
        names: its readable names, one for each entry of the stacked axis, or one.
        stacked: whether its first axis is layers.
        dimensions: number of its axes without that one.
    """

    names: tuple[str, ...]
    stacked: bool
    dimensions: int

    @property
    def is_vector(self) -> bool:
        """Whether it is a bias, or has a single axis, as the scales of norms have."""
        return self.dimensions < 2 or self._words[-1] == "bias"

    @property
    def decays(self) -> bool:
        """Whether weight decay applies, as in Hugging Face's `Trainer`: not to biases, norms and single axes."""
        return not self.is_vector and not {"norm", "relative_bias"} & {*self._words}

    @property
    def is_hidden_matrix(self) -> bool:
        """Whether it maps states to states: a weight inside the model, not a table nor the head."""
        return not self.is_vector and not _TABLES & {*self._words}

    @property
    def _words(self) -> list[str]:
        return self.names[0].split(".")


def described(params: PyTree) -> tuple[Leaf, ...]:
    """What is known of each leaf of a model, or of the part of it that is trained."""
    return _described(param_names(params), tuple(np.ndim(leaf) for leaf in jax.tree.leaves(params)))


@functools.lru_cache(maxsize=64)
def _described(names: ParamNames, dimensions: tuple[int, ...]) -> tuple[Leaf, ...]:
    return tuple(
        Leaf(tuple(place.names[-1] for place in its), its[0].at is not None, axes - (its[0].at is not None))
        for its, axes in zip(names.by_leaf, dimensions, strict=True)
    )


def as_matrices(x: Float[Array, "*axes"], leaf: Leaf) -> Float[Array, "count in out"] | Float[Array, "count size"]:
    """Matrices (in, out), or vectors, one behind the other: of each layer, and of each part of a fused weight.

    A weight (in, parts, heads, head_dim) is as many matrices as it has parts; (in, heads, head_dim) is one. A bias
    (parts, heads, head_dim) is as many vectors as it has parts.
    """
    x = x if leaf.stacked else x[None]
    if leaf.is_vector:
        return x.reshape(x.shape[0] * (x.shape[1] if leaf.dimensions == 3 else 1), -1)
    if leaf.dimensions == 4:
        x = jnp.moveaxis(x, 2, 1)
        return x.reshape(-1, x.shape[2], math.prod(x.shape[3:]))
    return x.reshape(*x.shape[:2], -1)


def from_matrices(matrices: Any, like: Float[Array, "*axes"], leaf: Leaf) -> Float[Array, "*axes"]:
    """What `as_matrices` made, or anything of its shape, back in the shape of `like`."""
    if leaf.dimensions != 4 or leaf.is_vector:
        return matrices.reshape(like.shape)
    into, parts, *out = like.shape[leaf.stacked :]
    split = matrices.reshape(-1, parts, into, *out)
    return jnp.moveaxis(split, 1, 2).reshape(like.shape)


def rate_factors(
    params: PyTree, learning_rate: float, learning_rates: Mapping[str, float], layer_wise_lr_decay: float
) -> list[Any]:
    """For each leaf, the factor on its learning rate: a number, or an array to multiply a stacked leaf with.

    Args:
        params: a model, or the part of it that is trained.
        learning_rate: the rate to which factors refer.
        learning_rates: selectors to rates; such arrays take no part in the decay by depth.
        layer_wise_lr_decay: of layer i of n the factor is this to the power n - i; of what stands above a stack 1; of
            the embeddings below it, this to the power n + 1.

    Raises:
        ValueError: a selector matches nothing, two give an array different rates, or layers that share weights would
            have different factors.
    """
    found, depths = param_names(params).places, _depths(params)
    factors = [_by_depth(place.names, depths, layer_wise_lr_decay) for place in found]
    if layer_wise_lr_decay != 1.0 and all(factor == 1.0 for factor in factors):
        raise ValueError("layer_wise_lr_decay would do nothing: no layer and no embedding is trained.")
    chosen: dict[int, tuple[str, float]] = {}
    for selector, rate in learning_rates.items():
        for number, picked in enumerate(select(selector, [place.names for place in found])):
            if not picked:
                continue
            if number in chosen and chosen[number][1] != rate:
                raise ValueError(
                    f"learning_rates give {found[number].names[0]!r} two rates: by {chosen[number][0]!r} and by "
                    f"{selector!r}."
                )
            chosen[number] = (selector, rate)
            factors[number] = rate / learning_rate
    of_leaf: list[list[float]] = [[] for _ in jax.tree.leaves(params)]
    for place, factor in zip(found, factors, strict=True):
        of_leaf[place.leaf].append(factor)
    return [_shaped(values, leaf) for values, leaf in zip(of_leaf, described(params), strict=True)]


def _depths(params: PyTree) -> dict[str, int]:
    """What stands before `layers` in the names of each stack's arrays, and how many layers it has."""
    nodes = jax.tree_util.tree_leaves_with_path(params, is_leaf=lambda node: isinstance(node, AbstractStack))
    return {
        path_name(path).removesuffix("stack"): len(node.layers)
        for path, node in nodes
        if isinstance(node, AbstractStack)
    }


def _by_depth(names: tuple[str, ...], depths: dict[str, int], decay: float) -> float:
    factors = {_factor(name, depths, decay) for name in names}
    if len(factors) > 1:
        raise ValueError(
            f"layer_wise_lr_decay cannot tell apart {names[0]!r} and {names[-1]!r}: these layers share their weights."
        )
    return factors.pop()


def _factor(name: str, depths: dict[str, int], decay: float) -> float:
    for prefix, count in depths.items():
        if name.startswith(f"{prefix}layers."):
            number = int(name.removeprefix(f"{prefix}layers.").split(".")[0])
            return decay ** (count - number)
        if name.startswith(f"{prefix}embeddings."):
            return decay ** (count + 1)
    return 1.0


def _shaped(factors: list[float], leaf: Leaf) -> Any:
    if len(set(factors)) == 1:
        return factors[0]
    return np.asarray(factors, np.float32).reshape(-1, *(1,) * leaf.dimensions)
