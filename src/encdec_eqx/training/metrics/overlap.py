"""BLEU and chrF by sacrebleu, ROUGE by rouge-score. Both packages are imported at first use."""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from ..._installing import install

NEEDS = {"bleu": "sacrebleu", "chrf": "sacrebleu", **dict.fromkeys(("rouge1", "rouge2", "rougeL"), "rouge_score")}
"""Modules that metrics import, none of which the package itself needs."""


def bleu(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Corpus BLEU in percent, as sacrebleu computes it by default (tokenizer 13a, exponential smoothing)."""
    return _sacrebleu().metrics.BLEU().corpus_score(list(predictions), _streams(references)).score


def chrf(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Corpus chrF2 in percent, as sacrebleu computes it by default."""
    return _sacrebleu().metrics.CHRF().corpus_score(list(predictions), _streams(references)).score


def rouge(name: str, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """The mean F-measure in percent, of stemmed words as papers on summaries report it; the best reference counts.

    Args:
        name: "rouge1", "rouge2", "rougeL", or "rougeLsum", which takes lines for sentences.
        predictions: what was generated.
        references: of each prediction the accepted texts.
    """
    scorer = _rouge_scorer().RougeScorer([name], use_stemmer=True)
    scores = [
        scorer.score_multi(list(accepted), prediction)[name].fmeasure
        for prediction, accepted in zip(predictions, references, strict=True)
    ]
    return 100 * sum(scores) / len(scores)


def _streams(references: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """The first references of all predictions, then the second ones, ...; None where there is none."""
    return [list(stream) for stream in zip_longest(*references)]


def _sacrebleu() -> Any:
    try:
        import sacrebleu
    except ImportError:
        raise _missing("BLEU and chrF", "sacrebleu") from None
    return sacrebleu


def _rouge_scorer() -> Any:
    try:
        from rouge_score import rouge_scorer
    except ImportError:
        raise _missing("ROUGE", "rouge-score") from None
    return rouge_scorer


def _missing(what: str, package: str) -> ImportError:
    return ImportError(f"{what} need {package}, which is not installed: {install('eval')}")
