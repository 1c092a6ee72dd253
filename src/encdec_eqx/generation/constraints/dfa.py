"""A constraint as a dense table, whose columns are classes of tokens. Knows no pattern and no text."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int32, Integer

from ..._quoting import quoted
from ..._typing import Array, ArrayLike
from ..buckets import bucket
from .ends import as_end_ids
from .interface import DEAD, END, NEVER, START, AbstractConstraint, Ids, Remaining, States
from .tables import Table, merged_columns, without_dead_ends

_LEAST_STATES = 64
_LEAST_CLASSES = 16


class TokenDFA(AbstractConstraint):
    """A deterministic automaton whose tokens fall into few classes, as those of regular expressions do.

    Tokens of one class lead to the same states everywhere, so the table has a column a class, not a token. How a loop
    uses it, with beams in particular (`advance(states[parents], tokens)`), is said at `AbstractConstraint`.

    Attributes:
        token_classes: the column of each token.
        transitions: the state that follows, -1 where the token is forbidden. Padded with forbidden ones.
        needs: tokens of the shortest way from there to the end through each column, its own token included.
        ends: the end tokens.
    """

    token_classes: Int32[ArrayLike, " vocab"]
    transitions: Int32[ArrayLike, "states classes"]
    needs: Int32[ArrayLike, "states classes"]
    ends: Int32[ArrayLike, " ends"]

    @classmethod
    def from_dense(
        cls,
        next_state: Integer[ArrayLike, "states vocab"],
        *,
        start: int = 0,
        accepting: Sequence[int],
        eos_token_id: int | Sequence[int],
    ) -> "TokenDFA":
        """A constraint from a plain table.

        Args:
            next_state: the state that follows each state and token, -1 where the token is forbidden. The columns of the
                end tokens are all -1: where they may come is what `accepting` says.
            start: the state before the first generated token.
            accepting: states in which the output may end.
            eos_token_id: the end token, or several.

        Raises:
            TypeError: something is not made of integers.
            ValueError: a state is out of range, an end token has a transition, or no output can be valid.
        """
        table = np.asarray(next_state)
        if table.ndim != 2 or table.dtype.kind not in "iu":
            raise TypeError(
                f"`next_state` must be an integer array (states, vocab), got {table.dtype} of shape {table.shape}."
            )
        states, vocab = table.shape
        end_ids = as_end_ids(eos_token_id, vocab)
        _check_states("next_state", table, states, least=-1)
        _check_states("start", np.asarray(start), states)
        _check_states("accepting", np.asarray(accepting), states)
        with_edges = end_ids[(table[:, end_ids] >= 0).any(axis=0)]
        if with_edges.size:
            raise ValueError(
                f"`next_state` has transitions for the end token {with_edges[0]}; its column must be all -1. "
                "Name the states in which an end token may come in `accepting`."
            )
        accepts = np.zeros(states, np.bool_)
        accepts[np.asarray(accepting, np.int32)] = True
        whole = without_dead_ends(Table(table.astype(np.int32), accepts, int(start)))
        merged, token_classes = merged_columns(whole)
        constraint = from_table(merged, token_classes, end_ids)
        if constraint.least_new_tokens >= NEVER:
            raise ValueError(
                "No output can be valid: no way leads from the state `start` to one of `accepting`. "
                f"Got start={start} and accepting={quoted(list(accepting))}."
            )
        return constraint

    def start(self, rows: int) -> States:
        """See `AbstractConstraint`."""
        return jax.device_put(np.full(rows, START, np.int32))

    def allowed(self, states: States, remaining: Remaining) -> Bool[Array, "rows vocab"]:
        """See `AbstractConstraint`."""
        classes = jnp.asarray(self.needs)[states] <= remaining
        return classes[:, jnp.asarray(self.token_classes)]

    def advance(self, states: States, tokens: Int32[Array, " rows"]) -> States:
        """See `AbstractConstraint`."""
        behind = jnp.asarray(self.transitions)[states, jnp.asarray(self.token_classes)[tokens]]
        return jnp.where(states == END, END, jnp.where(behind < 0, DEAD, behind))

    @property
    def vocab_size(self) -> int:
        """See `AbstractConstraint`."""
        return self.token_classes.shape[0]

    @property
    def end_ids(self) -> tuple[int, ...]:
        """See `AbstractConstraint`."""
        return tuple(np.asarray(self.ends).tolist())

    @property
    def least_new_tokens(self) -> int:
        """See `AbstractConstraint`."""
        return int(np.asarray(self.needs)[START].min())

    def accepts(self, ids: Ids) -> bool:
        """See `AbstractConstraint`."""
        transitions, classes = np.asarray(self.transitions), np.asarray(self.token_classes)
        state = START
        for id_ in np.asarray(ids).tolist():
            if state == END:
                break
            if not 0 <= id_ < classes.size or (state := transitions[state, classes[id_]]) < 0:
                return False
        return bool(state == END)

    def describe(self) -> str:
        """See `AbstractConstraint`."""
        states = int((np.asarray(self.needs) < NEVER).any(axis=1).sum())
        classes = np.unique(np.asarray(self.token_classes)).size
        return (
            f"TokenDFA: {states:,} states, {classes:,} classes of {self.vocab_size:,} tokens, "
            f"shortest output {self.least_new_tokens:,} with its end token"
        )


def from_table(table: Table, token_columns: np.ndarray, end_ids: np.ndarray) -> TokenDFA:
    """The constraint of an automaton whose language is not empty.

    Args:
        table: the automaton, without end tokens.
        token_columns: the column of each token; what stands at the end tokens is not looked at.
        end_ids: the end tokens.
    """
    states, columns = table.next_state.shape
    # the first state first, then the others in their order, behind the two that every constraint has
    place = np.arange(states) + START + (np.arange(states) < table.start)
    place[table.start] = START
    shape = (bucket(states + START, least=_LEAST_STATES), bucket(columns + 1, least=_LEAST_CLASSES))
    transitions = np.full(shape, -1, np.int32)
    transitions[place, :columns] = np.append(place, -1)[table.next_state]
    transitions[place[table.accepting], columns] = END
    least = np.full(shape[0] + 1, NEVER)  # one more, for -1
    least[place] = table.least_to_end()
    least[END] = 0
    token_classes = np.array(token_columns, np.int32)
    token_classes[end_ids] = columns
    return TokenDFA(
        token_classes=jax.device_put(token_classes),
        transitions=jax.device_put(transitions),
        needs=jax.device_put(np.minimum(least[transitions] + 1, NEVER).astype(np.int32)),
        ends=jax.device_put(end_ids),
    )


def _check_states(name: str, values: np.ndarray, states: int, *, least: int = 0) -> None:
    """Refuse what are not numbers of states."""
    if values.size and values.dtype.kind not in "iu":
        hint = " (np.flatnonzero turns a mask into numbers)" if values.dtype == np.bool_ else ""
        raise TypeError(f"`{name}` must hold numbers of states, integers{hint}; got {values.dtype}.")
    wrong = values[(values < least) | (values >= states)]
    if wrong.size:
        also = " (or -1 for forbidden)" if least < 0 else ""
        raise ValueError(f"`{name}` holds {wrong[0]}; expected states from 0 to {states - 1}{also}.")
