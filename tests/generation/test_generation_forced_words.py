"""Words that must come: against a search written out, exhaustively on small vocabularies, and its bookkeeping."""

import itertools

import jax
import numpy as np
import pytest

from encdec_eqx import GenerationConfig
from encdec_eqx.generation.search.legacy_force_words import ForcedPhrases, phrases_met, read_prompt
from forced_words_oracle import Model, Words, search
from generation_stand_in import generate, stand_in, states
from models import VOCAB, tiny_pair
from tolerances import SEQUENCE_SCORES

SMALL = 9
NEW = 9


def _phrase(rng, letters, most):
    return [int(letter) for letter in rng.choice(letters, rng.integers(1, most + 1))]


def _choice(rng, letters):
    """Phrases of which none begins another."""
    found = []
    for phrase in (_phrase(rng, letters, 4) for _ in range(rng.integers(2, 6))):
        if not any(a[: len(b)] == b or b[: len(a)] == a for a in [phrase] for b in found):
            found.append(phrase)
    return found if len(found) > 1 else found[0]


def _words(rng, letters, most=3):
    return [
        _choice(rng, letters) if rng.random() < 0.5 else _phrase(rng, letters, 3) for _ in range(rng.integers(1, most))
    ]


def _items(words):
    return tuple(
        tuple(tuple(phrase) for phrase in word) if isinstance(word[0], list) else (tuple(word),) for word in words
    )


def _contains(sequence, phrase):
    return any(tuple(sequence[at : at + len(phrase)]) == tuple(phrase) for at in range(len(sequence)))


# --- how far a sequence is -------------------------------------------------------------------------------------------


def _told(words, progress):
    """What `words` has to say about many sequences."""
    each = jax.jit(lambda w, p: jax.vmap(lambda one: (w.bank(one), w.satisfied(one), w.offered(one)))(p))
    return jax.tree.map(np.asarray, each(words, progress))


def test_a_sequence_is_read_as_written_out():
    rng = np.random.default_rng(0)
    seen_choices = 0
    for _ in range(25):
        items = _items(_words(rng, [3, 4, 5], most=5))
        sequences = rng.integers(3, 7, (40, 12)).astype(np.int32)
        lengths = rng.integers(0, 13, 40)
        words = ForcedPhrases.of(items)
        banks, satisfied, (tokens, real, banks_after) = _told(
            words, read_prompt(words, sequences, np.arange(12) < lengths[:, None])
        )
        for at, (sequence, length) in enumerate(zip(sequences.tolist(), lengths, strict=True)):
            state = Words(items).read(sequence[:length])
            assert (banks[at], satisfied[at]) == (state.bank, state.satisfied)
            offered = state.offered()
            assert tokens[at][real[at]].tolist() == offered
            copies = []
            for token in offered:
                copies.append(state.copy())
                copies[-1].add(token)
            seen_choices += state.begun is not None and len(offered) > 1
            first = [offered.index(token) == place for place, token in enumerate(offered)]
            expected = [copy.bank for copy, counts in zip(copies, first, strict=True) if counts]
            assert banks_after[at][real[at]][first].tolist() == expected
    assert seen_choices > 30  # where copies share a list


def test_the_copies_of_a_begun_choice_share_what_they_have_seen():
    """By hand, as 4.46.3: after 3, token 4 is tried first; 5 then does not follow 3 but 3 4, where it completes."""
    words = ForcedPhrases.of((((3, 4, 5), (3, 5, 6, 7)),))
    progress = read_prompt(words, np.array([[3]], np.int32), np.array([[True]]))
    banks, _, (tokens, real, after) = _told(words, progress)
    assert banks.tolist() == [1]
    assert tokens[0][real[0]].tolist() == [4, 5]
    assert after[0][real[0]].tolist() == [3, 4]  # not 2 and 2


def test_what_is_broken_off_goes_behind():
    words = ForcedPhrases.of((((3, 4),), ((5,),), ((6, 3),)))
    _, _, (tokens, real, _) = _told(
        words, read_prompt(words, np.array([[3, 9], [5, 3]], np.int32), np.ones((2, 2), bool))
    )
    assert [row[counts].tolist() for row, counts in zip(tokens, real, strict=True)] == [[5, 6, 3], [4]]


# --- the search ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("early", [True, False, "never"])
@pytest.mark.parametrize("beams", [2, 3, 5])
def test_it_is_the_search_written_out(beams, early):
    rng = np.random.default_rng(beams)
    decoder, source = stand_in(beams, vocab=SMALL, sharpness=1.5), states(2, seed=beams)
    for penalty, ends in [(1.0, [2]), (0.0, [2, 8]), (-1.0, [7, 2, 8]), (2.0, [])] * 2:
        words = _words(rng, [3, 4, 5, 6])
        forbidden = [int(rng.integers(3, 7))] if rng.random() < 0.3 else []
        returned = int(rng.integers(1, beams + 1))
        options = {"beams": beams, "new": NEW, "ends": ends, "penalty": penalty, "early": early, "returned": returned}
        result = generate(
            decoder,
            source,
            max_new_tokens=NEW,
            eos_token_id=ends,
            num_beams=beams,
            num_return_sequences=returned,
            length_penalty=penalty,
            early_stopping=early,
            force_words_ids=words,
            suppress_tokens=forbidden,
        )
        for at, sentence in enumerate(source):
            expected = search(Model(decoder, sentence, forbidden), [1], _items(words), **options)
            for row, (score, tokens, parents) in enumerate(expected, start=at * returned):
                length = len(tokens) - 1
                # as 4.46.3, which keeps no end but the first of the ids
                shown = [*tokens[1:-1], ends[0] if tokens[-1] in ends else tokens[-1]]
                assert result.sequences[row, 1 : length + 1].tolist() == shown
                assert (result.sequences[row, length + 1 :] == 0).all()
                assert result.lengths[row] == length
                assert result.beam_indices is not None
                assert result.truncated[row] == (tokens[-1] not in ends)
                np.testing.assert_allclose(result.scores[row], score, rtol=SEQUENCE_SCORES, atol=SEQUENCE_SCORES)
                assert result.beam_indices[row, :length].tolist() == [at * beams + parent for parent in parents]
                assert (result.beam_indices[row, length:] == -1).all()


def test_every_pair_of_short_words_comes():
    """All pairs of words of one or two of four letters, in no more tokens than they have together."""
    decoder, source = stand_in(1, vocab=7, sharpness=1.0), states(2, seed=1)
    short = [letters for length in (1, 2) for letters in itertools.product((3, 4, 5, 6), repeat=length)]
    for one, other in itertools.product(short, short):
        new, words = len(one) + len(other), [list(one), list(other)]
        result = generate(decoder, source, max_new_tokens=new, num_beams=3, force_words_ids=words)
        for row in result.sequences[:, 1:].tolist():
            assert Words(((one,), (other,))).read(row).satisfied
            assert _contains(row, one)
            assert _contains(row, other)


def test_one_of_the_alternatives_comes():
    decoder, source = stand_in(2), states(3, seed=2)
    words = [[[30, 31, 32], [33, 34], [35, 36, 37, 38]], [40, 41]]
    result = generate(decoder, source, max_new_tokens=12, num_beams=4, force_words_ids=words)
    plain = generate(decoder, source, max_new_tokens=12, num_beams=4)
    for row, without in zip(result.sequences, plain.sequences, strict=True):
        assert _contains(row, [40, 41])
        assert any(_contains(row, phrase) for phrase in words[0])
        assert not _contains(without, [40, 41])


def test_words_of_the_prompt_count_and_left_padding_is_not_read():
    decoder, source = stand_in(3), states(2, seed=3)
    prompt, mask = np.array([[1, 30, 31, 9], [30, 31, 1, 9]]), np.array([[1, 1, 1, 1], [0, 0, 1, 1]])
    options = {"max_new_tokens": 6, "num_beams": 3, "force_words_ids": [[30, 31]]}
    together = generate(decoder, source, decoder_input_ids=prompt, decoder_attention_mask=mask, **options)
    assert not _contains(together.sequences[0, 4:], [30, 31])
    assert _contains(together.sequences[1, 4:], [30, 31])
    for at, first in enumerate([0, 2]):
        alone = generate(decoder, source[at : at + 1], decoder_input_ids=prompt[at : at + 1, first:], **options)
        length = int(alone.lengths[0])
        np.testing.assert_array_equal(together.sequences[at, 4 : 4 + length], alone.sequences[0, 4 - first :])
        np.testing.assert_allclose(together.scores[at], alone.scores[0], atol=SEQUENCE_SCORES)


def test_too_few_with_all_words_makes_room_for_others():
    """As 4.46.3: of four results, fewer have the word than asked for, so all open beams compete by their scores."""
    decoder, source = stand_in(4, sharpness=8.0), states(1, seed=4)
    result = generate(
        decoder,
        source,
        max_new_tokens=3,
        num_beams=4,
        num_return_sequences=4,
        force_words_ids=[[30, 31, 32]],
    )
    met = [_contains(row, [30, 31, 32]) for row in result.sequences]
    assert sum(met) == 1
    assert (np.diff(result.scores) <= 0).all()
    assert result.forced_words_met is not None
    assert result.forced_words_met.tolist() == met
    assert "3 of 4 results lack words of force_words_ids" in result.notes[-1]


def test_rows_that_lack_words_are_marked():
    decoder, source = stand_in(0), states(3)
    options = {"max_new_tokens": 12, "num_beams": 4, "num_return_sequences": 2, "eos_token_id": [2, 30]}
    words = [[5, 6], [[7], [8, 9]], [5, 6]]
    result = generate(decoder, source, force_words_ids=words, **options)
    assert result.forced_words_met is not None
    assert result.forced_words_met.shape == (6,)
    for row, met in zip(result.sequences.tolist(), result.forced_words_met, strict=True):
        pairs = sum(row[at : at + 2] == [5, 6] for at in range(len(row)))
        assert met == (pairs >= 2 and (_contains(row, [7]) or _contains(row, [8, 9])))
    assert generate(decoder, source, **options).forced_words_met is None


def test_words_met_by_hand():
    def met(row, *words):
        return bool(phrases_met([np.asarray(row)], [tuple(map(tuple, word)) for word in words])[0])

    assert met([1, 4, 5, 6], [[4, 5]], [[5, 6]])  # what a reader sees, although the search wants them apart
    assert met([1, 4, 9, 5, 9], [[9]], [[9]])
    assert not met([1, 4, 9, 5], [[9]], [[9]])
    assert not met([3, 3, 3], [[3, 3]], [[3, 3]])
    assert met([3, 3, 3, 3], [[3, 3]], [[3, 3]])
    assert met([8, 7, 6], [[7, 8], [7, 6]])
    assert not met([8, 7], [[7, 8], [7, 6]])
    assert not met([], [[7]])


def test_words_of_the_prompt_are_met_and_its_padding_is_not():
    decoder, source = stand_in(5), states(2)
    prompt, mask = np.array([[1, 20, 21], [20, 1, 21]]), np.array([[1, 1, 1], [0, 1, 1]])
    result = generate(
        decoder,
        source,
        decoder_input_ids=prompt,
        decoder_attention_mask=mask,
        max_new_tokens=2,
        num_beams=2,
        force_words_ids=[[20, 21, 22]],
    )
    expected = [_contains(row[first:], [20, 21, 22]) for row, first in zip(result.sequences, (0, 1), strict=True)]
    assert result.forced_words_met is not None
    assert result.forced_words_met.tolist() == expected


@pytest.mark.parametrize("batch", [2, 5])
def test_a_sentence_alone_is_the_sentence_in_a_batch(batch):
    decoder, source = stand_in(6), states(batch, 9, seed=6)
    mask = np.arange(9)[None] < np.arange(9, 9 - batch, -1)[:, None]
    options = {"max_new_tokens": NEW, "num_beams": 4, "num_return_sequences": 2, "eos_token_id": [2, 7, 30]}
    options["force_words_ids"] = [[11, 12], [[13, 14, 15], [13, 16], [17]]]
    together = generate(decoder, source, mask, **options)
    for at in range(batch):
        alone = generate(decoder, source[at : at + 1, : 9 - at], **options)
        width = alone.sequences.shape[1]
        np.testing.assert_array_equal(together.sequences[2 * at : 2 * at + 2, :width], alone.sequences)
        np.testing.assert_allclose(together.scores[2 * at : 2 * at + 2], alone.scores, atol=SEQUENCE_SCORES)


def test_other_words_need_no_new_program():
    decoder = stand_in(8, vocab=31)
    generate(decoder, states(3), max_new_tokens=9, num_beams=3, force_words_ids=[[5, 6], [[7, 8], [7, 9]]])
    again = generate(
        decoder,
        states(3, seed=8),
        max_new_tokens=12,
        num_beams=3,
        length_penalty=-0.5,
        early_stopping="never",
        eos_token_id=4,
        force_words_ids=[[[10, 11, 12], [10, 13]], [14], [15]],
    )
    assert again.compilations == 0


def test_both_layouts_find_the_same():
    model = tiny_pair()
    rng = np.random.default_rng(0)
    ids = rng.integers(4, VOCAB, (2, 7))
    options = {"max_new_tokens": 8, "num_beams": 3, "force_words_ids": [[11, 12], [[13], [14, 15]]]}
    one = model.generate(ids, eos_token_id=2, pad_token_id=0, decoder_start_token_id=1, **options)
    other = model.with_layout("scanned").generate(
        ids, eos_token_id=2, pad_token_id=0, decoder_start_token_id=1, **options
    )
    np.testing.assert_array_equal(one.sequences, other.sequences)
    np.testing.assert_allclose(one.scores, other.scores, atol=SEQUENCE_SCORES)
    assert all(_contains(row, [11, 12]) for row in one.sequences)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([[5, 99]], r"\[5, 99\] \(argument\) goes beyond the decoder's vocabulary of 53"),
        ([[5], [[6], [7, 2]]], r"\[\[6\], \[7, 2\]\] \(argument\) holds an end-of-sequence id \(\[2\]\)"),
        ([[[5], [5, 6]]], r"\[5\] is the beginning of \[5, 6\]"),
        ([[[5, 6], [5, 6]]], r"\[5, 6\] is the beginning of \[5, 6\], or the same"),
        ([[3, 4, 5], [[6, 7, 8], [9, 10]]], r"take 5 tokens, and at most 4 may be generated.*Raise max_new_tokens"),
        ([[5], []], "holds an empty sequence"),
    ],
)
def test_words_that_cannot_come_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        generate(stand_in(0), states(1), max_new_tokens=4, num_beams=2, force_words_ids=words)


@pytest.mark.parametrize("other", [{"num_beam_groups": 2, "diversity_penalty": 1.0}, {"do_sample": True}])
def test_other_searches_do_not_force_words(other):
    with pytest.raises(ValueError, match=r"force_words_ids .* contradict each other"):
        generate(
            stand_in(0), states(1), max_new_tokens=4, num_beams=2, force_words_ids=[[5]], key=jax.random.key(0), **other
        )


def test_words_of_a_file_are_dropped_or_noted():
    file = GenerationConfig(force_words_ids=[[99], [[5, 6], [7, 2]]], num_beams=2, max_new_tokens=3)
    result = generate(stand_in(0), states(1), file=file)
    plain = generate(stand_in(0), states(1), num_beams=2, max_new_tokens=3)
    assert len(result.notes) == 2
    assert all("dropped" in note for note in result.notes)
    np.testing.assert_array_equal(result.sequences, plain.sequences)
    file = GenerationConfig(force_words_ids=[[5, 6]], num_beams=2, max_new_tokens=1)
    before, after = generate(stand_in(0), states(1), file=file).notes
    assert "not all of them will come" in before
    assert "1 of 1 results lack words" in after
