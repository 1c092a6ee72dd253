"""Sizes that arrays are padded up to, so that few programs serve all requests. Plain numbers; nothing of models.

The rule, the same for every axis: 1, 2, 3, 4, then 2^n times 1, 5/4 and 3/2 (5, 6, 8, 10, 12, 16, 20, 24, 32, ...),
starting at a least size. At most a quarter of a padded axis is filler, and a tenfold range takes ten sizes.
"""

from dataclasses import dataclass

LEAST_SOURCE = 16
LEAST_PREFIX = 8
LEAST_SLOTS = 16


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
    def of(cls, prefix: int, new: int, *, most: int) -> "TargetBucket":
        """The sizes for a prompt of `prefix` + 1 tokens and `new` generated ones.

        A token is fed to the decoder, and takes a slot, when the next one is wanted: the prompt's last token and all
        generated ones but the last. So `prefix + new` slots are used, of at most `most`, the longest sequence that
        the decoder's table of positions allows. Near that limit the prefix gets what the new tokens leave.
        """
        padded = min(bucket(prefix, least=LEAST_PREFIX), most - new) if prefix else 0
        return cls(prefix=padded, slots=bucket(padded + new, least=LEAST_SLOTS, most=most))
