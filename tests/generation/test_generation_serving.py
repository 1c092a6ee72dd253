"""What a service needs of `generate`: streams, programs made ahead, few of them, results that can be checked."""

import equinox as eqx
import jax
import numpy as np
import pytest

from encdec_eqx import EncoderDecoder
from encdec_eqx.generation.constraints import from_sequences, from_token_regex
from encdec_eqx.generation.source_and_prompt import LEAST_SLOTS, LEAST_SOURCE, bucket
from models import VOCAB, decoder_config, encoder_config, randomised, tiny_pair
from tolerances import SAME_MODEL, SEQUENCE_SCORES

NEW = 9


@pytest.fixture(scope="module")
def model() -> EncoderDecoder:
    return randomised(tiny_pair(encoder_config(depth=1), decoder_config(depth=2)), seed=1, spread=0.4)


def _source(batch: int = 3, length: int = 7) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    mask = (np.arange(length)[None] < np.arange(length, length - batch, -1)[:, None]).astype(np.int32)
    return {"input_ids": rng.integers(3, VOCAB, (batch, length)), "attention_mask": mask}


# --- streams ---------------------------------------------------------------------------------------------------------

SEARCHES = {
    "greedy": {},
    "drawn": {"do_sample": True, "key": jax.random.key(0), "num_return_sequences": 2},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "words": {"num_beams": 3, "force_words_ids": [[5]]},
    "contrastive": {"penalty_alpha": 0.5, "top_k": 3},
    "copies": {"prompt_lookup_num_tokens": 2},
}


@pytest.mark.parametrize("tokens_at_a_time", [1, 4])
@pytest.mark.parametrize("options", SEARCHES.values(), ids=SEARCHES)
def test_a_stream_adds_up_to_the_result(model, options, tokens_at_a_time):
    source = _source()
    free = model.generate(**source, max_new_tokens=NEW, eos_token_id=(), **options)
    options = {**options, "max_new_tokens": NEW, "eos_token_id": [int(free.sequences[0, 3]), int(free.sequences[1, 5])]}
    expected = model.generate(**source, **options)
    chunks = list(model.stream(**source, tokens_at_a_time=tokens_at_a_time, **options))
    result = chunks[-1].result
    assert all(chunk.result is None for chunk in chunks[:-1])
    np.testing.assert_array_equal(result.sequences, expected.sequences)
    np.testing.assert_allclose(result.scores, expected.scores, atol=SEQUENCE_SCORES)
    done = {row: tokens for chunk in chunks for row, tokens in chunk.done.items()}
    assert sum(len(chunk.done) for chunk in chunks) == len(done) == len(expected.lengths)
    for row, length in enumerate(expected.lengths):
        assert done[row].tolist() == expected.sequences[row, 1 : 1 + length].tolist()
    streamed = np.concatenate([chunk.tokens for chunk in chunks], axis=1)
    if "num_beams" in options:
        assert streamed.shape[1] == 0
    else:
        np.testing.assert_array_equal(streamed, expected.sequences[:, 1:])
        assert len(chunks) > 1
    np.testing.assert_array_equal(chunks[-1].finished, ~expected.truncated if "num_beams" not in options else True)


def test_a_stream_compiles_what_generate_has_compiled(model):
    model.generate(**_source(), max_new_tokens=NEW)
    last = list(model.stream(**_source(), max_new_tokens=NEW, tokens_at_a_time=2))[-1]
    assert last.result.compilations == 0
    with pytest.raises(ValueError, match="at least 1"):
        next(model.stream(**_source(), max_new_tokens=NEW, tokens_at_a_time=0))


# --- programs --------------------------------------------------------------------------------------------------------


def test_two_hundred_requests_of_any_size_need_few_programs():
    """No more than there are buckets, and the tokens are those of a pass without padding."""
    pair = randomised(tiny_pair(encoder_config(size=16, depth=1), decoder_config(size=24, depth=1)), seed=3, spread=0.4)
    whole = eqx.filter_jit(lambda model, source, target: model(source, target).logits)
    rng = np.random.default_rng(0)
    longest = pair.decoder.config.positions.longest
    encoders, openings, loops, programs = set(), set(), set(), 0
    for request in range(200):
        batch, length, new = (int(rng.integers(low, high)) for low, high in ((1, 4), (2, 21), (1, 21)))
        ids = rng.integers(3, VOCAB, (batch, length))
        result = pair.generate(ids, max_new_tokens=new, eos_token_id=[2, 40])
        programs += result.compilations
        rows = bucket(batch)
        width = bucket(length, least=LEAST_SOURCE, most=pair.encoder.config.positions.longest)
        slots = bucket(new, least=LEAST_SLOTS, most=longest)
        encoders.add((rows, width))
        openings.add((rows, width, slots))
        loops.add((rows, width, slots))
        assert programs <= len(encoders) + len(openings) + len(loops)
        if request % 40 == 0:
            logits = np.asarray(whole(pair, ids, result.sequences))
            real = np.arange(new)[None, : result.sequences.shape[1] - 1] < result.lengths[:, None]
            np.testing.assert_array_equal(logits.argmax(-1)[:, :-1][real], result.sequences[:, 1:][real])


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"repetition_penalty": 1.2, "eos_token_id": [2, 9]}])
def test_a_warm_model_compiles_nothing(options):
    pair = tiny_pair(encoder_config(size=16, depth=1), decoder_config(size=21, depth=1))
    warmed = pair.warmup(batch_sizes=(2, 3), source_lengths=(9, 20), max_new_tokens=[5, 20], **options)
    assert warmed.compilations > 0
    assert warmed.seconds > 0
    for batch, length, new in [(2, 9, 5), (3, 20, 20), (3, 11, 16), (2, 18, 18)]:
        assert pair.generate(**_source(batch, length), max_new_tokens=new, **options).compilations == 0
    again = pair.warmup(batch_sizes=[2], source_lengths=[12], max_new_tokens=7, **options)
    assert again.compilations == 0


def test_prompts_are_warmed_too(model):
    model.warmup(source_lengths=[7], prompt_lengths=[4], max_new_tokens=6)
    prompt = np.array([[1, 5, 6, 7]])
    assert model.generate(**_source(1), decoder_input_ids=prompt, max_new_tokens=6).compilations == 0


# --- results that can be checked -------------------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", [0.0, 1.0, -0.5, 2.0])
def test_rescoring_finds_the_scores_of_beam_search(model, penalty):
    result = model.generate(
        **_source(), max_new_tokens=NEW, num_beams=4, num_return_sequences=3, length_penalty=penalty
    )
    again = model.rescore(result.sequences, **_source(), length_penalty=penalty)
    np.testing.assert_array_equal(again.lengths, result.lengths)
    np.testing.assert_allclose(again.log_probs, result.log_probs, atol=SEQUENCE_SCORES)
    np.testing.assert_allclose(again.scores, result.scores, rtol=SEQUENCE_SCORES, atol=SEQUENCE_SCORES)


def test_rescoring_of_prompts_and_of_states(model):
    prompt, mask = np.array([[0, 1, 5], [1, 6, 7], [0, 0, 1]]), np.array([[0, 1, 1], [1, 1, 1], [0, 0, 1]])
    prompts = {"decoder_input_ids": prompt, "decoder_attention_mask": mask}
    result = model.generate(**_source(), **prompts, max_new_tokens=NEW, eos_token_id=[2, 7])
    states = model.encode(**_source())
    again = model.rescore(
        result.sequences,
        encoder_outputs=states,
        attention_mask=_source()["attention_mask"],
        prompt_length=3,
        decoder_attention_mask=mask,
        eos_token_id=[2, 7],
    )
    np.testing.assert_array_equal(again.lengths, result.lengths)
    np.testing.assert_allclose(again.scores, result.scores, atol=SEQUENCE_SCORES)
    wrong = {
        "multiple": {"sequences": result.sequences[:2]},
        "nothing to score": {"sequences": result.sequences, "prompt_length": result.sequences.shape[1]},
    }
    for words, arguments in wrong.items():
        with pytest.raises(ValueError, match=words):
            model.rescore(**{"input_ids": _source()["input_ids"], **arguments})
    with pytest.raises(TypeError, match="integers"):
        model.rescore(result.sequences.astype(np.float32), **_source())


@pytest.mark.parametrize("layout", ["unrolled", "scanned"])
@pytest.mark.parametrize("options", [{}, {"num_beams": 3, "num_return_sequences": 2}], ids=["greedy", "beams"])
def test_cross_attentions_are_those_of_a_full_pass(model, options, layout):
    source = _source()
    result = model.with_layout(layout).generate(
        **source, max_new_tokens=NEW, output_cross_attentions=True, eos_token_id=[2, 11], **options
    )
    each = len(result.sequences) // 3
    repeated = {name: np.repeat(array, each, axis=0) for name, array in source.items()}
    full = model(
        repeated["input_ids"], result.sequences, attention_mask=repeated["attention_mask"], output_attentions=True
    )
    assert len(result.cross_attentions) == 2
    for ours, theirs in zip(result.cross_attentions, full.cross_attentions, strict=True):
        np.testing.assert_allclose(ours, np.asarray(theirs)[:, :, :-1], atol=SAME_MODEL)
    assert model.generate(**source, max_new_tokens=2).cross_attentions is None


# --- constraints -----------------------------------------------------------------------------------------------------

WAYS = {
    "greedy": {},
    "drawn": {"do_sample": True, "key": jax.random.key(4), "num_return_sequences": 5, "temperature": 3.0},
    "top": {"do_sample": True, "key": jax.random.key(4), "top_k": 2, "top_p": 0.6},
    "beams": {"num_beams": 4, "num_return_sequences": 4},
    "groups": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5, "num_return_sequences": 2},
    "drawn beams": {"num_beams": 3, "do_sample": True, "key": jax.random.key(5)},
    "contradicted": {"min_new_tokens": 5, "suppress_tokens": [6, 7, 8, 9]},
}


@pytest.mark.parametrize("new", [5, 9])
@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
def test_every_output_is_valid(model, options, new):
    pattern = from_token_regex("<5> [<6>-<9>]{2,} (<10> | <11> <12>)?", eos_token_id=2, vocab_size=VOCAB)
    result = model.generate(**_source(), max_new_tokens=new, constraint=pattern, **options)
    assert not result.truncated.any()
    for row, length in zip(result.sequences, result.lengths, strict=True):
        assert pattern.accepts(row[1 : 1 + length].tolist())


@pytest.mark.parametrize(
    "options",
    [
        {"length_penalty": 0.0},
        {"early_stopping": "never"},
        {"max_new_tokens": 4},
        {"do_sample": True, "key": jax.random.key(0)},
    ],
    ids=str,
)
def test_more_beams_than_outputs_leaves_places_empty_and_says_so(model, options):
    names = from_sequences([[5, 6], [5, 7, 8], [9]], eos_token_id=2, vocab_size=VOCAB)
    result = model.generate(
        **_source(), num_beams=5, num_return_sequences=5, constraint=names, **{"max_new_tokens": NEW, **options}
    )
    for sentence in range(3):
        rows = slice(5 * sentence, 5 * sentence + 5)
        lengths, scores = result.lengths[rows], result.scores[rows]
        found = [tuple(row[1:end]) for row, end in zip(result.sequences[rows], lengths, strict=True) if end]
        assert sorted(found) == [(5, 6), (5, 7, 8), (9,)]
        assert lengths[3:].tolist() == [0, 0]
        assert np.isneginf(scores[3:]).all()
    assert "6 of 15 results are empty" in result.notes[-1]
    # all outputs are found, so their order is that of the scores of each
    assert (np.diff(result.scores.reshape(3, 5)[:, :3], axis=1) <= 0).all()


def test_constraints_that_do_not_fit(model):
    names = from_sequences([[5, 6, 7]], eos_token_id=2, vocab_size=VOCAB)
    for options, error, words in [
        ({"constraint": "a|b"}, TypeError, "from_regex"),
        ({"constraint": names, "eos_token_id": [2, 3]}, ValueError, "end tokens"),
        ({"constraint": names, "max_new_tokens": 3}, ValueError, "Raise max_new_tokens"),
        ({"constraint": names, "penalty_alpha": 0.5, "top_k": 3}, ValueError, "contrastive search"),
        (
            {"constraint": from_sequences([[5]], eos_token_id=2, vocab_size=VOCAB + 1)},
            ValueError,
            f"vocab_size={VOCAB}",
        ),
    ]:
        with pytest.raises(error, match=words):
            model.generate(**_source(), **{"max_new_tokens": NEW, **options})


def test_another_constraint_of_the_same_size_needs_no_new_program(model):
    first, second = (
        from_sequences([[5, 6], [7]], eos_token_id=2, vocab_size=VOCAB),
        from_sequences([[9, 8, 7]], eos_token_id=2, vocab_size=VOCAB),
    )
    model.generate(**_source(), max_new_tokens=NEW, constraint=first)
    assert model.generate(**_source(), max_new_tokens=NEW, constraint=second).compilations == 0
