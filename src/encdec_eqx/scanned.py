"""The scanned layout of a stack, and the conversion between layouts. Knows nothing of embeddings and heads."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float

from ._typing import Array, PRNGKeys
from .blocks.block import Block
from .config import LayerSpec
from .stack import (
    AbstractStack,
    Attending,
    LayerResult,
    Shared,
    UnrolledStack,
    Wanted,
    empty_kv,
    run_block,
    run_in_turn,
    schedule,
)

Layout = Literal["unrolled", "scanned"]
Remat = Literal["keep_all", "keep_products", "keep_linear", "keep_nothing"]
"""What a scanned stack keeps of each group for the backward pass, from most to least; the rest is recomputed.

`keep_all` recomputes nothing. `keep_products` keeps the results of all matrix products; activations, norms and softmax
cost less to recompute than to store and read. `keep_linear` keeps those of products with weights, not attention's
scores, which grow with the square of the length. `keep_nothing` keeps each group's input alone (Chen et al. 2016).
"""

_Tree = TypeVar("_Tree")

_POLICIES: dict[str, Any] = {
    "keep_products": jax.checkpoint_policies.dots_saveable,
    "keep_linear": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "keep_nothing": jax.checkpoint_policies.nothing_saveable,
}


class Segment(eqx.Module):
    """Successive layers: a repeating group, stacked and scanned; then the layers that do not fill a group, unrolled.

    Attributes:
        groups: the block of each place in the group, its leaves stacked over the repeats. Where layers share weights
            (then all are of one kind, and the group is one layer) the distinct blocks are stacked, each once.
        rest: blocks of the layers after the last whole group.
        layers: what differs between layers.
        scales: factor on each layer's attention scores.
        remat: what is kept for the backward pass.
    """

    groups: tuple[Block, ...]
    rest: tuple[Block, ...]
    layers: tuple[LayerSpec, ...] = eqx.field(static=True)
    scales: tuple[float, ...] = eqx.field(static=True)
    remat: Remat = eqx.field(static=True)

    def run(
        self, x: Array, attending: Attending, self_kv: Any, cross_kv: Any, keys: PRNGKeys | None, wanted: Wanted
    ) -> tuple[Array, list[LayerResult], Any]:
        """Run the layers: the last hidden state, what is wanted of each layer, the new caches."""
        stacked_kv, rest_kv = (None, None) if self_kv is None else self_kv
        stacked_cross, rest_cross = (None, None) if cross_kv is None else cross_kv
        scanned = self._scanned_layers

        def one_group(x: Array, per_group: Any) -> tuple[Array, Any]:
            blocks, scales, pasts, crosses, group_keys = per_group
            emitted = []
            for at in range(len(self.groups)):
                out = run_block(
                    blocks[at] if self._own_weights else _pick(self.groups[at], blocks[at]),
                    x,
                    attending,
                    scale=scales[at],
                    past=None if pasts is None else pasts[at],
                    cross_kv=None if crosses is None else crosses[at],
                    key=None if group_keys is None else group_keys[at],
                )
                x = out.hidden
                emitted.append((wanted.of(out), None if pasts is None else out.new_kv))
            return x, emitted

        per_group = (
            self.groups if self._own_weights else (jnp.asarray(schedule(self.layers)),),
            self._by_group(jnp.asarray(self.scales[:scanned], jnp.float32)),
            stacked_kv,
            stacked_cross,
            None if keys is None else self._by_group(keys[:scanned]),
        )
        x, emitted = jax.lax.scan(_rematerialised(one_group, self.remat), x, per_group)
        results = [_pick(result, repeat) for repeat in range(self._repeats) for result, _ in emitted]
        x, rest_results, rest_kv = run_in_turn(
            self.rest,
            self.scales[scanned:],
            x,
            attending,
            self_kv=rest_kv,
            cross_kv=rest_cross,
            keys=None if keys is None else keys[scanned:],
            wanted=wanted,
        )
        if stacked_kv is not None:
            # one write for all layers: inside the scan every layer would copy its slice of the cache
            written = tuple(old.write(new, attending.start) for old, (_, new) in zip(stacked_kv, emitted, strict=True))
            self_kv = (written, rest_kv)
        return x, results + rest_results, self_kv

    def blocks(self) -> tuple[Block, ...]:
        """The distinct blocks, in order of first use."""
        distinct = len(set(schedule(self.layers))) - len(self.rest)
        group = len(self.groups)
        return (*(_pick(self.groups[at % group], at // group) for at in range(distinct)), *self.rest)

    def cross_kv(self, states: Float[Array, "batch source cross"]) -> Any:
        """Keys and values of the encoder states for every layer."""
        make = eqx.filter_vmap(lambda block: block.cross_kv(states))
        stacked = tuple(
            None if block.cross_attention is None else make(self._stacked(at)) for at, block in enumerate(self.groups)
        )
        return stacked, tuple(block.cross_kv(states) for block in self.rest)

    def empty_self_kv(self, rows: int, slots: int) -> Any:
        """Caches of zeros for every layer."""
        stacked = tuple(empty_kv(_pick(block, 0), (rows, slots), (self._repeats,)) for block in self.groups)
        return stacked, tuple(empty_kv(block, (rows, slots)) for block in self.rest)

    @property
    def _scanned_layers(self) -> int:
        return len(self.layers) - len(self.rest)

    @property
    def _repeats(self) -> int:
        return self._scanned_layers // len(self.groups)

    @property
    def _own_weights(self) -> bool:
        return len(set(schedule(self.layers))) == len(self.layers)

    def _by_group(self, values: Array) -> Array:
        return values.reshape(self._repeats, len(self.groups), *values.shape[1:])

    def _stacked(self, at: int) -> Block:
        """The blocks of one place in the group, stacked over the repeats."""
        return self.groups[at] if self._own_weights else _pick(self.groups[at], jnp.asarray(schedule(self.layers)))


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
        self, x: Array, attending: Attending, self_kv: Any, cross_kv: Any, keys: PRNGKeys | None, wanted: Wanted
    ) -> tuple[Array, list[LayerResult], Any]:
        results, caches = [], []
        for at, (segment, start) in enumerate(zip(self.segments, self.starts, strict=True)):
            x, outputs, cache = segment.run(
                x,
                attending,
                None if self_kv is None else self_kv[at],
                None if cross_kv is None else cross_kv[at],
                None if keys is None else keys[start : start + len(segment.layers)],
                wanted,
            )
            results += outputs
            caches.append(cache)
        return x, results, None if self_kv is None else tuple(caches)

    @property
    def starts(self) -> tuple[int, ...]:
        """The number of each segment's first layer."""
        return tuple(itertools.accumulate((len(segment.layers) for segment in self.segments[:-1]), initial=0))

    @property
    def remat(self) -> Remat:
        """What is kept for the backward pass."""
        return self.segments[0].remat

    def cross_kv(self, states: Float[Array, "batch source cross"]) -> Any:
        return tuple(segment.cross_kv(states) for segment in self.segments)

    def empty_self_kv(self, rows: int, slots: int) -> Any:
        return tuple(segment.empty_self_kv(rows, slots) for segment in self.segments)


def to_layout(
    stack: AbstractStack, layout: Layout, *, remat: Remat | bool = False, cuts: Sequence[int] = ()
) -> AbstractStack:
    """The same weights, bit for bit, in the layout asked for.

    Args:
        stack: a stack in either layout.
        layout: "unrolled" or "scanned".
        remat: with "scanned": what the backward pass finds kept, as in `Remat`. False is "keep_products", the fastest
            on CPU; True is "keep_nothing", the smallest.
        cuts: with "scanned": numbers of layers at which a segment begins, besides those where it must.

    Raises:
        ValueError: the layout or `remat` is unknown, or `remat` or `cuts` are asked of the unrolled layout.
        NotImplementedError: the layers share weights in a way that cannot be scanned, or cut.
    """
    if layout not in ("unrolled", "scanned"):
        raise ValueError(
            f"layout is {layout!r}; expected 'unrolled' (fastest decoding) or 'scanned' (fastest training)."
        )
    unrolled = _unrolled(stack) if isinstance(stack, ScannedStack) else stack
    assert isinstance(unrolled, UnrolledStack)
    if layout == "scanned":
        return _scanned(unrolled, _as_remat(remat), cuts)
    if remat or cuts:
        raise ValueError("remat and cuts work in the scanned layout only; use with_layout('scanned', remat=...).")
    return unrolled


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
        return to_layout(stack, "scanned", remat=model.remat, cuts=model.starts[1:])

    return map_stacks(scan, tree)


def _is_stack(node: Any) -> bool:
    return isinstance(node, AbstractStack)


def _as_remat(remat: Remat | bool) -> Remat:
    if isinstance(remat, bool):
        return "keep_nothing" if remat else "keep_products"
    if remat not in ("keep_all", *_POLICIES):
        raise ValueError(
            f"remat is {remat!r}; expected what is kept for the backward pass: 'keep_all', 'keep_products' (False), "
            "'keep_linear' or 'keep_nothing' (True)."
        )
    return remat


def _rematerialised(one_group: Any, remat: Remat) -> Any:
    if remat == "keep_all":
        return one_group
    # a scan's body is compiled once for each pass, so there is nothing that could be merged by accident
    return jax.checkpoint(one_group, policy=_POLICIES[remat], prevent_cse=False)


def _scanned(stack: UnrolledStack, remat: Remat, cuts: Sequence[int]) -> ScannedStack:
    blocks, layers, scales = stack.blocks, stack.layers, stack.scales
    if len(blocks) < len(layers):
        segments = (_sharing_segment(stack, remat, cuts),)
    else:
        edges = (*_starts([_kind(block) for block in blocks], cuts), len(layers))
        segments = tuple(
            _segment(blocks[start:end], layers[start:end], scales[start:end], remat)
            for start, end in itertools.pairwise(edges)
        )
    return ScannedStack(segments=segments, shared=stack.shared, layers=layers, scales=scales)


def _sharing_segment(stack: UnrolledStack, remat: Remat, cuts: Sequence[int]) -> Segment:
    layers = stack.layers
    if cuts or len({spec.cross_attention for spec in layers}) > 1 or any(spec.weights is None for spec in layers):
        raise NotImplementedError(
            "the scanned layout shares weights only where every layer names its `weights`, all are of one kind and "
            "they are trained or frozen together; keep this stack unrolled."
        )
    groups = (_stack_up(stack.blocks),)
    return Segment(groups=groups, rest=(), layers=layers, scales=stack.scales, remat=remat)


def _segment(
    blocks: tuple[Block, ...], layers: tuple[LayerSpec, ...], scales: tuple[float, ...], remat: Remat
) -> Segment:
    group = _shortest_group([_kind(block) for block in blocks])
    whole = blocks[: len(blocks) - len(blocks) % group]
    groups = tuple(_stack_up(whole[at::group]) for at in range(group))
    return Segment(groups=groups, rest=blocks[len(whole) :], layers=layers, scales=scales, remat=remat)


def _kind(block: Block) -> Any:
    """What blocks must have in common to be stacked."""
    return jax.tree.structure(block), tuple((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(block))


def _starts(kinds: list[Any], cuts: Sequence[int]) -> list[int]:
    """Where segments begin: at the cuts, and between them wherever the kind changes, if that leaves less to compile.

    A group, and each layer behind the last whole group, is compiled once; so is each run of layers of one kind.
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


def _stack_up(blocks: tuple[Block, ...]) -> Block:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)


def _pick(tree: Any, index: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[index], tree)
