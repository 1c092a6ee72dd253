"""Speculative decoding (Leviathan et al. 2023): several proposed tokens are checked in one pass of the decoder.

Lossless in the strictest sense: every token is the one that `Sampling` alone would have chosen, also where tokens are
drawn, since each is drawn with its own key whether it was proposed or not (Daliri et al. 2024). Proposals only decide
how many tokens a pass yields. All rows go on together, by as many tokens as every one of them has right.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int32

from .._typing import Array, ArrayLike
from .drafting import AbstractDrafter
from .loop import AbstractStrategy, DecoderStep, Opening, Record, column_at
from .sampling import Sampling, SamplingState


class SpeculativeState(eqx.Module):
    """The state of speculative decoding.

    Attributes:
        rows: the state that sampling alone would have.
        memory: what the drafter remembers.
        passes: how often the decoder has run.
    """

    rows: SamplingState
    memory: Any
    passes: Int32[Array, ""]

    @property
    def length(self) -> Int32[Array, ""]:
        """Columns filled."""
        return self.rows.length

    @property
    def finished(self) -> Bool[Array, " rows"]:
        """Rows that have ended."""
        return self.rows.finished


class Speculative(AbstractStrategy):
    """Greedy search or sampling, several tokens at a time.

    Attributes:
        plain: how tokens are chosen.
        drafter: who proposes them.
        pad_id: what follows an end.
        ahead: how many are proposed at a time.
        prefix: slots of the cache in front of those of the first step.
    """

    plain: Sampling
    drafter: AbstractDrafter
    pad_id: Int32[ArrayLike, ""]
    ahead: int = eqx.field(static=True)
    prefix: int = eqx.field(static=True)

    @property
    def cache_rows(self) -> int:
        """As without proposals."""
        return self.plain.cache_rows

    @property
    def spare_slots(self) -> int:
        """Proposals may be fed beyond the last token that counts."""
        return self.ahead

    @property
    def draft_decoder(self) -> Any:
        """The drafter's."""
        return self.drafter.decoder

    def start(self, opening: Opening) -> SpeculativeState:
        """Nothing generated, nothing proposed."""
        memory = self.drafter.start(opening.draft_cache, opening.draft_positions)
        return SpeculativeState(self.plain.start(opening), memory, jax.device_put(np.zeros((), np.int32)))

    def step(self, decoder: DecoderStep, state: SpeculativeState) -> SpeculativeState:
        """Propose, feed the last token and the proposals, and take what all rows have right, and one token more."""
        cache = state.rows.cache
        rows = eqx.tree_at(lambda s: s.cache, state.rows, None)
        drafts, memory = self.drafter.drafts(self.plain, rows, state.memory, self.ahead)
        fed = jnp.concatenate([column_at(rows.tokens, rows.length - 1)[:, None], drafts], axis=1)
        hidden, cache = decoder.advance(fed, cache, positions=self._positions(rows, drafts))
        logits = decoder.logits(hidden)
        rows = self.plain.taken(rows, logits[:, 0])
        for at in range(self.ahead):
            right = rows.finished | (column_at(rows.tokens, rows.length - 1) == drafts[:, at])
            going = jnp.all(right) & (rows.length < jnp.asarray(self.plain.limit)) & ~jnp.all(rows.finished)
            # Once a row is wrong no later logits count; whoever is not going on stays as it is to the end.
            going = going & (rows.length == state.rows.length + at + 1)
            rows = _either(going, self.plain.taken(rows, logits[:, at + 1]), rows)
        slots = self.prefix + rows.length - jnp.asarray(self.plain.prompt_width)
        return SpeculativeState(
            rows=eqx.tree_at(lambda s: s.cache, rows, decoder.rewound(cache, slots), is_leaf=lambda leaf: leaf is None),
            memory=self.drafter.kept(self.plain, rows, memory, slots),
            passes=state.passes + 1,
        )

    def _positions(self, rows: SamplingState, drafts: Int32[Array, "rows ahead"]) -> Int32[Array, "rows fed"]:
        before = self.plain.tokens_before(rows)[:, None] + jnp.arange(self.ahead, dtype=jnp.int32)[None]
        after = self.plain.positions.of_next(drafts, jnp.broadcast_to(before, drafts.shape))
        furthest = self.plain.furthest(self.plain.positions)[:, None]
        return jnp.concatenate([rows.positions[:, None], jnp.minimum(after, furthest)], axis=1)

    def record(self, state: SpeculativeState, batch: int) -> Record:
        """As without proposals, but for the number of passes."""
        return dataclasses.replace(self.plain.record(state.rows, batch), passes=int(state.passes))


def _either(which: Bool[Array, ""], yes: SamplingState, no: SamplingState) -> SamplingState:
    return jax.tree.map(lambda a, b: jnp.where(which, a, b), yes, no)
