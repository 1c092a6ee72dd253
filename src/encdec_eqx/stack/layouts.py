"""The scanned layout of a stack, and the conversion between layouts."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float

from .._typing import Array, PRNGKeys
from ..blocks import AbstractBlock
from ..config import LayerSpec
from ..layers.context import AttentionContext
from .segment import Remat, Segment, as_remat
from .unrolled import AbstractStack, LayerResult, Shared, UnrolledStack

Layout = Literal["unrolled", "scanned"]
_Tree = TypeVar("_Tree")


class _Loop(NamedTuple):
    """How a segment is scanned, as its fields say."""

    remat: Remat
    unroll: int


class ScannedStack(AbstractStack):
    """Segments run one after another, each by a scan of its own. One segment is enough for layers of one kind.

    Attributes:
        segments: all layers, in order. A stack is cut where the next layers have other arrays, and where it is asked
            to be: the arrays of a segment are stacked, so that they are trained or frozen together.
        shared: the final norm, and what all layers have in common.
        layers: what differs between layers.
        scales: factor on each layer's attention scores.
    """

    segments: tuple[Segment, ...]
    shared: Shared
    layers: tuple[LayerSpec, ...] = eqx.field(static=True)
    scales: tuple[float, ...] = eqx.field(static=True)

    def _run(
        self, x: Array, context: AttentionContext, self_kv: Any, cross_kv: Any, keys: PRNGKeys | None, keep_hidden: bool
    ) -> tuple[Array, list[LayerResult], Any]:
        results, caches = [], []
        for at, (segment, start) in enumerate(zip(self.segments, self.starts, strict=True)):
            x, outputs, cache = segment.run(
                x,
                context,
                None if self_kv is None else self_kv[at],
                None if cross_kv is None else cross_kv[at],
                None if keys is None else keys[start : start + len(segment.layers)],
                keep_hidden,
                start,
            )
            results += outputs
            caches.append(cache)
        return x, results, None if self_kv is None else tuple(caches)

    def _blocks_and_scales(self) -> list[tuple[AbstractBlock, Any]]:
        return [pair for segment in self.segments for pair in segment.blocks_and_scales()]

    @property
    def starts(self) -> tuple[int, ...]:
        """The number of each segment's first layer."""
        return tuple(itertools.accumulate((len(segment.layers) for segment in self.segments[:-1]), initial=0))

    @property
    def remat(self) -> Remat:
        """What is kept for the backward pass."""
        return self.segments[0].remat

    @property
    def unroll(self) -> int:
        """Groups that one iteration of the loop runs."""
        return self.segments[0].unroll

    def cross_kv(self, states: Float[Array, "batch source cross"]) -> Any:
        """Keys and values of the encoder states for every layer, by segment."""
        return tuple(segment.cross_kv(states) for segment in self.segments)

    def empty_self_kv(self, rows: int, slots: int) -> Any:
        """Caches of zeros for every layer, by segment."""
        return tuple(segment.empty_self_kv(rows, slots) for segment in self.segments)


def to_layout(
    stack: AbstractStack, layout: Layout, *, remat: Remat | bool = False, unroll: int = 1, cuts: Sequence[int] = ()
) -> AbstractStack:
    """The same weights, bit for bit, in the layout asked for.

    Args:
        stack: a stack in either layout.
        layout: "unrolled" or "scanned".
        remat: with "scanned": what the backward pass finds kept, as in `Remat`. False is "keep_products", the fastest
            on CPU; True is "keep_nothing", the smallest.
        unroll: with "scanned": repeating groups (usually layers) that one iteration of the loop runs; at least 1.
        cuts: with "scanned": numbers of layers at which a segment begins, besides those where it must.

    Raises:
        ValueError: the layout or `remat` is unknown, `unroll` is below 1, or one of these is asked of the unrolled
            layout.
        NotImplementedError: the layers share weights in a way that cannot be scanned, or cut.
    """
    if layout not in ("unrolled", "scanned"):
        raise ValueError(
            f"layout is {layout!r}; expected 'unrolled' (fastest decoding) or 'scanned' (fastest training)."
        )
    unrolled = _unrolled(stack) if isinstance(stack, ScannedStack) else stack
    assert isinstance(unrolled, UnrolledStack)
    if layout == "scanned":
        if not isinstance(unroll, int) or unroll < 1:
            raise ValueError(f"unroll must be a whole number of at least 1 (no unrolling), got {unroll!r}.")
        return _scanned(unrolled, _Loop(as_remat(remat), int(unroll)), cuts)
    if remat or cuts or unroll != 1:
        raise ValueError(
            "remat, unroll and cuts work in the scanned layout only; use with_layout('scanned', remat=...)."
        )
    return unrolled


def changes(stack: AbstractStack) -> tuple[int, ...]:
    """Numbers of the layers whose arrays are of another kind than those of the layer before; the layer past the last.

    Stacks that are cut at all of these have segments of one kind, which are stacked in one way only.
    """
    unrolled = _unrolled(stack) if isinstance(stack, ScannedStack) else stack
    assert isinstance(unrolled, UnrolledStack)
    if len(unrolled.blocks) < len(unrolled.layers):
        return ()  # layers that share weights cannot be cut
    kinds = [_kind(block) for block in unrolled.blocks]
    return (*(at for at in range(1, len(kinds)) if kinds[at] != kinds[at - 1]), len(kinds))


def map_stacks(function: Callable[..., Any], tree: _Tree, *others: Any) -> _Tree:
    """The tree with the function's results in place of its stacks, wherever they are.

    Args:
        function: from a stack, and what stands in its place in `others`.
        tree: any module.
        others: trees of the same structure.
    """
    return jax.tree.map(
        lambda node, *rest: function(node, *rest) if _is_stack(node) else node, tree, *others, is_leaf=_is_stack
    )


def unroll(tree: _Tree) -> _Tree:
    """The tree with every stack in it unrolled; its leaves may be anything."""
    return map_stacks(lambda stack: _unrolled(stack) if isinstance(stack, ScannedStack) else stack, tree)


def rescan(tree: _Tree, like: Any) -> _Tree:
    """The tree with those stacks scanned that are in `like`, which has the same stacks, with its cuts and policies."""
    models = iter([node for node in jax.tree.leaves(like, is_leaf=_is_stack) if _is_stack(node)])

    def scan(stack: AbstractStack) -> AbstractStack:
        model = next(models)
        if not isinstance(model, ScannedStack):
            return stack
        return to_layout(stack, "scanned", remat=model.remat, unroll=model.unroll, cuts=model.starts[1:])

    return map_stacks(scan, tree)


def _is_stack(node: Any) -> bool:
    return isinstance(node, AbstractStack)


def _scanned(stack: UnrolledStack, loop: _Loop, cuts: Sequence[int]) -> ScannedStack:
    blocks, layers, scales = stack.blocks, stack.layers, stack.scales
    if len(blocks) < len(layers):
        segments = (_sharing_segment(stack, loop, cuts),)
    else:
        edges = (*_starts([_kind(block) for block in blocks], cuts), len(layers))
        segments = tuple(
            _segment(blocks[start:end], layers[start:end], scales[start:end], loop)
            for start, end in itertools.pairwise(edges)
        )
    return ScannedStack(segments=segments, shared=stack.shared, layers=layers, scales=scales)


def _sharing_segment(stack: UnrolledStack, loop: _Loop, cuts: Sequence[int]) -> Segment:
    layers = stack.layers
    if cuts or len({spec.kind for spec in layers}) > 1 or any(spec.weights is None for spec in layers):
        raise NotImplementedError(
            "the scanned layout shares weights only where every layer names its `weights`, all are of one kind and "
            "they are trained or frozen together; keep this stack unrolled."
        )
    groups = (_stack_up(stack.blocks),)
    return Segment(groups=groups, rest=(), layers=layers, scales=stack.scales, **loop._asdict())


def _segment(
    blocks: tuple[AbstractBlock, ...], layers: tuple[LayerSpec, ...], scales: tuple[float, ...], loop: _Loop
) -> Segment:
    group = _shortest_group([_kind(block) for block in blocks])
    whole = blocks[: len(blocks) - len(blocks) % group]
    groups = tuple(_stack_up(whole[at::group]) for at in range(group))
    return Segment(groups=groups, rest=blocks[len(whole) :], layers=layers, scales=scales, **loop._asdict())


def _kind(block: AbstractBlock) -> Any:
    """What blocks must have in common to be stacked."""
    return jax.tree.structure(block), tuple((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(block))


def _starts(kinds: list[Any], cuts: Sequence[int]) -> list[int]:
    """Where segments begin: at the cuts, and between them wherever the kind changes, if that leaves less to compile.

    A group, and each layer after the last whole group, is compiled once; so is each run of layers of one kind.
    """
    starts = []
    for start, end in itertools.pairwise([*sorted({0, *cuts}), len(kinds)]):
        part = kinds[start:end]
        group = _shortest_group(part)
        changes = [start + at for at in range(1, len(part)) if part[at] != part[at - 1]]
        starts += [start, *(changes if 1 + len(changes) < group + len(part) % group else ())]
    return starts


def _shortest_group(kinds: list[Any]) -> int:
    """Length of the shortest group whose repetition gives all of them, up to an unfinished last group."""
    sizes = range(1, len(kinds) + 1)
    return next(size for size in sizes if all(kind == kinds[at % size] for at, kind in enumerate(kinds)))


def _unrolled(stack: ScannedStack) -> UnrolledStack:
    blocks = tuple(block for segment in stack.segments for block in segment.blocks())
    return UnrolledStack(blocks=blocks, shared=stack.shared, layers=stack.layers, scales=stack.scales)


def _stack_up(blocks: tuple[AbstractBlock, ...]) -> AbstractBlock:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)
