"""Ways to make one beam continue another in a decoder's cache, all through `decoder.advance`, to be compared.

The library has one of them, `ancestry`; the others live here alone. A way opens a cache and takes steps: beam w first
becomes the continuation of beam `parents[w]`, then reads its next token. It has to know the inside of a cache.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from encdec_eqx import Decoder
from encdec_eqx.cache import AbstractKV, DecoderCache, SelfKV
from encdec_eqx.generation.search.beam import tree_mask

Beams = Int32[Array, "batch beams"]
Hidden = Float[Array, "batch beams hidden"]


@dataclasses.dataclass(frozen=True)
class Gather:
    """Every beam has a row of the cache, and whole rows are copied to wherever a beam continues another."""

    def open(self, decoder: Decoder, states: Array, mask: Array, *, beams: int, slots: int) -> tuple[Any, Any]:
        return decoder.init_cache(states, mask, rows=states.shape[0] * beams, slots=slots), None

    def step(
        self, decoder: Decoder, cache: DecoderCache, order: None, tokens: Beams, parents: Beams, at: Array
    ) -> tuple[Hidden, DecoderCache, None]:
        def moved(table: Array) -> Array:
            rows = table.reshape(tokens.size, -1)
            return rows.at[_rows(parents)].get(mode="promise_in_bounds").reshape(table.shape)

        cache = eqx.tree_at(lambda c: c.self_kv, cache, jax.tree.map(moved, cache.self_kv))
        hidden, cache = decoder.advance(tokens.reshape(-1, 1), cache)
        return hidden.reshape(*tokens.shape, -1), cache, None


@dataclasses.dataclass(frozen=True)
class Ancestry:
    """A sentence's beams share one row; only who may attend to which slot is reordered. What the library does."""

    def open(self, decoder: Decoder, states: Array, mask: Array, *, beams: int, slots: int) -> tuple[Any, Any]:
        batch = states.shape[0]
        cache = decoder.init_cache(states, mask, rows=batch, slots=beams * slots)
        return cache, jnp.zeros((batch, beams, beams * slots), jnp.bool_)

    def step(
        self,
        decoder: Decoder,
        cache: DecoderCache,
        order: Bool[Array, "batch beams slots"],
        tokens: Beams,
        parents: Beams,
        at: Array,
    ) -> tuple[Hidden, DecoderCache, Array]:
        branches = tree_mask(_picked(order, parents), 0, at)
        positions = jnp.broadcast_to(at[None, None], tokens.shape)
        hidden, cache = decoder.advance(tokens, cache, positions=positions, branches=branches)
        return hidden, cache, branches.visible


class TableKV(AbstractKV):
    """Keys and values that are read through a table: what attention sees is put together at every read.

    Attributes:
        own: what each beam has written itself, a row a beam.
        table: in whose row each beam's blocks of slots lie.
        parents: which beam each continues; the block that is still being filled is copied from there.
        block: slots a block.
    """

    own: AbstractKV
    table: Int32[Array, "batch beams blocks"]
    parents: Beams
    block: int = eqx.field(static=True)

    def write(self, new: SelfKV, start: Any) -> "TableKV":
        """The open block copied, the new slot written."""
        own = self.own if self.block == 1 else self._with_open_block(start)
        return TableKV(own.write(new, start), self.table, self.parents, self.block)

    def read(self) -> tuple[Array, Array]:
        k, v = self.own.read()
        return self._read(k), self._read(v)

    def _with_open_block(self, start: Any) -> AbstractKV:
        first = start // self.block * self.block

        def copied(kept: Float[Array, "rows heads slots head_dim"]) -> Array:
            block = jax.lax.dynamic_slice_in_dim(kept, first, self.block, axis=2)
            rows = block.reshape(self.parents.size, -1)
            return rows.at[_rows(self.parents)].get(mode="promise_in_bounds").reshape(block.shape)

        return self.own.write(SelfKV(*map(copied, self.own.read())), first)

    def _read(self, kept: Float[Array, "rows heads slots head_dim"]) -> Array:
        batch, beams, blocks = self.table.shape
        heads = kept.shape[1]
        owners = _rows(self.table).reshape(batch * beams, 1, blocks) * heads
        index = (owners + jnp.arange(heads, dtype=jnp.int32)[None, :, None]) * blocks
        index = (index + jnp.arange(blocks, dtype=jnp.int32)[None, None]).reshape(-1)
        pieces = kept.reshape(index.shape[0], -1)
        return pieces.at[index].get(mode="promise_in_bounds").reshape(kept.shape)


@dataclasses.dataclass(frozen=True)
class Tables:
    """Every beam writes to a row of its own and never moves what is there; attention reads through a table.

    Attributes:
        block: slots that share an entry of the table; of a block that is not full yet each beam has its own copy.
    """

    block: int

    def open(self, decoder: Decoder, states: Array, mask: Array, *, beams: int, slots: int) -> tuple[Any, Any]:
        cache = decoder.init_cache(states, mask, rows=states.shape[0] * beams, slots=slots)
        return cache, jnp.zeros((states.shape[0], beams, slots // self.block), jnp.int32)

    def step(
        self,
        decoder: Decoder,
        cache: DecoderCache,
        order: Int32[Array, "batch beams blocks"],
        tokens: Beams,
        parents: Beams,
        at: Array,
    ) -> tuple[Hidden, DecoderCache, Array]:
        mine = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32)[None, :, None], (*tokens.shape, 1))
        table = jax.lax.dynamic_update_slice_in_dim(_picked(order, parents), mine, at // self.block, axis=2)
        through = tuple(TableKV(kv, table, parents, self.block) for kv in cache.self_kv)
        cache = eqx.tree_at(lambda c: c.self_kv, cache, through)
        hidden, cache = decoder.advance(tokens.reshape(-1, 1), cache)
        cache = eqx.tree_at(lambda c: c.self_kv, cache, tuple(kv.own for kv in cache.self_kv))
        return hidden.reshape(*tokens.shape, -1), cache, table


WAYS: dict[str, Gather | Ancestry | Tables] = {
    "gather": Gather(),
    "ancestry": Ancestry(),
    "table": Tables(1),
    "blocks": Tables(16),
}


def take_steps(fixed: tuple[str, Decoder, Array, Array], state: tuple[Any, Any]) -> tuple[Any, Array]:
    """Several steps from an empty cache, whatever it held before.

    Args:
        fixed: the way, the decoder, tokens and parents (steps, batch, beams).
        state: what the way's `open` returned, or this function.

    Returns:
        The state, and each beam's highest logit (steps, batch, beams).
    """
    way, decoder, tokens, parents = fixed
    cache, order = state

    def one(carry: tuple[Any, Any], given: tuple[Array, Array, Array]) -> tuple[tuple[Any, Any], Array]:
        hidden, cache, order = WAYS[way].step(decoder, *carry, *given)
        return (cache, order), jnp.max(decoder.logits(hidden), axis=-1)

    start = decoder.truncate(cache, jnp.zeros((), jnp.int32)), jax.tree.map(jnp.zeros_like, order)
    at = jnp.arange(tokens.shape[0], dtype=jnp.int32)
    return jax.lax.scan(one, start, (tokens, parents, at))


compiled_steps: Any = eqx.filter_jit(take_steps, donate="all-except-first")


def _rows(beams: Int32[Array, "batch beams *more"]) -> Int32[Array, " rows"]:
    """Beams of each sentence as rows of the whole batch."""
    batch, count = beams.shape[:2]
    first = jnp.arange(batch, dtype=jnp.int32) * count
    return (beams + first.reshape(batch, *(1,) * (beams.ndim - 1))).reshape(-1)


def _picked(table: Array, parents: Beams) -> Array:
    return jax.vmap(lambda these, at: these[at])(table, parents)
