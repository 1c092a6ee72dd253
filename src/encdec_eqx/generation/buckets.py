"""Sizes that arrays are padded up to, so that few programs serve all requests, and how large a run may be.

The rule, the same for every axis: 1, 2, 3, 4, then 2^n times 1, 5/4 and 3/2 (5, 6, 8, 10, 12, 16, 20, 24, 32, ...),
starting at a least size. At most a quarter of a padded axis is padding, and a tenfold range takes ten sizes.

Limits of a run are against sizes that were mistyped or made up, and checked before anything is allocated. They are far
beyond what one device holds of a model of any use, and small enough that even a model of a few dimensions stays within
some gigabytes.
"""

import functools
from dataclasses import dataclass

LEAST_SOURCE = 16
LEAST_PREFIX = 8
LEAST_SLOTS = 16


@functools.lru_cache(maxsize=4096)
def bucket(size: int, *, least: int = 1, most: int | None = None) -> int:
    """The smallest size of the grid that holds `size`.

    Args:
        size: what has to fit, at least 1.
        least: the grid's first size.
        most: a limit of the model (the length of a table), at least `size`; it ends the grid.
    """
    octave = 1 << (size.bit_length() - 1)
    steps = (octave, 5 * octave // 4, 3 * octave // 2, 2 * octave)
    fits = max(least, next(step for step in steps if step >= size))
    return fits if most is None else min(fits, most)


@dataclass(frozen=True)
class TargetBucket:
    """Sizes of the decoder's side.

    Attributes:
        prefix: prompt tokens before the last one, padded on the left (0 if there are none).
        slots: places of the self-attention cache.
    """

    prefix: int
    slots: int

    @classmethod
    @functools.lru_cache(maxsize=4096)
    def of(cls, prefix: int, new: int, *, most: int) -> "TargetBucket":
        """The sizes for a prompt of `prefix` + 1 tokens and `new` generated ones.

        A token is fed to the decoder, and takes a slot, when the next one is wanted: the prompt's last token and all
        generated ones but the last. So `prefix + new` slots are used, of at most `most`, the longest sequence that
        the decoder's table of positions allows. Near that limit the prefix gets what the new tokens leave.
        """
        padded = min(bucket(prefix, least=LEAST_PREFIX), most - new) if prefix else 0
        return cls(prefix=padded, slots=bucket(padded + new, least=LEAST_SLOTS, most=most))


_MOST_SLOTS = 2**24
"""Slots of the decoder's cache over all rows: 400 GB of keys and values in a decoder of 6 layers of width 512."""

_MOST_PAIRS = 2**28
"""Of tokens that are fed at once and slots they may attend to, over all rows: each is a number in every head."""

_MOST_SCORES = 2**31
"""Logits of one step, 8 GiB."""


@functools.lru_cache(maxsize=4096)
def check_run(sequences: int, rows: int, at_once: int, slots: int, vocab_size: int) -> None:
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
    """Refuse more phrases of `force_words_ids` than can be compared with each other.

    Raises:
        ValueError: if there are more.
    """
    size = sequences * continuations**2
    if size > _MOST_PAIRS:
        raise ValueError(
            f"this run is too large: force_words_ids offers {continuations:,} continuations for each of {sequences:,} "
            f"sequences, and all of them are compared with each other. Force fewer words, or lower num_beams."
        )
