"""Small operations on any module: casting, and the names of its arrays."""

from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

_Tree = TypeVar("_Tree")


def astype(tree: _Tree, dtype: DTypeLike) -> _Tree:
    """The same module with its floating-point arrays cast.

    Args:
        tree: a model, or any part of one.
        dtype: float32, bfloat16 or float16. Softmax, norms' statistics and logits stay in float32 whatever it is.

    Raises:
        TypeError: `dtype` is not a floating-point dtype.
    """
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"astype got {dtype!r}; expected a floating-point dtype such as jnp.bfloat16.")

    def cast(leaf: Any) -> Any:
        return leaf.astype(dtype) if eqx.is_inexact_array(leaf) else leaf

    return jax.tree.map(cast, tree)


def path_name(path: tuple[Any, ...]) -> str:
    """A leaf's key path as `stack.blocks.0.self_norm.weight`."""
    return jax.tree_util.keystr(path, simple=True, separator=".")
