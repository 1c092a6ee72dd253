"""What attention is told besides its input: once for all layers of a call, and for one layer."""

from typing import Any

import equinox as eqx
from jaxtyping import Float, Integer

from .._typing import Array, PRNGKey
from ..cache import AbstractKV, CrossKV
from .masks import AttentionMask
from .rotary import Rotation


class AttentionContext(eqx.Module):
    """What all layers of one call share.

    Attributes:
        mask: which keys each query of self-attention may attend to.
        cross_mask: which source positions may be attended.
        encoder_states: the states to attend to, where their keys and values are not in a cache.
        positions: of the new tokens, for what rotates by them.
        rotations: by what layers rotate queries and keys; a layer names one by its number.
        need_weights: whether attention weights are to be computed and returned.
        masks: `mask` within each window that a layer has; the stack fills it in, as it does what follows.
        relative_position: how many slots each key lies behind each query.
        bias: added to the scores of self-attention.
        shared: what layers of another mechanism share, as their config's `init_shared` made it.
    """

    mask: AttentionMask
    cross_mask: AttentionMask | None = None
    encoder_states: Float[Array, "batch source cross"] | None = None
    positions: Integer[Array, "rows queries"] | None = None
    rotations: tuple[Rotation, ...] = ()
    need_weights: bool = eqx.field(static=True, default=False)
    masks: tuple[AttentionMask, ...] = ()
    relative_position: Any = None
    bias: Float[Array, "#rows heads #queries keys"] | None = None
    shared: Any = None

    def within(self, window: int | None) -> AttentionMask:
        """The mask of layers that see so many slots."""
        return next(mask for mask in self.masks if mask.window == window)

    def rotation(self, number: int | None) -> Rotation | None:
        """The rotation of that number; `None` where nothing rotates."""
        return None if number is None or not self.rotations else self.rotations[number]


class LayerContext(eqx.Module):
    """What one layer is told besides.

    Attributes:
        scale: factor on the attention scores.
        past: keys and values of earlier tokens, with room for the new ones.
        cross_kv: keys and values of the encoder states.
        key: turns dropout on.
    """

    scale: Float[Array, ""] | float
    past: AbstractKV | None = None
    cross_kv: CrossKV | None = None
    key: PRNGKey | None = None
