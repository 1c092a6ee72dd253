"""Edit distance, and the error rates made of it: of words, letters, tokens and whole outputs.

Plain Python over strings. Must not know models or tokenizers.
"""

from collections.abc import Callable, Hashable, Sequence


def edit_distance(left: Sequence[Hashable], right: Sequence[Hashable]) -> int:
    """Fewest substitutions, insertions and deletions that turn one sequence into the other (Levenshtein).

    A column of the usual table is kept as the differences between its neighbours, one bit a row, in two whole numbers
    (Myers 1999, as put by Hyyrö 2003): a step costs a few operations on them instead of one a row.
    """
    if not left:
        return len(right)
    where: dict[Hashable, int] = {}
    for row, symbol in enumerate(left):
        where[symbol] = where.get(symbol, 0) | 1 << row
    rows, last = (1 << len(left)) - 1, 1 << (len(left) - 1)
    rises, falls, distance = rows, 0, len(left)
    for symbol in right:
        match = where.get(symbol, 0)
        diagonal = (((match & rises) + rises) ^ rises) | match | falls
        wider, narrower = falls | (rows & ~(diagonal | rises)), rises & diagonal
        distance += bool(wider & last) - bool(narrower & last)
        wider, narrower = (wider << 1 | 1) & rows, narrower << 1 & rows
        rises = narrower | (rows & ~(diagonal | wider))
        falls = wider & diagonal
    return distance


def error_rate(
    predictions: Sequence[str], references: Sequence[Sequence[str]], split: Callable[[str], Sequence[str]]
) -> float:
    """Edits divided by the references' length, in percent, over the whole corpus.

    Each prediction is held against the closest of its references (of equally close ones, the first).

    Raises:
        ValueError: all the references that counted are empty.
    """
    edits = length = 0
    for prediction, accepted in zip(predictions, references, strict=True):
        said = split(prediction)
        against = [(edit_distance(said, wanted), len(wanted)) for wanted in map(split, accepted)]
        nearest = min(against, key=lambda pair: pair[0])
        edits, length = edits + nearest[0], length + nearest[1]
    if not length:
        raise ValueError("an error rate divides by the references' length, and all references are empty.")
    return 100 * edits / length


def wer(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Word error rate, in percent: edits of words, which white space separates, over the references' words."""
    return error_rate(predictions, references, str.split)


def per(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Phoneme (or token) error rate, in percent: texts are phonemes between white space."""
    return error_rate(predictions, references, str.split)


def cer(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Character error rate, in percent; white space inside counts, around the text it does not."""
    return error_rate(predictions, references, str.strip)


def exact_match(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Share of predictions that equal one of their references, in percent; white space around a text does not count."""
    right = [
        prediction.strip() in map(str.strip, accepted)
        for prediction, accepted in zip(predictions, references, strict=True)
    ]
    return 100 * sum(right) / len(right)


def sequence_error_rate(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Share of predictions that equal none of their references, in percent: of pronunciations, the word error rate."""
    return 100 - exact_match(predictions, references)
