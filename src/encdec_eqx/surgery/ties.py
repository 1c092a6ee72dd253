"""Arrays that an encoder shares with its decoder: held by the decoder, `None` in the encoder's slot; their layouts."""

from collections.abc import Iterable
from typing import Any, Protocol, TypeVar, runtime_checkable

import equinox as eqx
import jax

from .._trees import path_name
from .._typing import Array
from ..stack import Layout, Remat, ScannedStack, changes, rescan, to_layout, unroll
from ..stack.unrolled import AbstractStack

Ties = tuple[str, ...]
"""Sorted paths of the shared arrays, the same in both pieces, such as `stack.blocks.0.feed_forward.up.weight`."""


@runtime_checkable
class _HasStack(Protocol):
    @property
    def stack(self) -> AbstractStack: ...


_Encoder = TypeVar("_Encoder", bound=_HasStack)
_Decoder = TypeVar("_Decoder", bound=_HasStack)


def change_layout(
    encoder: Any, decoder: Any, ties: Ties, layout: Layout, *, remat: Remat | bool, unroll: int
) -> tuple[Any, Any, Ties]:
    """Both pieces in another layout, and the paths of what they share there.

    The encoder is whole, of whatever kind (one that has no layouts stays as it is), and is returned with empty slots
    where it shares arrays: the decoder holds them.

    Raises:
        NotImplementedError: an array would be stacked with one that is not shared.
    """
    if not share_layers(ties):
        other = encoder.with_layout(layout, remat=remat, unroll=unroll) if hasattr(encoder, "with_layout") else encoder
        return tie(other, ties), decoder.with_layout(layout, remat=remat, unroll=unroll), ties
    if layout == "scanned":
        other, decoder = scan_alike(encoder, decoder, remat=remat, unroll=unroll)
    else:
        other, decoder = (
            encoder.with_layout(layout, remat=remat, unroll=unroll),
            decoder.with_layout(layout, remat=remat, unroll=unroll),
        )
    ties = remap_ties(ties, encoder, other, decoder)
    return tie(other, ties), decoder, ties


def remap_ties(ties: Ties, before: Any, encoder: Any, decoder: Any) -> Ties:
    """Paths of the same shared arrays when the pieces, the encoder whole, have changed their layout.

    Raises:
        NotImplementedError: an array is now stacked with one that is not shared.
    """
    layers_of = _by_layer(before)
    shared = {layer for path in ties for layer in layers_of[path]}
    theirs, found = _arrays(decoder), []
    for path, layers in _by_layer(encoder).items():
        if not shared.isdisjoint(layers):
            if path not in theirs or not shared.issuperset(layers):
                raise NotImplementedError(
                    "encoder and decoder share the arrays of some layers and not of others, which the scanned layout "
                    "cannot stack; keep this model unrolled."
                )
            found.append(path)
    return tuple(sorted(found))


def unroll_whole(model: Any) -> Any:
    """The model with its stacks unrolled, and the paths of what its pieces share with them."""
    return model.with_layout("unrolled") if share_layers(getattr(model, "ties", ())) else unroll(model)


def rescan_whole(unrolled: Any, like: Any) -> Any:
    """The layout of `like`; where the pieces share layers, both are cut alike, as adapters on some layers cut one."""
    if not share_layers(getattr(like, "ties", ())):
        return rescan(unrolled, like)
    stack = like.decoder.stack
    if not isinstance(stack, ScannedStack):
        return unrolled
    return unrolled.with_layout("scanned", remat=stack.remat, unroll=stack.unroll)


class _Mark:
    """Stands for an array, and remembers its path when a stack is unrolled."""

    def __init__(self, path: str):
        self.path = path

    def __getitem__(self, at: int) -> "_Mark":
        return self


def _by_layer(module: Any) -> dict[str, list[str]]:
    """The path of every array, and the paths that it stands for in the unrolled layout."""
    marked = jax.tree_util.tree_map_with_path(lambda path, _: _Mark(path_name(path)), module)
    result: dict[str, list[str]] = {}
    for path, mark in jax.tree_util.tree_leaves_with_path(unroll(marked)):
        result.setdefault(mark.path, []).append(path_name(path))
    return result


def share_layers(ties: Ties) -> bool:
    """Whether the pieces share arrays of their layers, and not only embedding matrices."""
    return any(path.startswith("stack.") for path in ties)


def scan_alike(
    encoder: _Encoder, decoder: _Decoder, *, remat: Remat | bool, unroll: int, cuts: Iterable[int] = ()
) -> tuple[_Encoder, _Decoder]:
    """Two whole pieces in the scanned layout, cut at the same layers, so that what they share is stacked alike.

    Some of the decoder's layers may have arrays that the encoder's have not (adapters). `cuts` are numbers of layers at
    which a segment is to begin, besides those where it must.
    """
    wanted = {*cuts, *changes(encoder.stack), *changes(decoder.stack)}

    def cut(stack: AbstractStack) -> AbstractStack:
        inside = sorted(at for at in wanted if at < len(stack.layers))
        return to_layout(stack, "scanned", remat=remat, unroll=unroll, cuts=inside)

    return (
        eqx.tree_at(lambda e: e.stack, encoder, cut(encoder.stack)),
        eqx.tree_at(lambda d: d.stack, decoder, cut(decoder.stack)),
    )


def untie(encoder: Any, decoder: Any, ties: Ties) -> Any:
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
