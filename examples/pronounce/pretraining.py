"""What the scripts that pretrained the demo's pieces share: the order of batches, and an optimizer."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from encdec_eqx.training.optim.muon_adafactor import orthogonalize

Batch = dict[str, np.ndarray]


def shuffled(groups: Sequence[tuple[Batch, int]], *, seed: int) -> Iterator[Batch]:
    """Batches without end from groups of equal-width rows.

    Each pass shuffles the rows of every group and then the order of all batches; rows that do not fill a batch wait for
    the next pass.

    Args:
        groups: arrays whose first axis is the rows, and how many rows make a batch.
        seed: decides the order, wholly.

    Raises:
        ValueError: no group holds enough rows for one batch.
    """
    random = np.random.default_rng(seed)
    if not any(len(next(iter(arrays.values()))) >= rows for arrays, rows in groups):
        raise ValueError("no group of equally wide rows fills one batch: give more data or smaller batches")
    while True:
        plan = []
        for arrays, rows in groups:
            order = random.permutation(len(next(iter(arrays.values()))))
            plan += [(arrays, order[i : i + rows]) for i in range(0, len(order) - rows + 1, rows)]
        for index in random.permutation(len(plan)):
            arrays, chosen = plan[index]
            yield {name: array[chosen] for name, array in arrays.items()}


def muon(
    learning_rate: float, *, steps: int, adam_learning_rate: float = 3e-3, momentum: float = 0.95, warmup: float = 0.05
) -> optax.GradientTransformation:
    """Muon and Adam under one schedule: a linear warm-up, then a linear decay to zero at `steps`.

    Args:
        learning_rate: peak for the layers' matrices, scaled for each by sqrt(max(1, out / in)).
        steps: length of the schedule.
        adam_learning_rate: peak for embeddings, biases and norms.
        momentum: Muon's momentum (Nesterov's).
        warmup: fraction of `steps` in which the rate rises.
    """
    rise = max(1, round(warmup * steps))
    shape = optax.schedules.join_schedules(
        [
            optax.schedules.linear_schedule(0.0, -1.0, rise),
            optax.schedules.linear_schedule(-1.0, 0.0, max(1, steps - rise)),
        ],
        [rise],
    )
    return optax.chain(
        optax.transforms.partition(
            {
                "muon": optax.chain(_orthogonal_momentum(momentum), optax.scale(learning_rate)),
                "adam": optax.chain(optax.scale_by_adam(b2=0.98), optax.scale(adam_learning_rate)),
            },
            _labels,
        ),
        optax.scale_by_schedule(shape),
    )


def _labels(params: Any) -> Any:
    """`"muon"` for weights of linear layers, `"adam"` for tables, biases and norms."""

    def label(path: tuple, leaf: Any) -> str:
        name = jax.tree_util.keystr(path)
        is_matrix = name.endswith(".weight") and leaf.ndim >= 2 and ".embeddings." not in name
        return "muon" if is_matrix else "adam"

    return jax.tree_util.tree_map_with_path(label, params)


def _orthogonal_momentum(decay: float) -> optax.GradientTransformation:
    def init(params: Any) -> Any:
        return jax.tree.map(jnp.zeros_like, params)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        state = jax.tree.map(lambda m, g: decay * m + (1 - decay) * g, state, updates)
        ahead = jax.tree.map(lambda m, g: decay * m + (1 - decay) * g, state, updates)
        return orthogonalised(ahead), state

    return optax.GradientTransformation(init, update)


def orthogonalised(tree: Any) -> Any:
    """Each leaf, an (in, …) weight, with its matrices made orthogonal and scaled by sqrt(max(1, out / in)).

    The parts of a fused weight (in, parts, heads, head_dim) are matrices of their own. Matrices of one shape go
    through together.
    """
    leaves, structure = jax.tree.flatten(tree)
    batches = orthogonalize([_as_matrices(leaf) for leaf in leaves])
    scaled = [batch * max(1.0, batch.shape[2] / batch.shape[1]) ** 0.5 for batch in batches]
    done = [_from_matrices(batch, leaf.shape) for batch, leaf in zip(scaled, leaves, strict=True)]
    return jax.tree.unflatten(structure, done)


def _as_matrices(leaf: jax.Array) -> jax.Array:
    """(count, in, out)."""
    if leaf.ndim == 4:
        return jnp.moveaxis(leaf.reshape(*leaf.shape[:2], -1), 1, 0)
    return leaf.reshape(1, leaf.shape[0], -1)


def _from_matrices(matrices: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jnp.moveaxis(matrices, 0, 1).reshape(shape)
