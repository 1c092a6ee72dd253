"""Beam search, diverse beam search with groups (Vijayakumar et al. 2018), and beam sampling.

The beams of a source sequence are branches of one row of the decoder's cache: each step adds a slot per beam, a beam
attends to the slots of its own ancestors, and when beams are replaced only the table of who attends to what is
reordered. Keys and values never move, neither those of the source, which the beams share, nor their own.
"""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int32

from ..._inputs import numpy_of
from ..._typing import Array, ArrayLike
from ...cache import Branches
from .. import processors
from ..constraints.constraint import apply_constraint, mask_forbidden
from ..plan import Plan
from ..source_and_prompt import bucket
from .base import (
    AbstractTokenSearch,
    CacheLayout,
    DecoderStep,
    PrefillOutput,
    SearchInputs,
    SearchOutput,
    column_at,
    gather,
    is_eos,
)
from .beam_hypotheses import Candidates, Hypotheses, Lengths, Pool, sample_candidates, top_candidates
from .beam_termination import Group, Step, as_4_46, as_4_57, best_hypotheses, with_first_eos
from .greedy_and_sampling import token_keys


def tree_mask(visible: Bool[Array, "rows new slots"], prefix: int, step: Int32[Array, ""]) -> Branches:
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
        finished: source sequences that are done.
        cache: the decoder's cache, one row per source sequence.
    """

    groups: tuple[Group, ...]
    visible: Bool[Array, "batch beams slots"]
    positions: Int32[Array, "batch beams"]
    length: Int32[Array, ""]
    finished: Bool[Array, " batch"]
    cache: Any


class BeamSearch(AbstractTokenSearch):
    """Beam search; its processors are those of the rows of one group, and see log-probabilities.

    Attributes:
        lengths: how scores are normalised, and when to stop.
        diversity: taken from a token's log-probability for each earlier group's beam that has just chosen it; None for
            one group.
        returned: hypotheses returned per source sequence; an array, so that it may change without a new program.
        beams: beams per source sequence, over all groups.
        ends: how many different ids end a hypothesis, at least 1.
        num_groups: groups of beams.
    """

    lengths: Lengths
    diversity: Float[ArrayLike, ""] | None
    returned: Int32[ArrayLike, ""]
    beams: int = eqx.field(static=True)
    ends: int = eqx.field(static=True)
    num_groups: int = eqx.field(static=True)
    in_order: ClassVar[bool] = False

    @classmethod
    def of(cls, plan: Plan, inputs: SearchInputs) -> "BeamSearch":
        ends, groups = max(1, len(set(inputs.eos_ids))), plan.num_beam_groups
        return cls(
            **cls.common(plan, inputs, rows=plan.num_beams // groups, keep=ends + 1),
            lengths=Lengths.of(
                plan.length_penalty,
                plan.early_stopping,
                longest=plan.max_new_tokens,
                new=inputs.limit - inputs.width,
                columns=inputs.target.slots + 1,
            ),
            diversity=np.asarray(plan.diversity_penalty, np.float32) if groups > 1 else None,
            returned=np.asarray(plan.num_return_sequences, np.int32),
            beams=plan.num_beams,
            # only a draw depends on how many candidates there are
            ends=ends if plan.do_sample or ends == 1 else bucket(ends, least=4),
            num_groups=groups,
        )

    @property
    def layout(self) -> CacheLayout:
        """The beams are branches of one row."""
        return CacheLayout(branches=self.beams)

    @property
    def _as_before(self) -> bool:
        """Whether the rules are those of 4.46.3."""
        return self.num_groups > 1 or self.key_data is not None

    def start(self, prefill: PrefillOutput) -> BeamState:
        """Every beam at the prompt, of which one counts."""
        batch, size = prefill.columns.shape[0], self.beams // self.num_groups
        new_slots = (prefill.columns.shape[1] - 1 - self.prefix) * self.beams
        xp = numpy_of(prefill.columns)
        visible = xp.concatenate([prefill.real, np.zeros((batch, new_slots), bool)], axis=1)
        automaton = None
        if self.constraint is not None:
            automaton = xp.asarray(self.constraint.start(batch * size)).reshape(batch, size)
        groups = tuple(
            Group(
                running=Hypotheses.first(prefill.columns, size, automaton),
                pool=Pool(
                    Hypotheses.none(prefill.columns, size, automaton), jax.device_put(np.zeros((batch, size), np.bool_))
                ),
                closed=jax.device_put(~prefill.alive),
            )
            for _ in range(self.num_groups)
        )
        return BeamState(
            groups=groups,
            visible=jax.device_put(xp.repeat(visible[:, None], self.beams, axis=1)),
            positions=jax.device_put(xp.repeat(prefill.positions[:, None], self.beams, axis=1)),
            length=jax.device_put(self.prompt_width),
            finished=jax.device_put(~prefill.alive),
            cache=prefill.cache,
        )

    def step(self, decoder: DecoderStep, state: BeamState) -> BeamState:
        """Feed every beam's last token, choose the best continuations."""
        generated = state.length - self.prompt_width
        logits, visible, cache = self.feed(decoder, state)
        groups: list[Group] = []
        for at, group in enumerate(state.groups):
            size = group.running.scores.shape[1]
            own = logits[:, at * size : (at + 1) * size]
            groups.append(self._next(group, own, state.length, generated, tuple(groups)))
        return self.reorder(state, tuple(groups), visible, cache)

    def feed(
        self, decoder: DecoderStep, state: BeamState
    ) -> tuple[Float[Array, "batch beams vocab"], Bool[Array, "batch beams slots"], Any]:
        """Logits behind every beam's last token, which slots each beam has attended to now, and the cache."""
        last = jnp.concatenate([column_at(g.running.tokens, state.length - 1) for g in state.groups], axis=1)
        branches = tree_mask(state.visible, self.prefix, state.length - self.prompt_width)
        hidden, cache = decoder.advance(last, state.cache, positions=state.positions, branches=branches)
        return decoder.logits(hidden), branches.visible, cache

    def reorder(
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
            visible=gather(visible, jnp.concatenate(offsets, axis=1)),
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
        processed, log_probs = self.score_tokens(group.running, logits, length, earlier)
        found = self.candidates(processed + group.running.scores[..., None], generated)

        def extend(which: Int32[Array, "batch some"]) -> Hypotheses:
            return self.extend(group.running, found.gather(which), length, processed, log_probs)

        step = Step(
            found=found,
            ends=is_eos(found.tokens, self.eos_ids),
            last=length + 1 == self.limit,
            norm=self.lengths.norms[generated],
            norm_before=self.lengths.norms[jnp.maximum(generated - 1, 0)],
            bound=self.lengths.bounds[generated],
            when_full=self.lengths.when_full,
            extend=extend,
        )
        if not self._as_before:
            return as_4_57(group, step)
        return as_4_46(group, step, column=length, pad_id=self.pad_id)

    def score_tokens(
        self,
        running: Hypotheses,
        logits: Float[Array, "batch beams vocab"],
        length: Int32[Array, ""],
        earlier: tuple[Group, ...] = (),
    ) -> tuple[Float[Array, "batch beams vocab"], Float[Array, "batch beams vocab"]]:
        """What each token would add to a beam's sum, and its log-probability under the model."""
        vocab = logits.shape[-1]
        log_probs = jax.nn.log_softmax(logits, axis=-1)
        allowed = self.allowed(running.automaton, length)
        plain = mask_forbidden(log_probs.reshape(-1, vocab), allowed).reshape(log_probs.shape)
        processed = self._processed(plain, running.tokens, length, earlier)
        processed = apply_constraint(processed.reshape(-1, vocab), log_probs.reshape(-1, vocab), allowed).reshape(
            plain.shape
        )
        return processed, log_probs

    def extend(
        self,
        running: Hypotheses,
        by: Candidates,
        length: Int32[Array, ""],
        processed: Float[Array, "batch beams vocab"],
        log_probs: Float[Array, "batch beams vocab"],
    ) -> Hypotheses:
        """The beams that `by` continues, each with its next token; the tables are those of `score_tokens`."""
        flat = by.beams * processed.shape[2] + by.tokens
        added, under_model = (
            jnp.take_along_axis(table.reshape(table.shape[0], -1), flat, axis=1) for table in (processed, log_probs)
        )
        states = None if running.automaton is None else jnp.take_along_axis(running.automaton, by.beams, axis=1)
        automaton = self.advance_constraint(states, by.tokens)
        return running.append(by, length, added, under_model, automaton)

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
            return top_candidates(totals, count)
        return sample_candidates(totals, count, token_keys(self.key_data, batch, 1, generated))

    def output(self, state: BeamState, batch: int) -> SearchOutput:
        """The best hypotheses of each source sequence."""
        xp = numpy_of(state.length)
        width, eos_ids = xp.asarray(self.prompt_width), np.asarray(self.eos_ids)
        found = best_hypotheses(
            [group.pool for group in state.groups],
            batch=batch,
            returned=int(self.returned),
            prompt_width=width,
            eos_ids=eos_ids,
            last_first=self._as_before,
        )
        return with_first_eos(found, width, eos_ids) if self.num_groups > 1 else found


def _counts(tokens: Int32[Array, "batch chosen"], vocab: int) -> Float[Array, "batch vocab"]:
    """How often each token was chosen."""
    rows = jnp.arange(tokens.shape[0], dtype=jnp.int32)[:, None]
    return jnp.zeros((tokens.shape[0], vocab), jnp.float32).at[rows, tokens].add(1.0)
