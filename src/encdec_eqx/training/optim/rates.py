"""Learning rates that differ inside a model: by selectors, and by depth.

Knows readable names and how many layers a stack has; must not know optimisers.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from ..._trees import path_name
from ...params.names import places
from ...params.selectors import select
from ...stack.unrolled import AbstractStack
from .matrices import Leaf, described


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
    found, depths = places(params), _depths(params)
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
