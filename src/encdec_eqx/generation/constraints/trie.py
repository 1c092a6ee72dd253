"""A constraint as lists of edges, for automata with many states of few edges each; a set of token sequences."""

from collections.abc import Iterable, Sequence
from itertools import chain

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int32

from ..._quoting import quoted
from ..._typing import Array, ArrayLike
from ..source_and_prompt import bucket
from .constraint import DEAD, END, NEVER, START, AbstractConstraint, Ids, Remaining, States, as_end_ids, as_vocab_size
from .dfa import least_to_end, ranges

_LEAST_SIZE = 64
_LEAST_WINDOW = 16
_NARROW = 512
_MOST_WIDE_ENTRIES = 2**24


class TokenTrie(AbstractConstraint):
    """A set of sequences as a tree of tokens (any automaton with few edges a state will do).

    How a loop uses it, with beams in particular (`advance(states[parents], tokens)`), is said at `AbstractConstraint`.

    The edges of a state stand side by side, in the order of their tokens. A step reads `window` of them a row, so that
    the few states with very many edges (the first one, as a rule) would make every step dear: these are *wide*, and
    have a row of the whole vocabulary besides. How many tokens one step touches then depends on no state's size.

    Attributes:
        first_edge: where the edges of each state begin, and at its successor end. Padded states have none.
        edge_tokens: the token of each edge. Padded edges belong to no state.
        edge_targets: the state that each edge leads to.
        edge_needs: tokens of the shortest way to the end along each edge, its own token included.
        wide_row: the row of `wide_needs` that belongs to a state, -1 for narrow ones.
        wide_needs: `edge_needs` by token, for the wide states.
        ends: the EOS tokens.
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
        return jax.device_put(np.full(rows, START, np.int32))

    def allowed(self, states: States, remaining: Remaining) -> Bool[Array, "rows vocab"]:
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
        first, last = self._edges(states)
        edge_tokens = jnp.asarray(self.edge_tokens)
        final = self.edge_tokens.shape[0] - 1

        def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = bounds
            middle = (low + high) // 2
            below = edge_tokens[jnp.minimum(middle, final)] < tokens
            searching = low < high
            return jnp.where(searching & below, middle + 1, low), jnp.where(searching & ~below, middle, high)

        # a state has at most one edge per token
        halvings = self.vocab_size.bit_length()
        edge = jax.lax.fori_loop(0, halvings, halve, (first, last))[0]
        found = (edge < last) & (edge_tokens[jnp.minimum(edge, final)] == tokens)
        behind = jnp.where(found, jnp.asarray(self.edge_targets)[jnp.minimum(edge, final)], DEAD)
        return jnp.where(states == END, END, behind)

    @property
    def vocab_size(self) -> int:
        return self.wide_needs.shape[1]

    @property
    def end_ids(self) -> tuple[int, ...]:
        return tuple(np.asarray(self.ends).tolist())

    @property
    def least_new_tokens(self) -> int:
        return int(np.asarray(self.edge_needs)[slice(*np.asarray(self.first_edge)[START : START + 2])].min())

    def accepts(self, ids: Ids) -> bool:
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
    """The constraint of an automaton given by its edges, none of them of an EOS token, out of states from 0 on.

    From every target there is a way to an `accepting` state, in which an EOS token may come.
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


def from_sequences(
    sequences: Iterable[Sequence[int] | np.ndarray], *, eos_token_id: int | Sequence[int], vocab_size: int
) -> TokenTrie:
    """A constraint to exactly these outputs, each followed by an EOS token.

    One sequence may begin with another, and may occur twice. An empty sequence allows an EOS token at once.

    Args:
        sequences: the outputs, without start and EOS tokens.
        eos_token_id: the EOS token, or several, of which any may follow.
        vocab_size: the width of the model's logits.

    Raises:
        TypeError: something is not made of integers.
        ValueError: there are no sequences, an id is out of range, or a sequence holds an EOS token.
    """
    vocab_size = as_vocab_size(vocab_size)
    end_ids = as_end_ids(eos_token_id, vocab_size)
    ids, sizes = _flattened(sequences)
    starts = np.cumsum(sizes) - sizes
    _check_ids(ids, starts, end_ids, vocab_size)

    sources, tokens, targets, accepting_states = [], [], [], []
    count, depth = 1, 0
    at = np.zeros(sizes.size, np.int64)  # the state of each sequence, after `depth` tokens
    while sizes.size:
        ended = sizes == depth
        accepting_states.append(at[ended])
        starts, sizes, at = starts[~ended], sizes[~ended], at[~ended]
        edges, which = np.unique(at * vocab_size + ids[starts + depth], return_inverse=True)
        sources.append(edges // vocab_size)
        tokens.append(edges % vocab_size)
        targets.append(count + np.arange(edges.size))
        at = count + which
        count += edges.size
        depth += 1
    accepting = np.zeros(count, np.bool_)
    accepting[np.concatenate(accepting_states)] = True
    return from_edges(
        np.concatenate(sources),
        np.concatenate(tokens),
        np.concatenate(targets),
        accepting,
        end_ids,
        vocab_size=vocab_size,
    )


def _flattened(sequences: Iterable[Sequence[int] | np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """All ids one after another, and the length of each sequence."""
    sequences = list(sequences)
    if not sequences:
        raise ValueError("`sequences` is empty; at least one output must be possible.")
    for index, sequence in enumerate(sequences):
        if isinstance(sequence, str) or not hasattr(sequence, "__len__"):
            raise TypeError(
                f"`sequences[{index}]` is {quoted(sequence)}; expected a sequence of token ids. `sequences` holds "
                "one list of ids an output, as tokenizer.encode(text, add_special_tokens=False) gives it."
            )
    sizes = np.asarray([len(sequence) for sequence in sequences], np.int64)
    ids = np.asarray(list(chain.from_iterable(sequences))) if sizes.any() else np.zeros(0, np.int64)
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise TypeError(f"`sequences` must hold sequences of integer ids; as an array they are {ids.dtype}.")
    return ids.astype(np.int64), sizes


def _check_ids(ids: np.ndarray, starts: np.ndarray, end_ids: np.ndarray, vocab_size: int) -> None:
    outside, ends = (ids < 0) | (ids >= vocab_size), np.isin(ids, end_ids)
    if not (outside | ends).any():
        return
    at = np.argmax(outside if outside.any() else ends)
    holder = f"`sequences[{np.searchsorted(starts, at, side='right') - 1}]`"
    if ends[at]:
        raise ValueError(
            f"{holder} holds the end token {ids[at]}; an end token follows each by itself. "
            "Leave it out: encode with add_special_tokens=False."
        )
    raise ValueError(
        f"{holder} holds {ids[at]}; expected ids from 0 to {vocab_size - 1} (`vocab_size` is {vocab_size}). Check that "
        "the ids come from the decoder's tokenizer."
    )
