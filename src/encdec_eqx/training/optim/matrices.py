"""Arrays of a model as an optimiser sees them: batches of matrices, and of vectors.

Knows how linear layers keep their weights, (in, *out), and that stacks put layers in front; must not know optimisers.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from ..._typing import Array
from ...params.names import places

_TABLES = {"embeddings", "lm_head", "distances", "relative_bias"}
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


def described(params: PyTree) -> list[Leaf]:
    """What is known of each leaf of a model, or of the part of it that is trained."""
    leaves = jax.tree.leaves(params)
    names: list[list[str]] = [[] for _ in leaves]
    stacked = [False] * len(leaves)
    for place in places(params):
        names[place.leaf].append(place.names[-1])
        stacked[place.leaf] = place.at is not None
    return [
        Leaf(tuple(of_leaf), is_stacked, np.ndim(leaf) - is_stacked)
        for leaf, of_leaf, is_stacked in zip(leaves, names, stacked, strict=True)
    ]


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
