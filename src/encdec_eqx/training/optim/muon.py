"""Muon (Jordan 2024, kellerjordan.github.io/posts/muon): the orthogonal matrix nearest to a matrix's momentum.

Knows batches of matrices; which arrays of a model they are is `matrices`' affair.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float

from ..._typing import Array
from .matrices import as_matrices, described, from_matrices

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_EPSILON = 1e-7
_ADAM_SIZE = 0.2


def scale_by_muon(momentum: float = 0.95) -> optax.GradientTransformation:
    """Nesterov's momentum, orthogonalised, and scaled to the size of Adam's updates.

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
        batches = orthogonalised([as_matrices(leaf, its) for leaf, its in zip(leaves, known, strict=True)])
        sized = [batch * (_ADAM_SIZE * max(batch.shape[1:]) ** 0.5) for batch in batches]
        done = [from_matrices(batch, leaf, its) for batch, leaf, its in zip(sized, leaves, known, strict=True)]
        return jax.tree.unflatten(structure, done), state

    return optax.GradientTransformation(init, update)


def orthogonalised(batches: list[Float[Array, "_ _ _"]]) -> list[Float[Array, "_ _ _"]]:
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
    x = x / (jnp.sqrt(jnp.sum(x * x, axis=(1, 2), keepdims=True)) + _EPSILON)
    a, b, c = _COEFFICIENTS

    def iterate(_: Any, x: Array) -> Array:
        gram = x @ jnp.swapaxes(x, 1, 2)
        return a * x + (b * gram + c * (gram @ gram)) @ x

    x = jax.lax.fori_loop(0, _ITERATIONS, iterate, x)
    return jnp.swapaxes(x, 1, 2) if tall else x
