"""Contrastive search (Su et al. 2022): of the most probable tokens the one that is least like what is there already.

Each candidate is read by the decoder before one is chosen, so that its hidden state can be compared with those of the
prompt and of the tokens chosen before. The candidates are branches of one row of the cache: the chosen
one's slot is attended to later on, the others' never are, and nothing is moved.

The rules are those of transformers 4.46.3, the last version that had this search in its own code.
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int32

from ..._typing import Array, ArrayLike
from .. import processors
from ..plan import Plan
from .base import (
    AbstractTokenSearch,
    CacheLayout,
    DecoderStep,
    PrefillOutput,
    RowState,
    SearchInputs,
    SearchOutput,
    gather,
    log_probability,
)
from .beam import tree_mask
from .beam_hypotheses import Candidates, top_candidates


class Past(eqx.Module):
    """What is kept of the hidden states of a row's tokens.

    Attributes:
        last: the last token's hidden state, as the decoder gave it.
        directions: the hidden states of the prompt, then of the generated tokens, scaled to length 1.
    """

    last: Float[Array, "rows hidden"]
    directions: Float[Array, "rows width hidden"]


class Memory(eqx.Module):
    """From the prompt's hidden states to the past that a run starts with.

    Attributes:
        room: tokens that may be generated.
    """

    room: int = eqx.field(static=True)

    def __call__(self, hidden: Float[Array, "rows prefix hidden"]) -> Past:
        """The past, with room for the tokens to come."""
        return Past(hidden[:, -1], jnp.pad(_directions(hidden), ((0, 0), (0, self.room), (0, 0))))


class ContrastiveState(RowState):
    """The state of contrastive search: all columns have been fed to the decoder.

    Attributes:
        visible: which slots of the cache the next tokens may attend to: the prompt's, and those of chosen tokens.
        past: hidden states of the tokens so far.
    """

    visible: Bool[Array, "rows slots"]
    past: Past


class ContrastiveSearch(AbstractTokenSearch):
    """Contrastive search.

    Attributes:
        confidence: weight of a candidate's probability, `1 - penalty_alpha`.
        penalty: weight of its largest similarity to an earlier token, `penalty_alpha`.
        top_k: candidates.
        room: tokens that may be generated.
    """

    confidence: Float[ArrayLike, ""]
    penalty: Float[ArrayLike, ""]
    top_k: int = eqx.field(static=True)
    room: int = eqx.field(static=True)
    reads_whole_prompt: ClassVar[bool] = True

    @classmethod
    def of(cls, plan: Plan, inputs: SearchInputs) -> "ContrastiveSearch":
        return cls(
            **cls.common(plan, inputs, rows=1),
            # in double precision first, as torch does
            confidence=np.asarray(1.0 - plan.penalty_alpha, np.float32),
            penalty=np.asarray(plan.penalty_alpha, np.float32),
            top_k=plan.top_k,
            room=inputs.target.slots - inputs.target.prefix,
        )

    @property
    def layout(self) -> CacheLayout:
        """The candidates are branches of one row."""
        return CacheLayout(branches=self.top_k)

    @property
    def memory(self) -> Callable[[Array], Past]:
        """What there is to compare with."""
        return Memory(self.room)

    def start(self, prefill: PrefillOutput) -> ContrastiveState:
        """The prompt has been read."""
        rows = len(prefill.columns)
        visible = np.concatenate([prefill.real, np.zeros((rows, self.room * self.top_k), bool)], axis=1)
        return ContrastiveState(
            **RowState.first(prefill, self.prompt_width, processes=True),
            visible=jax.device_put(visible),
            past=prefill.memory,
        )

    def step(self, decoder: DecoderStep, state: ContrastiveState) -> ContrastiveState:
        """Feed the most probable next tokens, keep one of them."""
        generated = state.length - self.prompt_width
        logits = decoder.logits(state.past.last[:, None])[:, 0]
        processed = processors.apply(self.processors, logits, state.tokens, state.length)
        found = top_candidates(processed[:, None], self.top_k)
        before = jnp.broadcast_to((jnp.asarray(self.prompt_tokens) + generated)[:, None], found.tokens.shape)
        visible = jnp.repeat(state.visible[:, None], self.top_k, axis=1)
        branches = tree_mask(visible, self.prefix, generated)
        hidden, cache = decoder.advance(
            found.tokens, state.cache, positions=self.positions.of_next(found.tokens, before), branches=branches
        )
        total = jax.nn.logsumexp(processed, axis=-1)
        directions = _directions(hidden)
        which = self._choose(found, total, directions, state, generated)
        chosen = gather(found.tokens, which)
        under = gather(found.scores, which) - total
        _, fields = state.append_token(self, chosen, log_probability(logits, chosen), under)
        fields |= {"visible": gather(branches.visible, which), "cache": cache}
        directions = jax.lax.dynamic_update_slice_in_dim(
            state.past.directions, gather(directions, which)[:, None], self.prefix + generated, axis=1
        )
        return dataclasses.replace(state, **fields, past=Past(gather(hidden, which), directions))

    def _choose(
        self,
        found: Candidates,
        total: Float[Array, " rows"],
        directions: Float[Array, "rows candidates hidden"],
        state: ContrastiveState,
        generated: Int32[Array, ""],
    ) -> Int32[Array, " rows"]:
        """The candidate with the best balance, the more probable of equals."""
        earlier = jnp.broadcast_to(
            jnp.arange(self.room, dtype=jnp.int32)[None] < generated, (total.shape[0], self.room)
        )
        seen = jnp.concatenate([state.visible[:, : self.prefix], earlier], axis=1)[:, None]
        cosines = jnp.einsum("rkd,rwd->rkw", directions, state.past.directions)
        likeness = jnp.max(jnp.where(seen, cosines, -jnp.inf), axis=-1)
        ratings = self.confidence * jnp.exp(found.scores - total[:, None]) - self.penalty * likeness
        # what the processors forbid (an infinity that they may have made finite) fills up the candidates only
        forbidden = found.scores <= jnp.finfo(jnp.float32).min
        return jnp.argmax(jnp.where(forbidden, -jnp.inf, ratings), axis=-1).astype(jnp.int32)

    def output(self, state: ContrastiveState, batch: int) -> SearchOutput:
        """One row per source sequence."""
        return state.output(batch)


def _directions(hidden: Float[Array, "rows tokens hidden"]) -> Float[Array, "rows tokens hidden"]:
    """Scaled to length 1, in float32; what has no length is like nothing."""
    hidden = hidden.astype(jnp.float32)
    squares = jnp.sum(hidden * hidden, axis=-1, keepdims=True)
    return hidden / jnp.sqrt(jnp.maximum(squares, jnp.finfo(jnp.float32).tiny))
