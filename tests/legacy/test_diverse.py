"""Groups of beams against transformers 4.46.3: ids and scores, over random options."""

import numpy as np
import pytest
import torch
from generation_pairs import likely_ends, prompts, sentences

from hf import as_torch
from tolerances import BEAM_SCORES_RELATIVE

# by pair: (groups, beams), each of which is a program or two
SIZES = {"bert-gpt2": [(2, 4), (4, 4)], "bert-bert": [(3, 6)], "roberta-roberta": [(2, 2)]}
RUNS = 8


def _check(theirs, ours, arrays, **options):
    with torch.no_grad():
        expected = theirs.generate(
            **as_torch(arrays), return_dict_in_generate=True, output_scores=True, do_sample=False, **options
        )
    result = ours.generate(**arrays, **options)
    np.testing.assert_array_equal(result.sequences, expected.sequences.numpy())
    np.testing.assert_allclose(result.scores, expected.sequences_scores.numpy(), rtol=BEAM_SCORES_RELATIVE)
    return result


def _options(rng: np.random.Generator, groups: int, beams: int, ends: list[int]) -> dict:
    new = int(rng.integers(3, 14))
    options = {
        "num_beam_groups": groups,
        "num_beams": beams,
        "num_return_sequences": int(rng.integers(1, beams + 1)),
        "diversity_penalty": float(rng.choice([0.3, 1.0, 2.0, 5.0])),
        "length_penalty": float(rng.choice([1.0, 0.0, -1.0, 2.0, 0.6])),
        "early_stopping": [True, False, "never", None][rng.integers(4)],
        "min_new_tokens": int(rng.integers(1, new)) if rng.random() < 0.5 else None,
        "max_new_tokens": new,
        "eos_token_id": ends,
    }
    return {name: value for name, value in options.items() if value is not None}


@pytest.mark.parametrize("ends", [1, 4])
@pytest.mark.parametrize("pair", SIZES)
def test_ids_and_scores(models, pair, ends):
    theirs, ours = models(pair, 3)
    rng = np.random.default_rng(ends)
    ended = 0
    for groups, beams in SIZES[pair]:
        for run in range(RUNS):
            arrays = sentences(run)
            result = _check(theirs, ours, arrays, **_options(rng, groups, beams, likely_ends(theirs, arrays, ends)))
            ended += (~result.truncated).sum()
    assert ended > RUNS


def test_groups_of_one_beam_are_done_at_their_first_end(models):
    """What becomes of the later groups hangs on the last bit of a comparison: the best there is has just finished."""
    theirs, ours = models("bert-gpt2", 3)
    uneven = 0
    for run in range(20):
        arrays = sentences(run)
        options = {"num_beam_groups": 4, "num_beams": 4, "num_return_sequences": 4, "diversity_penalty": 2.0}
        rules = {"length_penalty": [0.6, 2.0][run % 2], "min_new_tokens": run % 7, "max_new_tokens": 14}
        result = _check(theirs, ours, arrays, **options, **rules, eos_token_id=likely_ends(theirs, arrays, 1 + run % 3))
        uneven += sum(len(set(lengths)) > 1 for lengths in result.lengths.reshape(3, 4).tolist())
    assert uneven > 20


def test_prompts(models):
    theirs, ours = models("roberta-roberta", 3)
    rng = np.random.default_rng(5)
    for run in range(4):
        arrays = {**sentences(run), "decoder_input_ids": prompts(run)}
        _check(theirs, ours, arrays, **_options(rng, 2, 4, likely_ends(theirs, arrays, 3)))


@pytest.mark.parametrize(
    "rules", [{"repetition_penalty": 1.3, "no_repeat_ngram_size": 2}, {"min_length": 8, "sequence_bias": [[[11], 1.5]]}]
)
def test_rules_stand_around_the_penalty(models, rules):
    theirs, ours = models("bert-gpt2", 3)
    rng = np.random.default_rng(6)
    for run in range(4):
        options = {**_options(rng, 3, 6, likely_ends(theirs, sentences(run), 3)), "max_new_tokens": 12}
        options.pop("min_new_tokens", None)
        _check(theirs, ours, sentences(run), **options, **rules)
