"""Edit distance and error rates on random sequences, against the plain table of the textbook."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from encdec_eqx.training.metrics import edit_distance, score

SYMBOLS = st.lists(st.sampled_from("abc"), max_size=12)
LONG = st.lists(st.integers(0, 3), min_size=60, max_size=140)
WORDS = st.lists(st.sampled_from(["a", "b", "cc"]), min_size=1, max_size=6).map(" ".join)


def _table(left: list, right: list) -> int:
    """Levenshtein's table, row by row: a row's insertions by a running minimum."""
    columns = np.arange(len(right) + 1)
    row = columns
    for at, symbol in enumerate(left, start=1):
        changed = row[:-1] + np.array([symbol != other for other in right], int)
        row = np.concatenate([[at], np.minimum(changed, row[1:] + 1)])
        row = np.minimum.accumulate(row - columns) + columns
    return int(row[-1])


@settings(max_examples=200)
@given(SYMBOLS, SYMBOLS)
def test_edit_distance_is_that_of_the_table(left: list, right: list):
    assert edit_distance(left, right) == _table(left, right)


@given(LONG, LONG)
def test_edit_distance_beyond_a_machine_word_is_that_of_the_table(left: list, right: list):
    assert edit_distance(left, right) == _table(left, right)


@given(SYMBOLS, SYMBOLS, SYMBOLS)
def test_edit_distance_is_a_metric(one: list, two: list, three: list):
    assert edit_distance(one, two) == edit_distance(two, one)
    assert (edit_distance(one, two) == 0) == (one == two)
    assert edit_distance(one, three) <= edit_distance(one, two) + edit_distance(two, three)


@given(st.lists(st.tuples(WORDS, st.lists(WORDS, min_size=1, max_size=3)), min_size=1, max_size=5))
def test_error_rates_are_0_exactly_where_outputs_match(corpus: list[tuple[str, list[str]]]):
    predictions, references = [said for said, _ in corpus], [accepted for _, accepted in corpus]
    found = score(["exact_match", "ser", "wer", "cer"], predictions, references)
    right = sum(said in accepted for said, accepted in corpus)
    assert found["exact_match"] == 100 * right / len(corpus) == 100 - found["ser"]
    assert (found["wer"] == 0) == (found["cer"] == 0) == (right == len(corpus))
