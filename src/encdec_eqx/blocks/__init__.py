"""The kinds of layers; `LayerSpec.block` names one."""

from .._typing import PRNGKey
from ..config import LayerSpec, StackConfig
from .block import AbstractBlock as AbstractBlock
from .block import Block as Block
from .block import BlockOutput as BlockOutput
from .parallel import ParallelBlock as ParallelBlock

KINDS: dict[str, type[Block] | type[ParallelBlock]] = {
    "serial": Block,
    "parallel": ParallelBlock,
    "parallel_norms": ParallelBlock,
}


def init_block(config: StackConfig, spec: LayerSpec, *, key: PRNGKey) -> AbstractBlock:
    """A layer of the kind that `spec` names."""
    return KINDS[spec.block].init(config, spec, key=key)
