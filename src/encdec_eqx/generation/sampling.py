"""Greedy search and sampling: one token a row, the most probable one or a drawn one. Knows nothing of encoders.

Each row draws with keys of its own (see `keys`), so its tokens depend neither on the batch nor on padding.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int32, UInt32

from .._typing import Array, ArrayLike
from . import processors
from .keys import row_keys, token_keys
from .loop import AbstractState, AbstractStrategy, DecoderStep, last_column, log_probability, with_column
from .prompt import PositionRule


class SamplingState(AbstractState):
    """The state of greedy search and sampling.

    Attributes:
        tokens: the sequences so far in the first `length` columns, exactly as they will be returned; then filler.
        length: columns filled, the prompt's included. The last of them has not been fed to the decoder yet.
        positions: the position of that last token in each row.
        lengths: tokens generated in each row, up to and including its end.
        finished: rows that have ended; their further tokens are padding.
        scores: sum of the log-probabilities of the generated tokens under the unprocessed model.
        cache: the decoder's cache, filled with all columns but the last (and with the bucket's padding before them).
    """

    tokens: Int32[Array, "rows width"]
    length: Int32[Array, ""]
    positions: Int32[Array, " rows"]
    lengths: Int32[Array, " rows"]
    finished: Bool[Array, " rows"]
    scores: Float[Array, " rows"]
    cache: Any


class Sampling(AbstractStrategy):
    """Greedy search, or sampling where there is a key.

    Attributes:
        processors: what changes the logits first, in order.
        eos_ids: ids that end a row.
        pad_id: what follows an end.
        prompt_width: columns of the prompt.
        prompt_tokens: tokens of each row's prompt that are not left padding.
        key_data: the words of one key, or of one key a sentence; None for greedy search.
        samples: rows a sentence.
        positions: how the family numbers tokens.
    """

    processors: tuple[processors.Processor, ...]
    eos_ids: Int32[ArrayLike, " ends"]
    pad_id: Int32[ArrayLike, ""]
    prompt_width: Int32[ArrayLike, ""]
    prompt_tokens: Int32[ArrayLike, " rows"]
    key_data: UInt32[ArrayLike, "*sentences 2"] | None
    samples: int = eqx.field(static=True)
    positions: PositionRule = eqx.field(static=True)

    def start(
        self,
        tokens: Int32[np.ndarray, "rows width"],
        positions: Int32[np.ndarray, " rows"],
        alive: Bool[np.ndarray, " rows"],
        cache: Any,
    ) -> SamplingState:
        """The state before the first token.

        Args:
            tokens: (rows, width) with the prompt in front.
            positions: position of the prompt's last token.
            alive: False for rows that only fill the bucket.
            cache: filled with the prompt but for its last token.
        """
        # Put, not converted: an eager jax operation would be one more program a shape.
        rows = tokens.shape[0]
        return SamplingState(
            tokens=jax.device_put(tokens),
            length=jax.device_put(self.prompt_width),
            positions=jax.device_put(positions),
            lengths=jax.device_put(np.zeros(rows, np.int32)),
            finished=jax.device_put(~alive),
            scores=jax.device_put(np.zeros(rows, np.float32)),
            cache=cache,
        )

    def step(self, decoder: DecoderStep, state: SamplingState) -> SamplingState:
        """Feed the last token, choose the next."""
        generated = state.length - self.prompt_width
        hidden, cache = decoder.advance(last_column(state), state.cache, positions=state.positions[:, None])
        logits = decoder.logits(hidden)[:, -1]
        chosen = self._choose(processors.apply(self.processors, logits, state.tokens, state.length), generated)
        column = jnp.where(state.finished, self.pad_id, chosen)
        ended = jnp.any(column[:, None] == jnp.asarray(self.eos_ids)[None, :], axis=1)
        return SamplingState(
            tokens=with_column(state.tokens, column, state.length),
            length=state.length + 1,
            positions=self._next_positions(column, generated),
            lengths=jnp.where(state.finished, state.lengths, state.lengths + 1),
            finished=state.finished | ended,
            scores=jnp.where(state.finished, state.scores, state.scores + log_probability(logits, chosen)),
            cache=cache,
        )

    def _choose(self, logits: Float[Array, "rows vocab"], generated: Int32[Array, ""]) -> Int32[Array, " rows"]:
        if self.key_data is None:
            return _first_largest(logits)
        keys = token_keys(row_keys(self.key_data, logits.shape[0], self.samples), generated)
        return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)

    def _next_positions(self, column: Int32[Array, " rows"], generated: Int32[Array, ""]) -> Int32[Array, " rows"]:
        """As torch numbers a single token behind a cache: by the number of tokens before it, whatever they are."""
        counted = jnp.asarray(self.prompt_tokens) + generated + self.positions.first
        if self.positions.padding_idx is None:
            return counted
        return jnp.where(column == self.positions.padding_idx, self.positions.padding_idx, counted)


def _first_largest(logits: Float[Array, "rows vocab"]) -> Int32[Array, " rows"]:
    """The id of the largest logit, the first of equals.

    In two passes that XLA vectorises on CPU; its argmax, which is not, took up to a quarter of a small model's step.
    """
    ids = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1)
    largest = logits == jnp.max(logits, axis=-1, keepdims=True)
    # NaN equals nothing: such a row gets the last id, not one outside the vocabulary
    return jnp.min(jnp.where(largest, ids, logits.shape[-1] - 1), axis=-1)
