"""Metrics against the libraries' own results, a plain edit distance, and cases small enough to count by hand."""

import random
import sys
from collections.abc import Sequence
from typing import Any, cast

import pytest
import sacrebleu
from rouge_score import rouge_scorer

from encdec_eqx.training.metrics import METRICS, edit_distance, metric, score

PREDICTIONS = ["The cat sat on the mat.", "a dog", "It is raining again today, is it not?", "x"]
ONE = [["The cat is sitting on the mat."], ["the dogs"], ["It rains again today, doesn't it?"], ["y z"]]
SEVERAL = [[*ONE[0], "The cat sat on a mat.", "A mat!"], ONE[1], [*ONE[2], "It is raining today."], ONE[3]]


def _plain_edit_distance(left: Sequence, right: Sequence) -> int:
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, start=1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(right, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]


# --- edit distance


@pytest.mark.parametrize(
    ("left", "right", "edits"),
    [("", "", 0), ("abc", "", 3), ("", "ab", 2), ("kitten", "sitting", 3), ("abc", "abc", 0), ("ab", "ba", 2)],
)
def test_edit_distance_by_hand(left, right, edits):
    assert edit_distance(left, right) == edits


@pytest.mark.parametrize("longest", [6, 40, 150])
def test_edit_distance_is_that_of_the_plain_table(longest):
    """Beyond 64 symbols, too, where the bits of a machine word would end."""
    draw = random.Random(longest)
    for _ in range(60):
        left, right = ([draw.choice("abcd") for _ in range(draw.randrange(longest))] for _ in range(2))
        assert edit_distance(left, right) == _plain_edit_distance(left, right)


def test_edit_distance_takes_any_symbols():
    assert edit_distance(("HH", "AH", "L"), ("HH", "EH", "L", "OW")) == 2


# --- the libraries' own results


@pytest.mark.parametrize("references", [ONE, SEVERAL], ids=["one", "several"])
def test_bleu_and_chrf_are_sacrebleu_s(references):
    most = max(map(len, references))
    streams: Any = [[accepted[at] if at < len(accepted) else None for accepted in references] for at in range(most)]
    assert METRICS["bleu"](PREDICTIONS, references) == sacrebleu.corpus_bleu(PREDICTIONS, streams).score
    assert METRICS["chrf"](PREDICTIONS, references) == sacrebleu.corpus_chrf(PREDICTIONS, streams).score


@pytest.mark.parametrize("name", ["rouge1", "rouge2", "rougeL", "rougeLsum"])
def test_rouge_is_rouge_score_s_mean(name):
    scorer = rouge_scorer.RougeScorer([name], use_stemmer=True)
    rows = zip(PREDICTIONS, ONE, strict=True)
    expected = [scorer.score(accepted[0], prediction)[name].fmeasure for prediction, accepted in rows]
    assert METRICS[name](PREDICTIONS, ONE) == pytest.approx(100 * sum(expected) / 4)


def test_rouge_takes_the_best_reference():
    assert METRICS["rouge1"](["a b"], [["c d", "a b", "a"]]) == 100
    assert METRICS["rouge1"](["a b c d"], [["a b"]]) == pytest.approx(100 * 2 * 0.5 * 1 / 1.5)


# --- by hand


@pytest.mark.parametrize(
    ("name", "predictions", "references", "expected"),
    [
        ("exact_match", ["a b", " c ", "d"], [["a b"], ["c"], ["e", "f"]], 200 / 3),
        ("ser", ["a b", " c ", "d"], [["a b"], ["c"], ["e", "f"]], 100 / 3),
        ("wer", ["a b c", "d"], [["a x c"], ["d e"]], 100 * 2 / 5),
        ("per", ["HH AH L OW", "B"], [["HH EH L OW"], ["P", "B"]], 100 * 1 / 5),
        ("cer", [" ab ", "c d"], [["abc"], ["cd"]], 100 * 2 / 5),
        # of two equally close references the first gives the length
        ("wer", ["a"], [["b", "a b c", "a b"]], 100),
        ("cer", ["abcdef"], [["ab"]], 200),
    ],
)
def test_error_rates_by_hand(name, predictions, references, expected):
    assert METRICS[name](predictions, references) == pytest.approx(expected)


def test_rates_are_over_the_corpus_and_not_means_of_means():
    assert METRICS["wer"](["a", "a b c d e f g h i"], [["b"], ["a b c d e f g h i"]]) == 10


def test_all_agree_on_what_is_perfect():
    texts = ["the cat sat on the mat", "a dog said hello to the world"]
    values = score(list(METRICS), texts, [[text] for text in texts])
    best = {name: 100 if one.greater_is_better else 0 for name, one in METRICS.items()}
    assert values == pytest.approx(best)
    worse = score(list(METRICS), texts[::-1], [[text] for text in texts])
    for name, one in METRICS.items():
        assert (worse[name] < values[name]) == one.greater_is_better
        assert one.name == name


# --- errors


def test_what_does_not_go_together_is_refused(unchecked):
    wer = metric("wer")
    with pytest.raises(ValueError, match="no predictions"):
        wer([], [])
    with pytest.raises(ValueError, match="1 predictions and 2 references"):
        wer(["a"], [["a"], ["b"]])
    with pytest.raises(ValueError, match="prediction 1 has no reference"):
        wer(["a", "b"], [["a"], []])
    with pytest.raises(TypeError, match=r"\[\[text\], \.\.\.\]"):
        wer(["a"], ["a"])
    with pytest.raises(ValueError, match="all references are empty"):
        wer(["a"], [[""]])


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(ValueError, match=r"there is no metric 'rouge_l'\. Did you mean 'rougeL'\?"):
        metric("rouge_l")
    with pytest.raises(ValueError, match="Known: bleu, chrf"):
        score(["accuracy"], ["a"], [["a"]])


@pytest.mark.parametrize(("name", "module"), [("bleu", "sacrebleu"), ("chrf", "sacrebleu"), ("rouge2", "rouge_score")])
def test_a_missing_package_is_named_with_its_extra(monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r'pip install -e "\S*\[eval\]"'):
        METRICS[name](["a"], [["a"]])


def test_error_rates_need_no_package(monkeypatch):
    for module in ("sacrebleu", "rouge_score"):
        monkeypatch.setitem(sys.modules, module, None)
    assert METRICS["per"](["a b"], [["a b"]]) == 0


def test_what_is_no_text_is_named_with_its_place(unchecked):
    with pytest.raises(TypeError, match="prediction 1 is NoneType None; expected a string"):
        score(["exact_match"], cast(Any, ["a", None]), [["a"], ["b"]])
    with pytest.raises(TypeError, match="of the references of prediction 0, number 1 is bytes b'c'; expected a string"):
        score(["exact_match"], ["a"], cast(Any, [["b", b"c"]]))
