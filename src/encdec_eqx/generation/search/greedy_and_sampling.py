"""Greedy search and sampling: one token per row, the most probable one or a sampled one.

Each row draws with keys of its own, so its tokens depend neither on the batch nor on padding: sample s of sequence r
draws token t with `fold_in(fold_in(fold_in(key, r), s), t)`; an array of one key per sequence takes the place of
`fold_in(key, r)`.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import dtypes
from jaxtyping import Bool, Float, Int32, Key, UInt32

from ..._typing import Array, ArrayLike
from .. import processors
from ..constraints.constraint import AbstractConstraint, obeying, only_allowed
from ..prompt import PositionRule
from .base import AbstractStrategy, DecoderStep, Opening, Record, column_at, is_end, log_probability, with_column


def key_data(key: Any, *, batch: int, sentences: int) -> np.ndarray:
    """The words of one key, or of one key a sentence, the latter filled up to the bucket.

    Args:
        key: what the caller passed.
        batch: number of sentences.
        sentences: the same, padded to its bucket.

    Raises:
        TypeError: if `key` is no PRNG key.
        ValueError: if there is not one key a sentence.
        NotImplementedError: for a generator other than threefry.
    """
    data = _words(key)
    if data.ndim == 1:
        return data
    if data.ndim != 2 or data.shape[0] != batch:
        raise ValueError(f"key must be one key or {batch} keys, one per sentence; got shape {data.shape[:-1]}.")
    return np.concatenate([data, np.repeat(data[:1], sentences - batch, axis=0)])


def _words(key: Any) -> np.ndarray:
    if not isinstance(key, jax.Array | np.ndarray):
        raise TypeError(f"key must be a jax PRNG key, got {type(key).__name__}: pass jax.random.key(seed).")
    if jnp.issubdtype(key.dtype, dtypes.prng_key):
        implementation = str(jax.random.key_impl(key))
        if implementation != "threefry2x32":
            raise NotImplementedError(
                f"key belongs to the generator {implementation}, whose numbers depend on the batch they are drawn in: "
                "a row's sample would depend on the other rows. Pass jax.random.key(seed, impl='threefry2x32')."
            )
        return np.asarray(jax.random.key_data(key))
    words = np.asarray(key)
    if words.dtype != np.uint32 or words.ndim == 0 or words.shape[-1] != 2:
        got = f"shape {words.shape} of {words.dtype}"
        raise TypeError(f"key must be a jax PRNG key, got {got}: pass jax.random.key(seed).")
    return words


def row_keys(data: UInt32[ArrayLike, "*sentences 2"], rows: int, samples: int) -> Key[Array, " rows"]:
    """One key a row, by sentence and sample."""
    key = jax.random.wrap_key_data(jnp.asarray(data), impl="threefry2x32")
    sentence, sample = np.divmod(np.arange(rows, dtype=np.int32), np.int32(samples))
    of_sentence = key[sentence] if key.ndim else jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, sentence)
    return jax.vmap(jax.random.fold_in)(of_sentence, sample)


def token_keys(keys: Key[Array, " rows"], token: Int32[Array, ""]) -> Key[Array, " rows"]:
    """The rows' keys for one token."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, token)


class SamplingState(eqx.Module):
    """The state of greedy search and sampling.

    Attributes:
        tokens: the sequences so far in the first `length` columns, exactly as they will be returned; then filler.
        log_probs: of each generated token under the unprocessed model, in the token's column.
        processed_log_probs: the same under the distribution that was chosen from; None where nothing processes it.
        length: columns filled, the prompt's included. The last of them has not been fed to the decoder yet.
        positions: the position of that last token in each row.
        lengths: tokens generated in each row, up to and including its end.
        automaton: state of the constraint in each row, if there is one.
        finished: rows that have ended; their further tokens are padding.
        cache: the decoder's cache, filled with all columns but the last (and with the bucket's padding before them).
    """

    tokens: Int32[Array, "rows width"]
    log_probs: Float[Array, "rows width"]
    processed_log_probs: Float[Array, "rows width"] | None
    length: Int32[Array, ""]
    positions: Int32[Array, " rows"]
    lengths: Int32[Array, " rows"]
    automaton: Int32[Array, " rows"] | None
    finished: Bool[Array, " rows"]
    cache: Any


class Sampling(AbstractStrategy):
    """Greedy search, or sampling where there is a key.

    Attributes:
        processors: what changes the logits first, in order.
        eos_ids: ids that end a row.
        pad_id: what follows an end.
        prompt_width: columns of the prompt.
        prompt_tokens: tokens of each row's prompt that are not left padding.
        limit: columns at the maximum length.
        constraint: what the generated tokens have to obey, or None.
        key_data: the words of one key, or of one key a sentence; None for greedy search.
        samples: rows a sentence.
        positions: how the family numbers tokens.
    """

    processors: tuple[processors.Processor, ...]
    eos_ids: Int32[ArrayLike, " ends"]
    pad_id: Int32[ArrayLike, ""]
    prompt_width: Int32[ArrayLike, ""]
    prompt_tokens: Int32[ArrayLike, " rows"]
    limit: Int32[ArrayLike, ""]
    constraint: AbstractConstraint | None
    key_data: UInt32[ArrayLike, "*sentences 2"] | None
    samples: int = eqx.field(static=True)
    positions: PositionRule = eqx.field(static=True)

    @property
    def cache_rows(self) -> int:
        """One for each sample."""
        return self.samples

    @property
    def _processes(self) -> bool:
        return bool(self.processors) or self.constraint is not None

    def start(self, opening: Opening) -> SamplingState:
        """The prompt, and nothing generated."""
        # Put, not converted: an eager jax operation would be one more program a shape.
        rows, width = opening.columns.shape
        return SamplingState(
            tokens=jax.device_put(opening.columns),
            log_probs=jax.device_put(np.zeros((rows, width), np.float32)),
            processed_log_probs=jax.device_put(np.zeros((rows, width), np.float32)) if self._processes else None,
            length=jax.device_put(self.prompt_width),
            positions=jax.device_put(opening.positions),
            lengths=jax.device_put(np.zeros(rows, np.int32)),
            automaton=None if self.constraint is None else self.constraint.start(rows),
            finished=jax.device_put(~opening.alive),
            cache=opening.cache,
        )

    def step(self, decoder: DecoderStep, state: SamplingState) -> SamplingState:
        """Feed the last token, choose the next."""
        last = column_at(state.tokens, state.length - 1)
        hidden, cache = decoder.advance(last[:, None], state.cache, positions=state.positions[:, None])
        return eqx.tree_at(lambda s: s.cache, self.taken(state, decoder.logits(hidden)[:, -1]), cache)

    def taken(self, state: SamplingState, logits: Float[Array, "rows vocab"]) -> SamplingState:
        """The state with one more token in every row, its cache as it was.

        Args:
            state: the state so far.
            logits: behind each row's last token.
        """
        generated = state.length - jnp.asarray(self.prompt_width)
        allowed = self._allowed(state)
        plain = only_allowed(logits, allowed)
        processed = processors.apply(self.processors, plain, state.tokens, state.length)
        processed = obeying(processed, logits, allowed)
        chosen = self.choose(processed, generated)
        column = jnp.where(state.finished, self.pad_id, chosen)

        def noted(table: Float[Array, "rows width"], distribution: Float[Array, "rows vocab"]) -> Array:
            shares = jnp.where(state.finished, 0.0, log_probability(distribution, chosen))
            return with_column(table, shares, state.length)

        with_processed = state.processed_log_probs
        return SamplingState(
            tokens=with_column(state.tokens, column, state.length),
            log_probs=noted(state.log_probs, logits),
            processed_log_probs=None if with_processed is None else noted(with_processed, processed),
            length=state.length + 1,
            positions=self.positions.of_next(column, self.tokens_before(state)),
            lengths=jnp.where(state.finished, state.lengths, state.lengths + 1),
            automaton=self._advanced(state.automaton, column),
            finished=state.finished | is_end(column, self.eos_ids),
            cache=state.cache,
        )

    def tokens_before(self, state: SamplingState) -> Int32[Array, " rows"]:
        """How many tokens come before the next one, padding of prompts not counted."""
        return jnp.asarray(self.prompt_tokens) + (state.length - jnp.asarray(self.prompt_width))

    def furthest(self, rule: PositionRule) -> Int32[Array, " rows"]:
        """The position of the last token that the decoder has to read, if no row ends before."""
        new = jnp.asarray(self.limit) - jnp.asarray(self.prompt_width)
        return jnp.asarray(self.prompt_tokens) + (new + (rule.first - 2))

    def _allowed(self, state: SamplingState) -> Bool[Array, "rows vocab"] | None:
        if self.constraint is None or state.automaton is None:
            return None
        # a row that has ended is allowed nothing, which would make its logits NaN; it gets padding all the same
        return (
            self.constraint.allowed(state.automaton, jnp.asarray(self.limit) - state.length) | state.finished[:, None]
        )

    def _advanced(self, states: Int32[Array, " rows"] | None, tokens: Int32[Array, " rows"]) -> Array | None:
        return None if self.constraint is None or states is None else self.constraint.advance(states, tokens)

    def choose(self, logits: Float[Array, "rows vocab"], generated: Int32[Array, ""]) -> Int32[Array, " rows"]:
        """The next token of every row: the most probable one, or the one that its key draws.

        Args:
            logits: processed.
            generated: tokens before it that are not the prompt's.
        """
        if self.key_data is None:
            return _first_largest(logits)
        keys = token_keys(row_keys(self.key_data, logits.shape[0], self.samples), generated)
        return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)

    def record(self, state: SamplingState, batch: int) -> Record:
        """All rows, in their order."""
        return record_of_rows(state, batch * self.samples)


def record_of_rows(state: Any, rows: int) -> Record:
    """What there is to say where a row is a result: scores are the sums of the log-probabilities under the model.

    Args:
        state: has the fields of `SamplingState` that hold results.
        rows: how many of its rows are results.
    """
    log_probs = np.asarray(state.log_probs)[:rows]
    processed = log_probs if state.processed_log_probs is None else np.asarray(state.processed_log_probs)[:rows]
    lengths = np.asarray(state.lengths)[:rows]
    scores = log_probs.sum(axis=1, dtype=np.float32)
    return Record(
        sequences=np.asarray(state.tokens)[:rows],
        lengths=lengths,
        truncated=~np.asarray(state.finished)[:rows],
        scores=scores,
        normalized_scores=scores / lengths.astype(np.float32),
        log_probs=log_probs,
        processed_log_probs=processed,
    )


def _first_largest(logits: Float[Array, "rows vocab"]) -> Int32[Array, " rows"]:
    """The id of the largest logit, the first of equals.

    In two passes that XLA vectorises on CPU; its argmax, which is not, took up to a quarter of a small model's step.
    """
    ids = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1)
    largest = logits == jnp.max(logits, axis=-1, keepdims=True)
    # NaN equals nothing: such a row gets the last id, not one outside the vocabulary
    return jnp.min(jnp.where(largest, ids, logits.shape[-1] - 1), axis=-1)
