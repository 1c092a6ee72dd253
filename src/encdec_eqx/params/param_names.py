"""Readable names of a model's arrays, layer by layer, whatever the layout of its stacks."""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax

from .._trees import path_name
from ..stack import unroll
from ..stack.unrolled import UnrolledStack, schedule

_RENAMED = (
    (re.compile(r"(^|\.)stack\.shared\.final_norm\."), r"\1norm."),
    (re.compile(r"(^|\.)stack\.shared\.other\."), r"\1relative_positions."),
    (re.compile(r"(^|\.)stack\.shared\."), r"\1"),
    (re.compile(r"(^|\.)stack\.blocks\."), r"\1layers."),
    (re.compile(r"\.self_norm\."), r".self_attention.norm."),
    (re.compile(r"\.cross_norm\."), r".cross_attention.norm."),
    (re.compile(r"\.cross_gate$"), r".cross_attention.gate"),
    (re.compile(r"\.feed_forward_norm\."), r".feed_forward.norm."),
    (re.compile(r"\.convolution_norm\."), r".convolution.norm."),
    (re.compile(r"\.(self_|cross_)output_norm\."), r".\1attention.output_norm."),
    (re.compile(r"\.feed_forward_output_norm\."), r".feed_forward.output_norm."),
    (re.compile(r"^(decoder\.)?head\."), r"\1lm_head."),
)
"""From the paths of fields to names: a sublayer's norm belongs to the sublayer, and the head is the `lm_head`."""


@dataclasses.dataclass(frozen=True)
class Place:
    """A whole array, or one layer's part of an array that is stacked over layers.

    Attributes:
        names: such as `decoder.layers.3.cross_attention.q.weight`; several if several layers share it.
        leaf: number of the array among the model's leaves.
        at: which entry of the stacked axis; None if the array is not stacked.
    """

    names: tuple[str, ...]
    leaf: int
    at: int | None


@dataclasses.dataclass(frozen=True)
class Slot:
    """Stands for an array of a model, and remembers where it was cut from when a stack is unrolled."""

    leaf: int
    at: int | None = None

    def __getitem__(self, at: int) -> "Slot":
        """An entry of the stacked axis."""
        return Slot(self.leaf, at)


@dataclasses.dataclass(frozen=True, eq=False)
class ParamNames:
    """The names of a model's arrays. Made once for each structure of a model, which `param_names` looks up.

    Attributes:
        places: Everything that has a name, in the order in which it is read.
        slots: The model with a `Slot` in place of every leaf.
        by_leaf: The places of each leaf: one per layer if it is stacked, else one.
    """

    places: tuple[Place, ...]
    slots: Any
    by_leaf: tuple[tuple[Place, ...], ...]


def param_names(model: eqx.Module) -> ParamNames:
    """The names of a model's arrays, or of a tree like it (its trained part, its gradients)."""
    structure = jax.tree.structure(model)
    try:
        return _of_structure(structure)
    except TypeError:  # a module of the user's own may hold static values that cannot be hashed
        return _of_structure.__wrapped__(structure)


def places(model: eqx.Module) -> tuple[Place, ...]:
    """Everything that has a name, in the order in which it is read."""
    return param_names(model).places


def slots(model: eqx.Module) -> Any:
    """The model with a `Slot` in place of every leaf."""
    return param_names(model).slots


@functools.lru_cache(maxsize=64)
def _of_structure(structure: Any) -> ParamNames:
    its_slots = jax.tree.unflatten(structure, [Slot(leaf) for leaf in range(structure.num_leaves)])
    found = tuple(Place(names, slot.leaf, slot.at) for names, slot in named(unroll(its_slots)))
    by_leaf: list[list[Place]] = [[] for _ in range(structure.num_leaves)]
    for place in found:
        by_leaf[place.leaf].append(place)
    return ParamNames(found, its_slots, tuple(map(tuple, by_leaf)))


def named(unrolled: Any, is_leaf: Callable[[Any], bool] = lambda _: False) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The names of every leaf of an unrolled model, or of a tree like it, and the leaf, in the order of its leaves.

    `is_leaf` says what is a leaf besides, such as whole layers.
    """

    def leaves(node: Any, stop: Callable[[Any], bool]) -> Any:
        return jax.tree_util.tree_leaves_with_path(node, is_leaf=stop)

    for path, node in leaves(unrolled, lambda node: isinstance(node, UnrolledStack) or is_leaf(node)):
        if not isinstance(node, UnrolledStack):
            yield (_readable(path_name(path)),), node
            continue
        order = schedule(node.layers)
        for inner, leaf in leaves(node, is_leaf):
            field, *rest = path_name((*path, *inner)).split(".blocks.", 1)
            if not rest:
                yield (_readable(field),), leaf
                continue
            number, inside = rest[0].split(".", 1)
            served = [layer for layer, block in enumerate(order) if block == int(number)]
            yield tuple(_readable(f"{field}.blocks.{layer}.{inside}") for layer in served), leaf


@functools.cache
def _readable(path: str) -> str:
    for pattern, new in _RENAMED:
        path = pattern.sub(new, path)
    return path
