"""Deterministic automata: pruned, minimised, and held in a dense table whose columns are classes of tokens."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int32, Integer

from ..._quoting import quoted
from ..._typing import Array, ArrayLike
from ..source_and_prompt import bucket
from .constraint import DEAD, END, NEVER, START, AbstractConstraint, Ids, Remaining, States, as_end_ids


def least_to_end(sources: np.ndarray, targets: np.ndarray, accepting: np.ndarray) -> np.ndarray:
    """The least number of tokens from each state to the end, the EOS token included; `NEVER` if there is no way.

    Args:
        sources: the state that each edge leaves (repeated edges do no harm).
        targets: the state that each edge leads to.
        accepting: bool, for each state, whether an EOS token may follow it.
    """
    before, first = incoming(sources, targets, accepting.size)
    least = np.where(accepting, 1, NEVER)
    frontier = np.flatnonzero(accepting)
    tokens = 1
    while frontier.size:
        tokens += 1
        reaching = before[ranges(first[frontier], first[frontier + 1])]
        frontier = np.unique(reaching[least[reaching] == NEVER])
        least[frontier] = tokens
    return least


def incoming(sources: np.ndarray, targets: np.ndarray, states: int) -> tuple[np.ndarray, np.ndarray]:
    """The edges by target: where they come from, and where those of each state begin in that (one entry more)."""
    by_target = np.argsort(targets, kind="stable")
    return sources[by_target], np.searchsorted(targets[by_target], np.arange(states + 1))


def ranges(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """The numbers from each `first` up to, not including, each `last`, one range after another."""
    sizes = last - first
    return np.arange(sizes.sum()) + np.repeat(first - (np.cumsum(sizes) - sizes), sizes)


MOST_ENTRIES = 2**26
"""States times columns of the largest table that is built (256 MiB)."""


@dataclass(frozen=True, eq=False)
class Table:
    """A deterministic automaton.

    Attributes:
        next_state: (states, columns) where each column's symbols lead, -1 for nowhere.
        accepting: (states,) whether the end may follow.
        start: the first state.
    """

    next_state: np.ndarray
    accepting: np.ndarray
    start: int = 0

    def edges(self) -> tuple[np.ndarray, np.ndarray]:
        """The states that edges leave, and those that they lead to, each pair once."""
        sources, columns = np.nonzero(self.next_state >= 0)
        states = self.accepting.size
        pairs = np.unique(sources * states + self.next_state[sources, columns])
        return pairs // states, pairs % states

    def least_to_end(self) -> np.ndarray:
        """Of each state, see the function."""
        return least_to_end(*self.edges(), self.accepting)


def equal_rows(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The number of each row, counting distinct ones as they are first seen, and where each was first seen."""
    matrix = np.ascontiguousarray(matrix)
    seen: dict[bytes, int] = {}
    labels = np.fromiter((seen.setdefault(row.tobytes(), len(seen)) for row in matrix), np.int32, len(matrix))
    return labels, np.unique(labels, return_index=True)[1]


def trimmed(table: Table) -> Table | None:
    """Only the states on some way from the start to an end; None if there is no such way."""
    useful = table.least_to_end() < NEVER
    if not useful[table.start]:
        return None
    next_state = _where_useful(table.next_state, useful)
    reached = np.zeros(useful.size, np.bool_)
    frontier = np.asarray([table.start])
    while frontier.size:
        reached[frontier] = True
        seen = np.unique(next_state[frontier])
        seen = seen[seen >= 0]
        frontier = seen[~reached[seen]]
    return relabelled(Table(next_state, table.accepting, table.start), np.cumsum(reached) - 1, np.flatnonzero(reached))


def merged_columns(table: Table) -> tuple[Table, np.ndarray]:
    """Equal columns made one: the narrower table, and the new column of each old one."""
    labels, first = equal_rows(table.next_state.T)
    return Table(table.next_state[:, first], table.accepting, table.start), labels


def without_dead_ends(table: Table) -> Table:
    """The same states, without ways into those from which there is no end."""
    return Table(_where_useful(table.next_state, table.least_to_end() < NEVER), table.accepting, table.start)


def relabelled(table: Table, labels: np.ndarray, kept: np.ndarray) -> Table:
    """Only the states `kept`, numbered in that order; `labels` has the new number of every state that is still used."""
    next_state = np.append(labels, -1)[table.next_state[kept]].astype(np.int32)
    return Table(next_state, table.accepting[kept], int(labels[table.start]))


def _where_useful(next_state: np.ndarray, useful: np.ndarray) -> np.ndarray:
    return np.where(np.append(useful, False)[next_state], next_state, -1).astype(np.int32)


def minimised(table: Table) -> Table:
    """The smallest automaton of the same language, given one without useless states.

    All states begin in two blocks, by whether the end may follow. A block is split where its states lead to
    different blocks. Only states that lead to one whose block has just changed are looked at again, and of a split
    block the largest part keeps its number (Hopcroft's idea, 1971): long chains of states take no longer than others.
    """
    before, first = incoming(*table.edges(), table.accepting.size)
    blocks = np.append(_numbered(table.accepting)[0], -1)  # -1, for nowhere, takes the last entry
    members = defaultdict(set)
    for state, block in enumerate(blocks[:-1].tolist()):
        members[block].add(state)
    touched = np.arange(table.accepting.size)
    while touched.size:
        to_look_at = defaultdict(set)
        for state in touched.tolist():
            to_look_at[int(blocks[state])].add(state)
        parts = [part for block, states in to_look_at.items() for part in _split(table, blocks, members[block], states)]
        for part in parts:
            members[int(blocks[next(iter(part))])] -= part
            blocks[list(part)] = len(members)
            members[len(members)] = part
        moved = np.asarray([state for part in parts for state in part], np.int64)
        touched = np.unique(before[ranges(first[moved], first[moved + 1])])
    return relabelled(table, *_numbered(blocks[:-1]))


def _split(table: Table, blocks: np.ndarray, block: set[int], states: set[int]) -> list[set[int]]:
    """The parts that a block falls into, but for the largest.

    Its `states` may no longer lead where the rest does, which all leads to the same blocks.
    """
    parts = defaultdict(set)
    for state in states:
        parts[blocks[table.next_state[state]].tobytes()].add(state)
    unchanged = len(block) - len(states)
    with_rest = b""
    if unchanged:
        of_rest = next(state for state in block if state not in states)
        with_rest = blocks[table.next_state[of_rest]].tobytes()
    sizes = {leads: len(part) for leads, part in parts.items()}
    sizes[with_rest] = sizes.get(with_rest, 0) + unchanged
    largest = max(sizes, key=lambda leads: sizes[leads])
    if unchanged and largest != with_rest:
        parts[with_rest] |= block - states
    return [part for leads, part in parts.items() if leads != largest]


def _numbered(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The number of each state's block, in the order of their first states, and those states."""
    _, kept, labels = np.unique(blocks, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(kept))
    return rank[labels], np.sort(kept)


_LEAST_STATES = 64
_LEAST_CLASSES = 16


class TokenDFA(AbstractConstraint):
    """A deterministic automaton whose tokens fall into few classes, as those of regular expressions do.

    Tokens of one class lead to the same states everywhere, so the table has a column per class, not a token. How a loop
    uses it, with beams in particular (`advance(states[parents], tokens)`), is said at `AbstractConstraint`.

    Attributes:
        token_classes: the column of each token.
        transitions: the state that follows, -1 where the token is forbidden. Padded with forbidden ones.
        needs: tokens of the shortest way from there to the end through each column, its own token included.
        ends: the EOS tokens.
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
                EOS tokens are all -1: where they may come is what `accepting` says.
            start: the state before the first generated token.
            accepting: states in which the output may end.
            eos_token_id: the EOS token, or several.

        Raises:
            TypeError: something is not made of integers.
            ValueError: a state is out of range, an EOS token has a transition, or no output can be valid.
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
                "Name the states in which an EOS token may come in `accepting`."
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
        return jax.device_put(np.full(rows, START, np.int32))

    def allowed(self, states: States, remaining: Remaining) -> Bool[Array, "rows vocab"]:
        classes = jnp.asarray(self.needs)[states] <= remaining
        return classes[:, jnp.asarray(self.token_classes)]

    def advance(self, states: States, tokens: Int32[Array, " rows"]) -> States:
        behind = jnp.asarray(self.transitions)[states, jnp.asarray(self.token_classes)[tokens]]
        return jnp.where(states == END, END, jnp.where(behind < 0, DEAD, behind))

    @property
    def vocab_size(self) -> int:
        return self.token_classes.shape[0]

    @property
    def end_ids(self) -> tuple[int, ...]:
        return tuple(np.asarray(self.ends).tolist())

    @property
    def least_new_tokens(self) -> int:
        return int(np.asarray(self.needs)[START].min())

    def accepts(self, ids: Ids) -> bool:
        transitions, classes = np.asarray(self.transitions), np.asarray(self.token_classes)
        state = START
        for id_ in np.asarray(ids).tolist():
            if state == END:
                break
            if not 0 <= id_ < classes.size or (state := transitions[state, classes[id_]]) < 0:
                return False
        return bool(state == END)

    def describe(self) -> str:
        states = int((np.asarray(self.needs) < NEVER).any(axis=1).sum())
        classes = np.unique(np.asarray(self.token_classes)).size
        return (
            f"TokenDFA: {states:,} states, {classes:,} classes of {self.vocab_size:,} tokens, "
            f"shortest output {self.least_new_tokens:,} with its end token"
        )


def from_table(table: Table, token_columns: np.ndarray, end_ids: np.ndarray) -> TokenDFA:
    """The constraint of an automaton without EOS tokens whose language is not empty, from the column of each token."""
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
