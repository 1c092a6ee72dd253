"""The residual stream around one sub-layer: where norms, dropout and a gate stand."""

import equinox as eqx
from jaxtyping import Float

from .._typing import Array, PRNGKey
from ..layers.dropout import Dropout
from ..layers.norm import AbstractNorm, Placement

Stream = Float[Array, "rows queries hidden"]


class Residual(eqx.Module):
    """How a sub-layer reads from the residual stream and adds to it; `layers.norm.Placement` has the formulas.

    Attributes:
        norm: the norm, or the one before the sub-layer where there are two; `None` leaves it out.
        output_norm: the second one, of the sub-layer's output.
        gate: factor on what is added.
        dropout: of the sub-layer's output.
        placement: where the norms stand.
    """

    norm: AbstractNorm | None
    output_norm: AbstractNorm | None
    gate: Float[Array, ""] | None
    dropout: Dropout
    placement: Placement = eqx.field(static=True)

    def enter(self, x: Stream) -> tuple[Stream, Stream]:
        """What the sub-layer reads, and what its output is added to."""
        if self.norm is None or self.placement in ("post", "output"):
            return x, x
        normed = self.norm(x)
        return normed, normed if self.placement == "pre_residual" else x

    def leave(self, x: Stream, out: Stream, *, key: PRNGKey | None) -> Stream:
        """The residual stream `x` with the sub-layer's output added."""
        if self.placement == "both" and self.output_norm is not None:
            out = self.output_norm(out)
        if self.placement == "output" and self.norm is not None:
            out = self.norm(out)
        out = self.dropout(out, key=key).astype(x.dtype)
        x = x + (out if self.gate is None else out * self.gate.astype(x.dtype))
        return self.norm(x) if self.placement == "post" and self.norm is not None else x
