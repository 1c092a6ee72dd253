"""Layers whose cross-attention is multiplied by the tanh of a gate: at 0, the layer is as it was without."""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Float

from .._typing import Array, PRNGKey
from ..config import LayerSpec, StackConfig
from ..layers.context import AttentionContext, LayerContext
from .block import AbstractBlock, Block, Residual, Stream
from .parallel import ParallelBlock


class _Gated(AbstractBlock):
    """What is the same in every layer with a gate."""

    cross_gate: eqx.AbstractVar[Float[Array, ""] | None]

    def _cross(
        self,
        x: Stream,
        residual: Residual,
        context: AttentionContext,
        layer: LayerContext,
        *,
        keys: tuple[PRNGKey | None, ...],
    ) -> tuple[Stream, Float[Array, "rows heads queries source"] | None]:
        return super()._cross(x, _gated(residual, self.cross_gate), context, layer, keys=keys)


class GatedBlock(_Gated, Block):
    """A `Block` whose gate counts by its tanh (Alayrac et al. 2022).

    A closed gate must leave the residual stream alone. Where the layer norms the sum, or what is added to
    (`"post"`, `"pre_residual"`), cross-attention's norm therefore stands before it, and nowhere else.
    """

    cross_gate: Float[Array, ""] | None

    @classmethod
    def init(cls, config: StackConfig, spec: LayerSpec, *, key: PRNGKey) -> "GatedBlock":
        """As `Block.init`, the gate at 0."""
        block = super().init(config, spec, key=key)
        assert isinstance(block, cls)
        return dataclasses.replace(block, cross_gate=jnp.zeros(()))


class GatedParallelBlock(_Gated, ParallelBlock):
    """A `ParallelBlock` with such a gate.

    Attributes:
        cross_gate: its tanh is the factor on what cross-attention adds.
    """

    cross_gate: Float[Array, ""] | None = None

    @classmethod
    def init(cls, config: StackConfig, spec: LayerSpec, *, key: PRNGKey) -> "GatedParallelBlock":
        """As `ParallelBlock.init`, the gate at 0."""
        block = super().init(config, spec, key=key)
        assert isinstance(block, cls)
        return dataclasses.replace(block, cross_gate=jnp.zeros(()))


def _gated(residual: Residual, gate: Array | None) -> Residual:
    """The same with the gate open by its tanh, and no norm of the residual stream itself."""
    assert gate is not None
    placement = "pre" if residual.placement in ("post", "pre_residual") else residual.placement
    return dataclasses.replace(residual, gate=jnp.tanh(gate), placement=placement)
