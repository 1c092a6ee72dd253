"""Speculative decoding (Leviathan et al. 2023): several proposed tokens are checked in one pass of the decoder.

Lossless in the strictest sense: every token is the one that `Sampling` alone would have chosen, also where tokens are
drawn, since each is drawn with its own key whether it was proposed or not (Daliri et al. 2024). Proposals only decide
how many tokens a pass yields. All rows go on together, by as many tokens as every one of them has right.
"""

import dataclasses
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int32

from ..._typing import Array, ArrayLike
from .. import processors
from ..plan import Plan
from ..source_and_prompt import PositionRule
from .base import (
    AbstractSearch,
    CacheLayout,
    DecoderStep,
    PrefillOutput,
    SearchInputs,
    SearchOutput,
    column_at,
    with_column,
)
from .greedy_and_sampling import Sampling, SamplingState


class AbstractDrafter(eqx.Module):
    """Proposes the next tokens of every row."""

    @property
    def decoder(self) -> tuple[DecoderStep, Callable | None, PositionRule] | None:
        """A decoder that reads the source and the prompt first, its projection, and its positions; or None."""
        return None

    def start(self, cache: Any, positions: ArrayLike | None) -> Any:
        """What it remembers before the first token, its decoder's cache filled like that of the run; None for nothing.

        `positions` are those of the prompt's last token, as its decoder numbers them.
        """
        return None

    @abstractmethod
    def drafts(self, plain: Sampling, state: SamplingState, memory: Any, count: int) -> tuple[Array, Any]:
        """`count` proposals (rows, count), and its memory with the last token and all of them read.

        Args:
            plain: how tokens are chosen.
            state: the run so far; its cache is not at hand.
            memory: what it remembers.
            count: how many.
        """

    def truncate(self, plain: Sampling, state: SamplingState, memory: Any, slots: Int32[Array, ""]) -> Any:
        """The memory after the tokens were checked: of what it has read, only the first `slots` slots are kept."""
        return memory


class DraftMemory(eqx.Module):
    """What a drafting decoder remembers: its cache, and the position of the last token."""

    cache: Any
    positions: Int32[Array, " rows"]


class DraftDecoder(AbstractDrafter):
    """A small decoder that attends to the same encoder states.

    It chooses by the rules of the run and, where tokens are drawn, with the same keys: the noise that picks the run's
    token picks the draft's, so that the two are equal as often as their distributions are close.

    Attributes:
        step: the decoder.
        project: from the encoder's states to the width that its cross-attention reads, or None.
        rule: how it numbers tokens.
    """

    step: Any
    project: Any
    rule: PositionRule = eqx.field(static=True)

    @property
    def decoder(self) -> tuple[DecoderStep, Callable | None, PositionRule]:
        """It, with its own projection and positions."""
        return self.step, self.project, self.rule

    def start(self, cache: Any, positions: ArrayLike | None) -> DraftMemory:
        """Its cache, opened with the prompt."""
        return DraftMemory(cache, jax.device_put(positions))

    def drafts(self, plain: Sampling, state: SamplingState, memory: DraftMemory, count: int) -> tuple[Array, Any]:
        """One after another. One token more is read than proposed: the cache then holds whatever is accepted."""
        before = plain.tokens_before(state)

        def one(carry: tuple[DraftMemory, Array], at: Int32[Array, ""]) -> tuple[tuple[DraftMemory, Array], Array]:
            memory, tokens = carry
            last = column_at(tokens, state.length - 1 + at)
            hidden, cache = self.step.advance(last[:, None], memory.cache, positions=memory.positions[:, None])
            logits = self.step.logits(hidden)[:, -1]
            processed = processors.apply(plain.processors, logits, tokens, state.length + at)
            chosen = plain.choose(processed, state.length - jnp.asarray(plain.prompt_width) + at)
            positions = jnp.minimum(self.rule.of_next(chosen, before + at), plain.furthest(self.rule))
            return (DraftMemory(cache, positions), with_column(tokens, chosen, state.length + at)), chosen

        steps = jnp.arange(count + 1, dtype=jnp.int32)
        (memory, _), chosen = jax.lax.scan(one, (memory, state.tokens), steps)
        return chosen[:count].T, memory

    def truncate(
        self, plain: Sampling, state: SamplingState, memory: DraftMemory, slots: Int32[Array, ""]
    ) -> DraftMemory:
        """The cache cut back to what was accepted."""
        last = column_at(state.tokens, state.length - 1)
        positions = self.rule.of_next(last, plain.tokens_before(state) - 1)
        return DraftMemory(self.step.truncate(memory.cache, slots), positions)


class SourceLookup(AbstractDrafter):
    """Copies from the source: what follows there on the last tokens that were generated (Saxena 2023).

    The longest n-gram of last tokens that the source has, up to `longest`, decides; of several places the first.

    Attributes:
        ids: the source's ids, one row per source sequence.
        width: how many columns of them count.
        longest: of the n-grams that are looked for.
        samples: rows per source sequence.
        vocab: ids of the decoder; the source may have others.
    """

    ids: Int32[ArrayLike, "batch source"]
    width: Int32[ArrayLike, ""]
    longest: int = eqx.field(static=True)
    samples: int = eqx.field(static=True)
    vocab: int = eqx.field(static=True)

    def drafts(self, plain: Sampling, state: SamplingState, memory: None, count: int) -> tuple[Array, None]:
        """The tokens behind the place; from the source's second token on where there is none."""
        source = jnp.repeat(jnp.asarray(self.ids), self.samples, axis=0)
        place = place_after(source, jnp.asarray(self.width), state.tokens, state.length, longest=self.longest)
        index = jnp.minimum(place[:, None] + jnp.arange(count, dtype=jnp.int32)[None], source.shape[1] - 1)
        return jnp.clip(jnp.take_along_axis(source, index, axis=1), 0, self.vocab - 1), None


def place_after(
    source: Int32[Array, "rows source"],
    width: Int32[Array, ""],
    tokens: Int32[Array, "rows width"],
    length: Int32[Array, ""],
    *,
    longest: int,
) -> Int32[Array, " rows"]:
    """The column of each row's source behind the longest n-gram of its last tokens, the first of several; 1 if none.

    Of the source `width` columns count, of the tokens `length` are there.
    """
    columns = jnp.arange(source.shape[1], dtype=jnp.int32)
    matched = jnp.zeros(source.shape, jnp.int32)
    unbroken = jnp.broadcast_to((columns < width)[None], source.shape)
    for back in range(longest):
        token = column_at(tokens, jnp.maximum(length - 1 - back, 0))
        in_front = jnp.roll(source, back + 1, axis=1)
        unbroken = unbroken & (in_front == token[:, None]) & (columns > back)[None] & (length > back)
        matched = matched + unbroken.astype(jnp.int32)
    best = jnp.max(matched, axis=1)
    first = jnp.argmax(matched == best[:, None], axis=1).astype(jnp.int32)
    return jnp.where(best > 0, first, 1)


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


class Speculative(AbstractSearch):
    """Greedy search or sampling, several tokens at a time.

    Attributes:
        plain: how tokens are chosen.
        drafter: who proposes them.
        pad_id: what follows an end.
        ahead: how many are proposed at a time.
    """

    plain: Sampling
    drafter: AbstractDrafter
    pad_id: Int32[ArrayLike, ""]
    ahead: int = eqx.field(static=True)

    @classmethod
    def of(cls, plan: Plan, inputs: SearchInputs) -> "Speculative":
        """The search of a run that somebody proposes tokens for."""
        plain = Sampling.of(plan, inputs)
        if plan.assistant is not None:
            own = plan.assistant
            drafter: AbstractDrafter = DraftDecoder(own.decoder, own.project, PositionRule.of(own.config))
        else:
            assert inputs.source is not None
            ids, width = inputs.source[0], np.asarray(inputs.source[1], np.int32)
            drafter = SourceLookup(ids, width, plan.lookup_longest, plain.samples, inputs.vocab_size)
        return cls(plain=plain, drafter=drafter, pad_id=plain.pad_id, ahead=plan.ahead)

    @property
    def layout(self) -> CacheLayout:
        """As without proposals, which may be fed beyond the last token that counts."""
        return self.plain.layout._replace(spare=self.ahead)

    @property
    def draft_decoder(self) -> Any:
        """The drafter's."""
        return self.drafter.decoder

    def start(self, prefill: PrefillOutput) -> SpeculativeState:
        """Nothing generated, nothing proposed."""
        memory = self.drafter.start(prefill.draft_cache, prefill.draft_positions)
        return SpeculativeState(self.plain.start(prefill), memory, jax.device_put(np.zeros((), np.int32)))

    def step(self, decoder: DecoderStep, state: SpeculativeState) -> SpeculativeState:
        """Propose, feed the last token and the proposals, and take what all rows have right, and one token more."""
        cache = state.rows.cache
        rows = eqx.tree_at(lambda s: s.cache, state.rows, None)
        drafts, memory = self.drafter.drafts(self.plain, rows, state.memory, self.ahead)
        fed = jnp.concatenate([column_at(rows.tokens, rows.length - 1)[:, None], drafts], axis=1)
        hidden, cache = decoder.advance(fed, cache, positions=self._positions(rows, drafts))
        logits = decoder.logits(hidden)
        rows = self.plain.append_token(rows, logits[:, 0])
        for at in range(self.ahead):
            right = rows.finished | (column_at(rows.tokens, rows.length - 1) == drafts[:, at])
            going = jnp.all(right) & (rows.length < jnp.asarray(self.plain.limit)) & ~jnp.all(rows.finished)
            # Once a row is wrong no later logits count; whoever is not going on stays as it is to the end.
            going = going & (rows.length == state.rows.length + at + 1)
            further = self.plain.append_token(rows, logits[:, at + 1])
            rows = jax.tree.map(lambda new, old, going=going: jnp.where(going, new, old), further, rows)
        slots = self.plain.prefix + rows.length - jnp.asarray(self.plain.prompt_width)
        return SpeculativeState(
            rows=eqx.tree_at(
                lambda s: s.cache, rows, decoder.truncate(cache, slots), is_leaf=lambda leaf: leaf is None
            ),
            memory=self.drafter.truncate(self.plain, rows, memory, slots),
            passes=state.passes + 1,
        )

    def _positions(self, rows: SamplingState, drafts: Int32[Array, "rows ahead"]) -> Int32[Array, "rows fed"]:
        before = self.plain.tokens_before(rows)[:, None] + jnp.arange(self.ahead, dtype=jnp.int32)[None]
        after = self.plain.positions.of_next(drafts, jnp.broadcast_to(before, drafts.shape))
        furthest = self.plain.furthest(self.plain.positions)[:, None]
        return jnp.concatenate([rows.positions[:, None], jnp.minimum(after, furthest)], axis=1)

    def output(self, state: SpeculativeState, batch: int) -> SearchOutput:
        """As without proposals, but for the number of passes."""
        return dataclasses.replace(self.plain.output(state.rows, batch), passes=int(state.passes))
