"""Greedy search and sampling: one token per row, the most probable one or a sampled one.

Each row draws with keys of its own (`token_keys`), so its tokens depend neither on the batch nor on padding.
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int32, Key, UInt32

from ..._inputs import numpy_of
from ..._typing import Array, ArrayLike
from .. import processors
from ..constraints.constraint import apply_constraint, mask_forbidden
from ..plan import Plan
from ..source_and_prompt import PositionRule
from .base import (
    AbstractTokenSearch,
    CacheLayout,
    DecoderStep,
    PrefillOutput,
    RowState,
    SearchInputs,
    SearchOutput,
    column_at,
    log_probability,
)


class SamplingState(RowState):
    """The state of greedy search and sampling: the cache has been fed all columns but the last.

    Attributes:
        positions: the position of the last token in each row.
        automaton: state of the constraint in each row, if there is one.
    """

    positions: Int32[Array, " rows"]
    automaton: Int32[Array, " rows"] | None


class Sampling(AbstractTokenSearch):
    """Greedy search, or sampling where there is a key.

    Attributes:
        samples: rows per source sequence.
    """

    samples: int = eqx.field(static=True)

    @classmethod
    def of(cls, plan: Plan, inputs: SearchInputs) -> "Sampling":
        samples = plan.num_return_sequences
        fields = cls.common(plan, inputs, rows=samples)
        tokens = numpy_of(inputs.prompt_tokens).repeat(inputs.prompt_tokens, samples)
        return cls(**{**fields, "prompt_tokens": tokens}, samples=samples)

    @property
    def layout(self) -> CacheLayout:
        """A row for each sample."""
        return CacheLayout(rows=self.samples)

    def start(self, prefill: PrefillOutput) -> SamplingState:
        """The prompt, and nothing generated."""
        return SamplingState(
            **RowState.first(prefill, self.prompt_width, processes=self._processes),
            positions=jax.device_put(prefill.positions),
            automaton=None if self.constraint is None else self.constraint.start(len(prefill.columns)),
        )

    def step(self, decoder: DecoderStep, state: SamplingState) -> SamplingState:
        """Feed the last token, choose the next."""
        last = column_at(state.tokens, state.length - 1)
        hidden, cache = decoder.advance(last[:, None], state.cache, positions=state.positions[:, None])
        return eqx.tree_at(lambda s: s.cache, self.append_token(state, decoder.logits(hidden)[:, -1]), cache)

    def append_token(self, state: SamplingState, logits: Float[Array, "rows vocab"]) -> SamplingState:
        """The state with one more token in every row, by the logits behind its last one; the cache as it was."""
        generated = state.length - jnp.asarray(self.prompt_width)
        processed = self._process(state, logits) if self._processes else logits
        chosen = self.choose(processed, generated)
        under = None if state.processed_log_probs is None else log_probability(processed, chosen)
        column, fields = state.append_token(self, chosen, log_probability(logits, chosen), under)
        return dataclasses.replace(
            state,
            **fields,
            positions=self.positions.of_next(column, self.tokens_before(state)),
            automaton=self.advance_constraint(state.automaton, column),
        )

    @property
    def _processes(self) -> bool:
        return bool(self.processors) or self.constraint is not None

    def _process(self, state: SamplingState, logits: Float[Array, "rows vocab"]) -> Float[Array, "rows vocab"]:
        """The logits behind all rules, and the constraint."""
        allowed = self.allowed(state.automaton, state.length)
        if allowed is not None:
            # a row that has ended is allowed nothing, which would make its logits NaN; it gets padding all the same
            allowed = allowed | state.finished[:, None]
        plain = mask_forbidden(logits, allowed)
        return apply_constraint(processors.apply(self.processors, plain, state.tokens, state.length), logits, allowed)

    def choose(self, logits: Float[Array, "rows vocab"], generated: Int32[Array, ""]) -> Int32[Array, " rows"]:
        """The next token of every row, behind so many generated ones: the most probable, or what its key draws."""
        if self.key_data is None:
            return _arg_max(logits)
        keys = token_keys(self.key_data, logits.shape[0], self.samples, generated)
        return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)

    def tokens_before(self, state: SamplingState) -> Int32[Array, " rows"]:
        """How many tokens come before the next one, padding of prompts not counted."""
        return jnp.asarray(self.prompt_tokens) + (state.length - jnp.asarray(self.prompt_width))

    def furthest(self, rule: PositionRule) -> Int32[Array, " rows"]:
        """The position of the last token that the decoder has to read, if no row ends before."""
        new = jnp.asarray(self.limit) - jnp.asarray(self.prompt_width)
        return jnp.asarray(self.prompt_tokens) + (new + (rule.first - 2))

    def output(self, state: SamplingState, batch: int) -> SearchOutput:
        """All rows, in their order."""
        return state.output(batch * self.samples)


def _arg_max(logits: Float[Array, "rows vocab"]) -> Int32[Array, " rows"]:
    """The id of the largest logit, the first of equals.

    In two passes that XLA vectorises on CPU; its argmax, which is not, took up to a quarter of a small model's step.
    """
    ids = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1)
    largest = logits == jnp.max(logits, axis=-1, keepdims=True)
    # NaN equals nothing: such a row gets the last id, not one outside the vocabulary
    return jnp.min(jnp.where(largest, ids, logits.shape[-1] - 1), axis=-1)


def token_keys(
    data: UInt32[ArrayLike, "*batch 2"], rows: int, samples: int, token: Int32[Array, ""]
) -> Key[Array, " rows"]:
    """One key per row for one token.

    Sample s of source sequence r draws token t with `fold_in(fold_in(fold_in(key, r), s), t)`; an array of one key per
    sequence takes the place of `fold_in(key, r)`.
    """
    key = jax.random.wrap_key_data(jnp.asarray(data), impl="threefry2x32")
    sequence, sample = np.divmod(np.arange(rows, dtype=np.int32), np.int32(samples))
    of_sequence = key[sequence] if key.ndim else jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, sequence)
    of_row = jax.vmap(jax.random.fold_in)(of_sequence, sample)
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(of_row, token)
