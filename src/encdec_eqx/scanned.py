"""The scanned layout of a stack, and the conversion between layouts. Knows nothing of embeddings and heads."""

from typing import Any, Literal

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


class ScannedStack(AbstractStack):
    """The shortest repeating group of layers, stacked and scanned; layers that do not fill a group follow unrolled.

    Attributes:
        groups: the block of each place in the group, its leaves stacked over the repeats. Where layers share weights
            (then all are of one kind, and the group is one layer) the distinct blocks are stacked, each once.
        rest: blocks of the layers after the last whole group.
        shared: the final norm, and what all layers have in common.
        layers: what differs between layers.
        scales: factor on each layer's attention scores.
        remat: whether all of a group's insides are recomputed in the backward pass (Chen et al. 2016); otherwise the
            results of its matrix products are kept.
    """

    groups: tuple[Block, ...]
    rest: tuple[Block, ...]
    shared: Shared
    layers: tuple[LayerSpec, ...] = eqx.field(static=True)
    scales: tuple[float, ...] = eqx.field(static=True)
    remat: bool = eqx.field(static=True)

    def _run(
        self, x: Array, attending: Attending, self_kv: Any, cross_kv: Any, keys: PRNGKeys | None, wanted: Wanted
    ) -> tuple[Array, list[LayerResult], Any]:
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
        x, emitted = jax.lax.scan(self._rematerialised(one_group), x, per_group)
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

    def _rematerialised(self, one_group: Any) -> Any:
        """With what the backward pass recomputes: everything, or all but the matrix products.

        Activations, norms and softmax cost less to recompute than to store and read: without it a training step took
        12 % to 18 % longer on CPU, and nearly twice the memory.
        """
        policy = None if self.remat else jax.checkpoint_policies.dots_saveable
        # a scan's body is compiled once for each pass, so there is nothing that could be merged by accident
        return jax.checkpoint(one_group, policy=policy, prevent_cse=False)

    @property
    def _scanned_layers(self) -> int:
        return len(self.layers) - len(self.rest)

    @property
    def _repeats(self) -> int:
        return self._scanned_layers // len(self.groups)

    @property
    def _own_weights(self) -> bool:
        return all(spec.weights is None for spec in self.layers)

    def _by_group(self, values: Array) -> Array:
        return values.reshape(self._repeats, len(self.groups), *values.shape[1:])

    def _stacked(self, at: int) -> Block:
        """The blocks of one place in the group, stacked over the repeats."""
        return self.groups[at] if self._own_weights else _pick(self.groups[at], jnp.asarray(schedule(self.layers)))

    def cross_kv(self, states: Float[Array, "batch source cross"]) -> Any:
        make = eqx.filter_vmap(lambda block: block.cross_kv(states))
        stacked = tuple(
            None if block.cross_attention is None else make(self._stacked(at)) for at, block in enumerate(self.groups)
        )
        return stacked, tuple(block.cross_kv(states) for block in self.rest)

    def empty_self_kv(self, rows: int, slots: int) -> Any:
        stacked = tuple(empty_kv(_pick(block, 0), (rows, slots), (self._repeats,)) for block in self.groups)
        return stacked, tuple(empty_kv(block, (rows, slots)) for block in self.rest)


def to_layout(stack: AbstractStack, layout: Layout, *, remat: bool = False) -> AbstractStack:
    """The same weights, bit for bit, in the layout asked for.

    Args:
        stack: a stack in either layout.
        layout: "unrolled" or "scanned".
        remat: with "scanned": recompute all of a group in the backward pass; else all but its matrix products.

    Raises:
        ValueError: the layout is unknown, or `remat` is asked of the unrolled layout.
    """
    if layout not in ("unrolled", "scanned"):
        raise ValueError(
            f"layout is {layout!r}; expected 'unrolled' (fastest decoding) or 'scanned' (fastest training)."
        )
    if layout == "unrolled":
        if remat:
            raise ValueError("remat=True works in the scanned layout only; use with_layout('scanned', remat=True).")
        return _unrolled(stack) if isinstance(stack, ScannedStack) else stack
    unrolled = _unrolled(stack) if isinstance(stack, ScannedStack) else stack
    assert isinstance(unrolled, UnrolledStack)
    return _scanned(unrolled, remat)


def _scanned(stack: UnrolledStack, remat: bool) -> ScannedStack:
    blocks, layers = stack.blocks, stack.layers
    if len(blocks) < len(layers):
        group, rest = 1, 0
        if len({spec.cross_attention for spec in layers}) > 1 or any(spec.weights is None for spec in layers):
            raise NotImplementedError(
                "the scanned layout shares weights only where every layer names its `weights` and all are of one kind; "
                "keep this stack unrolled."
            )
        places = [blocks]
    else:
        group = _shortest_group(layers)
        rest = len(layers) % group
        whole = blocks[: len(layers) - rest]
        places = [whole[at::group] for at in range(group)]
    return ScannedStack(
        groups=tuple(jax.tree.map(lambda *leaves: jnp.stack(leaves), *place) for place in places),
        rest=blocks[len(blocks) - rest :],
        shared=stack.shared,
        layers=layers,
        scales=stack.scales,
        remat=remat,
    )


def _unrolled(stack: ScannedStack) -> UnrolledStack:
    distinct = max(schedule(stack.layers)) + 1 - len(stack.rest)
    group = len(stack.groups)
    scanned = tuple(_pick(stack.groups[at % group], at // group) for at in range(distinct))
    return UnrolledStack(blocks=(*scanned, *stack.rest), shared=stack.shared, layers=stack.layers, scales=stack.scales)


def _shortest_group(layers: tuple[LayerSpec, ...]) -> int:
    """Length of the shortest group of layers whose repetition gives all of them, up to an unfinished last group."""
    kinds = [spec.cross_attention for spec in layers]
    sizes = range(1, len(kinds) + 1)
    return next(size for size in sizes if all(kind == kinds[at % size] for at, kind in enumerate(kinds)))


def _pick(tree: Any, index: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[index], tree)
