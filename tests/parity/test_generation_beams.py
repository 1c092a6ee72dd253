"""Beam search against torch's: ids, scores and ancestry, over random options, alone and with rules on logits."""

import numpy as np
import pytest
import torch
from generation_pairs import FIRST_FREE, START

from hf import VOCAB, as_torch, random_batch
from tolerances import BEAM_SCORES_RELATIVE

# by pair, the numbers of beams: each is a program of its own, which takes a while to compile
PAIRS = {"bert-gpt2": (2, 4, 8), "bert-bert": (3, 7), "roberta-roberta": (5,), "bert-relative": (6,)}
RUNS = 6


def _options(rng: np.random.Generator, beams: int) -> dict:
    ends = rng.choice(np.arange(FIRST_FREE, VOCAB - 1), size=rng.choice([1, 4]), replace=False)
    return {
        "num_beams": beams,
        "num_return_sequences": int(rng.integers(1, beams + 1)),
        "length_penalty": float(rng.choice([1.0, 0.0, -1.0, 2.0, 0.6])),
        "early_stopping": [True, False, "never"][rng.integers(3)],
        "max_new_tokens": int(rng.integers(2, 14)),
        "eos_token_id": [int(end) for end in ends],
    }


def _arrays(seed: int, *, prompted: bool) -> dict[str, np.ndarray]:
    batch = random_batch(seed, low=FIRST_FREE)
    arrays = {name: batch[name] for name in ("input_ids", "attention_mask")}
    if prompted:
        prompt = np.random.default_rng(seed).integers(FIRST_FREE, VOCAB - 1, (3, 4), dtype=np.int32)
        prompt[:, 0] = START
        arrays["decoder_input_ids"] = prompt
    return arrays


def _theirs(model, arrays, **options):
    with torch.no_grad():
        return model.generate(
            **as_torch(arrays), do_sample=False, return_dict_in_generate=True, output_scores=True, **options
        )


def _check(theirs, ours, arrays, options) -> None:
    expected = _theirs(theirs, arrays, **options)
    result = ours.generate(**arrays, **options)
    np.testing.assert_array_equal(result.sequences, expected.sequences.numpy())
    np.testing.assert_array_equal(result.beam_indices, expected.beam_indices.numpy())
    np.testing.assert_allclose(result.scores, expected.sequences_scores.numpy(), rtol=BEAM_SCORES_RELATIVE)


# Torch gives all tokens of a prompt the distances of its last one where positions are relative: no prompts there.
@pytest.mark.parametrize(
    ("pair", "prompted"), [(pair, prompted) for pair in PAIRS for prompted in (False, True)][:-1], ids=str
)
def test_ids_scores_and_ancestry(models, pair, prompted):
    theirs, ours = models(pair, 3)
    rng = np.random.default_rng(len(pair) + prompted)
    for beams in PAIRS[pair]:
        for run in range(RUNS):
            _check(theirs, ours, _arrays(run, prompted=prompted), _options(rng, beams))


@pytest.mark.parametrize(
    "processors",
    [
        {"repetition_penalty": 1.4},
        {"no_repeat_ngram_size": 2, "min_new_tokens": 4},
        {"min_length": 9},
        # not encoder_repetition_penalty: torch looks at other sentences there (tests of the rules pin it)
        {"encoder_no_repeat_ngram_size": 1, "suppress_tokens": [9, 30, 31]},
        {"bad_words_ids": [[12], [20, 21]], "forced_eos_token_id": 17},
        {"sequence_bias": [[[11], 1.5], [[40, 41], -2.0]], "renormalize_logits": True},
        {"exponential_decay_length_penalty": (3, 1.2)},
    ],
    ids=lambda value: "+".join(value),
)
def test_processors_work_on_log_probabilities(models, processors):
    theirs, ours = models("bert-gpt2", 3)
    rng = np.random.default_rng(0)
    for run in range(3):
        options = {**_options(rng, beams=4), **processors, "max_new_tokens": 10}
        _check(theirs, ours, _arrays(run, prompted=False), options)


def test_beams_from_the_files(models, tmp_path):
    theirs, ours = models("bert-gpt2", 3)
    arrays = _arrays(0, prompted=False)
    own = {"num_beams": 4, "length_penalty": 0.3, "early_stopping": True, "max_new_tokens": 9}
    expected = _theirs(theirs, arrays, **own)
    theirs.save_pretrained(tmp_path)
    config = type(theirs.generation_config)(**{**theirs.generation_config.to_dict(), **own})
    config.save_pretrained(tmp_path)
    loaded = type(ours).from_pretrained(tmp_path)
    np.testing.assert_array_equal(loaded.generate(**arrays).sequences, expected.sequences.numpy())
