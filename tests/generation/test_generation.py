"""`EncoderDecoder.generate` on tiny models of the library: against full passes, in both layouts, and its errors."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from encdec_eqx import EncoderDecoder, EncoderOutput, GenerationConfig, SpecialTokens
from models import VOCAB, AttentionConfig, decoder_config, encoder_config, randomised, tiny_pair
from tolerances import SEQUENCE_SCORES

NEW = 8


@pytest.fixture(scope="module")
def model() -> EncoderDecoder:
    pair = tiny_pair(encoder_config(depth=1), decoder_config(depth=2))
    return randomised(pair, seed=1, spread=0.4)


def _source(batch: int = 3, length: int = 7) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    mask = (np.arange(length)[None] < np.arange(length, length - batch, -1)[:, None]).astype(np.int32)
    return {"input_ids": rng.integers(3, VOCAB, (batch, length)), "attention_mask": mask}


def _check_against_full_pass(model: EncoderDecoder, source: dict, result, prompt_width: int = 1) -> None:
    """One pass over the finished sequences has every token as its argmax, and the scores as its log-probabilities."""
    logits = np.asarray(model(source["input_ids"], result.sequences, attention_mask=source["attention_mask"]).logits)
    logits = logits[:, prompt_width - 1 : -1].astype(np.float64)
    generated = result.sequences[:, prompt_width:]
    shares = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    real = np.arange(generated.shape[1])[None] < result.lengths[:, None]
    np.testing.assert_array_equal(logits.argmax(-1)[real], generated[real])
    sums = (np.take_along_axis(shares, generated[..., None], 2)[..., 0] * real).sum(1)
    np.testing.assert_allclose(result.scores, sums, rtol=0, atol=SEQUENCE_SCORES)


def test_greedy_tokens_and_scores_are_those_of_a_full_pass(model):
    source = _source()
    free = model.generate(**source, max_new_tokens=NEW, eos_token_id=())
    _check_against_full_pass(model, source, free)
    assert len(np.unique(free.sequences[:, 1:])) > 2
    ends = [int(free.sequences[0, 3]), int(free.sequences[1, 5])]
    ended = model.generate(**source, max_new_tokens=NEW, eos_token_id=ends)
    assert ended.lengths.min() < NEW
    _check_against_full_pass(model, source, ended)


def test_prompts_continue_a_full_pass(model):
    source = _source()
    prompt = np.array([[1, 5, 6], [1, 7, 8], [1, 9, 10]])
    result = model.generate(**source, decoder_input_ids=prompt, max_new_tokens=NEW, eos_token_id=())
    np.testing.assert_array_equal(result.sequences[:, :3], prompt)
    _check_against_full_pass(model, source, result, prompt_width=3)


@pytest.mark.parametrize(
    "search",
    [{}, {"num_beams": 3, "num_return_sequences": 2}, {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5}],
    ids=["greedy", "beams", "groups"],
)
def test_both_layouts_generate_the_same(model, search):
    source = _source()
    options = {"decoder_input_ids": np.array([[1, 5], [1, 6], [1, 7]]), "max_new_tokens": NEW, **search}
    unrolled = model.generate(**source, **options)
    scanned = model.with_layout("scanned").generate(**source, **options)
    np.testing.assert_array_equal(scanned.sequences, unrolled.sequences)
    np.testing.assert_allclose(scanned.scores, unrolled.scores, rtol=0, atol=SEQUENCE_SCORES)


def test_beams_of_relative_positions_are_those_of_a_full_pass(key):
    """Distances are counted along each beam's own tokens, though beams lie side by side in the cache."""
    attention = AttentionConfig(num_heads=3, head_dim=4, relative_positions="key_query")
    pair = randomised(
        tiny_pair(encoder_config(depth=1), decoder_config(depth=2, attention=attention)), seed=4, spread=0.4
    )
    source = _source()
    prompt = np.array([[1, 5, 6, 9], [1, 6, 7, 7], [1, 7, 8, 3]])
    result = pair.generate(**source, decoder_input_ids=prompt, max_new_tokens=NEW, num_beams=4, num_return_sequences=2)
    again = pair.rescore(result.sequences, **source, prompt_length=4, length_penalty=1.0)
    np.testing.assert_allclose(again.scores, result.scores, atol=SEQUENCE_SCORES)
    every = {name: np.repeat(array, 2, axis=0) for name, array in source.items()}
    logits = np.asarray(pair(every["input_ids"], result.sequences, attention_mask=every["attention_mask"]).logits)
    shares = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    chosen = np.take_along_axis(shares[:, 3:-1], result.sequences[:, 4:, None], 2)[..., 0]
    real = np.arange(chosen.shape[1])[None] < result.lengths[:, None]
    np.testing.assert_allclose(result.log_probs, chosen * real, atol=SEQUENCE_SCORES)


def test_encoded_before_is_the_same(model):
    source = _source()
    expected = model.generate(**source, max_new_tokens=NEW)
    encoded = model.encode(**source)
    mask = source["attention_mask"]
    for arguments in (
        {"encoder_outputs": encoded, "attention_mask": mask},
        {"encoder_outputs": encoded, "attention_mask": mask, "input_ids": source["input_ids"]},
        {"encoder_outputs": EncoderOutput(encoded.last_hidden_state, attention_mask=mask)},
    ):
        np.testing.assert_array_equal(model.generate(**arguments, max_new_tokens=NEW).sequences, expected.sequences)


def test_a_second_call_of_a_bucket_compiles_nothing(model):
    source = _source(3, 7)
    model.generate(**source, max_new_tokens=NEW)
    again = model.generate(**_source(3, 12), max_new_tokens=NEW + 3, eos_token_id=[4, 5])
    assert again.compilations == 0
    assert model.with_special_tokens(eos_token_id=7).generate(**source, max_new_tokens=5).compilations == 0
    first = model.generate(**source, max_new_tokens=17)
    assert first.compilations == 2
    assert model.generate(**source, max_new_tokens=17).compilations == 0


class _Patches(eqx.Module):
    """An encoder of arrays, half as many states as inputs, with a mask of its own."""

    weight: jax.Array
    hidden_size: int = eqx.field(static=True)

    def __call__(self, inputs, /, *, attention_mask, position_ids, key) -> EncoderOutput:
        del attention_mask, position_ids, key
        states = jnp.einsum("bsd,dh->bsh", inputs, self.weight)
        halves = states.reshape(states.shape[0], -1, 2, self.hidden_size).sum(2)
        mask = jnp.ones(halves.shape[:2], jnp.int32).at[0, -1].set(0)
        return EncoderOutput(halves, attention_mask=mask)


def test_any_encoder_s_states_are_padded(model, key):
    patches = _Patches(jax.random.normal(key, (4, 16)), hidden_size=16)
    joined = dataclasses.replace(model, encoder=patches)
    inputs = np.random.default_rng(1).standard_normal((3, 10, 4), dtype=np.float32)
    result = joined.generate(inputs, max_new_tokens=NEW, eos_token_id=())
    logits = joined.decode(result.sequences, joined.encode(inputs)).logits
    np.testing.assert_array_equal(np.asarray(logits).argmax(-1)[:, :-1], result.sequences[:, 1:])


def test_explicit_positions_and_types_reach_the_encoder(model):
    source = {**_source(3, 7), "attention_mask": np.ones((3, 7), np.int32)}
    rng = np.random.default_rng(2)
    extras = {"position_ids": rng.integers(0, 24, (3, 7)), "token_type_ids": rng.integers(0, 2, (3, 7))}
    result = model.generate(**source, **extras, max_new_tokens=NEW, eos_token_id=())
    logits = model(source["input_ids"], result.sequences, **extras).logits
    np.testing.assert_array_equal(np.asarray(logits).argmax(-1)[:, :-1], result.sequences[:, 1:])


def test_the_model_s_own_config_is_the_default(model):
    own = dataclasses.replace(model, generation_config=GenerationConfig(max_new_tokens=3, temperature=0.5))
    source = _source()
    result = own.generate(**source)
    assert result.sequences.shape[1] <= 4
    assert "temperature=0.5" in result.notes[0]
    assert own.generate(**source, max_length=3).sequences.shape[1] <= 3
    passed = GenerationConfig(max_new_tokens=5, eos_token_id=[], decoder_start_token_id=9)
    sequences = own.generate(**source, generation_config=passed).sequences
    assert sequences.shape == (3, 6)
    assert (sequences[:, 0] == 9).all()


# --- errors ----------------------------------------------------------------------------------------------------------

_IDS = np.full((2, 5), 4)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({}, ValueError, "a source"),
        ({"input_ids": [[1, 2]]}, TypeError, "np.asarray"),
        ({"input_ids": _IDS[0]}, TypeError, "2 axes"),
        ({"input_ids": _IDS[:0]}, ValueError, "empty"),
        ({"input_ids": _IDS.astype(np.float32)}, TypeError, "integers"),
        ({"input_ids": _IDS + VOCAB}, ValueError, f"expected 0 to {VOCAB - 1}"),
        ({"input_ids": -_IDS}, ValueError, "is -4"),
        ({"input_ids": np.full((1, 25), 4)}, ValueError, "numbers at most 24"),
        ({"input_ids": _IDS, "attention_mask": np.ones((2, 4), int)}, TypeError, "shape of input_ids"),
        ({"input_ids": _IDS, "attention_mask": np.ones((2, 5))}, TypeError, "float"),
        ({"input_ids": _IDS, "attention_mask": 2 * np.ones((2, 5), int)}, ValueError, "holds 2"),
        ({"input_ids": _IDS, "attention_mask": np.zeros((2, 5), int)}, ValueError, "row 0 of attention_mask"),
        ({"input_ids": _IDS, "token_type_ids": 2 * np.ones((2, 5), int)}, ValueError, "token_type_ids"),
        ({"input_ids": _IDS, "position_ids": 24 * np.ones((2, 5), int)}, ValueError, "position_ids"),
        ({"input_ids": _IDS, "decoder_attention_mask": np.ones((2, 1), int)}, ValueError, "nothing to mask"),
        ({"input_ids": _IDS, "eos_token_id": VOCAB}, ValueError, "eos_token_id=53"),
        ({"input_ids": _IDS, "decoder_start_token_id": VOCAB}, ValueError, "decoder_start_token_id=53"),
        ({"input_ids": _IDS, "generation_config": {"max_length": 4}}, TypeError, "GenerationConfig"),
        ({"input_ids": _IDS, "encoder_outputs": np.zeros((2, 5, 16), np.float32)}, TypeError, "EncoderOutput"),
        ({"encoder_outputs": EncoderOutput(np.zeros((2, 5, 12), np.float32))}, TypeError, "hidden_size"),
        (
            {"encoder_outputs": EncoderOutput(np.zeros((2, 5, 16), np.float32)), "token_type_ids": _IDS},
            ValueError,
            "would do nothing",
        ),
        ({"encoder_outputs": EncoderOutput(np.zeros((3, 5, 16), np.float32)), "input_ids": _IDS}, TypeError, "batch 2"),
        ({"input_ids": _IDS, "max_new_tokens": 25}, ValueError, "position"),
        ({"input_ids": _IDS, "max_length": 1}, ValueError, "nothing to generate"),
        ({"input_ids": _IDS, "do_sample": True}, ValueError, "key=jax.random.key"),
        ({"input_ids": _IDS, "do_sample": True, "key": 3}, TypeError, "PRNG key"),
        ({"input_ids": _IDS, "do_sample": True, "key": np.zeros(2, np.float32)}, TypeError, "PRNG key"),
        ({"input_ids": _IDS, "do_sample": True, "key": np.zeros((3, 2), np.uint32)}, ValueError, "2 keys"),
        ({"input_ids": _IDS, "num_beams": 2, "num_return_sequences": 3}, ValueError, "more than num_beams=2"),
        ({"input_ids": _IDS, "max_lenght": 9}, TypeError, "max_length"),
    ],
    ids=lambda value: None if not isinstance(value, dict) else ",".join(value),
)
def test_malformed_calls(model, arguments, error, words):
    limit = {} if {"max_length", "max_new_tokens"} & set(arguments) else {"max_new_tokens": 4}
    with pytest.raises(error, match=words):
        model.generate(**arguments, **limit)


def test_generators_whose_numbers_depend_on_the_batch_are_refused(model):
    with pytest.raises(NotImplementedError, match="rbg"):
        model.generate(_IDS, max_new_tokens=2, do_sample=True, key=jax.random.key(0, impl="rbg"))


def test_a_missing_start_fails_at_first_use(model):
    nameless = dataclasses.replace(model, special_tokens=SpecialTokens())
    with pytest.raises(ValueError, match="decoder_start_token_id"):
        nameless.generate(_IDS, max_new_tokens=2)
    with pytest.raises(ValueError, match="eos_token_id"):
        nameless.generate(_IDS, max_new_tokens=2, decoder_start_token_id=1)
    complete = nameless.with_special_tokens(decoder_start_token_id=1, eos_token_id=2)
    assert complete.generate(_IDS, max_new_tokens=2).sequences.shape[0] == 2


def test_an_end_beyond_the_vocabulary_is_dropped_if_a_file_says_so(model):
    """A tiny GPT-2's config keeps its class's default, 50256; torch then never ends a row."""
    default = SpecialTokens.resolve(("the decoder's config", {"bos_token_id": 1, "eos_token_id": 50256}))
    result = dataclasses.replace(model, special_tokens=default).generate(_IDS, max_new_tokens=3)
    assert result.truncated.all()
    assert "50256" in result.notes[0]
    with pytest.raises(ValueError, match="50256"):
        model.with_special_tokens(eos_token_id=50256).generate(_IDS, max_new_tokens=3)
    with pytest.raises(ValueError, match="pad_token_id=50256"):
        model.with_special_tokens(pad_token_id=50256).generate(_IDS, max_new_tokens=3)


def test_an_unused_key_is_fine(model, key):
    assert model.generate(_IDS, max_new_tokens=2, key=key).sequences.shape[0] == 2


def test_inside_a_transformation_it_says_where_it_belongs(model):
    def run(ids):
        return model.generate(ids, max_new_tokens=2).sequences

    for call in (
        lambda: jax.jit(run)(_IDS),
        lambda: jax.jit(lambda: run(_IDS))(),
        lambda: jax.vmap(lambda ids: run(ids[None]))(jnp.asarray(_IDS)),
        lambda: eqx.filter_grad(lambda m: m.generate(_IDS, max_new_tokens=2).scores.sum())(model),
    ):
        with pytest.raises(RuntimeError, match="runs on the host"):
            call()
