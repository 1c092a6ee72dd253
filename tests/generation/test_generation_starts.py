"""A start token for each row: the rows of a batch are what they are alone, in every search."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from encdec_eqx import GenerationConfig, SpecialTokens
from encdec_eqx._quoting import quoted
from generation_stand_in import TOKENS, generate, stand_in, states
from models import tiny_pair
from tolerances import SEQUENCE_SCORES

STARTS = [5, 1, 9]
SEARCHES = {
    "greedy": {"repetition_penalty": 1.3},
    "sample": {"do_sample": True, "num_return_sequences": 2},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "groups": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.7},
    "drawn beams": {"num_beams": 3, "do_sample": True},
    "contrastive": {"penalty_alpha": 0.5, "top_k": 3},
    "words": {"num_beams": 4, "force_words_ids": [[11], [[12], [13, 14]]]},
}


@pytest.mark.parametrize("search", SEARCHES)
def test_a_row_of_a_batch_is_the_row_alone(search):
    decoder, source = stand_in(2), states(3, seed=2)
    keys = jax.random.split(jax.random.key(3), 3)
    options = {"max_new_tokens": 6, "eos_token_id": [2, 30], **SEARCHES[search]}
    drawn = options.get("do_sample")
    together = generate(decoder, source, decoder_start_token_id=STARTS, key=keys if drawn else None, **options)
    each = len(together.sequences) // 3
    assert together.sequences[::each, 0].tolist() == STARTS
    for row, start in enumerate(STARTS):
        key = keys[row : row + 1] if drawn else None
        alone = generate(decoder, source[row : row + 1], decoder_start_token_id=start, key=key, **options)
        rows, width = slice(row * each, (row + 1) * each), alone.sequences.shape[1]
        np.testing.assert_array_equal(together.sequences[rows, :width], alone.sequences)
        np.testing.assert_allclose(together.scores[rows], alone.scores, atol=SEQUENCE_SCORES)


@pytest.mark.parametrize("form", [list, tuple, np.asarray, jnp.asarray, lambda ids: np.asarray(ids, np.uint8)])
def test_all_forms_are_one_program_with_a_single_start(form):
    decoder, source = stand_in(4), states(3, seed=4)
    expected = generate(decoder, source, max_new_tokens=6, decoder_start_token_id=1)
    result = generate(decoder, source, max_new_tokens=6, decoder_start_token_id=form([1, 1, 1]))
    np.testing.assert_array_equal(result.sequences, expected.sequences)
    assert generate(decoder, source, max_new_tokens=6, decoder_start_token_id=form(STARTS)).compilations == 0


def test_no_start_token_of_the_model_is_needed():
    tokens = SpecialTokens(eos_token_id=(2,), pad_token_id=0)
    result = generate(stand_in(), states(3), tokens=tokens, max_new_tokens=4, decoder_start_token_id=STARTS)
    assert result.sequences[:, 0].tolist() == STARTS


def test_prompts_begin_with_their_own_start():
    decoder, source = stand_in(5), states(3, seed=5)
    content, mask = np.array([[0, 7, 8], [6, 7, 8], [0, 0, 8]]), np.array([[0, 1, 1], [1, 1, 1], [0, 0, 1]])
    result = generate(
        decoder,
        source,
        max_new_tokens=4,
        decoder_input_ids=content,
        decoder_attention_mask=mask,
        decoder_start_token_id=STARTS,
    )
    prompts = np.array([[0, 5, 7, 8], [1, 6, 7, 8], [0, 0, 9, 8]])
    for row, width in enumerate(mask.sum(1) + 1):
        assert result.sequences[row, 4 - width : 4].tolist() == prompts[row, 4 - width :].tolist()
    same = generate(
        decoder,
        source,
        max_new_tokens=4,
        decoder_input_ids=prompts,
        decoder_attention_mask=np.array([[0, 1, 1, 1], [1, 1, 1, 1], [0, 0, 1, 1]]),
        decoder_start_token_id=STARTS,
    )
    for row, width in enumerate(mask.sum(1) + 1):
        assert result.sequences[row, 4 - width :].tolist() == same.sequences[row, 4 - width :].tolist()


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        ([5, 1], ValueError, "one for each of the 3 rows of the batch, got 2"),
        ([], ValueError, "got 0"),
        ([5, 1, 53], ValueError, r"decoder_start_token_id\[2\] is 53; expected 0 to 52"),
        ([5, 1, 10**5000], ValueError, "is a whole number of"),
        ([5, -1, 3], ValueError, "at least 0, got -1"),
        ([5, 1.0, 3], TypeError, "must be an integer"),
        (np.array([5.0, 1.0, 3.0]), TypeError, "must be an integer"),
        (np.array([[5], [1], [3]]), TypeError, "one a row in one axis"),
        ("5", TypeError, "must be an integer token id"),
    ],
    ids=lambda value: quoted(value, 20),
)
def test_starts_that_are_none(value, error, words):
    with pytest.raises(error, match=words):
        generate(stand_in(), states(3), max_new_tokens=4, decoder_start_token_id=value)


def test_where_only_one_can_be_said_the_message_names_the_call():
    for make in (
        lambda: GenerationConfig(decoder_start_token_id=[5, 1]),  # pyright: ignore[reportArgumentType]
        lambda: TOKENS.override("argument", decoder_start_token_id=np.array([5, 1])),
    ):
        with pytest.raises(TypeError, match=r"model.generate\(..., decoder_start_token_id=\[...\]\)"):
            make()


@pytest.mark.parametrize("value", [[5, 6], (5,), np.array([5, 6]), jnp.asarray([5, 6])], ids=str)
def test_several_forced_first_tokens_are_pointed_to_what_a_row_can_have(value):
    with pytest.raises(TypeError, match=r"decoder_start_token_id=\[...\].*decoder_input_ids=\[\[start, token\]"):
        generate(stand_in(), states(2), max_new_tokens=4, forced_bos_token_id=value)
    # what is recommended
    decoder, source = stand_in(6), states(2)
    by_prompt = generate(decoder, source, max_new_tokens=4, decoder_input_ids=np.array([[1, 5], [1, 6]]))
    for row, forced in enumerate([5, 6]):
        alone = generate(decoder, source[row : row + 1], max_new_tokens=5, forced_bos_token_id=forced)
        width = alone.sequences.shape[1]
        np.testing.assert_array_equal(by_prompt.sequences[row, :width], alone.sequences[0])


def test_a_pair_takes_them_in_every_call():
    model = tiny_pair().with_special_tokens(pad_token_id=0, eos_token_id=2, decoder_start_token_id=1)
    ids = np.array([[4, 5, 6], [7, 8, 9]])
    starts = np.array([3, 4])
    model.warmup(batch_sizes=[2], source_lengths=[3], max_new_tokens=5, decoder_start_token_id=starts)
    result = model.generate(ids, max_new_tokens=5, decoder_start_token_id=starts)
    assert result.compilations == 0
    *_, last = model.stream(ids, max_new_tokens=5, decoder_start_token_id=starts.tolist())
    assert last.result is not None
    np.testing.assert_array_equal(last.result.sequences, result.sequences)
    again = model.rescore(result.sequences, ids)
    np.testing.assert_allclose(again.scores, result.scores, atol=SEQUENCE_SCORES)
    copied = model.generate(ids, max_new_tokens=5, decoder_start_token_id=starts, prompt_lookup_num_tokens=2)
    np.testing.assert_array_equal(copied.sequences, result.sequences)
