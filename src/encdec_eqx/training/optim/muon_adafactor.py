"""Muon (Jordan 2024) and Adafactor (Shazeer and Stern 2018) over the matrices inside a model's arrays."""

import itertools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float

from ..._typing import Array
from .by_array import as_matrices, described, from_matrices

_MUON_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_MUON_ITERATIONS = 5
_MUON_EPSILON = 1e-7
_ADAM_SIZE = 0.2


def scale_by_muon(momentum: float = 0.95) -> optax.GradientTransformation:
    """Nesterov's momentum, orthogonalized, and scaled to the size of Adam's updates.

    The scale is 0.2 sqrt(max(in, out)) (Liu et al. 2025, "Muon is scalable for LLM training"), so that learning rates
    and weight decays of AdamW carry over. For parameters that are matrices alone. The state is the momentum.
    """

    def init(params: Any) -> Any:
        return jax.tree.map(jnp.zeros_like, params)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params

        def blend(mean: Array, new: Array) -> Array:
            return momentum * mean + (1.0 - momentum) * new

        state = jax.tree.map(blend, state, updates)
        leaves, structure = jax.tree.flatten(jax.tree.map(blend, state, updates))
        known = described(updates)
        batches = orthogonalize([as_matrices(leaf, its) for leaf, its in zip(leaves, known, strict=True)])
        sized = [batch * (_ADAM_SIZE * max(batch.shape[1:]) ** 0.5) for batch in batches]
        done = [from_matrices(batch, leaf, its) for batch, leaf, its in zip(sized, leaves, known, strict=True)]
        return jax.tree.unflatten(structure, done), state

    return optax.GradientTransformation(init, update)


def orthogonalize(batches: list[Float[Array, "_ _ _"]]) -> list[Float[Array, "_ _ _"]]:
    """Matrices, in batches, with singular values brought near 1 (0.7 to 1.2) by five Newton-Schulz iterations.

    Matrices of one shape go through together: fewer, larger products, and less to compile.
    """
    done: list[Any] = [None] * len(batches)
    for shape in sorted({batch.shape[1:] for batch in batches}):
        members = [at for at, batch in enumerate(batches) if batch.shape[1:] == shape]
        result = _newton_schulz(jnp.concatenate([batches[at] for at in members]))
        ends = list(itertools.accumulate(batches[at].shape[0] for at in members))[:-1]
        for at, part in zip(members, jnp.split(result, ends), strict=True):
            done[at] = part
    return done


def _newton_schulz(x: Float[Array, "count in out"]) -> Float[Array, "count in out"]:
    tall = x.shape[1] > x.shape[2]
    x = jnp.swapaxes(x, 1, 2) if tall else x
    x = x / (jnp.sqrt(jnp.sum(x * x, axis=(1, 2), keepdims=True)) + _MUON_EPSILON)
    a, b, c = _MUON_COEFFICIENTS

    def iterate(_: Any, x: Array) -> Array:
        gram = x @ jnp.swapaxes(x, 1, 2)
        return a * x + (b * gram + c * (gram @ gram)) @ x

    x = jax.lax.fori_loop(0, _MUON_ITERATIONS, iterate, x)
    return jnp.swapaxes(x, 1, 2) if tall else x


_ADAFACTOR_EPSILON = 1e-30
_ADAFACTOR_DECAY = 0.8
_ADAFACTOR_LARGEST = 1.0


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
        keep = 1.0 - count.astype(jnp.float32) ** -_ADAFACTOR_DECAY
        leaves, structure = jax.tree.flatten(updates)
        results = [
            _adafactor_update(as_matrices(leaf, its), rows, columns, keep)
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


def _adafactor_update(grads: Array, rows: Array, columns: Array, keep: Array) -> tuple[Array, Array, Array]:
    squares = jnp.square(grads) + _ADAFACTOR_EPSILON
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
    return scaled / jnp.maximum(1.0, size / _ADAFACTOR_LARGEST), rows, columns
