"""Words that must come, against transformers 4.46.3: how far sequences are, its scorer on a stand-in, whole models."""

import numpy as np
import pytest
import torch
from generation_pairs import FIRST_FREE, START, sentences
from transformers.generation.beam_constraints import ConstraintListState, DisjunctiveConstraint, PhrasalConstraint
from transformers.generation.beam_search import ConstrainedBeamSearchScorer

from encdec_eqx.generation.search.legacy_force_words import ForcedPhrases, read_prompt
from forced_words_oracle import Model
from generation_stand_in import generate, stand_in, states
from hf import VOCAB, as_torch
from tolerances import SEQUENCE_SCORES

BEAMS = [2, 3, 4, 8]


def _phrase(rng, letters, most):
    return [int(letter) for letter in rng.choice(letters, rng.integers(1, most + 1))]


def _choice(rng, letters):
    found = []
    for phrase in (_phrase(rng, letters, 4) for _ in range(rng.integers(2, 6))):
        if not any(phrase[: len(other)] == other or other[: len(phrase)] == phrase for other in found):
            found.append(phrase)
    return found if len(found) > 1 else found[0]


def _words(rng, letters, most):
    """As a user writes them."""
    count = rng.integers(1, most + 1)
    return [_choice(rng, letters) if rng.random() < 0.5 else _phrase(rng, letters, 3) for _ in range(count)]


def _theirs(words):
    return [DisjunctiveConstraint(word) if isinstance(word[0], list) else PhrasalConstraint(word) for word in words]


def _least(words):
    return sum(min(map(len, word)) if isinstance(word[0], list) else len(word) for word in words)


def test_a_sequence_is_read_as_theirs_and_offers_the_same():
    rng = np.random.default_rng(0)
    for _ in range(20):
        written = _words(rng, [3, 4, 5], 4)
        items = [word if isinstance(word[0], list) else [word] for word in written]
        words = ForcedPhrases.of([[tuple(phrase) for phrase in item] for item in items])
        sequences, lengths = rng.integers(3, 7, (30, 12)), rng.integers(0, 13, 30)
        progress = read_prompt(words, sequences.astype(np.int32), np.arange(12) < lengths[:, None])
        for at, (sequence, length) in enumerate(zip(sequences.tolist(), lengths, strict=True)):
            state = ConstraintListState(_theirs(written))
            state.reset(sequence[:length])
            one = type(progress)(progress.place[at], progress.node[at])
            assert int(words.bank(one)) == state.get_bank()
            assert bool(words.satisfied(one)) == state.completed
            tokens, real, banks = (np.asarray(table) for table in words.offered(one))
            offered = (state.advance() or []) if not state.completed else []
            assert tokens[real].tolist() == offered
            copies = [state.copy(stateful=True) for _ in offered]
            for place, (copy, token) in enumerate(zip(copies, offered, strict=True)):
                copies[place] = copy = state.copy(stateful=True)  # theirs copies after the earlier ones have read
                copy.add(token)
            for place, (copy, token) in enumerate(zip(copies, offered, strict=True)):
                if token not in offered[:place]:  # theirs keeps the first of equals
                    assert banks[real][place] == copy.get_bank()


def _search(model, words, *, beams, new, ends, penalty, early, returned):
    """One sentence in their scorer; the rest of their loop, with a function in place of a decoder."""
    scorer = ConstrainedBeamSearchScorer(
        batch_size=1,
        num_beams=beams,
        constraints=_theirs(words),
        device=torch.device("cpu"),
        length_penalty=penalty,
        do_early_stopping=early,
        num_beam_hyps_to_keep=returned,
        max_length=new + 1,
    )
    eos = torch.tensor(ends) if ends else None
    rows, scores = torch.full((beams, 1), 1), torch.tensor([0.0] + [-1e9] * (beams - 1))
    while True:
        shares = torch.tensor(np.stack([model(row) for row in rows.tolist()]).astype(np.float32))
        totals = shares + scores[:, None]
        count = max(2, 1 + len(ends)) * beams
        found, at = (part[None] for part in torch.sort(totals.view(-1), descending=True, stable=True))
        found, at = found[:, :count], at[:, :count]
        vocab = totals.shape[1]
        step = scorer.process(
            rows, found, at % vocab, at // vocab, totals, pad_token_id=0, eos_token_id=eos, decoder_prompt_len=1
        )
        scores, which = step["next_beam_scores"], step["next_beam_indices"]
        rows = torch.cat([rows[which], step["next_beam_tokens"][:, None]], dim=1)
        if scorer.is_done or rows.shape[1] == new + 1:
            break
    result = scorer.finalize(rows, scores, None, None, new + 1, pad_token_id=0, eos_token_id=eos, decoder_prompt_len=1)
    return result["sequences"].numpy(), result["sequence_scores"].numpy()


@pytest.mark.parametrize("beams", BEAMS)
def test_searches_are_their_scorer_s(beams):
    rng = np.random.default_rng(beams)
    runs = met = 0
    decoder, source = stand_in(beams, vocab=23, sharpness=2.0), states(2, seed=beams)
    while runs < 30:
        new, words = int(rng.integers(5, 16)), _words(rng, rng.choice(np.arange(3, 13), 4, replace=False), 3)
        if _least(words) > new:
            continue
        ends = [int(end) for end in rng.choice(np.arange(13, 22), rng.integers(2, 5), replace=False)]
        forbidden = [int(rng.integers(3, 13))] if rng.random() < 0.2 else []
        options = {
            "penalty": float(rng.choice([1.0, 0.0, -1.0, 2.0])),
            "early": [True, False, "never"][rng.integers(3)],
            "returned": int(rng.integers(1, beams + 1)) if rng.random() < 0.6 else 1,
        }
        result = generate(
            decoder,
            source,
            max_new_tokens=new,
            eos_token_id=ends,
            num_beams=beams,
            num_return_sequences=options["returned"],
            length_penalty=options["penalty"],
            early_stopping=options["early"],
            force_words_ids=words,
            suppress_tokens=forbidden,
        )
        expected = [
            _search(Model(decoder, sentence, forbidden), words, beams=beams, new=new, ends=ends, **options)
            for sentence in source
        ]
        for at, (sequences, scores) in enumerate(expected):
            rows = slice(at * options["returned"], (at + 1) * options["returned"])
            ours = result.sequences[rows]
            width = min(sequences.shape[1], ours.shape[1])
            np.testing.assert_array_equal(ours[:, :width], sequences[:, :width])
            assert (ours[:, width:] == 0).all()
            np.testing.assert_allclose(result.scores[rows], scores, rtol=SEQUENCE_SCORES, atol=SEQUENCE_SCORES)
            for row in ours.tolist():
                state = ConstraintListState(_theirs(words))
                state.reset(row)
                met += state.completed
        runs += 1
    assert met > runs  # the words do come


def _generated(model, arrays, options):
    """Sequences, and scores and rows where theirs can tell: not for a result that was open and lacks words."""
    with torch.no_grad():
        try:
            result = model.generate(**arrays, **options, return_dict_in_generate=True, output_scores=True)
        except (TypeError, RuntimeError):
            return model.generate(**arrays, **options).numpy(), None, None
    rows = result.beam_indices
    return result.sequences.numpy(), result.sequences_scores.numpy(), None if rows is None else rows.numpy()


@pytest.mark.parametrize(("pair", "beams"), [("bert-gpt2", 2), ("bert-bert", 4), ("roberta-roberta", 7)])
def test_models_generate_the_same(models, pair, beams):
    theirs, ours = models(pair, seed=beams)
    rng = np.random.default_rng(beams)
    compared = 0
    for trial in range(6):
        letters = rng.choice(np.arange(FIRST_FREE, VOCAB - 1), rng.integers(2, 8), replace=False)
        others = np.setdiff1d(np.arange(FIRST_FREE, VOCAB), letters)
        words, new = _words(rng, letters, 3), int(rng.integers(6, 16))
        if _least(words) > new:
            continue
        options = {
            "num_beams": beams,
            "num_return_sequences": int(rng.integers(1, beams + 1)),
            "length_penalty": float(rng.choice([1.0, 0.0, -1.0, 2.0, 0.6])),
            "early_stopping": [True, False, "never"][rng.integers(3)],
            "max_new_tokens": new,
            "eos_token_id": [int(end) for end in rng.choice(others, rng.integers(2, 5), replace=False)],
            "force_words_ids": words,
        }
        if trial == 4:
            options |= {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2}
        arrays = sentences(trial)
        if trial == 5:
            prompt = rng.choice([*letters, 20, 21], (3, 4)).astype(np.int32)
            prompt[:, 0] = START
            arrays["decoder_input_ids"] = prompt
        sequences, scores, rows = _generated(theirs, as_torch(arrays), options)
        result = ours.generate(**arrays, **options)
        np.testing.assert_array_equal(result.sequences, sequences)
        compared += 1
        if scores is not None:
            np.testing.assert_allclose(result.scores, scores, rtol=SEQUENCE_SCORES, atol=SEQUENCE_SCORES)
        if rows is not None:
            width = min(rows.shape[1], result.beam_indices.shape[1])
            np.testing.assert_array_equal(result.beam_indices[:, :width], rows[:, :width])
            assert (rows[:, width:] == -1).all()
    assert compared > 2
