"""Beam search and its kin: diverse groups of beams (Vijayakumar et al. 2018), and drawn beams.

A sentence's beams are the branches of one row of the decoder's cache: each step adds a slot a beam, a beam attends to
the slots of its own ancestors, and when beams are replaced only the table of who attends to what is reordered. Keys and
values never move, neither those of the source, which a sentence's beams share, nor their own.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int32, UInt32

from ..._typing import Array, ArrayLike
from ...cache import Branches
from .. import processors
from ..constraints.constraint import AbstractConstraint, obeying, only_allowed
from ..prompt import PositionRule
from .base import AbstractStrategy, DecoderStep, Opening, Record, column_at, is_end, picked
from .beam_hypotheses import Candidates, Hypotheses, Lengths, Pool, best, drawn
from .beam_termination import Group, Step, as_4_46, as_4_57, best_hypotheses, with_first_end
from .greedy_and_sampling import row_keys, token_keys


def side_by_side(visible: Bool[Array, "rows new slots"], prefix: int, step: Int32[Array, ""]) -> Branches:
    """One more token for each branch, which takes a slot of its own beside those of the other branches.

    Args:
        visible: which slots each branch has attended to so far: its ancestors'.
        prefix: slots in front of the first step's.
        step: how many steps there were before this one, each with as many tokens.
    """
    rows, new, slots = visible.shape
    every = jnp.arange(slots, dtype=jnp.int32)
    own = every[None, :] == prefix + step * new + jnp.arange(new, dtype=jnp.int32)[:, None]
    return Branches(
        visible=visible | jnp.broadcast_to(own[None], (rows, new, slots)),
        depth=jnp.full((new,), prefix + step, jnp.int32),
        slot_depth=jnp.where(every < prefix, every, prefix + (every - prefix) // new),
    )


class BeamState(eqx.Module):
    """The state of beam search.

    Attributes:
        groups: the beams, group by group.
        visible: which slots of the cache each beam may attend to.
        positions: of each beam's last token.
        length: columns filled, the prompt's included. The last of them has not been fed to the decoder yet.
        finished: sentences that are done.
        cache: the decoder's cache, a row a sentence.
    """

    groups: tuple[Group, ...]
    visible: Bool[Array, "batch beams slots"]
    positions: Int32[Array, "batch beams"]
    length: Int32[Array, ""]
    finished: Bool[Array, " batch"]
    cache: Any


class BeamSearch(AbstractStrategy):
    """Beam search.

    Attributes:
        processors: what changes the log-probabilities first, in order; for the rows of one group.
        lengths: how scores are normalised, and when to stop.
        eos_ids: ids that end a hypothesis.
        pad_id: what follows an end.
        prompt_width: columns of the prompt.
        prompt_tokens: tokens of each sentence's prompt that are not left padding.
        limit: columns at the maximum length.
        constraint: what the generated tokens have to obey, or None.
        diversity: taken from a token's log-probability for each earlier group's beam that has just chosen it; None for
            one group.
        returned: hypotheses returned for each sentence; an array, so that it may change without a new program.
        key_data: the words of one key, or of one key a sentence; None to take the best.
        beams: beams a sentence, over all groups.
        ends: how many different ids end a hypothesis, at least 1.
        num_groups: groups of beams.
        prefix: slots of the cache in front of those of the beams.
        positions: how the family numbers tokens.
    """

    processors: tuple[processors.Processor, ...]
    lengths: Lengths
    eos_ids: Int32[ArrayLike, " ends"]
    pad_id: Int32[ArrayLike, ""]
    prompt_width: Int32[ArrayLike, ""]
    prompt_tokens: Int32[ArrayLike, " batch"]
    limit: Int32[ArrayLike, ""]
    constraint: AbstractConstraint | None
    diversity: Float[ArrayLike, ""] | None
    returned: Int32[ArrayLike, ""]
    key_data: UInt32[ArrayLike, "*sentences 2"] | None
    beams: int = eqx.field(static=True)
    ends: int = eqx.field(static=True)
    num_groups: int = eqx.field(static=True)
    prefix: int = eqx.field(static=True)
    positions: PositionRule = eqx.field(static=True)

    @property
    def cache_rows(self) -> int:
        """One: the beams are its branches."""
        return 1

    @property
    def in_order(self) -> bool:
        """No: beams replace each other."""
        return False

    @property
    def tokens_at_once(self) -> int:
        """One for each beam."""
        return self.beams

    @property
    def _as_before(self) -> bool:
        """Whether the rules are those of 4.46.3."""
        return self.num_groups > 1 or self.key_data is not None

    def start(self, opening: Opening) -> BeamState:
        """Every beam at the prompt, of which one counts."""
        batch, size = opening.columns.shape[0], self.beams // self.num_groups
        new_slots = (opening.columns.shape[1] - 1 - self.prefix) * self.beams
        visible = np.concatenate([opening.real, np.zeros((batch, new_slots), bool)], axis=1)
        automaton = None
        if self.constraint is not None:
            automaton = np.asarray(self.constraint.start(batch * size)).reshape(batch, size)
        groups = tuple(
            Group(
                running=Hypotheses.first(opening.columns, size, automaton),
                pool=Pool(
                    Hypotheses.none(opening.columns, size, automaton), jax.device_put(np.zeros((batch, size), np.bool_))
                ),
                closed=jax.device_put(~opening.alive),
            )
            for _ in range(self.num_groups)
        )
        return BeamState(
            groups=groups,
            visible=jax.device_put(np.repeat(visible[:, None], self.beams, axis=1)),
            positions=jax.device_put(np.repeat(opening.positions[:, None], self.beams, axis=1)),
            length=jax.device_put(self.prompt_width),
            finished=jax.device_put(~opening.alive),
            cache=opening.cache,
        )

    def step(self, decoder: DecoderStep, state: BeamState) -> BeamState:
        """Feed every beam's last token, choose the best continuations."""
        generated = state.length - self.prompt_width
        logits, visible, cache = self.fed(decoder, state)
        groups: list[Group] = []
        for at, group in enumerate(state.groups):
            size = group.running.scores.shape[1]
            own = logits[:, at * size : (at + 1) * size]
            groups.append(self._next(group, own, state.length, generated, tuple(groups)))
        return self.moved(state, tuple(groups), visible, cache)

    def fed(
        self, decoder: DecoderStep, state: BeamState
    ) -> tuple[Float[Array, "batch beams vocab"], Bool[Array, "batch beams slots"], Any]:
        """Logits behind every beam's last token, which slots each beam has attended to now, and the cache."""
        last = jnp.concatenate([column_at(g.running.tokens, state.length - 1) for g in state.groups], axis=1)
        branches = side_by_side(state.visible, self.prefix, state.length - self.prompt_width)
        hidden, cache = decoder.advance(last, state.cache, positions=state.positions, branches=branches)
        return decoder.logits(hidden), branches.visible, cache

    def moved(
        self, state: BeamState, groups: tuple[Group, ...], visible: Bool[Array, "batch beams slots"], cache: Any
    ) -> BeamState:
        """The state behind a step that has chosen the continuations in `groups`."""
        generated = state.length - self.prompt_width
        tokens = jnp.concatenate([column_at(g.running.tokens, state.length) for g in groups], axis=1)
        parents = [column_at(g.running.parents, state.length) for g in groups]
        offsets = [at * parents[0].shape[1] + which for at, which in enumerate(parents)]
        before = jnp.broadcast_to(jnp.asarray(self.prompt_tokens)[:, None] + generated, tokens.shape)
        return BeamState(
            groups=groups,
            visible=picked(visible, jnp.concatenate(offsets, axis=1)),
            positions=self.positions.of_next(tokens, before),
            length=state.length + 1,
            finished=jnp.all(jnp.stack([g.closed for g in groups]), axis=0),
            cache=cache,
        )

    def _next(
        self,
        group: Group,
        logits: Float[Array, "batch beams vocab"],
        length: Int32[Array, ""],
        generated: Int32[Array, ""],
        earlier: tuple[Group, ...],
    ) -> Group:
        """One step of one group, after those of the earlier ones."""
        processed, log_probs = self.scored(group.running, logits, length, earlier)
        found = self.candidates(processed + group.running.scores[..., None], generated)

        def extended(which: Int32[Array, "batch some"]) -> Hypotheses:
            return self.continued(group.running, found.picked(which), length, processed, log_probs)

        step = Step(
            found=found,
            ends=is_end(found.tokens, self.eos_ids),
            last=length + 1 == self.limit,
            norm=self.lengths.norms[generated],
            norm_before=self.lengths.norms[jnp.maximum(generated - 1, 0)],
            bound=self.lengths.bounds[generated],
            when_full=self.lengths.when_full,
            extended=extended,
        )
        if not self._as_before:
            return as_4_57(group, step)
        return as_4_46(group, step, column=length, pad_id=self.pad_id)

    def scored(
        self,
        running: Hypotheses,
        logits: Float[Array, "batch beams vocab"],
        length: Int32[Array, ""],
        earlier: tuple[Group, ...] = (),
    ) -> tuple[Float[Array, "batch beams vocab"], Float[Array, "batch beams vocab"]]:
        """What each token would add to a beam's sum, and its log-probability under the model."""
        vocab = logits.shape[-1]
        log_probs = jax.nn.log_softmax(logits, axis=-1)
        allowed = self._allowed(running, length)
        plain = only_allowed(log_probs.reshape(-1, vocab), allowed).reshape(log_probs.shape)
        processed = self._processed(plain, running.tokens, length, earlier)
        processed = obeying(processed.reshape(-1, vocab), log_probs.reshape(-1, vocab), allowed).reshape(plain.shape)
        return processed, log_probs

    def continued(
        self,
        running: Hypotheses,
        by: Candidates,
        length: Int32[Array, ""],
        processed: Float[Array, "batch beams vocab"],
        log_probs: Float[Array, "batch beams vocab"],
    ) -> Hypotheses:
        """The beams that `by` continues, each with its next token; the tables are those of `scored`."""
        flat = by.beams * processed.shape[2] + by.tokens
        added, under_model = (
            jnp.take_along_axis(table.reshape(table.shape[0], -1), flat, axis=1) for table in (processed, log_probs)
        )
        return running.extended(by, length, added, under_model, self._advanced(running, by))

    def _allowed(self, running: Hypotheses, length: Int32[Array, ""]) -> Bool[Array, "rows vocab"] | None:
        if self.constraint is None or running.automaton is None:
            return None
        return self.constraint.allowed(running.automaton.reshape(-1), jnp.asarray(self.limit) - length)

    def _advanced(self, running: Hypotheses, by: Candidates) -> Int32[Array, "batch some"] | None:
        if self.constraint is None or running.automaton is None:
            return None
        states = jnp.take_along_axis(running.automaton, by.beams, axis=1)
        return self.constraint.advance(states.reshape(-1), by.tokens.reshape(-1)).reshape(states.shape)

    def _processed(
        self,
        log_probs: Float[Array, "batch beams vocab"],
        tokens: Int32[Array, "batch beams width"],
        length: Int32[Array, ""],
        earlier: tuple[Group, ...],
    ) -> Float[Array, "batch beams vocab"]:
        rows = log_probs.reshape(-1, log_probs.shape[-1])
        prefix = tokens.reshape(rows.shape[0], -1)
        # torch has the penalty on what other groups chose right after the bias on sequences
        before = sum(isinstance(processor, processors.SequenceBias) for processor in self.processors[:1])
        rows = processors.apply(self.processors[:before], rows, prefix, length)
        if earlier and self.diversity is not None:
            chosen = jnp.concatenate([column_at(g.running.tokens, length) for g in earlier], axis=1)
            rows = rows - jnp.repeat(_counts(chosen, rows.shape[1]) * self.diversity, tokens.shape[1], axis=0)
        return processors.apply(self.processors[before:], rows, prefix, length).reshape(log_probs.shape)

    def candidates(self, totals: Float[Array, "batch beams vocab"], generated: Int32[Array, ""]) -> Candidates:
        """Enough that one continuation for each beam is left when all others end."""
        batch, size, vocab = totals.shape
        count = min((1 + self.ends) * size, size * vocab)
        if self.key_data is None:
            return best(totals, count)
        return drawn(totals, count, token_keys(row_keys(self.key_data, batch, 1), generated))

    def record(self, state: BeamState, batch: int) -> Record:
        """The best hypotheses of each sentence."""
        record = best_hypotheses(
            [group.pool for group in state.groups],
            batch=batch,
            returned=int(self.returned),
            prompt_width=int(self.prompt_width),
            eos_ids=np.asarray(self.eos_ids),
            last_first=self._as_before,
        )
        return (
            with_first_end(record, int(self.prompt_width), np.asarray(self.eos_ids)) if self.num_groups > 1 else record
        )


def _counts(tokens: Int32[Array, "batch chosen"], vocab: int) -> Float[Array, "batch vocab"]:
    """How often each token was chosen."""
    rows = jnp.arange(tokens.shape[0], dtype=jnp.int32)[:, None]
    return jnp.zeros((tokens.shape[0], vocab), jnp.float32).at[rows, tokens].add(1.0)
