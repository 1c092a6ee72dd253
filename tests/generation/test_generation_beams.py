"""Beam search on a stand-in decoder: against an independent search in NumPy, exhaustively, and its bookkeeping."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from encdec_eqx.generation.search.beam_hypotheses import sample_candidates, top_candidates
from generation_stand_in import generate, stand_in, states
from tolerances import SEQUENCE_SCORES

SMALL = 7
NEW = 6


class _Model:
    """The stand-in's next log-probabilities after a whole sequence, in double precision."""

    def __init__(self, decoder, sentence):
        self.tokens, self.places, self.head = (
            np.asarray(a, np.float64) for a in (decoder.tokens, decoder.positions, decoder.head)
        )
        self.mean = sentence.astype(np.float64).mean(0)

    def __call__(self, row):
        logits = np.sin(self.tokens[list(row)].sum(0) + self.mean + self.places[len(row) - 1]) @ self.head
        return logits - np.log(np.exp(logits).sum())


def _search(model, prompt, *, beams, new, ends, penalty, early):
    """Beam search as transformers 4.57.6 defines it, over Python lists, a sentence at a time."""
    running, pool = [(0.0, tuple(prompt), ())], []
    for length in range(1, new + 1):
        found = []
        for at, (score, row, parents) in enumerate(running):
            shares = model(row)
            found += [(score + share, (*row, token), (*parents, at)) for token, share in enumerate(shares)]
        found.sort(key=lambda one: -one[0])
        stops = [row[-1] in ends or length == new for _, row, _ in found]
        done = [one for one, stop in zip(found[:beams], stops, strict=False) if stop]
        pool += [(score / length**penalty, row, parents) for score, row, parents in done]
        pool = sorted(pool, key=lambda one: -one[0])[:beams]
        running = [one for one, stop in zip(found, stops, strict=True) if not stop][:beams]
        if length == new or (len(pool) == beams and early is True):
            break
        hoped = new if early == "never" and penalty > 0 else length
        if len(pool) == beams and running[0][0] / hoped**penalty <= pool[-1][0]:
            break
    return pool


def _case(seed, *, vocab=SMALL, batch=3):
    decoder, source = stand_in(seed, vocab=vocab, sharpness=1.5), states(batch, seed=seed)
    return decoder, source, [_Model(decoder, sentence) for sentence in source]


@pytest.mark.parametrize("early", [True, False, "never"])
@pytest.mark.parametrize("penalty", [1.0, 0.0, -1.0, 2.0])
def test_it_is_the_search_written_out(penalty, early):
    for seed, beams, ends in [(0, 2, [2]), (1, 3, [2, 5]), (2, 4, [6])]:
        decoder, source, models = _case(seed)
        options = {"beams": beams, "new": NEW, "ends": ends, "penalty": penalty, "early": early}
        result = generate(
            decoder,
            source,
            max_new_tokens=NEW,
            eos_token_id=ends,
            num_beams=beams,
            num_return_sequences=beams,
            length_penalty=penalty,
            early_stopping=early,
        )
        for at, model in enumerate(models):
            for row, (score, tokens, parents) in enumerate(_search(model, [1], **options), start=at * beams):
                length = len(tokens) - 1
                assert result.sequences[row, 1 : length + 1].tolist() == list(tokens[1:])
                assert (result.sequences[row, length + 1 :] == 0).all()
                assert result.lengths[row] == length
                assert result.truncated[row] == (tokens[-1] not in ends)
                np.testing.assert_allclose(result.scores[row], score, rtol=SEQUENCE_SCORES, atol=SEQUENCE_SCORES)
                ancestry = [at * beams + parent for parent in parents]
                assert result.beam_indices[row, :length].tolist() == ancestry
                assert (result.beam_indices[row, length:] == -1).all()


def test_with_all_sequences_as_beams_it_is_exhaustive():
    """As many beams as there are prefixes: the best of all sequences is found."""
    vocab, new = 4, 3
    decoder, source, models = _case(3, vocab=vocab)
    result = generate(
        decoder,
        source,
        max_new_tokens=new,
        eos_token_id=2,
        num_beams=vocab**2,
        num_return_sequences=3,
        length_penalty=0.0,
        early_stopping="never",
    )
    for at, model in enumerate(models):
        scores = {}
        for tokens in itertools.product(range(vocab), repeat=new):
            length = tokens.index(2) + 1 if 2 in tokens else new
            row = (1, *tokens[:length])
            scores[row] = sum(model(row[:end])[row[end]] for end in range(1, len(row)))
        best = sorted(scores, key=lambda row: -scores[row])[:3]
        for row, tokens in enumerate(best, start=3 * at):
            assert result.sequences[row, : len(tokens)].tolist() == list(tokens)
            np.testing.assert_allclose(result.scores[row], scores[tokens], atol=SEQUENCE_SCORES)


@pytest.mark.parametrize("processed", [False, True])
def test_the_record_adds_up(processed):
    decoder, source, models = _case(4, vocab=20)
    options = {"repetition_penalty": 1.5, "min_new_tokens": 2} if processed else {}
    result = generate(
        decoder, source, max_new_tokens=NEW, num_beams=3, num_return_sequences=3, length_penalty=0.7, **options
    )
    real = np.arange(result.log_probs.shape[1])[None] < result.lengths[:, None]
    assert (result.log_probs[~real] == 0).all()
    sums = result.processed_log_probs.sum(1)
    np.testing.assert_allclose(result.scores, sums / result.lengths**0.7, rtol=0, atol=SEQUENCE_SCORES)
    np.testing.assert_array_equal(result.scores, result.normalized_scores)
    for row, length in enumerate(result.lengths):
        tokens = result.sequences[row, : 1 + length].tolist()
        shares = [models[row // 3](tokens[:end])[tokens[end]] for end in range(1, length + 1)]
        np.testing.assert_allclose(result.log_probs[row, :length], shares, atol=SEQUENCE_SCORES)
    assert (result.log_probs == result.processed_log_probs).all() == (not processed)


def test_processors_see_log_probabilities_and_each_beam_s_own_prefix():
    decoder, source, models = _case(5, vocab=12)
    result = generate(decoder, source, max_new_tokens=NEW, num_beams=3, repetition_penalty=2.0, eos_token_id=())

    class Penalised(_Model):
        def __call__(self, row):
            shares = super().__call__(row)
            shares[list(set(row))] *= 2.0
            return shares

    for at, sentence in enumerate(source):
        model = Penalised(decoder, sentence)
        score, tokens, _ = _search(model, [1], beams=3, new=NEW, ends=[], penalty=1.0, early=False)[0]
        assert result.sequences[at].tolist() == list(tokens)
        np.testing.assert_allclose(result.scores[at], score, atol=SEQUENCE_SCORES)
    del models


@pytest.mark.parametrize("options", [{}, {"num_beam_groups": 2, "diversity_penalty": 0.7}], ids=["plain", "groups"])
@pytest.mark.parametrize("batch", [2, 5])
def test_a_sentence_alone_is_the_sentence_in_a_batch(batch, options):
    decoder, source = stand_in(6), states(batch, 9, seed=6)
    mask = np.arange(9)[None] < np.arange(9, 9 - batch, -1)[:, None]
    options = {**options, "max_new_tokens": NEW, "num_beams": 4, "num_return_sequences": 2, "eos_token_id": [2, 7, 30]}
    together = generate(decoder, source, mask, **options)
    for at in range(batch):
        alone = generate(decoder, source[at : at + 1, : 9 - at], **options)
        width = alone.sequences.shape[1]
        np.testing.assert_array_equal(together.sequences[2 * at : 2 * at + 2, :width], alone.sequences)
        np.testing.assert_allclose(together.scores[2 * at : 2 * at + 2], alone.scores, atol=SEQUENCE_SCORES)


def test_prompts_of_different_lengths_are_as_alone():
    decoder, source = stand_in(7), states(3, seed=7)
    prompt = np.array([[1, 4, 5, 6], [0, 0, 1, 8], [0, 1, 9, 9]])
    mask = np.array([[1, 1, 1, 1], [0, 0, 1, 1], [0, 1, 1, 1]])
    options: dict[str, Any] = {"max_new_tokens": NEW, "num_beams": 3}
    together = generate(decoder, source, decoder_input_ids=prompt, decoder_attention_mask=mask, **options)
    for at, first in enumerate([0, 2, 1]):
        alone = generate(decoder, source[at : at + 1], decoder_input_ids=prompt[at : at + 1, first:], **options)
        length = int(alone.lengths[0])
        np.testing.assert_array_equal(together.sequences[at, 4 : 4 + length], alone.sequences[0, 4 - first :])
        np.testing.assert_allclose(together.scores[at], alone.scores[0], atol=SEQUENCE_SCORES)


def test_numbers_may_change_without_a_new_program():
    decoder = stand_in(8, vocab=31)
    generate(decoder, states(3), max_new_tokens=9, num_beams=3)
    again = generate(
        decoder,
        states(3, 8),
        max_new_tokens=12,
        num_beams=3,
        length_penalty=-0.5,
        early_stopping="never",
        eos_token_id=4,
        pad_token_id=4,
        num_return_sequences=1,
    )
    assert again.compilations == 0


# --- groups ----------------------------------------------------------------------------------------------------------


def test_groups_keep_away_from_what_earlier_ones_chose():
    """With a penalty that nothing outweighs, no two groups choose the same token at the same time."""
    decoder, source = stand_in(9), states(3, seed=9)
    result = generate(
        decoder,
        source,
        max_new_tokens=NEW,
        eos_token_id=(),
        num_beams=3,
        num_beam_groups=3,
        num_return_sequences=3,
        diversity_penalty=1e4,
    )
    for sentence in result.sequences.reshape(3, 3, -1)[:, :, 1:]:
        assert all(len(set(column)) == 3 for column in sentence.T)
    greedy = generate(decoder, source, max_new_tokens=NEW, eos_token_id=())
    for at in range(3):
        assert any((row == greedy.sequences[at]).all() for row in result.sequences[3 * at : 3 * at + 3])


def _search_in_groups(model, prompt, *, groups, size, new, ends, penalty, early, diversity, pad):
    """Groups of beams as transformers 4.46.3 defines them, over Python lists, a sentence at a time."""
    running, pools, done = (
        [[(0.0, tuple(prompt))] for _ in range(groups)],
        [[] for _ in range(groups)],
        [False] * groups,
    )
    length = 0
    for length in range(1, new + 1):
        chosen = []
        for at in range(groups):
            if done[at]:
                chosen += [pad] * size
                continue
            found = [
                (score + share - diversity * chosen.count(token), (*row, token))
                for score, row in running[at]
                for token, share in enumerate(model(row))
            ]
            found.sort(key=lambda one: -one[0])
            pools[at] += [(score / length**penalty, row) for score, row in found[:size] if row[-1] in ends]
            pools[at] = sorted(pools[at], key=lambda one: -one[0])[:size]
            running[at] = [one for one in found if one[1][-1] not in ends][:size]
            chosen += [row[-1] for _, row in running[at]]
            hoped = new if early == "never" and penalty > 0 else length
            full = len(pools[at]) == size
            done[at] = full and (early is True or pools[at][-1][0] >= found[0][0] / hoped**penalty)
        if all(done):
            break
    for at in np.flatnonzero(~np.asarray(done)):
        pools[at] += [(score / length**penalty, row) for score, row in running[at]]
        pools[at] = sorted(pools[at], key=lambda one: -one[0])[:size]
    return sorted((one for pool in pools for one in pool), key=lambda one: -one[0])


@pytest.mark.parametrize(("groups", "beams"), [(4, 4), (2, 4)])
def test_groups_are_the_search_written_out(groups, beams):
    """Also where a group is done long before the others, which from then on see padding in it."""
    rng, uneven = np.random.default_rng(groups), 0
    for run in range(24):
        decoder, source, models = _case(run % 3, vocab=11)
        ends = rng.permutation(np.arange(2, 11))[: rng.integers(1, 3)].tolist()
        options = {
            "penalty": float(rng.choice([1.0, 0.6, 2.0, -0.5])),
            "early": [True, False, False, "never"][rng.integers(4)],
            "diversity": float(rng.choice([0.3, 1.0, 2.0])),
        }
        result = generate(
            decoder,
            source,
            max_new_tokens=12,
            eos_token_id=ends,
            num_beams=beams,
            num_beam_groups=groups,
            num_return_sequences=beams,
            length_penalty=options["penalty"],
            early_stopping=options["early"],
            diversity_penalty=options["diversity"],
        )
        for at, model in enumerate(models):
            expected = _search_in_groups(
                model, [1], groups=groups, size=beams // groups, new=12, ends=ends, pad=0, **options
            )
            rows = slice(at * beams, (at + 1) * beams)
            np.testing.assert_allclose(result.scores[rows], [score for score, _ in expected], rtol=SEQUENCE_SCORES)
            for row, (_, tokens) in zip(result.sequences[rows], expected, strict=True):
                ended = tokens[-1] in ends
                assert row[: len(tokens)].tolist() == [*tokens[:-1], ends[0] if ended else tokens[-1]]
                assert (row[len(tokens) :] == 0).all()
            uneven += len({len(tokens) for _, tokens in expected}) > 1
    assert uneven > 24


# --- drawn beams -----------------------------------------------------------------------------------------------------


def test_drawn_candidates_are_draws_without_replacement():
    """Pairs drawn by `drawn` are distributed as two draws in turn (chi-square over all unordered pairs)."""
    scores = jnp.asarray([[[0.3, -1.0, 1.2], [0.0, 0.7, -0.4]]])
    keys = jax.random.split(jax.random.key(0), 20_000)
    many = jnp.broadcast_to(scores, (len(keys), 2, 3))
    found = jax.jit(lambda s, k: sample_candidates(s, 2, k))(many, keys)
    flat = np.sort(np.asarray(found.beams * 3 + found.tokens), axis=1)
    shares = np.exp(np.asarray(scores, np.float64).reshape(-1))
    shares /= shares.sum()
    statistic = 0.0
    for a, b in itertools.combinations(range(6), 2):
        expected = len(keys) * (shares[a] * shares[b] / (1 - shares[a]) + shares[b] * shares[a] / (1 - shares[b]))
        statistic += ((flat == [a, b]).all(1).sum() - expected) ** 2 / expected
    assert statistic < 36.1  # 14 degrees of freedom: the 99.9th percentile
    ranked = np.asarray(found.scores)
    assert (ranked[:, 0] >= ranked[:, 1]).all()


def test_drawn_beams_follow_the_key_of_their_sentence():
    decoder, source = stand_in(10), states(3, seed=10)
    options = {"max_new_tokens": NEW, "num_beams": 3, "do_sample": True, "temperature": 1.5, "num_return_sequences": 2}
    keys = jax.random.split(jax.random.key(1), 3)
    together = generate(decoder, source, key=keys, **options)
    for at in range(3):
        alone = generate(decoder, source[at : at + 1], key=keys[at : at + 1], **options)
        width = alone.sequences.shape[1]
        np.testing.assert_array_equal(together.sequences[2 * at : 2 * at + 2, :width], alone.sequences)
    other = generate(decoder, source, key=jax.random.split(jax.random.key(2), 3), **options)
    assert not np.array_equal(other.sequences, together.sequences)


# --- candidates ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vocab", [3, 511, 512, 1300])
def test_the_best_candidates_are_those_of_a_sort(vocab):
    rng = np.random.default_rng(vocab)
    scores = np.round(rng.standard_normal((2, 3, vocab)), 1).astype(np.float32)  # many equals
    scores[0, 0, : vocab // 2] = -np.inf
    count = min(8, 3 * vocab)
    found = jax.jit(lambda s: top_candidates(s, count))(scores)
    order = np.argsort(-scores.reshape(2, -1), axis=1, kind="stable")[:, :count]
    np.testing.assert_array_equal(found.beams * vocab + found.tokens, order)
    np.testing.assert_array_equal(found.scores, np.take_along_axis(scores.reshape(2, -1), order, axis=1))


def test_fewer_possible_tokens_than_candidates():
    scores = jnp.full((1, 2, 5), -jnp.inf).at[0, 1, 3].set(1.0)
    found = top_candidates(scores, 4)
    assert (int(found.beams[0, 0]), int(found.tokens[0, 0])) == (1, 3)
    assert np.isneginf(found.scores[0, 1:]).all()
    assert (np.asarray(found.tokens) < 5).all()


def test_a_vocabulary_smaller_than_the_candidates():
    decoder, source, models = _case(11, vocab=3)
    result = generate(decoder, source, max_new_tokens=4, num_beams=5, num_return_sequences=2, eos_token_id=2)
    for at, model in enumerate(models):
        score, tokens, _ = _search(model, [1], beams=5, new=4, ends=[2], penalty=1.0, early=False)[0]
        assert result.sequences[2 * at, : len(tokens)].tolist() == list(tokens)
        np.testing.assert_allclose(result.scores[2 * at], score, atol=SEQUENCE_SCORES)


# --- nothing may follow ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("new", [6, 11])
@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3, "num_return_sequences": 3},
        {"num_beams": 2, "early_stopping": True},
        {"num_beams": 2, "early_stopping": "never"},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5, "num_return_sequences": 3},
        {"num_beams": 2, "do_sample": True},
    ],
    ids=str,
)
def test_beams_that_cannot_go_on_are_results_as_they_are(options, new):
    """Seven ids, of which none may come twice and the end not yet: the ids that there are, as with no more room."""
    decoder, source = stand_in(11, vocab=SMALL), states(3, seed=11)
    options = {**options, "no_repeat_ngram_size": 1, "key": jax.random.key(0)}
    result = generate(decoder, source, max_new_tokens=new, min_new_tokens=new, **options)
    full = generate(decoder, source, max_new_tokens=5, min_new_tokens=5, **options)
    assert (result.lengths == 5).all()
    assert result.truncated.all()
    np.testing.assert_array_equal(result.sequences, full.sequences)
    np.testing.assert_allclose(result.scores, full.scores, rtol=SEQUENCE_SCORES)
    assert all(sorted(row) == [0, 1, 3, 4, 5, 6] for row in result.sequences.tolist())
    assert "the rules on the next token forbid all there are" in result.notes[-1]
    assert full.notes == ()


@pytest.mark.parametrize("options", [{}, {"do_sample": True}], ids=["greedy", "drawn"])
def test_rows_that_cannot_go_on_get_the_first_id_as_in_torch(options):
    decoder, source = stand_in(12, vocab=SMALL), states(3, seed=12)
    result = generate(
        decoder, source, max_new_tokens=8, min_new_tokens=8, no_repeat_ngram_size=1, key=jax.random.key(0), **options
    )
    assert all(sorted(row[:6]) == [0, 1, 3, 4, 5, 6] for row in result.sequences.tolist())
    assert (result.sequences[:, 6:] == 0).all()
    assert np.isneginf(result.processed_log_probs[:, 5:]).all()
    assert np.isfinite(result.processed_log_probs[:, :5]).all()
    assert np.isfinite(result.scores).all()
