"""When hypotheses of a beam search are finished and a sequence is done, by the rules of two versions; the results.

Plain beam search follows transformers 4.57.6; groups and beam sampling follow 4.46.3, the last version that had them
in
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int32

from ..._inputs import numpy_of
from ..._typing import Array, ArrayLike
from ..state_on_mesh import top_k
from .base import SearchOutput, column_at, with_column
from .beam_hypotheses import NEVER_CHOSEN, Candidates, Hypotheses, Pool, normalize_scores


class Group(eqx.Module):
    """The beams of a source sequence that compete with each other, all of them or one of several groups.

    Attributes:
        running: the beams.
        pool: the finished hypotheses.
        closed: source sequences whose pool will not change any more.
    """

    running: Hypotheses
    pool: Pool
    closed: Bool[Array, " batch"]


class Step(NamedTuple):
    """What a step has found for a group.

    Attributes:
        found: the best continuations, the best first.
        ends: which of them end.
        last: whether this is the last token that the maximum length allows.
        norm: by what a hypothesis of this length is divided.
        norm_before: by what one without this step's token is.
        bound: by what the best beam is, to guess what can become of it.
        when_full: whether a source sequence is done as soon as its pool is full.
        extend: the hypotheses of some continuations, by their places in `found`.
    """

    found: Candidates
    ends: Bool[Array, "batch candidates"]
    last: Bool[Array, ""]
    norm: Float[Array, ""]
    norm_before: Float[Array, ""]
    bound: Float[Array, ""]
    when_full: Bool[ArrayLike, ""]
    extend: Callable[[Array], Hypotheses]

    @property
    def stuck(self) -> Bool[Array, " batch"]:
        """Source sequences whose beams cannot go on: the rules forbid every token."""
        return jnp.isneginf(_best_score(self.found.scores))


def as_4_57(group: Group, step: Step) -> Group:
    """Whatever ranks among the first as many as there are beams may finish: by an end, or at the maximum length."""
    size = group.running.scores.shape[1]
    stops, scores = step.ends | step.last, step.found.scores
    running = _best(step, jnp.where(stops, scores + NEVER_CHOSEN, scores), size)
    pool = _with_finished(group, step, _first(step, size), stops[:, :size])
    hope = pool.may_improve(running.scores[:, 0] / step.bound)
    return Group(running, pool, group.closed | ~hope | (pool.full & step.when_full))


def as_4_46(group: Group, step: Step, *, column: Int32[Array, ""], pad_id: Int32[ArrayLike, ""]) -> Group:
    """Only an end finishes; at the maximum length the open beams of source sequences that are not done do as well.

    What a source sequence may hope for includes hypotheses that have just finished. The beams of one that is done are
    padding, which later groups see as chosen tokens.
    """
    size = group.running.scores.shape[1]
    running = _best(step, jnp.where(step.ends, -jnp.inf, step.found.scores), size)
    first = _first(step, size)
    pool = _with_finished(group, step, first, step.ends[:, :size])
    hope = pool.may_improve(attainable(step.found, first, norm=step.norm, bound=step.bound))
    closed = group.closed | step.stuck | (pool.full & (step.when_full | ~hope))
    leftover = jnp.broadcast_to((step.last & ~closed)[:, None], (closed.shape[0], size))
    pool = pool.add(normalize_scores(running, step.norm), leftover)
    return Group(_padded(running, group.closed, column, pad_id), pool, closed | step.last)


def _with_finished(group: Group, step: Step, first: Hypotheses, stops: Bool[Array, "batch beams"]) -> Pool:
    """The pool with those of `first` that stop; of source sequences that are stuck, with their beams as they are.

    Beams that only repeat the prompt, have ended, or could not go on before are not among those.
    """
    stuck, mine = step.stuck[:, None], group.running
    open_ = (mine.scores > NEVER_CHOSEN / 2) & (mine.lengths > 0)

    def either(ours: Array, new: Array) -> Array:
        return jnp.where(step.stuck.reshape(-1, *(1,) * (new.ndim - 1)), ours, new)

    offered = jax.tree.map(either, normalize_scores(mine, step.norm_before), first)
    return group.pool.add(offered, jnp.where(stuck, open_, stops) & ~group.closed[:, None])


def attainable(
    found: Candidates, first: Hypotheses, *, norm: Float[Array, ""], bound: Float[Array, ""]
) -> Float[Array, " batch"]:
    """The best score that a source sequence may hope for by the rules of 4.46.3.

    If its best continuation has just finished, that is often the very score that has just entered the pool, and then
    there is no hope. Dividing once more by an equal number may give another last bit (XLA multiplies by the reciprocal
    where it likes to), which would be hope: so the number itself is taken. The arguments are those of `Step`, and the
    hypotheses of the first continuations, their scores divided by `norm`.
    """
    return jnp.where(bound == norm, _best_score(first.scores), _best_score(found.scores) / bound)


def _best_score(scores: Float[Array, "batch candidates"]) -> Float[Array, " batch"]:
    """The first of each row, which is its largest.

    Not `scores[:, 0]`: XLA on CPU then sorts all that a `top_k` has looked through, which made a step of beam search
    with a vocabulary of 20,000 three times as long.
    """
    return jnp.max(scores, axis=1)


def _best(step: Step, scores: Float[Array, "batch candidates"], size: int) -> Hypotheses:
    """The beams of the next step."""
    open_scores, order = top_k(scores, size)
    return eqx.tree_at(lambda h: h.scores, step.extend(order), open_scores)


def _first(step: Step, size: int) -> Hypotheses:
    """The continuations that may finish, whether they do or not, with normalised scores."""
    batch = step.found.scores.shape[0]
    places = jnp.broadcast_to(jnp.arange(size, dtype=jnp.int32)[None], (batch, size))
    return normalize_scores(step.extend(places), step.norm)


def _padded(
    running: Hypotheses, closed: Bool[Array, " batch"], column: Int32[Array, ""], pad_id: Int32[ArrayLike, ""]
) -> Hypotheses:
    """Padding in place of what source sequences that were done have chosen."""
    tokens = jnp.where(closed[:, None], pad_id, column_at(running.tokens, column))
    scores = jnp.where(closed[:, None], 0.0, running.scores)
    return eqx.tree_at(lambda h: (h.tokens, h.scores), running, (with_column(running.tokens, tokens, column), scores))


def best_hypotheses(
    pools: Sequence[Pool],
    *,
    batch: int,
    returned: int,
    prompt_width: ArrayLike | int,
    eos_ids: np.ndarray,
    last_first: bool,
) -> SearchOutput:
    """The best hypotheses of each of `batch` source sequences over the pools of all its groups, side by side.

    Places for which nothing was found have length 0 and score -inf. Of equals the last comes first where `last_first`,
    as in transformers 4.46.3.
    """
    size = pools[0].filled.shape[1]
    beams, xp = size * len(pools), numpy_of(pools[0].filled)
    best, filled = jax.tree.map(
        lambda *leaves: xp.concatenate(leaves, axis=1)[:batch], *((pool.best, pool.filled) for pool in pools)
    )
    scores = best.scores
    # A hypothesis of -inf still comes before a place that nothing was found for.
    ranks = xp.where(filled, xp.maximum(scores, np.finfo(np.float32).min), -np.inf)
    order = xp.argsort(ranks if last_first else -ranks, axis=1, stable=True)
    order = (order[:, ::-1] if last_first else order)[:, :returned]

    def in_rows(table: Any) -> Any:
        index = order.reshape(*order.shape, *(1,) * (table.ndim - 2))
        return xp.take_along_axis(table, index, axis=1).reshape(-1, *table.shape[2:])

    first = (np.arange(batch)[:, None] * beams + np.repeat(np.arange(len(pools)) * size, size)[None]).astype(np.int32)
    rows = xp.where(best.parents < 0, -1, best.parents + first[..., None]).astype(np.int32)
    lengths, sequences = in_rows(xp.where(filled, best.lengths, 0)), in_rows(best.tokens)
    last = xp.take_along_axis(sequences, (prompt_width + lengths - 1)[:, None], axis=1)[:, 0]
    ended = (lengths > 0) & (last[:, None] == eos_ids[None]).any(axis=1)
    ranked = xp.where(lengths > 0, in_rows(scores), -np.inf).astype(np.float32)
    return SearchOutput(
        sequences=sequences,
        lengths=lengths,
        truncated=~ended,
        scores=ranked,
        normalized_scores=ranked,
        log_probs=in_rows(best.log_probs),
        processed_log_probs=in_rows(best.processed_log_probs),
        beam_indices=in_rows(rows),
    )


def with_first_eos(output: SearchOutput, prompt_width: ArrayLike | int, eos_ids: np.ndarray) -> SearchOutput:
    """With the first of the end ids at every end: transformers 4.46.3 keeps no other."""
    if not eos_ids.size:
        return output
    xp = numpy_of(output.sequences)
    columns = np.arange(output.sequences.shape[1], dtype=np.int32)[None]
    ends = (columns == (prompt_width + output.lengths - 1)[:, None]) & ~output.truncated[:, None]
    return dataclasses.replace(output, sequences=xp.where(ends, eos_ids[0], output.sequences))
