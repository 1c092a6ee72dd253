"""Beams and finished hypotheses of beam search as arrays, and the continuations that are candidates for them.

Scores of a finished hypothesis are normalised: the sum of its log-probabilities over its length to the power of
`length_penalty`.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int32, Key

from ..._inputs import numpy_of
from ..._typing import Array, ArrayLike
from ..state_on_mesh import top_k
from .base import gather, with_column

_BLOCK = 512


class Candidates(eqx.Module):
    """Continuations per source sequence, the best first; of equals the one of the first beam and the lower token id.

    Attributes:
        scores: what was ranked.
        beams: which beam each continues.
        tokens: by which token.
    """

    scores: Float[Array, "batch candidates"]
    beams: Int32[Array, "batch candidates"]
    tokens: Int32[Array, "batch candidates"]

    def gather(self, which: Int32[Array, "batch some"]) -> "Candidates":
        """Some of them, in the order of `which`."""
        return jax.tree.map(lambda leaf: jnp.take_along_axis(leaf, which, axis=1), self)


def top_candidates(scores: Float[Array, "batch beams vocab"], count: int) -> Candidates:
    """The `count` largest scores.

    In two steps: the blocks of the vocabulary with the largest maxima hold all of them, so only those are searched. On
    CPU a plain `top_k` of 4 beams of 50,257 took 2.8 ms at batch 4, this 0.33 ms.

    Args:
        scores: may hold -inf.
        count: at most all there are.
    """
    batch, _, vocab = scores.shape
    more = -vocab % _BLOCK
    padded = jnp.pad(scores, ((0, 0), (0, 0), (0, more)), constant_values=-jnp.inf)
    blocks = padded.reshape(batch, -1, _BLOCK)
    which = top_k(jnp.max(blocks, axis=-1), min(count, blocks.shape[1]))[1]
    # in their order, so that equals within them keep theirs
    which = jnp.sort(which, axis=1)
    searched = gather(blocks, which).reshape(batch, -1)
    found, at = top_k(searched, count)
    index = jnp.take_along_axis(which, at // _BLOCK, axis=1) * _BLOCK + at % _BLOCK
    # only where fewer than `count` scores are above -inf can the padding be among them
    tokens = jnp.minimum(index % (vocab + more), vocab - 1)
    return Candidates(found, index // (vocab + more), tokens)


def sample_candidates(scores: Float[Array, "batch beams vocab"], count: int, keys: Key[Array, " batch"]) -> Candidates:
    """`count` continuations drawn without replacement with probabilities softmax(scores), then ranked by score.

    By the largest of the scores with Gumbel noise added (Kool et al. 2019), which is that distribution exactly.

    Args:
        scores: unnormalised log-probabilities, over all beams of a source sequence together.
        count: at most all there are.
        keys: one per source sequence.
    """
    noise = jax.vmap(lambda key: jax.random.gumbel(key, scores.shape[1:], jnp.float32))(keys)
    found = top_candidates(scores + noise, count)
    flat = found.beams * scores.shape[2] + found.tokens
    plain = jnp.take_along_axis(scores.reshape(scores.shape[0], -1), flat, axis=1)
    ranked, order = top_k(plain, count)
    beams, tokens = (jnp.take_along_axis(part, order, axis=1) for part in (found.beams, found.tokens))
    return Candidates(ranked, beams, tokens)


NEVER_CHOSEN = -1e9
"""The score of what must lose against everything real. Finite, as torch's is: its own order must not depend on NaN."""


_LOWEST = float(np.finfo(np.float32).min)


class Hypotheses(eqx.Module):
    """Several continuations of each source sequence. Tables have a column per token, where the token itself stands.

    Attributes:
        tokens: prompt, generated tokens, then padding.
        scores: a running beam's sum of log-probabilities, or a finished one's normalised score.
        lengths: generated tokens, an end included.
        log_probs: of each generated token under the model.
        processed_log_probs: what each token added to the sum.
        parents: which beam of the step before each token continued; -1 where there is no token.
        automaton: state of the constraint, if there is one.
    """

    tokens: Int32[Array, "batch beams width"]
    scores: Float[Array, "batch beams"]
    lengths: Int32[Array, "batch beams"]
    log_probs: Float[Array, "batch beams width"]
    processed_log_probs: Float[Array, "batch beams width"]
    parents: Int32[Array, "batch beams width"]
    automaton: Int32[Array, "batch beams"] | None

    @classmethod
    def first(cls, columns: ArrayLike, beams: int, automaton: ArrayLike | None) -> "Hypotheses":
        """Copies of the prompt, of which only the first should be continued: the others would only repeat it.

        With a constraint they never are, even if fewer outputs are possible than there are beams. Without one a tiny
        vocabulary may bring them back, as in torch.
        """
        others = NEVER_CHOSEN if automaton is None else -np.inf
        scores = np.full((columns.shape[0], beams), others, np.float32)
        scores[:, 0] = 0
        return cls._blank(columns, scores, automaton)

    @classmethod
    def _blank(cls, columns: ArrayLike, scores: np.ndarray, automaton: ArrayLike | None) -> "Hypotheses":
        (batch, beams), width = scores.shape, columns.shape[1]
        # A buffer each: the loop is given them to write into, and two of them must not be one.
        return cls(
            tokens=jax.device_put(numpy_of(columns).repeat(columns[:, None], beams, axis=1)),
            scores=jax.device_put(scores),
            lengths=jax.device_put(np.zeros((batch, beams), np.int32)),
            log_probs=jax.device_put(np.zeros((batch, beams, width), np.float32)),
            processed_log_probs=jax.device_put(np.zeros((batch, beams, width), np.float32)),
            parents=jax.device_put(np.full((batch, beams, width), -1, np.int32)),
            automaton=None if automaton is None else jax.device_put(automaton.copy()),
        )

    @classmethod
    def none(cls, columns: ArrayLike, beams: int, automaton: ArrayLike | None) -> "Hypotheses":
        """Places of a pool in which nothing is yet."""
        return cls._blank(columns, np.full((columns.shape[0], beams), NEVER_CHOSEN, np.float32), automaton)

    def gather(self, index: Int32[Array, "batch some"]) -> "Hypotheses":
        """Some of them, in the order of `index`."""
        return jax.tree.map(lambda leaf: gather(leaf, index), self)

    def append(
        self, by: Candidates, at: Int32[Array, ""], processed: Array, log_probs: Array, automaton: Array | None
    ) -> "Hypotheses":
        """Those that `by` continues, each with its next token in column `at`.

        `processed` is what the token adds to the sum, `log_probs` its log-probability under the model.
        """
        old = self.gather(by.beams)
        return Hypotheses(
            tokens=with_column(old.tokens, by.tokens, at),
            scores=by.scores,
            lengths=old.lengths + 1,
            log_probs=with_column(old.log_probs, log_probs, at),
            processed_log_probs=with_column(old.processed_log_probs, processed, at),
            parents=with_column(old.parents, by.beams, at),
            automaton=automaton,
        )


class Pool(eqx.Module):
    """The best finished hypotheses of each source sequence, the best first; earlier ones first among equals.

    Attributes:
        best: as many as there are beams.
        filled: which places hold one.
    """

    best: Hypotheses
    filled: Bool[Array, "batch beams"]

    def add(self, finished: Hypotheses, which: Bool[Array, "batch more"]) -> "Pool":
        """With those of `finished`, whose scores are normalised, that `which` says."""
        merged = jax.tree.map(lambda ours, new: jnp.concatenate([ours, new], axis=1), self.best, finished)
        offered = jnp.where(which, finished.scores, -jnp.inf)
        filled = jnp.concatenate([self.filled, which], axis=1)
        scores = jnp.concatenate([self.best.scores, offered], axis=1)
        # A hypothesis of -inf is still more than none.
        index = top_k(jnp.where(filled, jnp.maximum(scores, _LOWEST), scores), self.filled.shape[1])[1]
        return Pool(merged.gather(index), jnp.take_along_axis(filled, index, axis=1))

    @property
    def full(self) -> Bool[Array, " batch"]:
        """Whether every place holds one."""
        return jnp.all(self.filled, axis=1)

    def may_improve(self, attainable: Float[Array, " batch"]) -> Bool[Array, " batch"]:
        """Whether a hypothesis of that score would enter."""
        worst = jnp.where(self.full, jnp.min(self.best.scores, axis=1), NEVER_CHOSEN)
        return attainable > worst


class Lengths(eqx.Module):
    """What scores are divided by, as tables over the number of generated tokens minus 1, and when to stop.

    Computed on the host in double precision, as torch does.

    Attributes:
        norms: a finished hypothesis is divided by these.
        bounds: a running one is, to guess the best that can become of it (`early_stopping`).
        when_full: whether a source sequence is done as soon as its pool is full (`early_stopping=True`).
    """

    norms: Float[ArrayLike, " tokens"]
    bounds: Float[ArrayLike, " tokens"]
    when_full: Bool[ArrayLike, ""]

    @classmethod
    def of(
        cls, length_penalty: float, early_stopping: bool | str, *, longest: int, new: ArrayLike | int, columns: int
    ) -> "Lengths":
        """The tables for at most `new` generated tokens, which may be traced and are at most `longest`.

        They have `columns` entries. No hypothesis is longer, and longer powers might leave the range of float32.
        """
        xp = numpy_of(new)
        powers = (np.arange(1, longest + 1, dtype=np.float64) ** length_penalty).astype(np.float32)
        norms = xp.asarray(powers)[xp.minimum(np.arange(columns, dtype=np.int32), new - 1)]
        # The sums are negative: with a positive penalty the longest sequence is the one that divides most.
        never = early_stopping == "never" and length_penalty > 0
        bounds = xp.broadcast_to(norms[-1], norms.shape) if never else norms
        return cls(norms, bounds, np.asarray(early_stopping is True))


def normalize_scores(hypotheses: Hypotheses, norm: Float[Array, ""]) -> Hypotheses:
    """The same, their scores divided by `norm`."""
    return eqx.tree_at(lambda h: h.scores, hypotheses, hypotheses.scores / norm)
