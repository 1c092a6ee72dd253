"""Which leaves of a model a step updates.

Knows what the pieces carry without reading; must not know optimisers.
"""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import PyTree

from ..decoder import Decoder
from ..embeddings import Embeddings
from ..encoder import Encoder
from ..heads import LMHead
from ..layers.linear import Embedding


def trainable(model: eqx.Module) -> PyTree[bool]:
    """A tree like `model` with True for every floating-point array that it reads.

    False are the constants (sinusoids, BART's bias of the logits) and the arrays that are only carried from one
    checkpoint to the next: poolers, and a table of positions that is not added (relative positions). They get no
    gradient, no optimiser state and no weight decay.

    To freeze more, replace parts of the tree, and give it to `init_train_state`::

        trained = trainable(model)
        trained = eqx.tree_at(lambda m: m.encoder, trained, jax.tree.map(lambda _: False, trained.encoder))
    """
    untrained = [node.pooler for kind in (Encoder, Decoder) for node in _nodes(model, kind)]
    untrained += [node.positions for node in _nodes(model, Embeddings) if node.position_use == "carried"]
    untrained += [node for node in _nodes(model, Embedding) if node.fixed]
    untrained += [node.bias for node in _nodes(model, LMHead) if node.fixed_bias]
    leaves = {id(leaf) for leaf in jax.tree.leaves(untrained)}
    return jax.tree.map(lambda leaf: eqx.is_inexact_array(leaf) and id(leaf) not in leaves, model)


def _nodes(model: eqx.Module, kind: type) -> list[Any]:
    """All modules of one kind, wherever they are."""
    nodes = jax.tree.leaves(model, is_leaf=lambda node: isinstance(node, kind))
    return [node for node in nodes if isinstance(node, kind)]
