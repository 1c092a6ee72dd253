"""Contrastive search (Su et al. 2022): of the most probable tokens the one that is least like what is there already.

Each candidate is read by the decoder before one is chosen, so that its hidden state can be compared with those of the
prompt and of the tokens chosen before. A sentence is one row of the cache and its candidates are branches of it: the
chosen one's slot is attended to later on, the others' never are, and nothing is moved.

The rules are those of transformers 4.46.3, the last version that had this search in its own code. Must not know:
encoders, options.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int32

from ..._typing import Array, ArrayLike
from .. import processors
from ..prompt import PositionRule
from .base import AbstractStrategy, DecoderStep, Opening, Record, is_end, log_probability, picked, with_column
from .beam import side_by_side
from .beam_hypotheses import Candidates, best
from .greedy_and_sampling import record_of_rows


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


class ContrastiveState(eqx.Module):
    """The state of contrastive search.

    Attributes:
        tokens: the sequences so far in the first `length` columns, exactly as they will be returned; then filler.
        log_probs: of each generated token under the unprocessed model, in the token's column.
        processed_log_probs: the same under the distribution that candidates were taken from.
        length: columns filled, the prompt's included. All of them have been fed to the decoder.
        lengths: tokens generated in each row, up to and including its end.
        visible: which slots of the cache the next tokens may attend to: the prompt's, and those of chosen tokens.
        finished: rows that have ended; their further tokens are padding.
        past: hidden states of the tokens so far.
        cache: the decoder's cache, a row a sentence.
    """

    tokens: Int32[Array, "rows width"]
    log_probs: Float[Array, "rows width"]
    processed_log_probs: Float[Array, "rows width"]
    length: Int32[Array, ""]
    lengths: Int32[Array, " rows"]
    visible: Bool[Array, "rows slots"]
    finished: Bool[Array, " rows"]
    past: Past
    cache: Any


class ContrastiveSearch(AbstractStrategy):
    """Contrastive search.

    Attributes:
        processors: what changes the logits first, in order.
        eos_ids: ids that end a row.
        pad_id: what follows an end.
        prompt_width: columns of the prompt.
        prompt_tokens: tokens of each row's prompt that are not left padding.
        confidence: weight of a candidate's probability, `1 - penalty_alpha`.
        penalty: weight of its largest similarity to an earlier token, `penalty_alpha`.
        top_k: candidates.
        prefix: slots of the cache in front of those of the candidates: the prompt's.
        room: tokens that may be generated.
        positions: how the family numbers tokens.
    """

    processors: tuple[processors.Processor, ...]
    eos_ids: Int32[ArrayLike, " ends"]
    pad_id: Int32[ArrayLike, ""]
    prompt_width: Int32[ArrayLike, ""]
    prompt_tokens: Int32[ArrayLike, " rows"]
    confidence: Float[ArrayLike, ""]
    penalty: Float[ArrayLike, ""]
    top_k: int = eqx.field(static=True)
    prefix: int = eqx.field(static=True)
    room: int = eqx.field(static=True)
    positions: PositionRule = eqx.field(static=True)

    @property
    def cache_rows(self) -> int:
        """One: the candidates are its branches."""
        return 1

    @property
    def tokens_at_once(self) -> int:
        """The candidates."""
        return self.top_k

    @property
    def memory(self) -> Callable[[Array], Past]:
        """What there is to compare with."""
        return Memory(self.room)

    def start(self, opening: Opening) -> ContrastiveState:
        """The prompt has been read."""
        rows, width = opening.columns.shape
        visible = np.concatenate([opening.real, np.zeros((rows, self.room * self.top_k), bool)], axis=1)
        return ContrastiveState(
            tokens=jax.device_put(opening.columns),
            log_probs=jax.device_put(np.zeros((rows, width), np.float32)),
            processed_log_probs=jax.device_put(np.zeros((rows, width), np.float32)),
            length=jax.device_put(self.prompt_width),
            lengths=jax.device_put(np.zeros(rows, np.int32)),
            visible=jax.device_put(visible),
            finished=jax.device_put(~opening.alive),
            past=opening.memory,
            cache=opening.cache,
        )

    def step(self, decoder: DecoderStep, state: ContrastiveState) -> ContrastiveState:
        """Feed the most probable next tokens, keep one of them."""
        generated = state.length - self.prompt_width
        logits = decoder.logits(state.past.last[:, None])[:, 0]
        processed = processors.apply(self.processors, logits, state.tokens, state.length)
        found = best(processed[:, None], self.top_k)
        before = jnp.broadcast_to((jnp.asarray(self.prompt_tokens) + generated)[:, None], found.tokens.shape)
        visible = jnp.repeat(state.visible[:, None], self.top_k, axis=1)
        branches = side_by_side(visible, self.prefix, generated)
        hidden, cache = decoder.advance(
            found.tokens, state.cache, positions=self.positions.of_next(found.tokens, before), branches=branches
        )
        total = jax.nn.logsumexp(processed, axis=-1)
        directions = _directions(hidden)
        which = self._choose(found, total, directions, state, generated)
        chosen = picked(found.tokens, which)
        column = jnp.where(state.finished, self.pad_id, chosen)

        def noted(table: Float[Array, "rows width"], log_probs: Float[Array, " rows"]) -> Array:
            return with_column(table, jnp.where(state.finished, 0.0, log_probs), state.length)

        return ContrastiveState(
            tokens=with_column(state.tokens, column, state.length),
            log_probs=noted(state.log_probs, log_probability(logits, chosen)),
            processed_log_probs=noted(state.processed_log_probs, picked(found.scores, which) - total),
            length=state.length + 1,
            lengths=jnp.where(state.finished, state.lengths, state.lengths + 1),
            visible=picked(branches.visible, which),
            finished=state.finished | is_end(column, self.eos_ids),
            past=self._remembering(state.past, picked(hidden, which), picked(directions, which), generated),
            cache=cache,
        )

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

    def _remembering(
        self,
        past: Past,
        last: Float[Array, "rows hidden"],
        direction: Float[Array, "rows hidden"],
        generated: Int32[Array, ""],
    ) -> Past:
        at = self.prefix + generated
        return Past(last, jax.lax.dynamic_update_slice_in_dim(past.directions, direction[:, None], at, axis=1))

    def record(self, state: ContrastiveState, batch: int) -> Record:
        """A row a sentence."""
        return record_of_rows(state, batch)


def _directions(hidden: Float[Array, "rows tokens hidden"]) -> Float[Array, "rows tokens hidden"]:
    """Scaled to length 1, in float32; what has no length is like nothing."""
    hidden = hidden.astype(jnp.float32)
    squares = jnp.sum(hidden * hidden, axis=-1, keepdims=True)
    return hidden / jnp.sqrt(jnp.maximum(squares, jnp.finfo(jnp.float32).tiny))
