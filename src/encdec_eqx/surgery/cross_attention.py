"""Cross-attention for a stack that was pretrained without it."""

import equinox as eqx

from .. import _trees
from .._typing import PRNGKey
from ..blocks.block import Block
from ..config import StackConfig
from ..stack import to_layout
from ..stack.unrolled import AbstractStack, UnrolledStack


def add_cross_attention(stack: AbstractStack, config: StackConfig, *, key: PRNGKey) -> UnrolledStack:
    """The same layers, unrolled, with newly initialised cross-attention.

    Args:
        stack: layers without it, in either layout.
        config: of the stack to be, which says what layers have cross-attention and what states they attend to.
        key: draws the new weights.
    """
    unrolled = to_layout(stack, "unrolled")
    assert isinstance(unrolled, UnrolledStack)
    new = UnrolledStack.init(config, key=key)
    blocks = tuple(_borrow_cross(old, other) for old, other in zip(unrolled.blocks, new.blocks, strict=True))
    return UnrolledStack(blocks=blocks, shared=unrolled.shared, layers=config.layers, scales=unrolled.scales)


def _borrow_cross(old: Block, new: Block) -> Block:
    """The old block with the new one's cross-attention, in the old one's dtype."""
    return eqx.tree_at(
        lambda b: (b.cross_attention, b.cross_norm),
        old,
        _trees.astype((new.cross_attention, new.cross_norm), old.self_norm.weight.dtype),
        is_leaf=lambda x: x is None,
    )
