"""A constraint as lists of edges, for automata with many states of which most have few ways on. Knows no strings."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int32

from ..._typing import Array, ArrayLike
from ..buckets import bucket
from .graph import least_to_end, ranges
from .interface import DEAD, END, NEVER, START, AbstractConstraint, Ids, Remaining, States

_LEAST_SIZE = 64
_LEAST_WINDOW = 16
_NARROW = 512
_MOST_WIDE_ENTRIES = 2**24


class TokenTrie(AbstractConstraint):
    """A set of sequences as a tree of tokens (any automaton with few edges a state will do).

    How a loop uses it, with beams in particular (`advance(states[parents], tokens)`), is said at `AbstractConstraint`.

    The edges of a state stand side by side, in the order of their tokens. A step reads `window` of them a row, so that
    the few states with very many edges (the first one, as a rule) would make every step dear: these are *wide*, and
    have a row of the whole vocabulary besides. How many tokens a step touches then depends on no state's size.

    Attributes:
        first_edge: where the edges of each state begin, and at its successor end. Padded states have none.
        edge_tokens: the token of each edge. Padded edges belong to no state.
        edge_targets: the state that each edge leads to.
        edge_needs: tokens of the shortest way to the end along each edge, its own token included.
        wide_row: the row of `wide_needs` that belongs to a state, -1 for narrow ones.
        wide_needs: `edge_needs` by token, for the wide states.
        ends: the end tokens.
        window: at least the number of edges of any narrow state.
    """

    first_edge: Int32[ArrayLike, " states_and_one"]
    edge_tokens: Int32[ArrayLike, " edges"]
    edge_targets: Int32[ArrayLike, " edges"]
    edge_needs: Int32[ArrayLike, " edges"]
    wide_row: Int32[ArrayLike, " states"]
    wide_needs: Int32[ArrayLike, "wide vocab"]
    ends: Int32[ArrayLike, " ends"]
    window: int = eqx.field(static=True)

    def start(self, rows: int) -> States:
        """See `AbstractConstraint`."""
        return jax.device_put(np.full(rows, START, np.int32))

    def allowed(self, states: States, remaining: Remaining) -> Bool[Array, "rows vocab"]:
        """See `AbstractConstraint`."""
        first, last = self._edges(states)
        edges = first[:, None] + jnp.arange(self.window, dtype=jnp.int32)[None, :]
        inside = edges < last[:, None]
        edges = jnp.minimum(edges, self.edge_tokens.shape[0] - 1)
        inside = inside & (jnp.asarray(self.edge_needs)[edges] <= remaining)
        # ids outside the vocabulary are dropped
        tokens = jnp.where(inside, jnp.asarray(self.edge_tokens)[edges], self.vocab_size)
        rows = jnp.arange(states.shape[0], dtype=jnp.int32)[:, None]
        narrow = jnp.zeros((states.shape[0], self.vocab_size), jnp.bool_).at[rows, tokens].set(True, mode="drop")
        if not self.wide_needs.shape[0]:
            return narrow
        row = jnp.asarray(self.wide_row)[states]
        wide = jnp.asarray(self.wide_needs)[jnp.maximum(row, 0)] <= remaining
        return jnp.where((row >= 0)[:, None], wide, narrow)

    def advance(self, states: States, tokens: Int32[Array, " rows"]) -> States:
        """See `AbstractConstraint`."""
        first, last = self._edges(states)
        edge_tokens = jnp.asarray(self.edge_tokens)
        final = self.edge_tokens.shape[0] - 1

        def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = bounds
            middle = (low + high) // 2
            below = edge_tokens[jnp.minimum(middle, final)] < tokens
            searching = low < high
            return jnp.where(searching & below, middle + 1, low), jnp.where(searching & ~below, middle, high)

        # a state has at most one edge a token
        halvings = self.vocab_size.bit_length()
        edge = jax.lax.fori_loop(0, halvings, halve, (first, last))[0]
        found = (edge < last) & (edge_tokens[jnp.minimum(edge, final)] == tokens)
        behind = jnp.where(found, jnp.asarray(self.edge_targets)[jnp.minimum(edge, final)], DEAD)
        return jnp.where(states == END, END, behind)

    @property
    def vocab_size(self) -> int:
        """See `AbstractConstraint`."""
        return self.wide_needs.shape[1]

    @property
    def end_ids(self) -> tuple[int, ...]:
        """See `AbstractConstraint`."""
        return tuple(np.asarray(self.ends).tolist())

    @property
    def least_new_tokens(self) -> int:
        """See `AbstractConstraint`."""
        return int(np.asarray(self.edge_needs)[slice(*np.asarray(self.first_edge)[START : START + 2])].min())

    def accepts(self, ids: Ids) -> bool:
        """See `AbstractConstraint`."""
        first_edge, tokens = np.asarray(self.first_edge), np.asarray(self.edge_tokens)
        targets = np.asarray(self.edge_targets)
        state = START
        for id_ in np.asarray(ids).tolist():
            if state == END:
                break
            first, last = first_edge[state : state + 2]
            edge = first + np.searchsorted(tokens[first:last], id_)
            if edge == last or tokens[edge] != id_:
                return False
            state = targets[edge]
        return bool(state == END)

    def describe(self) -> str:
        """See `AbstractConstraint`."""
        degrees = np.diff(np.asarray(self.first_edge))
        return (
            f"TokenTrie: {np.count_nonzero(degrees):,} states, {degrees.sum():,} edges, {self.vocab_size:,} tokens, "
            f"shortest output {self.least_new_tokens:,} with its end token"
        )

    def _edges(self, states: States) -> tuple[Int32[Array, " rows"], Int32[Array, " rows"]]:
        first_edge = jnp.asarray(self.first_edge)
        return first_edge[states], first_edge[states + 1]


def from_edges(
    sources: np.ndarray,
    tokens: np.ndarray,
    targets: np.ndarray,
    accepting: np.ndarray,
    end_ids: np.ndarray,
    *,
    vocab_size: int,
) -> TokenTrie:
    """The constraint of an automaton given by its edges.

    Args:
        sources: the state that each edge leaves; the first state is 0.
        tokens: the token of each edge, none of them an end token.
        targets: the state that each edge leads to, from which there is a way to an accepting one.
        accepting: for each state, whether an end token may come in it.
        end_ids: the end tokens.
        vocab_size: ids of the vocabulary.
    """
    least = np.concatenate([[0, NEVER], least_to_end(sources, targets, accepting)])
    into_end = np.repeat(np.flatnonzero(accepting), end_ids.size)
    sources = np.concatenate([sources, into_end]) + START
    tokens = np.concatenate([tokens, np.tile(end_ids, into_end.size // end_ids.size)])
    targets = np.concatenate([targets + START, np.full(into_end.size, END)])
    order = np.argsort(sources * vocab_size + tokens)
    sources, tokens, targets = sources[order], tokens[order], targets[order]

    states = bucket(least.size, least=_LEAST_SIZE)
    edges = bucket(tokens.size, least=_LEAST_SIZE)
    first_edge = np.searchsorted(sources, np.arange(states + 1))
    needs = least[targets] + 1
    window, wide = _wide_states(np.diff(first_edge), vocab_size)
    wide_row = np.full(states, -1)
    wide_row[wide] = np.arange(wide.size)
    wide_needs = np.full((bucket(wide.size) if wide.size else 0, vocab_size), NEVER)
    of_wide = ranges(first_edge[wide], first_edge[wide + 1])
    wide_needs[wide_row[sources[of_wide]], tokens[of_wide]] = needs[of_wide]
    return TokenTrie(
        first_edge=_put(first_edge),
        edge_tokens=_put(np.pad(tokens, (0, edges - tokens.size))),
        edge_targets=_put(np.pad(targets, (0, edges - tokens.size), constant_values=DEAD)),
        edge_needs=_put(np.pad(needs, (0, edges - tokens.size), constant_values=NEVER)),
        wide_row=_put(wide_row),
        wide_needs=_put(wide_needs),
        ends=_put(end_ids),
        window=window,
    )


def _wide_states(degrees: np.ndarray, vocab_size: int) -> tuple[int, np.ndarray]:
    """How many edges to read of each state, and the states for which that is not enough.

    Reading some hundred edges costs less than a row of a large vocabulary, so few states need be wide.
    """
    limit = _NARROW
    while (wide := np.flatnonzero(degrees > limit)).size * vocab_size > max(_MOST_WIDE_ENTRIES, vocab_size):
        limit *= 2
    narrow = degrees[degrees <= limit]
    return bucket(max(int(narrow.max()), 1), least=_LEAST_WINDOW), wide


def _put(values: np.ndarray) -> Array:
    return jax.device_put(values.astype(np.int32))
