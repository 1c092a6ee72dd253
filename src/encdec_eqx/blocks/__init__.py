"""The kinds of layers; `LayerSpec.block` and `LayerSpec.cross_kind` name one."""

from .._typing import PRNGKey
from ..config import LayerSpec, StackConfig
from .block import AbstractBlock as AbstractBlock
from .block import Block as Block
from .block import BlockOutput as BlockOutput
from .convolved import ConvolvedBlock as ConvolvedBlock
from .gated import GatedBlock as GatedBlock
from .gated import GatedParallelBlock as GatedParallelBlock
from .merged import MergedBlock as MergedBlock
from .merged import MergedParallelBlock as MergedParallelBlock
from .parallel import ParallelBlock as ParallelBlock

KINDS: dict[tuple[str, str], type[Block] | type[ParallelBlock]] = {
    ("serial", "sublayer"): Block,
    ("serial", "gated"): GatedBlock,
    ("serial", "merged"): MergedBlock,
    ("parallel", "sublayer"): ParallelBlock,
    ("convolved", "sublayer"): ConvolvedBlock,
    ("parallel", "gated"): GatedParallelBlock,
    ("parallel", "merged"): MergedParallelBlock,
}
"""By how sub-layers stand, and how the layer attends to encoder states."""


def kind_of(spec: LayerSpec) -> type[Block] | type[ParallelBlock]:
    """The class of a layer that is as `spec` says."""
    return KINDS[spec.block.removesuffix("_norms"), spec.cross_kind if spec.cross_attention else "sublayer"]


def init_block(config: StackConfig, spec: LayerSpec, *, key: PRNGKey) -> AbstractBlock:
    """A layer of the kind that `spec` names."""
    return kind_of(spec).init(config, spec, key=key)
