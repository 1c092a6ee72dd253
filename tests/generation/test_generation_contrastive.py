"""Contrastive search: against the paper's formula written out in NumPy, and against whole passes of a real model."""

import equinox as eqx
import numpy as np
import pytest

from generation_stand_in import TOKENS, generate, stand_in, states
from models import random_ids, right_mask, tiny_pair
from tolerances import SEQUENCE_SCORES, TOKEN_LOG_PROBS

NEW = 9
CLEAR = 1e-4
"""How far the best two candidates have to be apart, for rounding not to matter."""


def _by_hand(after, prompt, *, top_k, alpha, new=NEW, ends=(2,), forbidden=()):
    """One sentence's tokens and their log-probabilities, before and after some tokens have been forbidden.

    Args:
        after: from a sequence to the hidden state and the logits of its last token, in double precision.
        prompt: ids.
        top_k: candidates.
        alpha: weight of the similarity.
        new: most tokens.
        ends: ids that end it.
        forbidden: ids that may not come.
    """
    row, plain, processed = list(prompt), [], []
    states_and_logits = [after(row[: at + 1]) for at in range(len(row))]
    context, logits = [state / np.linalg.norm(state) for state, _ in states_and_logits], states_and_logits[-1][1]
    for _ in range(new):
        allowed = logits.copy()
        allowed[list(forbidden)] = -np.inf
        shares, kept = (table - np.log(np.exp(table).sum()) for table in (logits, allowed))
        candidates = [token for token in np.argsort(-allowed, kind="stable")[:top_k] if np.isfinite(allowed[token])]
        read = [after([*row, token]) for token in candidates]
        likeness = [max(state @ other for other in context) / np.linalg.norm(state) for state, _ in read]
        ratings = (1 - alpha) * np.exp(kept[candidates]) - alpha * np.array(likeness)
        assert len(ratings) == 1 or np.diff(np.sort(ratings)[-2:])[0] > CLEAR, "choose another seed"
        best = int(ratings.argmax())
        row.append(int(candidates[best]))
        plain.append(shares[row[-1]])
        processed.append(kept[row[-1]])
        state, logits = read[best]
        context.append(state / np.linalg.norm(state))
        if row[-1] in ends:
            break
    return row, np.array(plain), np.array(processed)


def _stand_in_reader(decoder, sentence):
    tokens, places, head = (np.asarray(a, np.float64) for a in (decoder.tokens, decoder.positions, decoder.head))
    mean = sentence.astype(np.float64).mean(0)

    def after(row):
        state = np.sin(tokens[row].sum(0) + mean + places[len(row) - 1])
        return state, state @ head

    return after


def _case(seed, batch=3):
    decoder, source = stand_in(seed, sharpness=1.5), states(batch, seed=seed)
    return decoder, source, [_stand_in_reader(decoder, sentence) for sentence in source]


def _check(result, at, width, expected):
    """Row `at`, whose prompt is `width` columns wide, against what the loop by hand has found."""
    row, plain, processed = expected
    length = len(plain)
    np.testing.assert_array_equal(result.sequences[at, width : width + length], row[-length:])
    np.testing.assert_array_equal(result.sequences[at, width + length :], TOKENS.pad_token_id)
    assert result.lengths[at] == length
    for got, wanted in ((result.log_probs, plain), (result.processed_log_probs, processed)):
        np.testing.assert_allclose(got[at, :length], wanted, rtol=0, atol=TOKEN_LOG_PROBS)
        assert not got[at, length:].any()
    np.testing.assert_allclose(result.scores[at], plain.sum(), rtol=0, atol=SEQUENCE_SCORES)


@pytest.mark.parametrize("top_k", [2, 5])
def test_it_is_the_formula(top_k):
    differs = 0
    for seed, alpha in enumerate((0.1, 0.4, 0.6, 0.9, 1.0)):
        decoder, source, readers = _case(seed)
        free = [_by_hand(reader, [1], top_k=top_k, alpha=alpha, ends=())[0] for reader in readers]
        ends = sorted({free[0][3], free[1][6]})
        result = generate(decoder, source, max_new_tokens=NEW, top_k=top_k, penalty_alpha=alpha, eos_token_id=ends)
        for at, reader in enumerate(readers):
            _check(result, at, 1, _by_hand(reader, [1], top_k=top_k, alpha=alpha, ends=ends))
        np.testing.assert_array_equal(result.truncated, ~np.isin(result.sequences[:, 1:], ends).any(axis=1))
        assert result.beam_indices is None
        greedy = generate(decoder, source, max_new_tokens=NEW, eos_token_id=ends)
        differs += not np.array_equal(greedy.sequences, result.sequences)
    assert differs >= 4


def test_the_least_weight_is_greedy_search():
    decoder, source, _ = _case(5)
    greedy = generate(decoder, source, max_new_tokens=NEW)
    least = generate(decoder, source, max_new_tokens=NEW, top_k=4, penalty_alpha=1e-6)
    np.testing.assert_array_equal(least.sequences, greedy.sequences)
    np.testing.assert_allclose(least.scores, greedy.scores, rtol=0, atol=SEQUENCE_SCORES)


def test_left_padded_prompts_are_compared_with_as_they_would_be_alone():
    decoder, source, readers = _case(6)
    prompts = [[5, 6, 7, 8], [9], [10, 11]]
    ids = np.array([[0] * (4 - len(p)) + p for p in prompts])
    mask = np.array([[0] * (4 - len(p)) + [1] * len(p) for p in prompts])
    search = {"top_k": 4, "penalty_alpha": 0.6}
    result = generate(decoder, source, decoder_input_ids=ids, decoder_attention_mask=mask, max_new_tokens=NEW, **search)
    for at, prompt in enumerate(prompts):
        _check(result, at, result.sequences.shape[1] - NEW, _by_hand(readers[at], [1, *prompt], top_k=4, alpha=0.6))


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_row_alone_is_the_row_in_a_batch(batch):
    decoder, source = stand_in(7, sharpness=1.5), states(batch, 9, seed=7)
    mask = np.arange(9)[None] < np.arange(9, 9 - batch, -1)[:, None]
    search = {"top_k": 3, "penalty_alpha": 0.7, "max_new_tokens": NEW}
    together = generate(decoder, source, mask, **search)
    for row in range(batch):
        alone = generate(decoder, source[row : row + 1, : 9 - row], **search)
        width = alone.sequences.shape[1]
        np.testing.assert_array_equal(together.sequences[row, :width], alone.sequences[0])
        assert together.lengths[row] == alone.lengths[0]
        np.testing.assert_allclose(together.scores[row], alone.scores[0], rtol=0, atol=SEQUENCE_SCORES)


def test_room_for_more_tokens_does_not_show():
    decoder, source, _ = _case(8)
    search = {"top_k": 3, "penalty_alpha": 0.7, "eos_token_id": ()}
    longest = generate(decoder, source, max_new_tokens=22, **search).sequences
    for new in (1, 5, 17):
        np.testing.assert_array_equal(
            generate(decoder, source, max_new_tokens=new, **search).sequences, longest[:, : new + 1]
        )
    for width in (2, 9):
        rest = generate(decoder, source, decoder_input_ids=longest[:, :width], max_length=23, **search)
        np.testing.assert_array_equal(rest.sequences, longest)


def test_the_last_token_is_read_too():
    """24 positions: greedy search may generate 24 tokens, of which it does not read the last; this may not."""
    decoder, source, _ = _case(8)
    search = {"top_k": 3, "penalty_alpha": 0.7, "eos_token_id": ()}
    assert generate(decoder, source, max_new_tokens=23, **search).sequences.shape[1] == 24
    with pytest.raises(ValueError, match=r"24 new tokens, all of which the decoder reads,.*at most 24"):
        generate(decoder, source, max_new_tokens=24, **search)


def test_forbidden_tokens_only_fill_up():
    """Fewer tokens are allowed than compared, and nothing but likeness counts."""
    decoder, source, readers = _case(12)
    forbidden = [token for token in range(53) if token not in (20, 30)]
    search = {"top_k": 6, "penalty_alpha": 1.0, "max_new_tokens": NEW, "suppress_tokens": forbidden}
    result = generate(decoder, source, **search)
    for at, reader in enumerate(readers):
        _check(result, at, 1, _by_hand(reader, [1], top_k=6, alpha=1.0, forbidden=forbidden))
    finite = generate(decoder, source, **search, remove_invalid_values=True)
    np.testing.assert_array_equal(finite.sequences, result.sequences)


def test_forced_and_withheld_ends():
    decoder, source, _ = _case(10)
    search = {"top_k": 4, "penalty_alpha": 1.0, "max_new_tokens": NEW}
    forced = generate(decoder, source, forced_eos_token_id=2, min_new_tokens=NEW, **search)
    np.testing.assert_array_equal(forced.lengths, NEW)
    np.testing.assert_array_equal(forced.sequences[:, -1], 2)
    assert not np.isin(forced.sequences[:, :-1], 2).any()


def test_a_second_call_compiles_nothing():
    decoder, source = stand_in(11), states(8, 20, seed=11)
    first = {"max_new_tokens": 9, "top_k": 3, "penalty_alpha": 0.6, "repetition_penalty": 1.2}
    assert generate(decoder, source[:7, :17], **first).compilations > 0
    for (batch, length), options in (
        ((8, 20), {"penalty_alpha": 0.9, "repetition_penalty": 1.5}),
        ((7, 19), {"max_new_tokens": 12, "eos_token_id": [4, 5]}),
        ((7, 17), {"pad_token_id": 9, "decoder_start_token_id": 11}),
    ):
        assert generate(decoder, source[:batch, :length], **{**first, **options}).compilations == 0
    assert generate(decoder, source[:7, :17], **{**first, "top_k": 4}).compilations > 0


def test_more_candidates_than_tokens_are_refused():
    decoder, source, _ = _case(0)
    with pytest.raises(ValueError, match=r"top_k=54 \(argument\).*\(53\)"):
        generate(decoder, source, max_new_tokens=3, top_k=54, penalty_alpha=0.6)
    assert generate(decoder, source, max_new_tokens=3, top_k=53, penalty_alpha=0.6).sequences.shape == (3, 4)


# --- a real model ----------------------------------------------------------------------------------------------------

SOURCE = {"input_ids": random_ids(0, 3, 7), "attention_mask": right_mask([7, 4, 6], 7)}
SEARCH = {"max_new_tokens": 6, "top_k": 4, "penalty_alpha": 0.9, "eos_token_id": ()}


def _whole_pass_reader(model, row):
    """From a sequence to its last hidden state and logits, without a cache; causal, so what follows is not seen."""
    source = {name: array[row : row + 1] for name, array in SOURCE.items()}

    @eqx.filter_jit
    def run(model, ids):
        return model(source["input_ids"], ids, attention_mask=source["attention_mask"], output_hidden_states=True)

    def after(sequence):
        ids = np.zeros((1, 12), np.int32)
        ids[0, : len(sequence)] = sequence
        out = run(model, ids)
        at = len(sequence) - 1
        return tuple(np.asarray(table[0, at], np.float64) for table in (out.decoder_hidden_states[-1], out.logits))

    return after


@pytest.mark.parametrize("prompted", [False, True])
def test_candidates_of_a_real_decoder_see_the_chosen_path_alone(prompted):
    model = tiny_pair(seed=3).with_special_tokens(decoder_start_token_id=1, eos_token_id=2, pad_token_id=0)
    prompts = np.concatenate([np.ones((3, 1), np.int32), random_ids(4, 3, 3)], axis=1) if prompted else None
    results = [
        one.generate(**SOURCE, decoder_input_ids=prompts, **SEARCH) for one in (model, model.with_layout("scanned"))
    ]
    for row in range(3):
        prompt = [1] if prompts is None else prompts[row].tolist()
        expected = _by_hand(_whole_pass_reader(model, row), prompt, top_k=4, alpha=0.9, new=6, ends=())
        for result in results:
            _check(result, row, len(prompt), expected)


def test_streamed_it_is_the_same():
    model = tiny_pair(seed=3).with_special_tokens(decoder_start_token_id=1, eos_token_id=2, pad_token_id=0)
    whole = model.generate(**SOURCE, **SEARCH)
    chunks = list(model.stream(**SOURCE, **SEARCH))
    assert len(chunks) > 1
    np.testing.assert_array_equal(np.concatenate([chunk.tokens for chunk in chunks], axis=1), whole.sequences[:, 1:])
