"""One pass over finished sequences: what each token's log-probability is, and what it was made from in the source.

Needs a decoder step, and of a decoder that shall say what it attended to, `cross_attentions`. Knows no search.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Float32, Int32

from .._typing import Array, ArrayLike
from .buckets import LEAST_SLOTS, bucket
from .loop import DecoderStep, log_probability
from .prompt import PositionRule


@dataclass(frozen=True, eq=False)
class Rescored:
    """Log-probabilities of given sequences.

    Attributes:
        scores: sum of `log_probs` over `lengths ** length_penalty`.
        lengths: tokens that count, up to and including the first end-of-sequence id.
        log_probs: natural log-probability of each token behind the prompt; 0 behind the end.
    """

    scores: Float32[np.ndarray, " rows"]
    lengths: Int32[np.ndarray, " rows"]
    log_probs: Float32[np.ndarray, "rows new"]


@dataclass(frozen=True, eq=False)
class Sequences:
    """Finished sequences, rows side by side by sentence.

    Attributes:
        ids: prompt, generated tokens, padding.
        real: False at the left padding of prompts.
        prompt: columns of the prompt.
        each: rows a sentence.
        sentences: number of sentences, padded to the bucket.
    """

    ids: Int32[np.ndarray, "rows width"]
    real: Bool[np.ndarray, "rows prompt"]
    prompt: int
    each: int
    sentences: int

    def fed(self, rule: PositionRule) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """What the decoder reads (all but the last column), its mask and positions, and what comes next; in buckets."""
        rows, width = self.ids.shape
        positions = rule.of_sequences(self.ids, self.real)
        real = np.concatenate([self.real, np.ones((rows, width - self.prompt), bool)], axis=1)
        more = self.sentences * self.each - rows
        wider = bucket(width - 1, least=LEAST_SLOTS) - (width - 1)

        def padded(table: np.ndarray) -> np.ndarray:
            # columns on the right, which nothing in front of them sees; rows like the first, as harmless as it is
            table = np.pad(table, ((0, 0), (0, wider)), mode="edge")
            return np.concatenate([table, np.repeat(table[:1], more, axis=0)])

        return padded(self.ids[:, :-1]), padded(real[:, :-1]), padded(positions[:, :-1]), padded(self.ids[:, 1:])


@eqx.filter_jit
def _log_probs(
    decoder: DecoderStep,
    project: Callable | None,
    states: ArrayLike,
    mask: ArrayLike,
    fed: tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike],
) -> Float[Array, "rows width"]:
    ids, real, positions, following = fed
    cache = _cache(decoder, project, states, mask, ids.shape)
    hidden, _ = decoder.advance(jnp.asarray(ids), cache, mask=jnp.asarray(real), positions=jnp.asarray(positions))
    # a row at a time: all rows' logits at once would be the largest array of all
    return jax.lax.map(lambda row: log_probability(decoder.logits(row[0]), row[1]), (hidden, jnp.asarray(following)))


@eqx.filter_jit
def _cross_attentions(
    decoder: Any,
    project: Callable | None,
    states: ArrayLike,
    mask: ArrayLike,
    fed: tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike],
) -> tuple[Float[Array, "rows heads width source"] | None, ...]:
    ids, real, positions, _ = fed
    cache = _cache(decoder, project, states, mask, ids.shape)
    return decoder.cross_attentions(ids, cache, mask=real, positions=positions)


def _cache(decoder: DecoderStep, project: Callable | None, states: Any, mask: Any, shape: tuple[int, ...]) -> Any:
    rows, slots = shape
    return decoder.init_cache(states if project is None else project(states), mask, rows=rows, slots=slots)


def log_probs(
    decoder: DecoderStep, project: Any, states: ArrayLike, mask: np.ndarray, sequences: Sequences, rule: PositionRule
) -> np.ndarray:
    """Log-probability of each token behind the prompt (rows, new)."""
    shares = np.asarray(_log_probs(decoder, project, states, mask, sequences.fed(rule)))
    rows, width = sequences.ids.shape
    return shares[:rows, sequences.prompt - 1 : width - 1]


def cross_attentions(
    decoder: Any,
    project: Any,
    states: ArrayLike,
    mask: np.ndarray,
    sequences: Sequences,
    rule: PositionRule,
    *,
    source: int,
) -> tuple[np.ndarray | None, ...]:
    """Of each layer (rows, heads, new, source): what was attended to when each generated token was chosen."""
    layers = _cross_attentions(decoder, project, states, mask, sequences.fed(rule))
    rows, width = sequences.ids.shape

    def trimmed(weights: Array | None) -> np.ndarray | None:
        return None if weights is None else np.asarray(weights)[:rows, :, sequences.prompt - 1 : width - 1, :source]

    return tuple(trimmed(weights) for weights in layers)


def counted(
    shares: Float32[np.ndarray, "rows new"],
    ids: Int32[np.ndarray, "rows new"],
    eos_ids: tuple[int, ...],
    penalty: float,
) -> Rescored:
    """Scores of sequences that end at their first end-of-sequence id, or at the last column."""
    ends = np.isin(ids, eos_ids)
    lengths = np.where(ends.any(axis=1), ends.argmax(axis=1) + 1, ids.shape[1]).astype(np.int32)
    real = np.arange(ids.shape[1])[None] < lengths[:, None]
    kept = np.where(real, shares, 0.0).astype(np.float32)
    norms = (lengths.astype(np.float64) ** penalty).astype(np.float32)
    return Rescored(kept.sum(axis=1, dtype=np.float32) / norms, lengths, kept)
