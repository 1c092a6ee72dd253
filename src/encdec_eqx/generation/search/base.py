"""What every search is made of: the state of the loop, its results, and small operations on tables of tokens."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int32, Shaped

from ..._typing import Array, ArrayLike
from ..prompt import PositionRule


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

    def rewound(self, cache: Any, length: Any) -> Any:
        """The cache as it was when only its first `length` slots were filled."""
        ...

    def logits(self, hidden: Any) -> Array:
        """Scores of the next token, in float32."""
        ...


@runtime_checkable
class LoopState(Protocol):
    """What changes from token to token, as far as the loop looks at it; a module of arrays."""

    @property
    def length(self) -> Int32[Array, ""]:
        """Columns filled, the prompt's included. The last of them has not been fed to the decoder yet."""
        ...

    @property
    def finished(self) -> Bool[Array, " rows"]:
        """What needs no more steps: rows, or sentences where their rows end together."""
        ...


class Opening(eqx.Module):
    """Where a run starts: the prompt, of which all but the last token has been fed, or all of it.

    Attributes:
        columns: the prompt, then room for the tokens to come; a row of each that the cache has.
        positions: of the prompt's last token.
        real: which of the cache's slots that are filled hold real tokens.
        alive: False for rows that only fill the bucket.
        cache: filled with what has been fed.
        memory: what the strategy's `memory` made of the prompt's hidden states; None if it has none.
        draft_cache: the cache of the strategy's `draft_decoder`, filled in the same way; None if it has none.
        draft_positions: of the prompt's last token, as that decoder numbers them.
    """

    columns: Int32[np.ndarray, "rows width"]
    positions: Int32[np.ndarray, " rows"]
    real: Bool[np.ndarray, "rows prefix"]
    alive: Bool[np.ndarray, " rows"]
    cache: Any
    memory: Any
    draft_cache: Any
    draft_positions: Int32[np.ndarray, " rows"] | None


@dataclass(frozen=True, eq=False)
class Record:
    """What a strategy has to say at its end, on the host: `GenerationResult` has the same fields.

    `log_probs` and the two after it have as many columns as `sequences`, the prompt's filled with zeros. `passes` is
    None where each pass of the decoder has yielded one token a row.
    """

    sequences: np.ndarray
    lengths: np.ndarray
    truncated: np.ndarray
    scores: np.ndarray
    normalized_scores: np.ndarray
    log_probs: np.ndarray
    processed_log_probs: np.ndarray
    beam_indices: np.ndarray | None = None
    passes: int | None = None


class AbstractStrategy(eqx.Module):
    """How the next tokens are chosen. Its arrays are constants of a run; its static fields decide the program.

    Attributes:
        pad_id: what follows an end.
    """

    pad_id: eqx.AbstractVar[Int32[ArrayLike, ""]]

    @property
    @abstractmethod
    def cache_rows(self) -> int:
        """Rows of the cache a sentence."""

    @property
    def tokens_at_once(self) -> int:
        """Tokens that a step feeds for each row of the cache, each of which takes a slot."""
        return 1

    @property
    def in_order(self) -> bool:
        """Whether a token that has been chosen stays chosen."""
        return True

    @property
    def memory(self) -> Callable[[Array], Any] | None:
        """What to make of the hidden states of a prompt that is fed as a whole before the first step.

        It runs in the program that feeds the prompt. None where the first step feeds the prompt's last token.
        """
        return None

    @property
    def spare_slots(self) -> int:
        """Slots of the cache beyond those of the tokens that count."""
        return 0

    @property
    def draft_decoder(self) -> tuple[DecoderStep, Callable | None, PositionRule] | None:
        """A second decoder that reads the source and the prompt, its projection and its positions."""
        return None

    @abstractmethod
    def start(self, opening: Opening) -> Any:
        """The state before the first token."""

    @abstractmethod
    def step(self, decoder: DecoderStep, state: Any) -> Any:
        """The state after one more token in every row."""

    @abstractmethod
    def record(self, state: Any, batch: int) -> Record:
        """The state's results for the first `batch` sentences."""


def column_at(table: Shaped[Array, "*rows width"], at: Int32[Array, ""]) -> Shaped[Array, "*rows"]:
    """One column."""
    return jax.lax.dynamic_index_in_dim(table, at, axis=table.ndim - 1, keepdims=False)


def picked(table: Shaped[Array, "rows all *rest"], index: Int32[Array, "rows *some"]) -> Array:
    """Of every row the entries at its own indices."""
    return jax.vmap(lambda row, at: row[at])(table, index)


def with_column(
    table: Shaped[Array, "*rows width"], column: Shaped[Array, "*rows"], at: Int32[Array, ""]
) -> Shaped[Array, "*rows width"]:
    """The table with one column replaced."""
    return jax.lax.dynamic_update_slice_in_dim(table, column[..., None], at, axis=table.ndim - 1)


def is_end(tokens: Int32[Array, "*rows"], eos_ids: Int32[ArrayLike, " ends"]) -> Bool[Array, "*rows"]:
    """Which tokens end a sequence."""
    ends = jnp.asarray(eos_ids).reshape((1,) * tokens.ndim + (-1,))
    return jnp.any(tokens[..., None] == ends, axis=-1)


def log_probability(logits: Float[Array, "rows vocab"], ids: Int32[Array, " rows"]) -> Float[Array, " rows"]:
    """Log softmax at one id a row, without writing out the others; minus infinity where all of them are."""
    chosen = jnp.take_along_axis(logits, ids[:, None], axis=1)[:, 0]
    return jnp.where(jnp.isneginf(chosen), chosen, chosen - jax.nn.logsumexp(logits, axis=-1))
