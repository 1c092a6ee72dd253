"""What every search is made of: what it is given, the state of the loop, its output, and operations on token tables."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int32, Shaped, UInt32

from ..._inputs import as_int32, numpy_of
from ..._typing import Array, ArrayLike
from .. import processors
from ..constraints.constraint import AbstractConstraint
from ..plan import Plan
from ..source_and_prompt import PositionRule, TargetBucket


@runtime_checkable
class DecoderStep(Protocol):
    """All that generating needs of a decoder. See `encdec_eqx.Decoder` for the arguments."""

    def init_cache(self, encoder_states: Any, encoder_mask: Any, *, rows: int, slots: int) -> Any:
        """An empty cache. It holds nothing of its arguments as they are: a run donates its buffers."""
        ...

    def advance(
        self, ids: Any, cache: Any, *, mask: Any = None, positions: Any = None, branches: Any = None
    ) -> tuple[Array, Any]:
        """Hidden states of the next tokens, and the cache with them added."""
        ...

    def truncate(self, cache: Any, length: Any) -> Any:
        """The cache as it was when only its first `length` slots were filled."""
        ...

    def logits(self, hidden: Any) -> Array:
        """Scores of the next token, in float32."""
        ...


@dataclass(frozen=True, eq=False)
class SearchInputs:
    """What a search is made from besides the plan.

    What may differ between two runs of one program may be traced: a search is made on the host as a rule, and inside a
    program that is exported.

    Attributes:
        eos_ids: ids that end a row; repetitions pad them, so that one program serves one or a few.
        pad_id: what follows an EOS token.
        batch: source sequences.
        padded_batch: the same, padded to the bucket.
        width: columns of the prompt that are fed.
        limit: columns at the maximum length.
        min_new_tokens: fewest tokens to generate; None for no such rule.
        unseen: columns in front of them that are padding in every row; `min_length` counts them.
        prompt_tokens: tokens of each prompt that are not padding.
        target: sizes of the cache.
        rule: how the family numbers tokens.
        vocab_size: of the decoder.
        source: the source's ids, padded to their bucket, and how many of their columns count; None without ids.
        key_data: the words of one key, or of one key per source sequence; None where nothing is drawn.
    """

    eos_ids: tuple[int, ...]
    pad_id: int
    batch: int
    padded_batch: int
    width: int | Array
    limit: int | Array
    min_new_tokens: int | Array | None
    unseen: int | Array
    prompt_tokens: ArrayLike
    target: TargetBucket
    rule: PositionRule
    vocab_size: int
    source: tuple[ArrayLike, int | Array] | None
    key_data: ArrayLike | None


class PrefillOutput(eqx.Module):
    """Where a search starts: the prompt, of which all but the last token has been fed, or all of it.

    Attributes:
        columns: the prompt, then room for the tokens to come; a row for each that the cache has.
        positions: of the prompt's last token.
        real: which of the cache's slots that are filled hold real tokens.
        alive: False for rows that only fill the bucket.
        cache: filled with what has been fed.
        memory: what the search's `memory` made of the prompt's hidden states; None if it has none.
        draft_cache: the cache of the search's `draft_decoder`, filled in the same way; None if it has none.
        draft_positions: of the prompt's last token, as that decoder numbers them.
    """

    columns: Int32[ArrayLike, "rows width"]
    positions: Int32[ArrayLike, " rows"]
    real: Bool[ArrayLike, "rows prefix"]
    alive: Bool[ArrayLike, " rows"]
    cache: Any
    memory: Any = None
    draft_cache: Any = None
    draft_positions: Int32[ArrayLike, " rows"] | None = None


@dataclass(frozen=True, eq=False)
class SearchOutput:
    """What a search has found, on the host unless it is traced: `GenerationResult` has the same fields.

    `log_probs` and the two after it have as many columns as `sequences`, the prompt's filled with zeros. `passes` is
    None where each pass of the decoder has yielded one token per row.
    """

    sequences: Any
    lengths: Any
    truncated: Any
    scores: Any
    normalized_scores: Any
    log_probs: Any
    processed_log_probs: Any
    beam_indices: Any = None
    passes: int | None = None


class CacheLayout(NamedTuple):
    """How a search uses the cache.

    Attributes:
        rows: of the cache per source sequence.
        branches: tokens that a step feeds for each of them, each of which takes a slot.
        spare: slots beyond those of the tokens that count.
    """

    rows: int = 1
    branches: int = 1
    spare: int = 0


class AbstractSearch(eqx.Module):
    """How the next tokens are chosen. Its arrays are constants of a run; its static fields decide the program.

    Attributes:
        pad_id: what follows an EOS token.
        in_order: whether a token that has been chosen stays chosen.
        reads_whole_prompt: whether all of the prompt is fed before the first step, not all but its last token.
    """

    pad_id: eqx.AbstractVar[Int32[ArrayLike, ""]]
    in_order: ClassVar[bool] = True
    reads_whole_prompt: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def of(cls, plan: Plan, inputs: SearchInputs) -> "AbstractSearch":
        """The search of a run."""

    @property
    @abstractmethod
    def layout(self) -> CacheLayout:
        """How it uses the cache."""

    @property
    def memory(self) -> Callable[[Array], Any] | None:
        """What to make of the hidden states of a prompt that is fed as a whole, in the program that feeds it."""
        return None

    @property
    def draft_decoder(self) -> tuple[DecoderStep, Callable | None, PositionRule] | None:
        """A second decoder that reads the source and the prompt, its projection and its positions."""
        return None

    @abstractmethod
    def start(self, prefill: PrefillOutput) -> Any:
        """The state before the first token."""

    @abstractmethod
    def step(self, decoder: DecoderStep, state: Any) -> Any:
        """The state after one more token in every row.

        The loop looks at two fields of it: `length`, columns filled, the prompt's included; and `finished`, what needs
        no more steps: rows, or source sequences where their rows end together.
        """

    @abstractmethod
    def output(self, state: Any, batch: int) -> SearchOutput:
        """The state's results for the first `batch` source sequences."""


class AbstractTokenSearch(AbstractSearch):
    """A search that chooses by the logits alone, with what all of those need.

    Attributes:
        processors: what changes the logits first, in order.
        eos_ids: ids that end a row.
        pad_id: what follows an EOS token.
        prompt_width: columns of the prompt.
        prompt_tokens: tokens of each row's prompt that are not left padding.
        limit: columns at the maximum length.
        constraint: what the generated tokens must follow, or None.
        key_data: the words of one key, or of one key per source sequence; None to take the best.
        positions: how the family numbers tokens.
        prefix: slots of the cache in front of those of the first step.
    """

    processors: tuple[processors.Processor, ...]
    eos_ids: Int32[ArrayLike, " ends"]
    pad_id: Int32[ArrayLike, ""]
    prompt_width: Int32[ArrayLike, ""]
    prompt_tokens: Int32[ArrayLike, " rows"]
    limit: Int32[ArrayLike, ""]
    constraint: AbstractConstraint | None
    key_data: UInt32[ArrayLike, "*batch 2"] | None
    positions: PositionRule = eqx.field(static=True)
    prefix: int = eqx.field(static=True)

    @staticmethod
    def common(plan: Plan, inputs: SearchInputs, *, rows: int, keep: int = 1) -> dict[str, Any]:
        """The fields that all have, for `rows` of the logits per source sequence.

        Filters of sampling leave at least `keep` tokens.
        """
        chain: tuple[processors.Processor, ...] = ()
        if plan.changes_logits or inputs.min_new_tokens is not None:
            chain = processors.build(
                plan,
                # A column of left padding that no row needs is not fed, but max_length and min_length count it.
                min_length=plan.min_length - inputs.unseen if plan.min_length else 0,
                min_new_tokens=inputs.min_new_tokens,
                eos_ids=inputs.eos_ids,
                prompt_width=inputs.width,
                limit=inputs.limit,
                rows_per_sentence=rows,
                source=inputs.source,
                min_tokens_to_keep=keep,
            )
        return {
            "processors": chain,
            "eos_ids": np.asarray(inputs.eos_ids, np.int32),
            "pad_id": np.asarray(inputs.pad_id, np.int32),
            "prompt_width": as_int32(inputs.width),
            "prompt_tokens": inputs.prompt_tokens,
            "limit": as_int32(inputs.limit),
            "constraint": plan.constraint,
            "key_data": inputs.key_data,
            "positions": inputs.rule,
            "prefix": inputs.target.prefix,
        }

    def allowed(self, automaton: Array | None, length: Int32[Array, ""]) -> Bool[Array, "rows vocab"] | None:
        """What the constraint allows next, or None if there is none."""
        if self.constraint is None or automaton is None:
            return None
        return self.constraint.allowed(automaton.reshape(-1), jnp.asarray(self.limit) - length)

    def advance_constraint(self, automaton: Array | None, tokens: Int32[Array, "*rows"]) -> Array | None:
        """The constraint's states after a token each, or None if there is none."""
        if self.constraint is None or automaton is None:
            return None
        return self.constraint.advance(automaton.reshape(-1), tokens.reshape(-1)).reshape(tokens.shape)


class RowState(eqx.Module):
    """The state of a search in which every row is a result.

    Attributes:
        tokens: the sequences so far in the first `length` columns, exactly as they will be returned; then padding.
        log_probs: of each generated token under the unprocessed model, in the token's column.
        processed_log_probs: the same under the distribution that was chosen from; None where nothing processes it.
        length: columns filled, the prompt's included.
        lengths: tokens generated in each row, up to and including its EOS token.
        finished: rows that have ended; their further tokens are padding.
        cache: the decoder's cache.
    """

    tokens: Int32[Array, "rows width"]
    log_probs: Float[Array, "rows width"]
    processed_log_probs: Float[Array, "rows width"] | None
    length: Int32[Array, ""]
    lengths: Int32[Array, " rows"]
    finished: Bool[Array, " rows"]
    cache: Any

    @staticmethod
    def first(prefill: PrefillOutput, prompt_width: ArrayLike, *, processes: bool) -> dict[str, Any]:
        """These fields where nothing is generated."""
        # Put, not converted: an eager jax operation would be one more program per shape.
        rows, width = prefill.columns.shape
        return {
            "tokens": jax.device_put(prefill.columns),
            "log_probs": jax.device_put(np.zeros((rows, width), np.float32)),
            "processed_log_probs": jax.device_put(np.zeros((rows, width), np.float32)) if processes else None,
            "length": jax.device_put(prompt_width),
            "lengths": jax.device_put(np.zeros(rows, np.int32)),
            "finished": jax.device_put(~prefill.alive),
            "cache": prefill.cache,
        }

    def append_token(
        self, search: AbstractTokenSearch, chosen: Int32[Array, " rows"], log_probs: Array, processed: Array | None
    ) -> tuple[Int32[Array, " rows"], dict[str, Any]]:
        """The column that is written, padding in finished rows, and these fields with one more token in every row.

        `log_probs` are the tokens' under the model, `processed` those under the distribution that was chosen from.
        """
        column = jnp.where(self.finished, search.pad_id, chosen)

        def write_log_prob(table: Float[Array, "rows width"], values: Float[Array, " rows"]) -> Array:
            return with_column(table, jnp.where(self.finished, 0.0, values), self.length)

        table = self.processed_log_probs
        return column, {
            "tokens": with_column(self.tokens, column, self.length),
            "log_probs": write_log_prob(self.log_probs, log_probs),
            "processed_log_probs": None if table is None or processed is None else write_log_prob(table, processed),
            "length": self.length + 1,
            "lengths": jnp.where(self.finished, self.lengths, self.lengths + 1),
            "finished": self.finished | is_eos(column, search.eos_ids),
        }

    def output(self, rows: int) -> SearchOutput:
        """The first rows, in their order: scores are the sums of the log-probabilities under the model."""
        xp, table = numpy_of(self.tokens), self.processed_log_probs
        log_probs, lengths = xp.asarray(self.log_probs)[:rows], xp.asarray(self.lengths)[:rows]
        scores = log_probs.sum(axis=1, dtype=np.float32)
        return SearchOutput(
            sequences=xp.asarray(self.tokens)[:rows],
            lengths=lengths,
            truncated=~xp.asarray(self.finished)[:rows],
            scores=scores,
            normalized_scores=scores / lengths.astype(np.float32),
            log_probs=log_probs,
            processed_log_probs=log_probs if table is None else xp.asarray(table)[:rows],
        )


def column_at(table: Shaped[Array, "*rows width"], at: Int32[Array, ""]) -> Shaped[Array, "*rows"]:
    """One column."""
    return jax.lax.dynamic_index_in_dim(table, at, axis=table.ndim - 1, keepdims=False)


def gather(table: Shaped[Array, "rows all *rest"], index: Int32[Array, "rows *some"]) -> Array:
    """Of every row the entries at its own indices."""
    return jax.vmap(lambda row, at: row[at])(table, index)


def with_column(
    table: Shaped[Array, "*rows width"], column: Shaped[Array, "*rows"], at: Int32[Array, ""]
) -> Shaped[Array, "*rows width"]:
    """The table with one column replaced."""
    return jax.lax.dynamic_update_slice_in_dim(table, column[..., None], at, axis=table.ndim - 1)


def is_eos(tokens: Int32[Array, "*rows"], eos_ids: Int32[ArrayLike, " ends"]) -> Bool[Array, "*rows"]:
    """Which tokens end a sequence."""
    ends = jnp.asarray(eos_ids).reshape((1,) * tokens.ndim + (-1,))
    return jnp.any(tokens[..., None] == ends, axis=-1)


def log_probability(logits: Float[Array, "rows vocab"], ids: Int32[Array, " rows"]) -> Float[Array, " rows"]:
    """Log softmax at one id per row, without writing out the others; minus infinity where all of them are."""
    chosen = jnp.take_along_axis(logits, ids[:, None], axis=1)[:, 0]
    return jnp.where(jnp.isneginf(chosen), chosen, chosen - jax.nn.logsumexp(logits, axis=-1))
