"""The loop and its padding, on a stand-in decoder: rows, ends, prompts, keys, programs."""

from typing import Any

import jax
import numpy as np
import pytest

from encdec_eqx import SpecialTokens
from encdec_eqx.generation import engine
from generation_stand_in import TOKENS, generate, stand_in, states
from models import PositionsConfig
from tolerances import SEQUENCE_SCORES

NEW = 10


def _by_hand(decoder, encoder_states, prompt, *, new=NEW, ends=(2,), pad=0):
    """Greedy search over whole sequences, one sentence at a time, in NumPy."""
    tokens, places, head = (np.asarray(a, np.float64) for a in (decoder.tokens, decoder.positions, decoder.head))
    rows, scores, lengths = [], [], []
    for sentence, begin in zip(encoder_states.astype(np.float64), prompt, strict=True):
        row, score = list(begin), 0.0
        for _ in range(new):
            logits = np.sin(tokens[row].sum(0) + sentence.mean(0) + places[len(row) - 1]) @ head
            row.append(int(logits.argmax()))
            score += logits[row[-1]] - np.log(np.exp(logits).sum())
            if row[-1] in ends:
                break
        rows.append(row)
        scores.append(score)
        lengths.append(len(row) - len(begin))
    width = max(map(len, rows))
    return np.array([row + [pad] * (width - len(row)) for row in rows]), np.array(scores), np.array(lengths)


def test_greedy_is_the_loop_written_out():
    for seed in range(4):
        decoder, source = stand_in(seed), states(5, seed=seed)
        free = _by_hand(decoder, source, [[1]] * 5, ends=())[0]
        ends = sorted({int(free[0, 3]), int(free[1, 6])})
        sequences, scores, lengths = _by_hand(decoder, source, [[1]] * 5, ends=ends)
        result = generate(decoder, source, max_new_tokens=NEW, eos_token_id=ends)
        np.testing.assert_array_equal(result.sequences, sequences)
        np.testing.assert_array_equal(result.lengths, lengths)
        np.testing.assert_array_equal(result.truncated, ~np.isin(sequences, ends).any(1))
        np.testing.assert_allclose(result.scores, scores, rtol=0, atol=SEQUENCE_SCORES)
        assert result.sequences.dtype == np.int32
        assert result.lengths.min() < NEW


def test_the_first_of_equals_wins():
    decoder = stand_in(sharpness=0.0)
    result = generate(decoder, states(1), max_new_tokens=3)
    np.testing.assert_array_equal(result.sequences, [[1, 0, 0, 0]])


@pytest.mark.parametrize("tokens_a_call", [1, 3, 64])
def test_the_pieces_of_the_loop_do_not_show(monkeypatch, tokens_a_call):
    decoder, source = stand_in(1), states(3, seed=1)
    expected = _by_hand(decoder, source, [[1]] * 3)[0]
    monkeypatch.setattr(engine, "TOKENS_A_CALL", tokens_a_call)
    np.testing.assert_array_equal(generate(decoder, source, max_new_tokens=NEW).sequences, expected)


def test_it_stops_when_every_row_has_ended(monkeypatch):
    """The cache has not seen more tokens than were needed."""
    decoder, source = stand_in(1), states(2, seed=1)
    free = generate(decoder, source, max_new_tokens=NEW, eos_token_id=()).sequences
    ends = sorted({int(free[0, 3]), int(free[1, 2])})
    seen = []
    advance = engine.advance_until
    monkeypatch.setattr(engine, "advance_until", lambda *a: seen.append(advance(*a)) or seen[-1])
    result = generate(decoder, source, max_new_tokens=NEW, eos_token_id=ends)
    assert result.lengths.max() < NEW
    assert int(seen[-1].cache.length) == result.lengths.max()


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_a_row_alone_is_the_row_in_a_batch(batch):
    decoder, source = stand_in(2), states(batch, 9, seed=2)
    mask = np.arange(9)[None] < np.arange(9, 9 - batch, -1)[:, None]
    together = generate(decoder, source, mask, max_new_tokens=NEW)
    for row in range(batch):
        alone = generate(decoder, source[row : row + 1, : 9 - row], max_new_tokens=NEW)
        width = alone.sequences.shape[1]
        np.testing.assert_array_equal(together.sequences[row, :width], alone.sequences[0])
        assert together.lengths[row] == alone.lengths[0]
        np.testing.assert_allclose(together.scores[row], alone.scores[0], rtol=0, atol=SEQUENCE_SCORES)


def test_left_padded_prompts_are_the_prompts_alone():
    decoder, source = stand_in(3), states(3, seed=3)
    prompts = [[5, 6, 7, 8], [9], [10, 11]]
    ids = np.array([[0] * (4 - len(p)) + p for p in prompts])
    mask = np.array([[0] * (4 - len(p)) + [1] * len(p) for p in prompts])
    result = generate(decoder, source, decoder_input_ids=ids, decoder_attention_mask=mask, max_new_tokens=NEW)
    for row, prompt in enumerate(prompts):
        expected = _by_hand(decoder, source[row : row + 1], [[1, *prompt]])[0][0]
        got = result.sequences[row, 4 - len(prompt) :]
        np.testing.assert_array_equal(got[: len(expected)], expected)
        np.testing.assert_array_equal(got[len(expected) :], TOKENS.pad_token_id)
        np.testing.assert_array_equal(result.sequences[row, : 4 - len(prompt)], ids[row, : 4 - len(prompt)])


def test_columns_that_are_padding_in_every_row_stay_and_are_counted():
    decoder, source = stand_in(3), states(2, seed=3)
    ids, mask = np.array([[0, 0, 1, 7], [0, 0, 0, 1]]), np.array([[0, 0, 1, 1], [0, 0, 0, 1]])
    whole = generate(decoder, source, decoder_input_ids=ids, decoder_attention_mask=mask, max_length=9, min_length=8)
    cut = generate(
        decoder, source, decoder_input_ids=ids[:, 2:], decoder_attention_mask=mask[:, 2:], max_length=7, min_length=6
    )
    np.testing.assert_array_equal(whole.sequences[:, :2], 0)
    np.testing.assert_array_equal(whole.sequences[:, 2:], cut.sequences)


def test_a_prompt_of_any_length_fits_up_to_the_last_position():
    """24 positions: the last generated token needs none, so 25 columns."""
    decoder, source = stand_in(4), states(1, seed=4)
    whole = generate(decoder, source, max_new_tokens=24, eos_token_id=()).sequences
    for width in (1, 2, 9, 17, 24):
        rest = generate(decoder, source, decoder_input_ids=whole[:, :width], max_length=25, eos_token_id=())
        np.testing.assert_array_equal(rest.sequences, whole)
    with pytest.raises(ValueError, match="numbers at most 24"):
        generate(decoder, source, max_new_tokens=25)


def test_min_length_counts_the_prompt_and_min_new_tokens_does_not():
    decoder, source = stand_in(5), states(4, seed=5)
    free = generate(decoder, source, max_new_tokens=NEW, eos_token_id=()).sequences
    ends = sorted(set(free[:, 1].tolist()))
    cases: list[tuple[dict[str, Any], int]] = [({"min_length": 6}, 5), ({"min_new_tokens": 6}, 6)]
    for options, least in cases:
        result = generate(decoder, source, max_new_tokens=NEW, eos_token_id=ends, **options)
        assert result.lengths.min() >= least
        assert not np.isin(result.sequences[:, 1 : least + 1 - 1], ends).any()
    assert generate(decoder, source, max_new_tokens=NEW, eos_token_id=ends).lengths.max() == 1


def test_never_ending_rows_need_no_padding_id():
    tokens = SpecialTokens(eos_token_id=(), decoder_start_token_id=1)
    result = generate(stand_in(), states(3), tokens=tokens, max_new_tokens=4)
    assert result.truncated.all()
    assert result.sequences.shape == (3, 5)


# --- sampling --------------------------------------------------------------------------------------------------------


def _sampled(decoder, source, mask=None, **options):
    return generate(decoder, source, mask, do_sample=True, max_new_tokens=NEW, **options)


def test_a_row_s_samples_depend_on_key_sentence_sample_and_token_alone(key):
    decoder, source = stand_in(6, sharpness=1.0), states(5, seed=6)
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, np.arange(5))
    together = _sampled(decoder, source, key=key, num_return_sequences=3, eos_token_id=())
    assert together.sequences.shape == (15, NEW + 1)
    assert len({tuple(row) for row in together.sequences.tolist()}) == 15
    by_keys = _sampled(decoder, source, key=keys, num_return_sequences=3, eos_token_id=())
    np.testing.assert_array_equal(by_keys.sequences, together.sequences)
    fewer = _sampled(decoder, source, key=key, eos_token_id=())
    np.testing.assert_array_equal(fewer.sequences, together.sequences[::3])
    for row in (0, 3):
        alone = _sampled(
            decoder, source[row : row + 1], key=keys[row : row + 1], num_return_sequences=3, eos_token_id=()
        )
        np.testing.assert_array_equal(alone.sequences, together.sequences[3 * row : 3 * row + 3])


def test_the_keys_are_those_of_the_documentation(key):
    decoder, source = stand_in(7, sharpness=1.0), states(2, seed=7)
    result = _sampled(decoder, source, key=key, num_return_sequences=2, eos_token_id=())
    cache = decoder.init_cache(source, np.ones((2, 5)), rows=4, slots=NEW)
    column = np.full((4, 1), 1)
    for token in range(NEW):
        hidden, cache = decoder.advance(column, cache, positions=np.full((4, 1), token))
        logits = decoder.logits(hidden)[:, 0]
        drawn = []
        for row in range(4):
            folded = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(key, row // 2), row % 2), token)
            drawn.append(int(jax.random.categorical(folded, logits[row])))
        np.testing.assert_array_equal(result.sequences[:, token + 1], drawn)
        column = np.array(drawn)[:, None]


def test_samples_of_a_sentence_share_its_prompt(key):
    decoder, source = stand_in(7, sharpness=1.0), states(2, seed=7)
    ids, mask = np.array([[0, 1, 5], [1, 6, 7]]), np.array([[0, 1, 1], [1, 1, 1]])
    prompts = {"decoder_input_ids": ids, "decoder_attention_mask": mask}
    several = _sampled(decoder, source, key=key, num_return_sequences=3, eos_token_id=(), **prompts)
    np.testing.assert_array_equal(several.sequences[:, :3], np.repeat(ids, 3, axis=0))
    one = _sampled(decoder, source, key=key, eos_token_id=(), **prompts)
    np.testing.assert_array_equal(several.sequences[::3], one.sequences)
    assert len({tuple(row) for row in several.sequences.tolist()}) == 6


def test_old_style_keys_are_keys(key):
    decoder, source = stand_in(7), states(2, seed=7)
    new = _sampled(decoder, source, key=key)
    old = _sampled(decoder, source, key=np.asarray(jax.random.key_data(key)))
    np.testing.assert_array_equal(old.sequences, new.sequences)


@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 0.6}, {"top_k": 5}, {"top_p": 0.7}, {"temperature": 1.5, "top_k": 8, "top_p": 0.8}],
    ids=str,
)
def test_frequencies_follow_the_processed_softmax(options, key):
    """Chi-square of 4096 first tokens; the statistic exceeds the bound once in a million by chance."""
    decoder, source = stand_in(8, sharpness=1.0, vocab=13), states(1, seed=8)
    draws = 4096
    result = generate(decoder, source, do_sample=True, max_new_tokens=1, num_return_sequences=draws, key=key, **options)
    counts = np.bincount(result.sequences[:, 1], minlength=13)
    cache = decoder.init_cache(source, np.ones((1, 5)), rows=1, slots=1)
    logits = np.asarray(decoder.logits(decoder.advance(np.array([[1]]), cache, positions=np.zeros((1, 1), int))[0]))
    expected = draws * _distribution(logits[0, 0].astype(np.float64), **options)
    assert not counts[expected == 0].any()
    used = expected > 0
    statistic = ((counts[used] - expected[used]) ** 2 / expected[used]).sum()
    freedom = used.sum() - 1
    assert statistic < freedom + 5 * np.sqrt(2 * freedom) + 12


def _distribution(logits, temperature=1.0, top_k=0, top_p=1.0):
    logits = logits / temperature
    order = np.argsort(-logits)
    if top_k:
        logits[order[top_k:]] = -np.inf
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    before = np.cumsum(shares[order]) - shares[order]
    shares[order[before >= top_p]] = 0
    return shares / shares.sum()


# --- programs --------------------------------------------------------------------------------------------------------


def test_a_bucket_compiles_once(key):
    """Batch 7 to 8, source 17 to 20, 17 to 20 slots: other sizes and all numbers are the same two programs."""
    decoder, source = stand_in(9), states(8, 20, seed=9)
    first = generate(decoder, source[:7, :17], max_new_tokens=17)
    assert first.compilations == 2
    calls = [
        ((8, 20), {"max_new_tokens": 20}),
        ((7, 19), {"max_length": 19, "eos_token_id": [4, 5]}),
        ((8, 18), {"max_new_tokens": 18, "pad_token_id": 9}),
        ((7, 17), {"max_new_tokens": 17, "decoder_start_token_id": 11}),
    ]
    for (batch, length), options in calls:
        assert generate(decoder, source[:batch, :length], **options).compilations == 0
    other_weights = generate(stand_in(10), source[:7, :17], max_new_tokens=17)
    assert other_weights.compilations == 0


def test_sampling_compiles_once_for_all_numbers(key):
    decoder, source = stand_in(9), states(2, seed=9)
    options = {"temperature": 0.5, "top_p": 0.9, "min_length": 3}
    assert _sampled(decoder, source, key=key, **options).compilations > 0
    for other in ({"temperature": 0.7, "top_p": 0.2, "min_length": 5}, {**options, "eos_token_id": [3, 4]}):
        assert _sampled(decoder, source, key=jax.random.key(5), **other).compilations == 0
    assert _sampled(decoder, source, key=key, **options, top_k=4).compilations == 1


def test_prompts_of_a_bucket_compile_once():
    decoder, source = stand_in(9), states(1, seed=9)
    ids = np.arange(3, 20)[None]
    generate(decoder, source, decoder_input_ids=ids[:, :3], max_new_tokens=5)
    for width in (2, 5, 8):
        assert generate(decoder, source, decoder_input_ids=ids[:, :width], max_new_tokens=6).compilations == 0


def test_padding_ids_that_are_not_counted_have_positions_of_their_own():
    """A prompt's ids equal to `padding_idx` are not counted; a generated one is, and sits at `padding_idx`."""
    decoder, source = stand_in(11), states(3, seed=11)
    changes = {"positions": PositionsConfig(max_positions=24, counting="non_padding", padding_idx=4)}
    prompt = np.array([[1, 4, 7], [1, 8, 4], [1, 4, 4]])
    result = generate(
        decoder, source, decoder_input_ids=prompt, max_new_tokens=NEW, eos_token_id=(), config_changes=changes
    )
    tokens, places, head = (np.asarray(a, np.float64) for a in (decoder.tokens, decoder.positions, decoder.head))
    for row, position in enumerate((6, 4, 4)):
        sequence = list(prompt[row])
        for _ in range(NEW):
            logits = np.sin(tokens[sequence].sum(0) + source[row].mean(0) + places[position]) @ head
            sequence.append(int(logits.argmax()))
            position = 4 if sequence[-1] == 4 else len(sequence) - 1 + 5
        np.testing.assert_array_equal(result.sequences[row], sequence)
