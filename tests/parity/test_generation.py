"""`generate` against torch's `EncoderDecoderModel.generate`: token for token.

Every model has all parameters randomised; end-of-sequence ids are chosen among the tokens that torch really generates,
so that rows end at different lengths.
"""

import numpy as np
import pytest
import torch
from generation_pairs import FIRST_FREE, PAD, PAIRS, START, sentences

from encdec_eqx import EncoderDecoder
from hf import VOCAB, as_torch, random_pair, saved, tiny_roberta
from tolerances import SEQUENCE_SCORES

NEW = 14


def _theirs(model, arrays: dict[str, np.ndarray], **options):
    with torch.no_grad():
        return model.generate(**as_torch(arrays), do_sample=False, num_beams=1, **options).numpy()


def _ends(model, arrays: dict[str, np.ndarray], **options) -> list[int]:
    """Two tokens that torch generates in the middle of different rows."""
    free = _theirs(model, arrays, max_new_tokens=NEW, eos_token_id=VOCAB - 1, **options)
    middle = free.shape[1] - NEW // 2
    return sorted({int(free[0, middle]), int(free[1, middle + 2])})


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("pair", PAIRS)
def test_greedy_ids_and_ends(models, pair, seed):
    theirs, ours = models(pair, seed)
    source = sentences(seed)
    ends = _ends(theirs, source)
    expected = _theirs(theirs, source, max_new_tokens=NEW, eos_token_id=ends)
    result = ours.generate(**source, max_new_tokens=NEW, eos_token_id=ends)
    np.testing.assert_array_equal(result.sequences, expected)
    ended = np.isin(expected[:, 1:], ends)
    assert ended.any()
    first = np.where(ended.any(axis=1), ended.argmax(axis=1) + 1, expected.shape[1] - 1)
    np.testing.assert_array_equal(result.lengths, first)
    np.testing.assert_array_equal(result.truncated, ~ended.any(axis=1))


@pytest.mark.parametrize("limits", [{"min_length": 11}, {"min_new_tokens": 9}, {"min_length": 15}])
@pytest.mark.parametrize("pair", ["bert-gpt2", "roberta-roberta"])
def test_least_lengths(models, pair, limits):
    theirs, ours = models(pair)
    source = sentences(0)
    ends = _ends(theirs, source)
    expected = _theirs(theirs, source, max_length=NEW + 1, eos_token_id=ends, **limits)
    result = ours.generate(**source, max_length=NEW + 1, eos_token_id=ends, **limits)
    np.testing.assert_array_equal(result.sequences, expected)
    assert result.lengths.min() >= limits.get("min_new_tokens", limits.get("min_length", 0) - 1)


@pytest.mark.parametrize("begins", ["with the start", "without it", "some with it"])
@pytest.mark.parametrize("pair", PAIRS)
def test_prompts(models, pair, begins):
    theirs, ours = models(pair, 1)
    prompt = np.random.default_rng(3).integers(FIRST_FREE, VOCAB - 1, (3, 5), dtype=np.int32)
    if begins != "without it":
        prompt[slice(None) if begins == "with the start" else slice(1, 2), 0] = START
    arrays = {**sentences(1), "decoder_input_ids": prompt}
    ends = _ends(theirs, arrays)
    for limit in ({"max_new_tokens": NEW}, {"max_length": 15}):
        expected = _theirs(theirs, arrays, eos_token_id=ends, **limit)
        result = ours.generate(**arrays, eos_token_id=ends, **limit)
        np.testing.assert_array_equal(result.sequences, expected)


@pytest.mark.parametrize("begins", ["with the start", "without it"])
@pytest.mark.parametrize("pair", PAIRS)
def test_left_padded_prompts_are_as_rows_alone(models, pair, begins):
    """Torch keeps positions at arange behind left padding; each row is therefore compared with that row alone."""
    theirs, ours = models(pair, 2)
    source = sentences(2)
    prompt = np.random.default_rng(4).integers(FIRST_FREE, VOCAB - 1, (3, 6), dtype=np.int32)
    first = np.array([0, 4, 2])
    mask = (np.arange(6)[None] >= first[:, None]).astype(np.int32)
    if begins == "with the start":
        prompt[np.arange(3), first] = START
    ends = [VOCAB - 1, 40]
    result = ours.generate(
        **source, decoder_input_ids=prompt, decoder_attention_mask=mask, max_new_tokens=NEW, eos_token_id=ends
    )
    for row in range(3):
        alone = {name: array[row : row + 1] for name, array in source.items()}
        alone["decoder_input_ids"] = prompt[row : row + 1, first[row] :]
        expected = _theirs(theirs, alone, max_new_tokens=NEW, eos_token_id=ends)[0]
        got = result.sequences[row, first[row] :]
        np.testing.assert_array_equal(got[: len(expected)], expected)
        assert (got[len(expected) :] == PAD).all()


@pytest.mark.parametrize("prompted", [False, True])
@pytest.mark.parametrize("pair", ["bert-gpt2", "roberta-roberta"])
def test_one_id_for_pad_end_and_start(models, pair, prompted):
    """The usual GPT-2 recipe. With RoBERTa (whose padding_idx is 1) the start token then sits at position 1."""
    one = 1
    theirs, ours = models(pair, 3, decoder_start_token_id=one, pad_token_id=one, eos_token_id=one)
    arrays = sentences(3)
    if prompted:
        arrays["decoder_input_ids"] = np.array([[1, 9, 1, 11], [1, 30, 31, 1], [1, 1, 12, 13]], np.int32)
    expected = _theirs(theirs, arrays, max_new_tokens=NEW)
    result = ours.generate(**arrays, max_new_tokens=NEW)
    np.testing.assert_array_equal(result.sequences, expected)


def test_a_generated_padding_id_has_a_position_of_its_own(tmp_path):
    """Where RoBERTa's padding id ends no row, torch puts it at `padding_idx`, and the next token as if it counted."""
    ids = {"decoder_start_token_id": START, "pad_token_id": PAD, "eos_token_id": VOCAB - 1}
    theirs = random_pair(tiny_roberta(), tiny_roberta(), seed=4, **ids)
    with torch.no_grad():
        theirs.decoder.lm_head.bias[1] += 1.5
    ours = EncoderDecoder.from_pretrained(saved(theirs, tmp_path))
    arrays = {**sentences(4), "decoder_input_ids": np.array([[5, 1, 9], [5, 20, 1], [5, 1, 1]], np.int32)}
    expected = _theirs(theirs, arrays, max_new_tokens=NEW)
    assert (expected[:, 3:] == 1).any()
    assert (expected[:, 3:] != 1).any()
    np.testing.assert_array_equal(ours.generate(**arrays, max_new_tokens=NEW).sequences, expected)


@pytest.mark.parametrize("pair", ["bert-gpt2", "roberta-roberta"])
def test_scores_are_the_log_probabilities_that_torch_reports(models, pair):
    theirs, ours = models(pair, 1)
    source = sentences(1)
    ends = _ends(theirs, source)
    options = {"max_new_tokens": NEW, "eos_token_id": ends, "min_new_tokens": 3}
    with torch.no_grad():
        out = theirs.generate(
            **as_torch(source), do_sample=False, output_logits=True, return_dict_in_generate=True, **options
        )
    logits = torch.stack(out.logits, dim=1)
    generated = out.sequences[:, 1:]
    log_probabilities = logits.log_softmax(-1).gather(2, generated[..., None])[..., 0].numpy()
    result = ours.generate(**source, **options)
    real = np.arange(generated.shape[1])[None] < result.lengths[:, None]
    np.testing.assert_allclose(result.scores, (log_probabilities * real).sum(1), rtol=0, atol=SEQUENCE_SCORES)


def test_special_tokens_and_lengths_come_from_the_files(models, tmp_path):
    theirs, _ = models("bert-gpt2", 0)
    source = sentences(0)
    ends = _ends(theirs, source)
    config = theirs.generation_config
    before = config.to_dict()
    config.update(eos_token_id=ends, max_new_tokens=9, min_length=4)
    try:
        ours = EncoderDecoder.from_pretrained(saved(theirs, tmp_path))
        expected = _theirs(theirs, source)
    finally:
        config.update(**{name: before[name] for name in ("eos_token_id", "max_new_tokens", "min_length")})
    np.testing.assert_array_equal(ours.generate(**source).sequences, expected)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3, "num_return_sequences": 2}], ids=["greedy", "beams"])
def test_a_start_token_for_each_row(models, options):
    theirs, ours = models("bert-gpt2", 3)
    for run in range(3):
        arrays = sentences(run)
        starts = np.random.default_rng(run).integers(FIRST_FREE, VOCAB - 1, len(arrays["input_ids"])).tolist()
        rules = {"max_new_tokens": 9, "decoder_start_token_id": starts, **options}
        with torch.no_grad():
            expected = theirs.generate(**as_torch(arrays), do_sample=False, **rules)
        np.testing.assert_array_equal(ours.generate(**arrays, **rules).sequences, expected.numpy())
