"""What a constraint on the generated tokens is, and how logits follow one.

States are numbers. Three of them mean the same in every constraint of this folder: `END`, `DEAD` and `START`.
"""

import abc
from collections.abc import Iterable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Bool, Float, Int32, Integer

from ..._inputs import plain
from ..._quoting import quoted
from ..._typing import Array, ArrayLike

_MOST_TOKENS = 2**21
"""Ids of a vocabulary: twice as many as the largest that tokenizers are trained with."""


def as_vocab_size(vocab_size: int) -> int:
    """A size of a vocabulary, or an error that says why it is none."""
    size = plain(vocab_size)
    if isinstance(size, bool) or not isinstance(size, int):
        raise TypeError(f"`vocab_size` must be an integer (the width of the model's logits), got {quoted(vocab_size)}.")
    if size < 1:
        raise ValueError(f"`vocab_size` must be at least 1, got {quoted(size)}.")
    if size > _MOST_TOKENS:
        raise ValueError(
            f"`vocab_size` must be at most {_MOST_TOKENS:,}, got {quoted(size)}; it is the width of the model's logits."
        )
    return size


def as_end_ids(eos_token_id: int | Sequence[int], vocab_size: int) -> np.ndarray:
    """The EOS tokens in ascending order, each once; at least one, and none outside the vocabulary."""
    given = plain(eos_token_id)
    ids = [plain(id_) for id_ in (given if isinstance(given, Iterable) and not isinstance(given, str) else [given])]
    if any(isinstance(id_, bool) or not isinstance(id_, int) for id_ in ids):
        raise TypeError(f"`eos_token_id` must be an id or a list of ids, got {quoted(eos_token_id)}.")
    if not ids:
        raise ValueError(
            "`eos_token_id` is empty; a constraint needs at least one EOS token, or no output could ever be complete."
        )
    wrong = [id_ for id_ in ids if not 0 <= id_ < vocab_size]
    if wrong:
        raise ValueError(
            f"`eos_token_id` holds {quoted(wrong[0])}; expected ids from 0 to {vocab_size - 1}, the vocabulary's."
        )
    return np.unique(np.asarray(ids, np.int32))


END = 0
"""The state behind an EOS token. Nothing more may come, and whatever does come changes nothing."""

DEAD = 1
"""The state behind a token that was not allowed. Nothing may come, and no token leads out of it."""

START = 2
"""The state before the first generated token."""

NEVER = 2**30
"""More tokens than any output has: what stands where no number of tokens would lead to an end."""

States = Int32[Array, " rows"]
Remaining = Int32[Array, ""]
Ids = Sequence[int] | Integer[ArrayLike, " generated"]


class AbstractConstraint(eqx.Module):
    """An automaton over tokens, held in arrays, that every row of a loop follows with a state of its own.

    It speaks of the generated tokens only, not of the start token or a prompt. The EOS tokens are part of it: an
    output is valid when its tokens, the EOS token included, lead from the start to `END`. All of it runs inside
    `jit`, and constraints whose arrays have the same padded sizes share programs.

    A loop holds `states`, one per row, and at each token

    1. forbids what `allowed(states, remaining)` does not allow. `remaining` counts the tokens that may still be
       generated, this one included; tokens behind which the end would be out of reach are not allowed, so a row that
       only takes allowed tokens always ends in time, provided `least_new_tokens` was not above the first `remaining`;
    2. takes `states = advance(states, tokens)`.

    **In a beam search** rows are replaced by continuations of other rows at each step. The states move with
    them exactly as the rows of the cache do: `states = advance(states[parents], tokens)`, where `parents` holds the row
    that each new row continues. Hypotheses that have ended need no state any more.

    A row that has ended or is dead is allowed nothing at all: no continuation of it may count. A loop that feeds
    padding to ended rows must not look at what they are allowed. A beam that was filled for want of enough allowed
    continuations is dead, and stays so.
    """

    @abc.abstractmethod
    def start(self, rows: int) -> States:
        """The states before the first generated token.

        Args:
            rows: how many sequences.
        """

    @abc.abstractmethod
    def allowed(self, states: States, remaining: Remaining) -> Bool[Array, "rows vocab"]:
        """Which tokens may come next.

        Args:
            states: the state of each row.
            remaining: how many tokens may still be generated, this one included.
        """

    @abc.abstractmethod
    def advance(self, states: States, tokens: Int32[Array, " rows"]) -> States:
        """The states after a token each: `DEAD` if the state does not have it, unchanged for rows that have ended.

        Args:
            states: of each row.
            tokens: the token that each row has taken.
        """

    @property
    @abc.abstractmethod
    def vocab_size(self) -> int:
        """Ids that `allowed` speaks of: the width of the logits."""

    @property
    @abc.abstractmethod
    def end_ids(self) -> tuple[int, ...]:
        """The EOS tokens, in ascending order. A host property. The loop's must be the same."""

    @property
    @abc.abstractmethod
    def least_new_tokens(self) -> int:
        """Tokens of the shortest valid output, its EOS token included. A host property."""

    @abc.abstractmethod
    def accepts(self, ids: Ids) -> bool:
        """Whether generated ids are a valid output. A host method.

        Args:
            ids: the generated tokens, an EOS token included; what follows it (padding) is not looked at.
        """

    @abc.abstractmethod
    def describe(self) -> str:
        """One line about the automaton. A host method."""

    def __repr__(self) -> str:
        # inside jit, or where something else stands for the arrays, there is nothing to count
        leaves = jax.tree.leaves(self)
        concrete = all(isinstance(leaf, ArrayLike) and not isinstance(leaf, Tracer) for leaf in leaves)
        return self.describe() if leaves and concrete else super().__repr__()


Logits = Float[Array, "rows vocab"]
Allowed = Bool[Array, "rows vocab"]


def mask_forbidden(logits: Logits, allowed: Allowed | None) -> Logits:
    """Minus infinity wherever a token is not allowed. Rules behind it then see, and rank, allowed tokens only."""
    return logits if allowed is None else jnp.where(allowed, logits, -jnp.inf)


def apply_constraint(processed: Logits, plain: Logits, allowed: Allowed | None) -> Logits:
    """The processed logits of allowed tokens.

    Where other rules (a least length, forced or forbidden tokens) leave none of them, the row is as if there were no
    other rules: an output is valid before it is anything else.

    Args:
        processed: the logits after the other rules.
        plain: before them.
        allowed: which tokens may come; None for all.
    """
    if allowed is None:
        return processed
    kept = mask_forbidden(processed, allowed)
    nothing = jnp.all(jnp.isneginf(kept), axis=-1, keepdims=True)
    return jnp.where(jnp.broadcast_to(nothing, kept.shape), mask_forbidden(plain, allowed), kept)
