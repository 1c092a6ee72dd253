"""What a constraint on the generated tokens is, for the loops that obey one. Knows no model, loop or cache.

States are numbers. Three of them mean the same in every constraint of this folder: `END`, `DEAD` and `START`.
"""

import abc
from collections.abc import Sequence

import equinox as eqx
import jax
from jax.core import Tracer
from jaxtyping import Bool, Int32, Integer

from ..._typing import Array, ArrayLike

END = 0
"""The state behind an end token. Nothing more may come, and whatever does come changes nothing."""

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

    It speaks of the generated tokens only, not of the start token or a prompt. The end tokens are part of it: an
    output is valid when its tokens, the end token included, lead from the start to `END`. All of it runs inside
    `jit`, and constraints whose arrays have the same padded sizes share programs.

    A loop holds `states`, one a row, and at each token

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
        """The states before the first generated token."""

    @abc.abstractmethod
    def allowed(self, states: States, remaining: Remaining) -> Bool[Array, "rows vocab"]:
        """Which tokens may come next.

        Args:
            states: the state of each row.
            remaining: how many tokens may still be generated, this one included.
        """

    @abc.abstractmethod
    def advance(self, states: States, tokens: Int32[Array, " rows"]) -> States:
        """The states after a token each: `DEAD` if the state does not have it, unchanged for rows that have ended."""

    @property
    @abc.abstractmethod
    def vocab_size(self) -> int:
        """Ids that `allowed` speaks of: the width of the logits."""

    @property
    @abc.abstractmethod
    def end_ids(self) -> tuple[int, ...]:
        """The end tokens, in ascending order. A host property. The loop's must be the same."""

    @property
    @abc.abstractmethod
    def least_new_tokens(self) -> int:
        """Tokens of the shortest valid output, its end token included. A host property."""

    @abc.abstractmethod
    def accepts(self, ids: Ids) -> bool:
        """Whether generated ids are a valid output. A host method.

        Args:
            ids: the generated tokens, an end token included; what follows it (padding) is not looked at.
        """

    @abc.abstractmethod
    def describe(self) -> str:
        """One line about the automaton. A host method."""

    def __repr__(self) -> str:
        # inside jit, or where something else stands for the arrays, there is nothing to count
        leaves = jax.tree.leaves(self)
        concrete = all(isinstance(leaf, ArrayLike) and not isinstance(leaf, Tracer) for leaf in leaves)
        return self.describe() if leaves and concrete else super().__repr__()
