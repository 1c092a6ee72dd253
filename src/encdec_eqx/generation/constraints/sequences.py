"""From a list of sequences of ids to a constraint. Knows no text: the strings' ids come from the user's tokenizer."""

from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np

from ..._quoting import quoted
from .ends import as_end_ids, as_vocab_size
from .trie import TokenTrie, from_edges


def from_sequences(
    sequences: Iterable[Sequence[int] | np.ndarray], *, eos_token_id: int | Sequence[int], vocab_size: int
) -> TokenTrie:
    """A constraint to exactly these outputs, each followed by an end token.

    One sequence may begin with another, and may occur twice. An empty sequence allows an end token at once.

    Args:
        sequences: the outputs, without start and end tokens.
        eos_token_id: the end token, or several, of which any may follow.
        vocab_size: the width of the model's logits.

    Raises:
        TypeError: something is not made of integers.
        ValueError: there are no sequences, an id is out of range, or a sequence holds an end token.
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
    outside = np.flatnonzero((ids < 0) | (ids >= vocab_size))
    if outside.size:
        sequence = np.searchsorted(starts, outside[0], side="right") - 1
        raise ValueError(
            f"`sequences[{sequence}]` holds {ids[outside[0]]}; expected ids from 0 to {vocab_size - 1} "
            f"(`vocab_size` is {vocab_size}). Check that the ids come from the decoder's tokenizer."
        )
    ends = np.flatnonzero(np.isin(ids, end_ids))
    if ends.size:
        sequence = np.searchsorted(starts, ends[0], side="right") - 1
        raise ValueError(
            f"`sequences[{sequence}]` holds the end token {ids[ends[0]]}; an end token follows each by itself. "
            "Leave it out: encode with add_special_tokens=False."
        )
