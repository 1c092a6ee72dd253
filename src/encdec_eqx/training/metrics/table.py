"""Every metric by its name, and whether more of it is better."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from ..._quoting import quoted
from . import edits, overlap

Texts = Sequence[str]
References = Sequence[Sequence[str]]


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
    "bleu": overlap.bleu,
    "chrf": overlap.chrf,
    **{name: partial(overlap.rouge, name) for name in ("rouge1", "rouge2", "rougeL", "rougeLsum")},
    "exact_match": edits.exact_match,
}
_LESS = {"wer": edits.wer, "cer": edits.cer, "per": edits.per, "ser": edits.sequence_error_rate}

METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        **{name: Metric(name, function, True) for name, function in _GREATER.items()},
        **{name: Metric(name, function, False) for name, function in _LESS.items()},
    }
)
"""All metrics by name."""


def metric(name: str) -> Metric:
    """The metric of that name.

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
