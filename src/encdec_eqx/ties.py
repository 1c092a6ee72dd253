"""Arrays that an encoder shares with its decoder: kept in the decoder, `None` in the encoder's slot.

Knows nothing of how the pieces are joined otherwise.
"""

from typing import Any

import equinox as eqx
import jax

from ._trees import path_name
from ._typing import Array
from .decoder import Decoder
from .encoder import Encoder

Ties = tuple[str, ...]
"""Sorted paths of the shared arrays, the same in both pieces, such as `stack.blocks.0.feed_forward.up.weight`."""


def namesakes(encoder: Encoder, decoder: Decoder) -> Ties:
    """Paths of the encoder's arrays that have a namesake in the decoder: all, but for a pooler that it lacks."""
    theirs = _arrays(decoder)
    return tuple(sorted(path for path in _arrays(encoder) if path in theirs))


def untie(encoder: Any, decoder: Decoder, ties: Ties) -> Any:
    """The whole encoder, of whatever kind: each empty slot filled with the decoder's array."""
    if not ties:
        return encoder
    arrays = _arrays(decoder)
    return eqx.tree_at(
        lambda e: [_at(e, path) for path in ties], encoder, [arrays[path] for path in ties], is_leaf=lambda x: x is None
    )


def tie(encoder: Any, ties: Ties) -> Any:
    """The encoder with the slots of shared arrays emptied."""
    if not ties:
        return encoder
    return eqx.tree_at(lambda e: [_at(e, path) for path in ties], encoder, [None] * len(ties))


def _arrays(module: Any) -> dict[str, Array]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(module)
    return {path_name(path): leaf for path, leaf in leaves}


def _at(module: Any, path: str) -> Any:
    for name in path.split("."):
        module = module[int(name)] if name.isdigit() else getattr(module, name)
    return module
