"""Constrained beam search (`force_words_ids`), by the rules of transformers 4.46.3.

After Hokamp and Liu (2017) and Post and Vilar (2018). To the best continuations of the beams come those that take a
beam further with its phrases, however improbable. The next beams are taken in turn from those that are equally far, so
that some of each are left. A beam that has all its phrases then has to hold its own: it may be lost again.
"""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int32

from ..._typing import Array, ArrayLike
from ..plan import Plan
from ..source_and_prompt import MOST_PAIRS
from .base import AbstractSearch, CacheLayout, DecoderStep, PrefillOutput, SearchInputs, SearchOutput, is_eos
from .beam import BeamSearch, BeamState
from .beam_hypotheses import Candidates, Hypotheses, normalize_scores
from .beam_termination import Group, attainable, best_hypotheses, with_first_eos
from .legacy_force_words import ForcedPhrases, Progress, read_prompt

_LAST = np.int32(2**30)


class ConstrainedState(eqx.Module):
    """The state of constrained beam search.

    Attributes:
        beams: that of beam search, with one group.
        progress: how far each running beam is.
    """

    beams: BeamState
    progress: Progress

    @property
    def length(self) -> Int32[Array, ""]:
        """Columns filled."""
        return self.beams.length

    @property
    def finished(self) -> Bool[Array, " batch"]:
        """Source sequences that are done."""
        return self.beams.finished


class ConstrainedBeamSearch(AbstractSearch):
    """Beam search for sequences that contain given phrases.

    Attributes:
        plain: beam search without phrases; its one group holds the beams.
        phrases: what has to come.
        pad_id: what follows an end.
    """

    plain: BeamSearch
    phrases: ForcedPhrases
    pad_id: Int32[ArrayLike, ""]
    in_order: ClassVar[bool] = False

    @classmethod
    def of(cls, plan: Plan, inputs: SearchInputs) -> "ConstrainedBeamSearch":
        plain, phrases = BeamSearch.of(plan, inputs), ForcedPhrases.of(plan.force_words_ids)
        continuations = plan.num_beams * phrases.offers
        if inputs.padded_batch * continuations**2 > MOST_PAIRS:
            raise ValueError(
                f"this run is too large: force_words_ids offers {continuations:,} continuations for each of "
                f"{inputs.padded_batch:,} sequences, and all of them are compared with each other. Force fewer words, "
                "or lower num_beams."
            )
        return cls(plain=plain, phrases=phrases, pad_id=plain.pad_id)

    @property
    def layout(self) -> CacheLayout:
        """That of beam search."""
        return self.plain.layout

    def start(self, prefill: PrefillOutput) -> ConstrainedState:
        """Every beam at the prompt, whose phrases count."""
        beams, column = self.plain.start(prefill), np.arange(prefill.columns.shape[1])[None]
        first = (np.asarray(self.plain.prompt_width) - np.asarray(self.plain.prompt_tokens))[:, None]
        progress = read_prompt(self.phrases, prefill.columns, (first <= column) & (column < self.plain.prompt_width))
        each = jax.tree.map(lambda leaf: np.repeat(np.asarray(leaf)[:, None], self.plain.beams, axis=1), progress)
        # An empty place of the pool loses against any hypothesis, also one that no rule allows.
        nothing = jax.device_put(np.full(beams.groups[0].pool.filled.shape, -np.inf, np.float32))
        beams = eqx.tree_at(lambda state: state.groups[0].pool.best.scores, beams, nothing)
        return ConstrainedState(beams, jax.device_put(each))

    def step(self, decoder: DecoderStep, state: ConstrainedState) -> ConstrainedState:
        """Feed every beam's last token, choose the continuations."""
        logits, visible, cache = self.plain.feed(decoder, state.beams)
        group, progress = self._next(state.beams.groups[0], state.progress, logits, state.length)
        return ConstrainedState(self.plain.reorder(state.beams, (group,), visible, cache), progress)

    def _next(
        self, group: Group, progress: Progress, logits: Float[Array, "batch beams vocab"], length: Int32[Array, ""]
    ) -> tuple[Group, Progress]:
        running, generated = group.running, length - self.plain.prompt_width
        tables = self.plain.score_tokens(running, logits, length)
        totals = tables[0] + running.scores[..., None]
        found = self.plain.candidates(totals, generated)
        ends = is_eos(found.tokens, self.plain.eos_ids)
        opened = jnp.argsort(ends, axis=1, stable=True)[:, : self.plain.beams].astype(jnp.int32)
        chosen, after = self._chosen(running, progress, totals, found.gather(opened))
        finished, was_met = self._finished(progress, found, ends)

        norm, bound = (table[generated] for table in (self.plain.lengths.norms, self.plain.lengths.bounds))

        def finish(by: Candidates) -> Hypotheses:
            return normalize_scores(self.plain.extend(running, by, length, *tables), norm)

        first = finish(finished)
        pool = group.pool.add(first, was_met & ~group.closed[:, None])
        hope = pool.may_improve(attainable(found, first, norm=norm, bound=bound))
        closed = group.closed | (pool.full & (self.plain.lengths.when_full | ~hope))
        last = length + 1 == self.plain.limit
        order, kept = self._kept_at_the_limit(after)
        pool = pool.add(finish(chosen.gather(order)), (last & ~closed)[:, None] & kept)
        following = self.plain.extend(running, chosen, length, *tables)
        return Group(following, pool, closed | last), after

    def _finished(
        self, progress: Progress, found: Candidates, ends: Bool[Array, "batch candidates"]
    ) -> tuple[Candidates, Bool[Array, "batch beams"]]:
        """Those that may end a hypothesis: an end among the best, behind a beam that has all phrases."""
        which = jnp.broadcast_to(jnp.arange(self.plain.beams, dtype=jnp.int32)[None], (ends.shape[0], self.plain.beams))
        first = found.gather(which)
        met = jnp.take_along_axis(_each(self.phrases.satisfied)(progress), first.beams, axis=1)
        return first, met & ends[:, : self.plain.beams]

    def _kept_at_the_limit(self, after: Progress) -> tuple[Int32[Array, "batch beams"], Bool[Array, "batch beams"]]:
        """The open beams that have all phrases, then the others if those are too few: an order, and which."""
        met = _each(self.phrases.satisfied)(after)
        order = jnp.argsort(~met, axis=1, stable=True).astype(jnp.int32)
        few = jnp.sum(met, axis=1, dtype=jnp.int32, keepdims=True) < self.plain.returned
        return order, jnp.take_along_axis(met, order, axis=1) | few

    def _chosen(
        self, running: Hypotheses, progress: Progress, totals: Float[Array, "batch beams vocab"], open_: Candidates
    ) -> tuple[Candidates, Progress]:
        """The next beams, out of the open continuations and those that take a beam further."""

        def progress_of(by: Candidates) -> Progress:
            return _each(self.phrases.after)(progress.gather(by.beams), by.tokens)

        further, real, banks = self._further(progress, totals)
        new = real & ~_seen(running.tokens, open_, further, real, vocab=totals.shape[2])
        every = jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), open_, further)
        all_banks = jnp.concatenate([_each(self.phrases.bank)(progress_of(open_)), banks], axis=1)
        counts = jnp.concatenate([jnp.ones_like(open_.beams, bool), new], axis=1)
        order = jax.vmap(_in_turn)(every.scores, all_banks, counts)[:, : self.plain.beams]
        # Where nothing is new they stay in the order of their scores.
        as_found = jnp.broadcast_to(jnp.arange(order.shape[1], dtype=jnp.int32)[None], order.shape)
        chosen = every.gather(jnp.where(jnp.any(new, axis=1, keepdims=True), order, as_found))
        return chosen, progress_of(chosen)

    def _further(
        self, progress: Progress, totals: Float[Array, "batch beams vocab"]
    ) -> tuple[Candidates, Bool[Array, "batch more"], Int32[Array, "batch more"]]:
        """What takes each beam further, beam by beam: the continuations, which of them are real, their banks."""
        tokens, real, banks = _each(self.phrases.offered)(progress)
        batch, beams, offers = tokens.shape
        scores = jnp.take_along_axis(totals, jnp.maximum(tokens, 0), axis=2)
        at = jnp.broadcast_to(jnp.arange(beams, dtype=jnp.int32)[None, :, None], tokens.shape)
        more = (batch, beams * offers)
        found = Candidates(scores.reshape(more), at.reshape(more), tokens.reshape(more))
        return found, real.reshape(more), banks.reshape(more)

    def output(self, state: ConstrainedState, batch: int) -> SearchOutput:
        """The best hypotheses of each source sequence."""
        width, eos_ids = int(self.plain.prompt_width), np.asarray(self.plain.eos_ids)
        pools, returned = [state.beams.groups[0].pool], int(self.plain.returned)
        found = best_hypotheses(
            pools, batch=batch, returned=returned, prompt_width=width, eos_ids=eos_ids, last_first=True
        )
        return with_first_eos(found, width, eos_ids)


def _each(one: Any) -> Any:
    """Of every beam of every source sequence."""
    return jax.vmap(jax.vmap(one))


def _seen(
    prefixes: Int32[Array, "batch beams width"],
    open_: Candidates,
    further: Candidates,
    real: Bool[Array, "batch more"],
    *,
    vocab: int,
) -> Bool[Array, "batch more"]:
    """Which continuations make the same sequence as an open one or as an earlier one."""
    same = jnp.all(prefixes[:, :, None] == prefixes[:, None], axis=-1)
    first = jnp.argmax(same, axis=2).astype(jnp.int32)
    ours, theirs = (jnp.take_along_axis(first, by.beams, axis=1) * vocab + by.tokens for by in (further, open_))
    earlier = jnp.tri(ours.shape[1], k=-1, dtype=bool)[None] & real[:, None]
    among_ours = jnp.any((ours[:, :, None] == ours[:, None]) & earlier, axis=2)
    return among_ours | jnp.any(ours[:, :, None] == theirs[:, None], axis=2)


def _in_turn(
    scores: Float[Array, " all"], banks: Int32[Array, " all"], counts: Bool[Array, " all"]
) -> Int32[Array, " all"]:
    """The order in which continuations are taken: the best of each bank, then the second, and so on.

    The furthest banks come first. As in 4.46.3 a bank is what stands together when sorted by 100 times the bank plus
    the score, in float32, so that improbable continuations may split one.
    """
    index = jnp.arange(len(scores), dtype=jnp.int32)
    ranked = (banks * 100).astype(jnp.float32) + scores
    _, _, order = jax.lax.sort((~counts, -ranked, index), num_keys=2, is_stable=True)
    sorted_banks = banks[order]
    starts = jnp.concatenate([jnp.ones(1, bool), sorted_banks[1:] != sorted_banks[:-1]])
    turn = index - jax.lax.cummax(jnp.where(starts, index, 0))
    return order[jnp.argsort(jnp.where(counts[order], turn, _LAST), stable=True)]
