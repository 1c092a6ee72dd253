"""Speculative decoding: the very tokens that the same search alone chooses, in fewer passes, whoever proposes them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from encdec_eqx import Decoder, EncoderDecoder
from encdec_eqx.generation.constraints import from_token_regex
from encdec_eqx.generation.plan_checks import Assistant
from encdec_eqx.generation.search.speculative import place_after
from generation_stand_in import generate, stand_in, states
from models import VOCAB, LayerSpec, decoder_config, encoder_config, randomised, tiny_pair
from tolerances import SEQUENCE_SCORES

NEW = 14


def _assistant(decoder, *, noise, seed=9) -> Assistant:
    """The decoder itself with some noise in its head: right now and then."""
    head = decoder.head + noise * jax.random.normal(jax.random.key(seed), decoder.head.shape)
    near = eqx.tree_at(lambda d: d.head, decoder, head)
    return Assistant(near, None, decoder_config(vocab_size=decoder.tokens.shape[0]))


def _same(alone, drafted) -> None:
    np.testing.assert_array_equal(drafted.sequences, alone.sequences)
    np.testing.assert_array_equal(drafted.lengths, alone.lengths)
    np.testing.assert_array_equal(drafted.truncated, alone.truncated)
    np.testing.assert_allclose(drafted.log_probs, alone.log_probs, rtol=0, atol=SEQUENCE_SCORES)
    np.testing.assert_allclose(
        drafted.processed_log_probs, alone.processed_log_probs, rtol=SEQUENCE_SCORES, atol=SEQUENCE_SCORES
    )


OPTIONS = {
    "greedy": {},
    "ends": {"eos_token_id": [2, 7, 11, 30]},
    "prompted": {"decoder_input_ids": np.array([[1, 4, 5], [1, 6, 6], [1, 9, 3]])},
    "rules": {"repetition_penalty": 1.3, "min_new_tokens": 6, "no_repeat_ngram_size": 2},
    "drawn": {"do_sample": True, "key": jax.random.key(1)},
    "drawn with rules": {"do_sample": True, "key": jax.random.key(2), "top_k": 9, "temperature": 1.7, "min_p": 0.02},
    "several": {"do_sample": True, "key": jax.random.key(3), "num_return_sequences": 2, "eos_token_id": [2, 5]},
}


@pytest.mark.parametrize("ahead", [1, 5])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_draft_changes_nothing_but_the_number_of_passes(options, ahead):
    decoder, source = stand_in(0, sharpness=2.0), states(3)
    alone = generate(decoder, source, max_new_tokens=NEW, **options)
    assistant = _assistant(decoder, noise=0.2)
    drafted = generate(
        decoder, source, max_new_tokens=NEW, assistant_model=assistant, num_assistant_tokens=ahead, **options
    )
    _same(alone, drafted)
    assert drafted.passes < alone.passes == alone.lengths.max()


def test_a_perfect_draft_is_accepted_whole_and_a_bad_one_costs_nothing_but_time():
    decoder, source = stand_in(1), states(1)
    alone = generate(decoder, source, max_new_tokens=NEW, eos_token_id=())
    perfect = generate(
        decoder,
        source,
        max_new_tokens=NEW,
        eos_token_id=(),
        assistant_model=_assistant(decoder, noise=0.0),
        num_assistant_tokens=4,
    )
    _same(alone, perfect)
    assert perfect.passes == -(-NEW // 5)
    stranger = Assistant(stand_in(77), None, decoder_config(vocab_size=VOCAB))
    _same(alone, generate(decoder, source, max_new_tokens=NEW, eos_token_id=(), assistant_model=stranger))


def test_rows_do_not_depend_on_the_batch_though_they_go_on_together():
    decoder, source = stand_in(2, sharpness=2.0), states(3, seed=2)
    keys = jax.random.split(jax.random.key(5), 3)
    options = {"max_new_tokens": NEW, "do_sample": True, "assistant_model": _assistant(decoder, noise=0.3)}
    together = generate(decoder, source, key=keys, **options)
    for at in range(3):
        alone = generate(decoder, source[at : at + 1], key=keys[at : at + 1], **options)
        width = alone.sequences.shape[1]
        np.testing.assert_array_equal(together.sequences[at, :width], alone.sequences[0])


def test_drawn_tokens_are_distributed_as_the_model_says():
    """Chi-square of pairs of tokens over many samples, with a draft that is often wrong."""
    decoder, source = stand_in(3, sharpness=0.7, vocab=4), states(1, seed=3)
    result = generate(
        decoder,
        source,
        max_new_tokens=2,
        eos_token_id=(),
        do_sample=True,
        num_return_sequences=4000,
        key=jax.random.key(0),
        assistant_model=_assistant(decoder, noise=0.5),
        num_assistant_tokens=2,
    )
    tokens, places, head = (np.asarray(a, np.float64) for a in (decoder.tokens, decoder.positions, decoder.head))
    statistic = 0.0
    for first in range(4):
        for second in range(4):
            share = 1.0
            for row, token in (([1], first), ([1, first], second)):
                logits = np.sin(tokens[row].sum(0) + source[0].mean(0) + places[len(row) - 1]) @ head
                share *= np.exp(logits)[token] / np.exp(logits).sum()
            count = (result.sequences[:, 1:] == [first, second]).all(1).sum()
            statistic += (count - 4000 * share) ** 2 / (4000 * share)
    assert statistic < 37.7  # 15 degrees of freedom: the 99.9th percentile


def test_a_constraint_is_obeyed_as_without_proposals():
    decoder, source = stand_in(4), states(2, seed=4)
    constraint = from_token_regex("<5> [<6>-<9>]{2,8} (<10> | <11>)", eos_token_id=2, vocab_size=VOCAB)
    options = {"max_new_tokens": NEW, "constraint": constraint}
    alone = generate(decoder, source, **options)
    drafted = generate(decoder, source, assistant_model=_assistant(decoder, noise=0.1), **options)
    _same(alone, drafted)
    assert all(constraint.accepts(row[1:].tolist()) for row in drafted.sequences)


# --- the library's models --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> EncoderDecoder:
    return randomised(tiny_pair(encoder_config(depth=1), decoder_config(depth=2)), seed=1, spread=0.4)


SOURCE = {"input_ids": np.random.default_rng(0).integers(3, VOCAB, (2, 9))}


@pytest.mark.parametrize("layout", ["unrolled", "scanned"])
def test_a_decoder_or_a_pair_assists(model, layout):
    alone = model.generate(**SOURCE, max_new_tokens=NEW)
    pair = randomised(tiny_pair(encoder_config(depth=1), decoder_config(depth=1)), seed=2, spread=0.4)
    for assistant in (model.decoder, pair):
        _same(alone, model.with_layout(layout).generate(**SOURCE, max_new_tokens=NEW, assistant_model=assistant))


def test_near_the_end_of_the_table_of_positions(model):
    longest = model.decoder.config.positions.longest
    alone = model.generate(**SOURCE, max_length=longest, eos_token_id=())
    _same(alone, model.generate(**SOURCE, max_length=longest, eos_token_id=(), assistant_model=model.decoder))
    _same(alone, model.generate(**SOURCE, max_length=longest, eos_token_id=(), prompt_lookup_num_tokens=3))


def test_a_second_call_compiles_nothing(model):
    options = {"max_new_tokens": NEW, "assistant_model": model.decoder}
    model.generate(**SOURCE, **options)
    assert model.generate(**SOURCE, **{**options, "max_new_tokens": NEW + 1}, min_length=0).compilations == 0


# --- copying from the source -----------------------------------------------------------------------------------------


def test_what_follows_the_longest_run_of_last_tokens_is_copied():
    source = jnp.array([[9, 5, 6, 7, 5, 8, 6, 7, 3, 0, 0, 0]])
    for tokens, place in [
        ([1, 5], 2),  # one token: the first place
        ([1, 8, 6], 7),  # two tokens win over one
        ([7, 5], 5),  # behind the second 5
        ([1, 2], 1),  # nowhere: from the second token on
        ([1, 3], 1),  # at the end of what counts nothing follows
        ([6, 7], 4),  # of two places the first
        ([5], 2),  # fewer tokens than are looked for
    ]:
        filled = jnp.asarray(len(tokens), jnp.int32)
        wide = jnp.array([[*tokens, 5, 5]])  # what is not filled does not count
        assert int(place_after(source, jnp.asarray(9, jnp.int32), wide, filled, longest=2)[0]) == place


@pytest.mark.parametrize("options", [{}, {"do_sample": True, "key": jax.random.key(7), "temperature": 0.2}])
def test_copies_change_nothing_but_the_number_of_passes(model, options):
    free = model.generate(**SOURCE, max_new_tokens=NEW, eos_token_id=(), **options)
    # a source that holds what will be generated from it is out of reach; from given states it is not
    states = model.encode(**SOURCE)
    given = {
        "encoder_outputs": states,
        "input_ids": np.concatenate([SOURCE["input_ids"][:, :3], free.sequences[:, 1:]], axis=1),
    }
    alone = model.generate(encoder_outputs=states, max_new_tokens=NEW, eos_token_id=(), **options)
    copied = model.generate(**given, max_new_tokens=NEW, eos_token_id=(), prompt_lookup_num_tokens=4, **options)
    _same(alone, copied)
    assert copied.passes < NEW


# --- errors ----------------------------------------------------------------------------------------------------------


def test_proposals_that_cannot_be(model):
    wide = Decoder.init(decoder_config(vocab_size=VOCAB + 1), key=jax.random.key(0))
    alone = Decoder.init(decoder_config(layers=(LayerSpec(),) * 2), key=jax.random.key(0))
    for options, error, words in [
        ({"num_assistant_tokens": 3}, ValueError, "belongs to assistant_model"),
        ({"max_matching_ngram_size": 3}, ValueError, "belongs to prompt_lookup"),
        ({"assistant_model": model.decoder, "prompt_lookup_num_tokens": 3}, ValueError, "both propose"),
        ({"assistant_model": model.decoder, "num_beams": 2}, ValueError, "beams search takes none"),
        ({"prompt_lookup_num_tokens": 2, "num_beams": 2}, ValueError, "beams search takes none"),
        ({"assistant_model": "gpt2"}, TypeError, "got str"),
        ({"assistant_model": wide}, ValueError, f"vocabulary of {VOCAB + 1}"),
        ({"assistant_model": alone}, ValueError, "no encoder states"),
    ]:
        with pytest.raises(error, match=words):
            model.generate(**SOURCE, max_new_tokens=3, **options)
    with pytest.raises(ValueError, match="there are none"):
        model.generate(encoder_outputs=model.encode(**SOURCE), max_new_tokens=3, prompt_lookup_num_tokens=2)
