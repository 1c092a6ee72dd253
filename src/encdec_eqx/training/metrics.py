"""Metrics of generated text against references, all in percent, by name: `METRICS["rouge1"](predictions, references)`.

BLEU and chrF are computed by sacrebleu and ROUGE by rouge-score, both imported at first use; edit distances and the
error rates made of them are computed here.
"""

import difflib
import importlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from types import MappingProxyType
from typing import Any

from .._installing import install
from .._quoting import quoted

Texts = Sequence[str]
References = Sequence[Sequence[str]]


def edit_distance(left: Sequence[Hashable], right: Sequence[Hashable]) -> int:
    """Fewest substitutions, insertions and deletions that turn one sequence into the other (Levenshtein).

    A column of the usual table is kept as the differences between its neighbours, one bit per row, in two whole numbers
    (Myers 1999, as put by Hyyrö 2003): a step costs a few operations on them instead of one per row.

    Args:
        left: anything with elements that can be compared: words, letters, ids.
        right: the same.
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


def error_rate(predictions: Texts, references: References, split: Callable[[str], Sequence[str]]) -> float:
    """Edits divided by the references' length, in percent, over the whole corpus.

    Each prediction is held against the closest of its references (of equally close ones, the first).

    Args:
        predictions: generated texts.
        references: of each prediction, its references: a list of texts.
        split: makes the words, or letters, of a text.

    Raises:
        ValueError: all the references that counted are empty.
    """
    edits = length = 0
    for prediction, accepted in zip(predictions, references, strict=True):
        said = split(prediction)
        against = [(edit_distance(said, reference), len(reference)) for reference in map(split, accepted)]
        nearest = min(against, key=lambda pair: pair[0])
        edits, length = edits + nearest[0], length + nearest[1]
    if not length:
        raise ValueError("an error rate divides by the references' length, and all references are empty.")
    return 100 * edits / length


def wer(predictions: Texts, references: References) -> float:
    """Word error rate, in percent: edits of words, which white space separates, over the references' words.

    Args:
        predictions: generated texts.
        references: of each prediction, its references: a list of texts.
    """
    return error_rate(predictions, references, str.split)


def per(predictions: Texts, references: References) -> float:
    """Phoneme (or token) error rate, in percent: texts are phonemes between white space.

    Args:
        predictions: generated texts.
        references: of each prediction, its references: a list of texts.
    """
    return error_rate(predictions, references, str.split)


def cer(predictions: Texts, references: References) -> float:
    """Character error rate, in percent; white space inside counts, around the text it does not.

    Args:
        predictions: generated texts.
        references: of each prediction, its references: a list of texts.
    """
    return error_rate(predictions, references, str.strip)


def exact_match(predictions: Texts, references: References) -> float:
    """Percentage of predictions that equal one of their references; white space around a text does not count.

    Args:
        predictions: generated texts.
        references: of each prediction, its references: a list of texts.
    """
    right = [
        prediction.strip() in map(str.strip, accepted)
        for prediction, accepted in zip(predictions, references, strict=True)
    ]
    return 100 * sum(right) / len(right)


def sequence_error_rate(predictions: Texts, references: References) -> float:
    """Percentage of predictions that equal none of their references: of pronunciations, the word error rate.

    Args:
        predictions: generated texts.
        references: of each prediction, its references: a list of texts.
    """
    return 100 - exact_match(predictions, references)


NEEDS = {"bleu": "sacrebleu", "chrf": "sacrebleu", **dict.fromkeys(("rouge1", "rouge2", "rougeL"), "rouge_score")}
"""Modules that metrics import, none of which the package itself needs."""


def bleu(predictions: Texts, references: References) -> float:
    """Corpus BLEU in percent, as sacrebleu computes it by default (tokenizer 13a, exponential smoothing).

    Args:
        predictions: generated texts.
        references: of each prediction, its references: a list of texts.
    """
    return _sacrebleu().BLEU().corpus_score(list(predictions), _streams(references)).score


def chrf(predictions: Texts, references: References) -> float:
    """Corpus chrF2 in percent, as sacrebleu computes it by default.

    Args:
        predictions: generated texts.
        references: of each prediction, its references: a list of texts.
    """
    return _sacrebleu().CHRF().corpus_score(list(predictions), _streams(references)).score


def rouge(name: str, predictions: Texts, references: References) -> float:
    """The mean F-measure in percent, of stemmed words as papers on summaries report it; the best reference counts.

    Args:
        name: "rouge1", "rouge2", "rougeL", or "rougeLsum", which takes lines for sentences.
        predictions: what was generated.
        references: of each prediction the accepted texts.
    """
    scorer = _imported("rouge_score", "rouge_scorer", "ROUGE").RougeScorer([name], use_stemmer=True)
    scores = [
        scorer.score_multi(list(accepted), prediction)[name].fmeasure
        for prediction, accepted in zip(predictions, references, strict=True)
    ]
    return 100 * sum(scores) / len(scores)


def _streams(references: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """The first references of all predictions, then the second ones, ...; None where there is none."""
    return [list(stream) for stream in zip_longest(*references)]


def _sacrebleu() -> Any:
    return _imported("sacrebleu", "metrics", "BLEU and chrF")


def _imported(package: str, module: str, what: str) -> Any:
    """A module of an optional package."""
    try:
        importlib.import_module(package)
        return importlib.import_module(f"{package}.{module}")
    except ImportError:
        name = package.replace("_", "-")
        raise ImportError(f"{what} need {name}, which is not installed: {install('eval')}") from None


@dataclass(frozen=True)
class Metric:
    """A metric, in percent.

    Attributes:
        name: its key in `METRICS`.
        compute: from predictions and the references of each.
        greater_is_better: False for error rates.
    """

    name: str
    compute: Callable[[Texts, References], float]
    greater_is_better: bool

    def __call__(self, predictions: Texts, references: References) -> float:
        """The metric over all predictions, in percent.

        Args:
            predictions: what was generated.
            references: of each prediction the accepted texts, one or several.

        Raises:
            ImportError: it needs a package that is not installed.
            TypeError: the references are strings, not lists of strings, or one of the texts is no string.
            ValueError: there are no predictions, or the numbers differ, or a prediction has no reference.
        """
        _check(predictions, references)
        return float(self.compute(predictions, references))


_GREATER = {
    "bleu": bleu,
    "chrf": chrf,
    **{name: partial(rouge, name) for name in ("rouge1", "rouge2", "rougeL", "rougeLsum")},
    "exact_match": exact_match,
}
_LESS = {"wer": wer, "cer": cer, "per": per, "ser": sequence_error_rate}

METRICS: Mapping[str, Metric] = MappingProxyType(
    {name: Metric(name, compute, name in _GREATER) for name, compute in {**_GREATER, **_LESS}.items()}
)
"""All metrics by name."""


def metric(name: str) -> Metric:
    """The metric of that name.

    Args:
        name: a key of `METRICS`.

    Raises:
        ValueError: there is none; the nearest name is in the message.
    """
    if name in METRICS:
        return METRICS[name]
    near = difflib.get_close_matches(str(name), METRICS, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"there is no metric {quoted(name)}.{hint} Known: {', '.join(METRICS)}.")


def score(names: Sequence[str], predictions: Texts, references: References) -> dict[str, float]:
    """Several metrics of the same predictions, in percent.

    Args:
        names: keys of `METRICS`.
        predictions: generated texts.
        references: of each prediction, its references: a list of texts.

    Raises:
        ImportError: a metric needs a package that is not installed.
        TypeError: the references are strings, not lists of strings, or one of the texts is no string.
        ValueError: a name is unknown, or predictions and references do not go together.
    """
    return {name: metric(name)(predictions, references) for name in names}


def _check(predictions: Texts, references: References) -> None:
    if isinstance(predictions, str) or any(isinstance(accepted, str) for accepted in references):
        raise TypeError("references must be a list of texts for each prediction: [[text], ...], not [text, ...].")
    if not len(predictions):
        raise ValueError("there is nothing to score: no predictions were given.")
    if len(predictions) != len(references):
        raise ValueError(
            f"{len(predictions)} predictions and {len(references)} references; each prediction needs its own list."
        )
    _check_texts("prediction", predictions)
    for index, accepted in enumerate(references):
        if not len(accepted):
            raise ValueError(f"prediction {index} has no reference.")
        _check_texts(f"of the references of prediction {index}, number", accepted)


def _check_texts(what: str, texts: Texts) -> None:
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"{what} {index} is {type(text).__name__} {quoted(text)}; expected a string.")
