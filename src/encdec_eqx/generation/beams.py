"""Beam search and its kin: diverse groups of beams (Vijayakumar et al. 2018), and drawn beams.

A sentence's beams are the branches of one row of the decoder's cache: each step adds a slot a beam, a beam attends to
the slots of its own ancestors, and when beams are replaced only the table of who attends to what is reordered. Keys and
values never move, neither those of the source, which a sentence's beams share, nor their own.

Two sets of rules say when a hypothesis is finished and when a sentence is done. Plain beam search follows transformers
4.57.6; groups and drawn beams follow 4.46.3, the last version that had them in its own code. They differ in what a
sentence may still hope for, and in what becomes of open beams at the maximum length.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int32, UInt32

from .._typing import Array, ArrayLike
from ..cache import Branches
from . import processors
from .candidates import Candidates, best, drawn
from .hypotheses import NEVER_CHOSEN, Hypotheses, Lengths, Pool, hosted, normalized
from .keys import row_keys, token_keys
from .loop import AbstractState, AbstractStrategy, DecoderStep, Opening, Record, column_at, is_end, with_column
from .prompt import PositionRule


class Group(eqx.Module):
    """The beams of a sentence that compete with each other, all of them or one of several groups.

    Attributes:
        running: the beams.
        pool: the finished hypotheses.
        closed: sentences whose pool will not change any more.
    """

    running: Hypotheses
    pool: Pool
    closed: Bool[Array, " batch"]


class BeamState(AbstractState):
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
        diversity: taken from a token's log-probability for each earlier group's beam that has just chosen it; None for
            one group.
        key_data: the words of one key, or of one key a sentence; None to take the best.
        beams: beams a sentence, over all groups.
        ends: how many different ids end a hypothesis, at least 1.
        returned: hypotheses returned for each sentence.
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
    diversity: Float[ArrayLike, ""] | None
    key_data: UInt32[ArrayLike, "*sentences 2"] | None
    beams: int = eqx.field(static=True)
    ends: int = eqx.field(static=True)
    returned: int = eqx.field(static=True)
    num_groups: int = eqx.field(static=True)
    prefix: int = eqx.field(static=True)
    positions: PositionRule = eqx.field(static=True)

    @property
    def cache_rows(self) -> int:
        return 1

    @property
    def tokens_at_once(self) -> int:
        return self.beams

    @property
    def _as_before(self) -> bool:
        """Whether the rules are those of 4.46.3."""
        return self.num_groups > 1 or self.key_data is not None

    def start(self, opening: Opening) -> BeamState:
        batch, size = opening.columns.shape[0], self.beams // self.num_groups
        new_slots = (opening.columns.shape[1] - 1 - self.prefix) * self.beams
        visible = np.concatenate([opening.real, np.zeros((batch, new_slots), bool)], axis=1)
        groups = tuple(
            Group(
                running=Hypotheses.first(opening.columns, size, None),
                pool=Pool(
                    Hypotheses.none(opening.columns, size, None), jax.device_put(np.zeros((batch, size), np.bool_))
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
        last = jnp.concatenate([column_at(g.running.tokens, state.length - 1) for g in state.groups], axis=1)
        branches = self._branches(state, generated)
        hidden, cache = decoder.advance(last, state.cache, positions=state.positions, branches=branches)
        logits = decoder.logits(hidden)
        groups: list[Group] = []
        for at, group in enumerate(state.groups):
            size = group.running.scores.shape[1]
            own = logits[:, at * size : (at + 1) * size]
            groups.append(self._next(group, own, state.length, generated, tuple(groups)))
        tokens = jnp.concatenate([column_at(g.running.tokens, state.length) for g in groups], axis=1)
        parents = [column_at(g.running.parents, state.length) for g in groups]
        offsets = [at * parents[0].shape[1] + which for at, which in enumerate(parents)]
        before = jnp.broadcast_to(jnp.asarray(self.prompt_tokens)[:, None] + generated, tokens.shape)
        return BeamState(
            groups=tuple(groups),
            visible=_picked(branches.visible, jnp.concatenate(offsets, axis=1)),
            positions=self.positions.of_next(tokens, before),
            length=state.length + 1,
            finished=jnp.all(jnp.stack([g.closed for g in groups]), axis=0),
            cache=cache,
        )

    def _branches(self, state: BeamState, generated: Int32[Array, ""]) -> Branches:
        """Each beam's token has a slot of its own, beside those of the other beams."""
        batch, beams, slots = state.visible.shape
        prefix = self.prefix
        every = jnp.arange(slots, dtype=jnp.int32)
        own = every[None, :] == prefix + generated * beams + jnp.arange(beams, dtype=jnp.int32)[:, None]
        return Branches(
            visible=state.visible | jnp.broadcast_to(own[None], (batch, beams, slots)),
            depth=jnp.full((beams,), prefix + generated, jnp.int32),
            slot_depth=jnp.where(every < prefix, every, prefix + (every - prefix) // beams),
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
        batch, size, vocab = logits.shape
        log_probs = jax.nn.log_softmax(logits, axis=-1)
        processed = self._processed(log_probs, group.running.tokens, length, earlier)
        totals = processed + group.running.scores[..., None]
        found = self._candidates(totals, generated)
        flat = found.beams * vocab + found.tokens
        added, under_model = (
            jnp.take_along_axis(table.reshape(batch, -1), flat, axis=1) for table in (processed, log_probs)
        )

        def extended(which: Int32[Array, "batch some"] | None) -> Hypotheses:
            by, shares = found, (added, under_model)
            if which is not None:
                by, shares = jax.tree.map(lambda leaf: jnp.take_along_axis(leaf, which, axis=1), (found, shares))
            return group.running.extended(by, length, *shares, None)

        ends = is_end(found.tokens, self.eos_ids)
        last = length + 1 == self.limit
        rule = self._close_as_4_46 if self._as_before else self._close_as_4_57
        return rule(group, found, ends, last, generated, extended)

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

    def _candidates(self, totals: Float[Array, "batch beams vocab"], generated: Int32[Array, ""]) -> Candidates:
        """Enough that one continuation for each beam is left when all others end."""
        batch, size, vocab = totals.shape
        count = min((1 + self.ends) * size, size * vocab)
        if self.key_data is None:
            return best(totals, count)
        return drawn(totals, count, token_keys(row_keys(self.key_data, batch, 1), generated))

    def _close_as_4_57(
        self,
        group: Group,
        found: Candidates,
        ends: Bool[Array, "batch candidates"],
        last: Bool[Array, ""],
        generated: Int32[Array, ""],
        extended: Any,
    ) -> Group:
        """Whatever ranks among the first as many as there are beams may finish: by an end, or at the maximum length."""
        size = group.running.scores.shape[1]
        stops = ends | last
        open_scores, order = jax.lax.top_k(jnp.where(stops, found.scores + NEVER_CHOSEN, found.scores), size)
        running = eqx.tree_at(lambda h: h.scores, extended(order), open_scores)
        first = _first(size, found.scores.shape[0])
        finished = normalized(extended(first), self.lengths.norms[generated])
        pool = group.pool.with_(finished, stops[:, :size] & ~group.closed[:, None])
        hope = pool.may_improve(running.scores[:, 0] / self.lengths.bounds[generated])
        return Group(running, pool, group.closed | ~hope | (pool.full & self.lengths.when_full))

    def _close_as_4_46(
        self,
        group: Group,
        found: Candidates,
        ends: Bool[Array, "batch candidates"],
        last: Bool[Array, ""],
        generated: Int32[Array, ""],
        extended: Any,
    ) -> Group:
        """Only an end finishes; at the maximum length the open beams of sentences that are not done do as well.

        What a sentence may hope for includes hypotheses that have just finished. The beams of one that is done are
        padding, which later groups see as chosen tokens.
        """
        size = group.running.scores.shape[1]
        open_scores, order = jax.lax.top_k(jnp.where(ends, -jnp.inf, found.scores), size)
        running = eqx.tree_at(lambda h: h.scores, extended(order), open_scores)
        norm = self.lengths.norms[generated]
        finished = normalized(extended(_first(size, found.scores.shape[0])), norm)
        pool = group.pool.with_(finished, ends[:, :size] & ~group.closed[:, None])
        hope = pool.may_improve(jnp.max(found.scores, axis=1) / self.lengths.bounds[generated])
        closed = group.closed | (pool.full & (self.lengths.when_full | ~hope))
        leftover = jnp.broadcast_to((last & ~closed)[:, None], (closed.shape[0], size))
        pool = pool.with_(normalized(running, norm), leftover)
        return Group(self._padded(running, group.closed, generated), pool, closed | last)

    def _padded(self, running: Hypotheses, closed: Bool[Array, " batch"], generated: Int32[Array, ""]) -> Hypotheses:
        """Padding in place of what sentences that were done have chosen."""
        at = self.prompt_width + generated
        column = jnp.where(closed[:, None], self.pad_id, column_at(running.tokens, at))
        scores = jnp.where(closed[:, None], 0.0, running.scores)
        return eqx.tree_at(
            lambda h: (h.tokens, h.scores), running, (with_column(running.tokens, column, at), scores)
        )

    def record(self, state: BeamState, batch: int) -> Record:
        pools: list[Pool] = [hosted(group.pool) for group in state.groups]
        best = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1)[:batch], *[pool.best for pool in pools])
        filled = np.concatenate([pool.filled for pool in pools], axis=1)[:batch]
        best = _in_rows(best, filled, self._ranking(best.scores)[:, : self.returned], self._names(batch))
        found = best.lengths > 0
        at_end = np.take_along_axis(best.tokens, (self.prompt_width + best.lengths - 1)[:, None], axis=1)[:, 0]
        ended = found & np.isin(at_end, self.eos_ids)
        if self.num_groups > 1:
            # as 4.46.3, which keeps hypotheses without their end and appends the first of the ids
            where = (np.flatnonzero(ended), (self.prompt_width + best.lengths - 1)[ended])
            best.tokens[where] = np.asarray(self.eos_ids)[0]
        scores = np.where(found, best.scores, -np.inf).astype(np.float32)
        return Record(
            sequences=best.tokens,
            lengths=best.lengths,
            truncated=~ended,
            scores=scores,
            normalized_scores=scores,
            log_probs=best.log_probs,
            processed_log_probs=best.processed_log_probs,
            beam_indices=best.parents,
        )

    def _ranking(self, scores: Float[np.ndarray, "batch hypotheses"]) -> np.ndarray:
        """The order of a sentence's hypotheses. 4.46.3 takes the last of equals first."""
        if not self._as_before:
            return np.argsort(-scores, axis=1, kind="stable")
        return np.argsort(scores, axis=1, kind="stable")[:, ::-1]

    def _names(self, batch: int) -> np.ndarray:
        """The first of the rows that each hypothesis's parents are counted from."""
        size = self.beams // self.num_groups
        groups = np.repeat(np.arange(self.num_groups, dtype=np.int32) * size, size)
        return np.arange(batch, dtype=np.int32)[:, None] * self.beams + groups[None]


def _in_rows(best: Hypotheses, filled: np.ndarray, order: np.ndarray, first: np.ndarray) -> Hypotheses:
    """The hypotheses in order, a row each; what was never found has length 0."""
    parents = np.where(best.parents < 0, -1, best.parents + first[..., None])
    whole = eqx.tree_at(lambda h: (h.parents, h.lengths), best, (parents, np.where(filled, best.lengths, 0)))

    def ordered(leaf: np.ndarray) -> np.ndarray:
        index = order.reshape(*order.shape, *(1,) * (leaf.ndim - 2))
        return np.take_along_axis(leaf, index, axis=1).reshape(-1, *leaf.shape[2:])

    return jax.tree.map(ordered, whole)


def _first(count: int, batch: int) -> Int32[Array, "batch count"]:
    return jnp.broadcast_to(jnp.arange(count, dtype=jnp.int32)[None], (batch, count))


def _picked(rows: Bool[Array, "batch beams slots"], index: Int32[Array, "batch beams"]) -> Array:
    return jax.vmap(lambda these, at: these[at])(rows, index)


def _counts(tokens: Int32[Array, "batch chosen"], vocab: int) -> Float[Array, "batch vocab"]:
    """How often each token was chosen."""
    rows = jnp.arange(tokens.shape[0], dtype=jnp.int32)[:, None]
    return jnp.zeros((tokens.shape[0], vocab), jnp.float32).at[rows, tokens].add(1.0)
