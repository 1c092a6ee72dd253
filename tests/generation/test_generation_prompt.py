"""Sizes of buckets, and prompts on the host: start tokens, left padding, positions."""

import numpy as np
import pytest

from encdec_eqx.generation.source_and_prompt import PositionRule, TargetBucket, bucket, from_user, start_only

START = 1


def user(ids, mask=None, *, batch=None):
    ids = np.array(ids)
    mask = None if mask is None else np.array(mask)
    return from_user(ids, mask, batch=batch or len(ids), vocab_size=50, start=START)


def test_the_grid_wastes_at_most_a_quarter():
    sizes = [bucket(size) for size in range(1, 2000)]
    assert sizes[:16] == [1, 2, 3, 4, 5, 6, 8, 8, 10, 10, 12, 12, 16, 16, 16, 16]
    for size, padded in enumerate(sizes, 1):
        assert padded >= size
        assert bucket(padded) == padded
        assert padded == size or (padded - size) / padded <= 0.25
    assert len(set(sizes)) == 31


def test_grids_begin_and_end_where_told():
    assert bucket(3, least=16) == 16
    assert bucket(17, least=16, most=18) == 18
    assert bucket(18, most=18) == 18


@pytest.mark.parametrize("most", [24, 100, 1024])
def test_every_target_that_the_table_allows_has_room(most):
    for prefix in range(0, most, 7):
        for new in range(1, most - prefix + 1, 5):
            sizes = TargetBucket.of(prefix, new, most=most)
            assert prefix <= sizes.prefix
            assert (prefix == 0) == (sizes.prefix == 0)
            assert sizes.prefix + new <= sizes.slots <= most


def test_the_start_token_goes_in_front_when_no_row_has_it():
    np.testing.assert_array_equal(user([[5, 6], [7, 8]]).ids, [[1, 5, 6], [1, 7, 8]])
    np.testing.assert_array_equal(user([[5, 6], [1, 8]]).ids, [[5, 6], [1, 8]])
    np.testing.assert_array_equal(user([[5, 1], [7, 1]]).ids, [[1, 5, 1], [1, 7, 1]])


def test_behind_left_padding_it_goes_before_the_first_real_token():
    prompt = user([[1, 1, 5, 6], [0, 7, 8, 9], [2, 3, 4, 5]], [[0, 0, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1]])
    np.testing.assert_array_equal(prompt.ids, [[1, 1, 1, 5, 6], [0, 1, 7, 8, 9], [1, 2, 3, 4, 5]])
    np.testing.assert_array_equal(prompt.real, [[0, 0, 1, 1, 1], [0, 1, 1, 1, 1], [1, 1, 1, 1, 1]])
    kept = user([[9, 1, 5], [1, 6, 7]], [[0, 1, 1], [1, 1, 1]])
    np.testing.assert_array_equal(kept.ids, [[9, 1, 5], [1, 6, 7]])


def test_padding_and_trimming():
    prompt = user([[0, 0, 1, 5], [0, 0, 0, 1]], [[0, 0, 1, 1], [0, 0, 0, 1]])
    seen = prompt.trimmed()
    np.testing.assert_array_equal(seen.ids, [[1, 5], [0, 1]])
    padded = seen.padded(3, 4)
    np.testing.assert_array_equal(padded.real, [[0, 0, 1, 1], [0, 0, 0, 1], [0, 0, 1, 1]])
    np.testing.assert_array_equal(padded.ids[2], padded.ids[0])
    assert start_only(2, START).trimmed().width == 1


def test_positions_count_real_tokens():
    prompt = user([[0, 0, 1, 5], [1, 4, 1, 4]], [[0, 0, 1, 1], [1, 1, 1, 1]])
    np.testing.assert_array_equal(PositionRule().of_prompt(prompt.ids, prompt.real)[:, 2:], [[0, 1], [2, 3]])
    numbers = PositionRule(first=5, padding_idx=4).of_prompt(prompt.ids, prompt.real)
    np.testing.assert_array_equal(numbers, [[4, 4, 5, 6], [5, 4, 6, 4]])


@pytest.mark.parametrize("mask", [[[1, 1, 0]], [[1, 0, 1]], [[0, 1, 0]]])
def test_padding_after_real_tokens_is_refused(mask):
    with pytest.raises(ValueError, match="on the left"):
        user([[1, 5, 6]], mask)


@pytest.mark.parametrize(
    ("ids", "mask", "error", "words"),
    [
        ([[1, 50]], None, ValueError, r"decoder_input_ids\[0, 1\] is 50"),
        ([[1, -1]], None, ValueError, "is -1"),
        ([[1.0, 2.0]], None, TypeError, "integers"),
        ([1, 2], None, TypeError, "2 axes"),
        ([[]], None, ValueError, "empty"),
        ([[1, 2]], [[1, 1, 1]], TypeError, "shape of decoder_input_ids"),
        ([[1, 2]], [[0, 0]], ValueError, "no real token"),
        ([[1, 2]], [[0, 2]], ValueError, "holds 2"),
        ([[1, 2]], [[0.0, 1.0]], TypeError, "float"),
    ],
)
def test_malformed_prompts(ids, mask, error, words):
    with pytest.raises(error, match=words):
        user(ids, mask, batch=1)


def test_one_prompt_a_sentence():
    with pytest.raises(TypeError, match="one row per sentence: 3"):
        user([[1, 2]], batch=3)
