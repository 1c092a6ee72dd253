"""Scores of given sequences by one pass over each, and what each of their tokens attended to in the source."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float32, Int32

from .._inputs import host_ids, host_mask
from .._padding import RightPadding
from .._typing import ArrayLike
from ..config import StackConfig
from .search.base import DecoderStep, log_probability
from .source_and_prompt import (
    LEAST_SLOTS,
    Encoded,
    PositionRule,
    Source,
    bucket,
    check_positions,
    longest_sequence,
)

_Inputs = tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike]


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
    """Finished sequences, those of a source sequence side by side.

    Attributes:
        ids: prompt, generated tokens, padding.
        real: False at the left padding of prompts.
        prompt: columns of the prompt.
        each: rows per source sequence.
        padded_batch: source sequences, padded to the bucket.
    """

    ids: Int32[np.ndarray, "rows width"]
    real: Bool[np.ndarray, "rows prompt"]
    prompt: int
    each: int
    padded_batch: int

    def inputs(self, rule: PositionRule) -> _Inputs:
        """What the decoder reads (all but the last column), its mask and positions, and what comes next; in buckets."""
        rows, width = self.ids.shape
        positions = rule.of_sequences(self.ids, self.real)
        real = np.concatenate([self.real, np.ones((rows, width - self.prompt), bool)], axis=1)
        more = self.padded_batch * self.each - rows
        wider = bucket(width - 1, least=LEAST_SLOTS) - (width - 1)

        def padded(table: np.ndarray) -> np.ndarray:
            # columns on the right, which nothing in front of them sees; rows like the first, as harmless as it is
            table = np.pad(table, ((0, 0), (0, wider)), mode="edge")
            return np.concatenate([table, np.repeat(table[:1], more, axis=0)])

        return padded(self.ids[:, :-1]), padded(real[:, :-1]), padded(positions[:, :-1]), padded(self.ids[:, 1:])


@eqx.filter_jit
def _pass(
    decoder: Any,
    project: Callable | None,
    states: ArrayLike,
    mask: ArrayLike | RightPadding,
    inputs: _Inputs,
    weights: bool,
) -> Any:
    """One pass: log-probabilities (rows, width), or of each layer the weights of cross-attention (or None)."""
    ids, real, positions, following = (jnp.asarray(table) for table in inputs)
    rows, slots = ids.shape
    cache = decoder.init_cache(states if project is None else project(states), mask, rows=rows, slots=slots)
    if weights:
        return decoder.cross_attentions(ids, cache, mask=real, positions=positions)
    hidden, _ = decoder.advance(ids, cache, mask=real, positions=positions)
    # a row at a time: all rows' logits at once would be the largest array of all
    return jax.lax.map(lambda row: log_probability(decoder.logits(row[0]), row[1]), (hidden, following))


def sequence_cross_attentions(
    decoder: Any, project: Callable | None, encoded: Encoded, sequences: Sequences, rule: PositionRule
) -> tuple[np.ndarray | None, ...]:
    """Of each layer (rows, heads, new, source): what was attended to when each generated token was chosen."""
    layers = _pass(decoder, project, encoded.states, encoded.mask, sequences.inputs(rule), True)
    rows, width = sequences.ids.shape
    columns = slice(sequences.prompt - 1, width - 1)
    return tuple(
        None if weights is None else np.asarray(weights)[:rows, :, columns, : encoded.width] for weights in layers
    )


def rescore(
    decoder: DecoderStep,
    config: StackConfig,
    project: Callable | None,
    source: Source,
    sequences: Any,
    prompt_mask: Any,
    *,
    prompt_length: int,
    eos_ids: tuple[int, ...],
    length_penalty: float,
) -> Rescored:
    """Log-probabilities of sequences; `EncoderDecoder.rescore` documents the arguments."""
    given = _given(config, source, sequences, prompt_mask, prompt_length, "score")
    encoded = source.encode()
    inputs = given.inputs(PositionRule.of(config))
    table = np.asarray(_pass(decoder, project, encoded.states, encoded.mask, inputs, False))
    rows, width = given.ids.shape
    ids, log_probs = given.ids[:, prompt_length:], table[:rows, prompt_length - 1 : width - 1]
    ends = np.isin(ids, eos_ids)
    lengths = np.where(ends.any(axis=1), ends.argmax(axis=1) + 1, ids.shape[1]).astype(np.int32)
    real = np.arange(ids.shape[1])[None] < lengths[:, None]
    log_probs = np.where(real, log_probs, 0.0).astype(np.float32)
    norms = (lengths.astype(np.float64) ** length_penalty).astype(np.float32)
    return Rescored(log_probs.sum(axis=1, dtype=np.float32) / norms, lengths, log_probs)


def cross_attentions(
    decoder: DecoderStep,
    config: StackConfig,
    project: Callable | None,
    source: Source,
    sequences: Any,
    prompt_mask: Any,
    *,
    prompt_length: int,
) -> tuple[np.ndarray | None, ...]:
    """What given sequences attend to in the source; `EncoderDecoder.cross_attentions` documents the arguments."""
    given = _given(config, source, sequences, prompt_mask, prompt_length, "look at")
    return sequence_cross_attentions(decoder, project, source.encode(), given, PositionRule.of(config))


def _given(
    config: StackConfig, source: Source, sequences: Any, prompt_mask: Any, prompt_length: int, verb: str
) -> Sequences:
    """A caller's sequences, checked."""
    ids = host_ids("sequences", sequences, below=config.vocab_size, table="the decoder's token table")
    rows, width = ids.shape
    if rows % source.batch:
        raise ValueError(
            f"sequences have {rows} rows for {source.batch} source sequences; expected a multiple, those of a source "
            "sequence side by side."
        )
    if not 1 <= prompt_length < width:
        raise ValueError(
            f"prompt_length is {prompt_length} and the sequences have {width} columns: there is nothing to {verb}. It "
            "counts the start token or prompt, which is given."
        )
    most = longest_sequence(config)
    check_positions("sequences (but for the last token)", width - 1, longest=most, how="Leave longer ones out.")
    real = host_mask("decoder_attention_mask", prompt_mask, shape=(rows, prompt_length), of="the prompts")
    return Sequences(ids, real, prompt_length, rows // source.batch, bucket(source.batch, parts=source.parts))
