"""How large a run may be: limits against sizes that were mistyped or made up, checked before anything is allocated.

They are far beyond what one device holds of a model of any use, and small enough that even a model of a few dimensions
stays within some gigabytes. Must not know: options, models, programs.
"""

import math

from .scalars import MOST

_MOST_SLOTS = 2**24
"""Slots of the decoder's cache over all rows: 400 GB of keys and values in a decoder of 6 layers of width 512."""

_MOST_PAIRS = 2**28
"""Of tokens that are fed at once and slots they may attend to, over all rows: each is a number in every head."""

_MOST_SCORES = 2**31
"""Logits of one step, 8 GiB."""


def check_run(*, sequences: int, rows: int, at_once: int, slots: int, vocab_size: int) -> None:
    """Refuse runs that are too large.

    Args:
        sequences: of the batch, padded to its bucket.
        rows: of the cache, for each of them.
        at_once: tokens that a step feeds for each row of the cache: beams, candidates.
        slots: of the cache, for each row.
        vocab_size: of the decoder.

    Raises:
        ValueError: if a limit is passed.
    """
    sizes = f"{sequences:,} sequences of {rows * at_once:,} beams, samples or candidates with room for {slots:,} tokens"
    how = "Lower num_beams, num_return_sequences, top_k of contrastive search, max_new_tokens, or the batch."
    for name, size, most in (
        ("slots of the decoder's cache", sequences * rows * slots * at_once, _MOST_SLOTS),
        ("pairs of tokens and slots in every step", sequences * rows * slots * at_once**2, _MOST_PAIRS),
        ("logits in every step", sequences * rows * at_once * vocab_size, _MOST_SCORES),
    ):
        if size > most:
            raise ValueError(f"this run is too large: {sizes} need {size:,} {name}, and {most:,} are allowed. {how}")


def check_comparisons(*, sequences: int, continuations: int) -> None:
    """Refuse more words that must come than can be compared with each other.

    Raises:
        ValueError: if there are more.
    """
    size = sequences * continuations**2
    if size > _MOST_PAIRS:
        raise ValueError(
            f"this run is too large: force_words_ids offers {continuations:,} continuations for each of {sequences:,} "
            f"sequences, and all of them are compared with each other. Force fewer words, or lower num_beams."
        )


def check_length_penalty(penalty: float, longest: int, origin: str) -> None:
    """Refuse a power of the length by which scores cannot be divided.

    Args:
        penalty: the power.
        longest: the largest length.
        origin: who asks for it.

    Raises:
        ValueError: if the power leaves the range of float32.
    """
    if abs(penalty) * math.log(longest) > math.log(MOST):
        most = math.log(MOST) / math.log(longest)
        raise ValueError(
            f"length_penalty={penalty} ({origin}) is too large: scores are divided by the length to that power, and "
            f"{longest} tokens to it leave the range of float32. At this length it may lie between {-most:.1f} and "
            f"{most:.1f}."
        )
