"""Adafactor: Adam's mean of squares kept as one number a row and one a column (Shazeer and Stern 2018).

Knows batches of matrices and of vectors; which arrays of a model they are is `matrices`' affair.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from ..._typing import Array
from .matrices import as_matrices, described, from_matrices

_EPSILON = 1e-30
_DECAY = 0.8
_LARGEST = 1.0


class AdafactorState(eqx.Module):
    """The state of `scale_by_adafactor`.

    Attributes:
        count: steps taken.
        rows: mean squares of each matrix's rows; of vectors, of each entry.
        columns: mean squares of each matrix's columns; empty for vectors.
    """

    count: Array
    rows: Any
    columns: Any


def scale_by_adafactor() -> optax.GradientTransformation:
    """Gradients over the root of their factored mean square, with a root mean square of at most 1 for each matrix.

    As `transformers.optimization.Adafactor` with `scale_parameter=False, relative_step=False`, which is what
    Hugging Face's `Trainer` uses: without momentum, the decay rising as 1 - step^-0.8. The parts of a fused weight are
    matrices of their own.
    """

    def init(params: Any) -> Any:
        leaves, structure = jax.tree.flatten(params)
        batches = [as_matrices(leaf, its) for leaf, its in zip(leaves, described(params), strict=True)]
        rows = [jnp.zeros_like(batch[..., 0] if batch.ndim == 3 else batch) for batch in batches]
        columns = [jnp.zeros_like(batch[:, 0] if batch.ndim == 3 else batch[:, :0]) for batch in batches]
        return AdafactorState(
            jnp.zeros((), jnp.int32), jax.tree.unflatten(structure, rows), jax.tree.unflatten(structure, columns)
        )

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        count = state.count + 1
        keep = 1.0 - count.astype(jnp.float32) ** -_DECAY
        leaves, structure = jax.tree.flatten(updates)
        results = [
            _update(as_matrices(leaf, its), rows, columns, keep)
            for leaf, its, rows, columns in zip(
                leaves, described(updates), jax.tree.leaves(state.rows), jax.tree.leaves(state.columns), strict=True
            )
        ]
        scaled = [
            from_matrices(result[0], leaf, its)
            for result, leaf, its in zip(results, leaves, described(updates), strict=True)
        ]
        rows, columns = ([result[at] for result in results] for at in (1, 2))
        state = AdafactorState(count, jax.tree.unflatten(structure, rows), jax.tree.unflatten(structure, columns))
        return jax.tree.unflatten(structure, scaled), state

    return optax.GradientTransformation(init, update)


def _update(grads: Array, rows: Array, columns: Array, keep: Array) -> tuple[Array, Array, Array]:
    squares = jnp.square(grads) + _EPSILON
    if grads.ndim == 2:
        rows = keep * rows + (1.0 - keep) * squares
        scaled = grads * jax.lax.rsqrt(rows)
    else:
        rows = keep * rows + (1.0 - keep) * jnp.mean(squares, axis=2)
        columns = keep * columns + (1.0 - keep) * jnp.mean(squares, axis=1)
        of_row = jax.lax.rsqrt(rows / jnp.mean(rows, axis=1, keepdims=True))
        scaled = grads * of_row[:, :, None] * jax.lax.rsqrt(columns)[:, None, :]
    axes = tuple(range(1, grads.ndim))
    size = jnp.sqrt(jnp.mean(jnp.square(scaled), axis=axes, keepdims=True))
    return scaled / jnp.maximum(1.0, size / _LARGEST), rows, columns
