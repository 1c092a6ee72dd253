"""A scanned run of layers, and what its backward pass keeps."""

import contextlib
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float

from .._typing import Array, PRNGKeys
from ..blocks import AbstractBlock
from ..config import LayerSpec
from ..layers.context import AttentionContext, LayerContext
from ..layers.sharded import place_stream
from .unrolled import LayerResult, run_in_turn, schedule

Remat = Literal["keep_all", "keep_products", "keep_linear", "keep_nothing"]
"""What a scanned stack keeps of each group for the backward pass, from most to least; the rest is recomputed.

`keep_all` recomputes nothing. `keep_products` keeps the results of all matrix products; activations, norms and softmax
cost less to recompute than to store and read. `keep_linear` keeps those of products with weights, not attention's
scores, which grow with the square of the length. `keep_nothing` keeps each group's input alone (Chen et al. 2016).
"""


def _is_product(primitive: Any, *inputs: Any, **options: Any) -> bool:
    """Attention by cuDNN's kernel counts, too: jax does not take it for a product, and would run it twice."""
    kernel = primitive.name.startswith("dot_product_attention_fwd")
    return kernel or jax.checkpoint_policies.dots_saveable(primitive, *inputs, **options)


_POLICIES: dict[str, Any] = {
    "keep_products": _is_product,
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
        unroll: groups that one iteration of the loop runs.
    """

    groups: tuple[AbstractBlock, ...]
    rest: tuple[AbstractBlock, ...]
    layers: tuple[LayerSpec, ...] = eqx.field(static=True)
    scales: tuple[float, ...] = eqx.field(static=True)
    remat: Remat = eqx.field(static=True)
    unroll: int = eqx.field(static=True, default=1)

    def run(
        self,
        x: Array,
        context: AttentionContext,
        self_kv: Any,
        cross_kv: Any,
        keys: PRNGKeys | None,
        keep_hidden: bool,
        first: int,
    ) -> tuple[Array, list[LayerResult], Any]:
        """Run the layers, from layer `first` on: the last hidden state, what is kept of each layer, the new caches."""
        stacked_kv, rest_kv = (None, None) if self_kv is None else self_kv
        stacked_cross, rest_cross = (None, None) if cross_kv is None else cross_kv
        scanned = self._scanned_layers

        def one_group(x: Array, per_group: Any) -> tuple[Array, Any]:
            blocks, scales, pasts, crosses, group_keys = per_group
            emitted = []
            for at in range(len(self.groups)):
                block = blocks[at] if self._own_weights else _pick(self.groups[at], blocks[at])
                layer = LayerContext(
                    self.scales[at] if scales is None else scales[at],
                    None if pasts is None else pasts[at],
                    None if crosses is None else crosses[at],
                    None if group_keys is None else group_keys[at],
                )
                with jax.named_scope(f"place_{at}") if len(self.groups) > 1 else contextlib.nullcontext():
                    out = block(place_stream(x, block), context, layer)
                x = place_stream(out.hidden, block)
                emitted.append((LayerResult.of(out, keep_hidden), None if pasts is None else out.new_kv))
            return x, emitted

        per_group = (
            self.groups if self._own_weights else (jnp.asarray(schedule(self.layers)),),
            self._scanned_scales(),
            stacked_kv,
            stacked_cross,
            None if keys is None else self._by_group(keys[:scanned]),
        )
        with jax.named_scope(f"layers_{first}_to_{first + scanned - 1}"):
            kept = _rematerialised(one_group, self.remat, in_loop=self.unroll < self._repeats)
            x = place_stream(x, self.groups)
            x, emitted = jax.lax.scan(kept, x, per_group, unroll=min(self.unroll, self._repeats))
        results = [_pick(result, repeat) for repeat in range(self._repeats) for result, _ in emitted]
        x, rest_results, rest_kv = run_in_turn(
            self.rest,
            self.scales[scanned:],
            x,
            context,
            self_kv=rest_kv,
            cross_kv=rest_cross,
            keys=None if keys is None else keys[scanned:],
            keep_hidden=keep_hidden,
            first=first + scanned,
        )
        if stacked_kv is not None:
            # one write for all layers: inside the scan every layer would copy its slice of the cache
            written = tuple(
                old.write(new, context.mask.start) for old, (_, new) in zip(stacked_kv, emitted, strict=True)
            )
            self_kv = (written, rest_kv)
        return x, results + rest_results, self_kv

    def blocks(self) -> tuple[AbstractBlock, ...]:
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
        stacked = tuple(_pick(block, 0).empty_self_kv(rows, slots, (self._repeats,)) for block in self.groups)
        return stacked, tuple(block.empty_self_kv(rows, slots) for block in self.rest)

    def blocks_and_scales(self) -> list[tuple[AbstractBlock, Any]]:
        """The block of each layer, and the factor on its scores as attention gets it."""
        blocks = self.blocks()
        scales = self._scanned_scales()
        pairs = zip(schedule(self.layers), self.scales, strict=True)
        return [
            (blocks[which], scale if scales is None or at >= self._scanned_layers else scales)
            for at, (which, scale) in enumerate(pairs)
        ]

    def _scanned_scales(self) -> Float[Array, "repeats group"] | None:
        """Factors on scores by repeat and place in the group; `None` where each place has one and the same."""
        scales, group = self.scales[: self._scanned_layers], len(self.groups)
        if all(scale == scales[at % group] for at, scale in enumerate(scales)):
            return None
        return self._by_group(jnp.asarray(scales, jnp.float32))

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

    def _stacked(self, at: int) -> AbstractBlock:
        """The blocks of one place in the group, stacked over the repeats."""
        return self.groups[at] if self._own_weights else _pick(self.groups[at], jnp.asarray(schedule(self.layers)))


def as_remat(remat: Remat | bool) -> Remat:
    """What is kept, by its name.

    Raises:
        ValueError: nothing has this name.
    """
    if isinstance(remat, bool):
        return "keep_nothing" if remat else "keep_products"
    if remat not in ("keep_all", *_POLICIES):
        raise ValueError(
            f"remat is {remat!r}; expected what is kept for the backward pass: 'keep_all', 'keep_products' (False), "
            "'keep_linear' or 'keep_nothing' (True)."
        )
    return remat


def _rematerialised(one_group: Any, remat: Remat, *, in_loop: bool) -> Any:
    if remat == "keep_all":
        return one_group
    # a loop's body is compiled once for each pass, so there is nothing that could be merged by accident; without a loop
    # the compiler has to be told not to merge the passes (XLA's CPU backend does so all the same)
    return jax.checkpoint(one_group, policy=_POLICIES[remat], prevent_cse=not in_loop)


def _pick(tree: Any, index: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[index], tree)
