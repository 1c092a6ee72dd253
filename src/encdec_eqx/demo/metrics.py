"""Phoneme and word error rate, as grapheme-to-phoneme work scores them.

Plain Python over tuples of phoneme names; knows nothing of models.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from encdec_eqx.training.metrics import edit_distance


@dataclass(frozen=True, kw_only=True)
class ErrorRates:
    """Errors over a set of words.

    Attributes:
        phoneme: edits (substitutions, insertions, deletions) divided by the reference phonemes, a fraction.
        word: share of the words whose pronunciation is not one of the accepted ones, a fraction.
        words: how many words were scored.
    """

    phoneme: float
    word: float
    words: int


def error_rates(predictions: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> ErrorRates:
    """Score each prediction against the closest of its accepted pronunciations (of equally close ones, the first).

    Raises:
        ValueError: no words, as many references as predictions are not given, or a word without a reference.
    """
    if len(predictions) != len(references):
        raise ValueError(
            f"{len(predictions)} predictions and {len(references)} references; each prediction needs its own list"
        )
    if not predictions:
        raise ValueError("there is nothing to score: no predictions were given")
    edits = phonemes = wrong = 0
    for index, (prediction, accepted) in enumerate(zip(predictions, references, strict=True)):
        if not accepted:
            raise ValueError(f"word {index} has no reference pronunciation")
        distance, length = min(
            ((edit_distance(prediction, reference), len(reference)) for reference in accepted), key=lambda pair: pair[0]
        )
        edits, phonemes, wrong = edits + distance, phonemes + length, wrong + (distance > 0)
    return ErrorRates(phoneme=edits / phonemes, word=wrong / len(predictions), words=len(predictions))
