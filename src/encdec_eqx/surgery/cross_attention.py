"""Cross-attention for a stack that was pretrained without it."""

from typing import Any

import equinox as eqx

from .. import _trees
from .._typing import PRNGKey
from ..blocks import AbstractBlock
from ..config import StackConfig
from ..layers.int8 import is_int8
from ..stack import to_layout
from ..stack.unrolled import AbstractStack, UnrolledStack

_CROSS = ("cross_attention", "cross_norm", "cross_output_norm")
"""Fields of a block that only cross-attention fills."""


def add_cross_attention(stack: AbstractStack, config: StackConfig, *, key: PRNGKey) -> UnrolledStack:
    """The same layers, unrolled, with newly initialised cross-attention: in the layers of the config that have it."""
    if is_int8(stack):
        raise ValueError(
            "the decoder is quantized to int8: give the float32 one cross-attention, train it, and quantize the pair."
        )
    unrolled = to_layout(stack, "unrolled")
    assert isinstance(unrolled, UnrolledStack)
    new = UnrolledStack.init(config, key=key)
    blocks = tuple(_borrow_cross(old, other) for old, other in zip(unrolled.blocks, new.blocks, strict=True))
    return UnrolledStack(blocks=blocks, shared=unrolled.shared, layers=config.layers, scales=unrolled.scales)


def _borrow_cross(old: AbstractBlock, new: AbstractBlock) -> AbstractBlock:
    """The old block with the new one's cross-attention, in the dtype of the old one's norms."""
    norm: Any = getattr(old, "self_norm", None) or getattr(old, "feed_forward_norm", None)
    fields = [name for name in _CROSS if getattr(new, name, None) is not None]
    return eqx.tree_at(
        lambda block: [getattr(block, name) for name in fields],
        old,
        _trees.astype([getattr(new, name) for name in fields], norm.weight.dtype),
        is_leaf=lambda x: x is None,
    )
