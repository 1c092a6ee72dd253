"""Options of `generate` at and beyond the edges: what float32, int32 and a machine hold; arrays where numbers go."""

import re
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from encdec_eqx import GenerationConfig
from encdec_eqx.generation.plan import resolve_settings, split_options
from encdec_eqx.training.batch import checked_entries
from generation_stand_in import generate, stand_in, states
from models import tiny_pair

FACTS = {"prompt_width": 1, "eos_ids": (2,), "has_key": True, "vocab_size": 99, "has_source_ids": True}
SECONDS = 2.0

# every real-valued option, with a value that is right
REALS = {
    "temperature": 0.7,
    "top_p": 0.5,
    "min_p": 0.25,
    "typical_p": 0.5,
    "epsilon_cutoff": 0.125,
    "eta_cutoff": 0.125,
    "length_penalty": 1.5,
    "diversity_penalty": 0.5,
    "penalty_alpha": 0.5,
    "repetition_penalty": 1.25,
    "encoder_repetition_penalty": 1.25,
}
# every option that is a size, with the largest value it may have
SIZES = {
    "max_length": 2**20,
    "max_new_tokens": 2**20,
    "min_length": 2**20,
    "min_new_tokens": 2**20,
    "num_beams": 1024,
    "num_beam_groups": 64,
    "num_assistant_tokens": 64,
    "prompt_lookup_num_tokens": 64,
    "max_matching_ngram_size": 64,
    "num_return_sequences": 2**16,
    "no_repeat_ngram_size": 64,
    "encoder_no_repeat_ngram_size": 64,
    "top_k": 2**31 - 1,
    "forced_bos_token_id": 2**31 - 1,
}
FLAGS = ("do_sample", "remove_invalid_values", "renormalize_logits", "early_stopping")


def refused(**options) -> str:
    """The message with which a call, a config and a file refuse an option; it teaches, and soon."""
    (name,) = options
    messages = []
    for make in (
        lambda: GenerationConfig(**options),
        lambda: GenerationConfig.from_hf(options),
        lambda: resolve_settings(split_options(options)[0], None, None, **FACTS),
    ):
        began = time.process_time()
        with pytest.raises((ValueError, TypeError)) as raised:
            make()
        assert time.process_time() - began < SECONDS
        messages.append(str(raised.value))
    assert messages[0] == messages[2] == messages[1].removeprefix("generation_config.json: ") != messages[1]
    assert name in messages[0]
    assert len(messages[0]) < 500
    assert "\n" not in messages[0]
    return messages[0]


WRONG_REALS = [1e300, -1e300, 1e31, np.inf, -np.inf, np.nan, 10**400, 10**5000, "0.5", "x" * 9999, True, [0.5], 1j]


@pytest.mark.parametrize("value", WRONG_REALS, ids=lambda value: str(type(value).__name__))
@pytest.mark.parametrize("name", REALS)
def test_reals_that_float32_does_not_hold(name, value):
    refused(**{name: value})


@pytest.mark.parametrize("value", [1e-300, 1e-46, 1e-40, 1.1e-38])
@pytest.mark.parametrize("name", [name for name in REALS if name != "length_penalty"])
def test_reals_that_are_0_in_float32(name, value):
    assert "float32" in refused(**{name: value})


def test_a_temperature_below_float32_s_least_names_greedy_search():
    assert "do_sample=False" in refused(temperature=1e-46)
    assert "do_sample=False" in refused(temperature=np.float64(1e-320))


@pytest.mark.parametrize("value", [[[[3], 1e300]], [[[3], -1e300]], [[[3], np.inf]], [[[3], np.nan]], {(3,): 10**400}])
def test_biases_that_float32_does_not_hold(value):
    with pytest.raises(ValueError, match=r"sequence_bias, for .*: the bias must be"):
        GenerationConfig(sequence_bias=value)
    assert GenerationConfig(sequence_bias=[[[3], -np.inf]]).sequence_bias == (((3,), -np.inf),)


@pytest.mark.parametrize("value", [[3, 1e300], [3, 0.0], [3, 1e-46], [3, np.nan], [10**30, 1.1], [10**5000, 1.1]])
def test_decays_out_of_range(value):
    refused(exponential_decay_length_penalty=value)


@pytest.mark.parametrize("penalty", [30.0, -30.0, 1e30])
def test_lengths_to_a_power_that_float32_does_not_hold(penalty):
    options = {"max_new_tokens": 1000, "num_beams": 2, "length_penalty": penalty}
    with pytest.raises(ValueError, match=r"between -10\.0 and 10\.0"):
        resolve_settings(options, None, None, **FACTS)
    assert resolve_settings({**options, "length_penalty": 9.9}, None, None, **FACTS).length_penalty == 9.9


# --- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SIZES)
def test_sizes_have_an_upper_bound(name):
    most: Any = SIZES[name]
    assert getattr(GenerationConfig(**{name: most}), name) == most
    for value in (most + 1, 10**30, 10**5000):
        assert f"at most {most:,}" in refused(**{name: value})


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 10**9},
        {"num_beams": 1024, "max_new_tokens": 2**12},
        {"num_beams": 1024, "num_return_sequences": 10**9},
        {"num_return_sequences": 10**9, "do_sample": True},
        {"num_return_sequences": 2**16, "do_sample": True, "max_new_tokens": 2**12},
        {"max_new_tokens": 10**9},
        {"max_length": 10**9},
        {"num_beams": 1024, "num_beam_groups": 1024, "diversity_penalty": 1.0},
        {"penalty_alpha": 0.5, "top_k": 1000, "max_new_tokens": 2**12},
        {"num_beams": 64, "force_words_ids": [[[token] for token in range(3, 1000)]]},
    ],
    ids=lambda options: ", ".join(options),
)
def test_runs_that_are_too_large_are_refused_at_once(options):
    decoder, source = stand_in(vocab=1000), states(3)
    began = time.perf_counter()
    with pytest.raises(ValueError, match=r"at most|too large"):
        generate(decoder, source, key=jax.random.key(0), **{"max_new_tokens": 8, **options})
    assert time.perf_counter() - began < SECONDS


def test_long_lists_of_words_take_no_longer_than_they_are():
    began = time.process_time()
    words = [[a, b] for a in range(100) for b in range(100)]
    settings = GenerationConfig(bad_words_ids=words, sequence_bias=[[word, 1.0] for word in words])
    found = resolve_settings({"max_new_tokens": 5}, settings, None, **{**FACTS, "vocab_size": 300})
    assert len(found.bad_words_ids) == len(found.sequence_bias) == len(words)
    assert len(GenerationConfig(force_words_ids=[words]).force_words_ids[0]) == len(words)
    assert time.process_time() - began < SECONDS


# --- arrays without axes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray, np.float64], ids=["numpy", "jax", "scalar"])
@pytest.mark.parametrize("name", REALS)
def test_reals_may_be_arrays_without_axes(name, array):
    assert getattr(GenerationConfig(**{name: array(REALS[name])}), name) == pytest.approx(REALS[name], rel=1e-6)
    assert type(getattr(GenerationConfig(**{name: array(REALS[name])}), name)) is float


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray, np.int64], ids=["numpy", "jax", "scalar"])
@pytest.mark.parametrize("name", [*SIZES, "eos_token_id", "pad_token_id", "suppress_tokens", "forced_eos_token_id"])
def test_sizes_and_ids_may_be_arrays_without_axes(name, array):
    plain: Any = 4
    assert GenerationConfig(**{name: array(4)}) == GenerationConfig(**{name: plain})


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray, np.bool_], ids=["numpy", "jax", "scalar"])
@pytest.mark.parametrize("name", FLAGS)
def test_flags_may_be_arrays_without_axes(name, array):
    assert getattr(GenerationConfig(**{name: array(True)}), name) is True


def test_other_numbers_and_lists_of_arrays():
    assert GenerationConfig(temperature=jnp.bfloat16(0.5)).temperature == 0.5
    words = [np.array([3]), [jnp.asarray(4), np.int32(5)]]
    assert GenerationConfig(bad_words_ids=words).bad_words_ids == ((3,), (4, 5))
    ends: Any = [np.asarray(3), jnp.asarray(4)]
    assert GenerationConfig(eos_token_id=ends).eos_token_id == (3, 4)
    choice = [[np.array([3, 4]), np.array([5])], np.array([6])]
    assert GenerationConfig(force_words_ids=choice).force_words_ids == (((3, 4), (5,)), ((6,),))
    decay: Any = np.array([3, 1.5])
    assert GenerationConfig(exponential_decay_length_penalty=decay).exponential_decay_length_penalty == (3, 1.5)


@pytest.mark.parametrize("name", [*REALS, *SIZES, *FLAGS])
@pytest.mark.parametrize(
    "value", [np.array([4]), jnp.asarray([0.5, 0.7]), np.zeros((300, 300)), np.array("4")], ids=str
)
def test_arrays_with_axes_are_no_numbers(name, value):
    try:
        GenerationConfig(**{name: value})
    except (TypeError, ValueError) as error:
        assert name in str(error)
        assert len(str(error)) < 500
    else:
        pytest.fail(f"{name}={value!r} was accepted")


def test_numbers_of_a_call_may_be_arrays_without_axes():
    decoder, source = stand_in(), states(2)
    expected = generate(decoder, source, max_new_tokens=6, num_beams=3, num_return_sequences=2, length_penalty=0.5)
    result = generate(
        decoder,
        source,
        max_new_tokens=np.array(6),
        num_beams=np.int64(3),
        num_return_sequences=jnp.asarray(2),
        length_penalty=jnp.float32(0.5),
    )
    np.testing.assert_array_equal(result.sequences, expected.sequences)
    assert result.compilations == 0


# --- at the edges ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": True, "temperature": 1e-30},
        {"do_sample": True, "temperature": 1e30},
        {"do_sample": True, "top_p": 1.2e-38, "typical_p": 1.2e-38},
        {"do_sample": True, "min_p": 1.2e-38, "epsilon_cutoff": 1.2e-38, "eta_cutoff": 1.2e-38},
        {"do_sample": True, "top_p": 1 - 1e-16, "typical_p": 1 - 1e-16, "epsilon_cutoff": 1 - 1e-16},
        {"repetition_penalty": 1e30, "encoder_repetition_penalty": 1.0},
        {"repetition_penalty": 1e-30},
        {"sequence_bias": [[[3], 1e30], [[4], -1e30], [[5, 3], 1e30]]},
        {"exponential_decay_length_penalty": [0, 1e30]},
        {"exponential_decay_length_penalty": [2**20, 1e-30]},
        {"num_beams": 3, "length_penalty": 38.5},
        {"num_beams": 3, "length_penalty": -38.5},
        {"num_beams": 3, "repetition_penalty": 1e30},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1e30},
        {"penalty_alpha": 1.2e-38, "top_k": 3},
    ],
    ids=str,
)
def test_results_are_numbers_at_the_edges(options):
    decoder, source = stand_in(), states(2)
    result = generate(decoder, source, max_new_tokens=6, key=jax.random.key(0), **options)
    for name in ("scores", "log_probs", "processed_log_probs"):
        assert not np.isnan(getattr(result, name)).any()
    assert np.isfinite(result.log_probs).all()


def test_the_least_temperature_is_greedy_search():
    decoder, source = stand_in(3), states(4)
    greedy = generate(decoder, source, max_new_tokens=8)
    drawn = generate(decoder, source, max_new_tokens=8, do_sample=True, temperature=1e-30, key=jax.random.key(1))
    np.testing.assert_array_equal(drawn.sequences, greedy.sequences)


# --- masks of floats -------------------------------------------------------------------------------------------------

KEPT = np.array([[True, True, True], [True, True, False]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, jnp.bfloat16], ids=["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("place", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
@pytest.mark.parametrize(
    "mask",
    [KEPT, np.where(KEPT, 0.0, -1e9), np.where(KEPT, 0.0, -np.inf), np.where(KEPT, 0.0, np.finfo(np.float32).min)],
    ids=["0 and 1", "added", "minus infinity", "finfo.min"],
)
def test_the_advice_for_a_mask_of_floats_gives_the_right_mask(mask, place, dtype):
    """Wherever it is given: what the message says to pass is run, and is the mask that was meant."""
    mask = place(np.asarray(mask).astype(np.float32 if place is jnp.asarray and dtype is np.float64 else dtype))
    ids = np.array([[4, 5, 6], [7, 8, 9]])
    model = tiny_pair()
    calls = {
        "attention_mask": [
            lambda: generate(stand_in(), states(2, 3), mask, max_new_tokens=2),
            lambda: checked_entries({"input_ids": ids, "labels": ids, "attention_mask": mask}),
            lambda: model.generate(ids, attention_mask=mask, max_new_tokens=2),
        ],
        "decoder_attention_mask": [
            lambda: generate(
                stand_in(), states(2, 3), decoder_input_ids=ids, decoder_attention_mask=mask, max_new_tokens=2
            ),
            lambda: checked_entries({"input_ids": ids, "labels": ids, "decoder_attention_mask": mask}),
        ],
    }
    for name, those in calls.items():
        for call in those:
            with pytest.raises(TypeError) as raised:
                call()
            advised = re.search(r"pass (.*)\.$", str(raised.value))
            assert advised is not None, str(raised.value)
            np.testing.assert_array_equal(eval(advised.group(1), {name: mask}), KEPT)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (np.zeros((1, 3)), "0.0 everywhere"),
        (np.array([[1.0, 0.5, 0.0]]), "neither 0.0 and 1.0"),
        (np.array([[1.0, -5.0, 0.0]]), "neither 0.0 and 1.0"),
        (np.array([[np.nan, 0.0, 1.0]]), "neither 0.0 and 1.0"),
        (np.array([[-1.0, -2.0, -3.0]]), "attend to nothing"),
    ],
    ids=str,
)
def test_masks_of_floats_that_say_nothing_get_no_recipe(mask, words):
    with pytest.raises(TypeError, match=words):
        generate(stand_in(), states(1, 3), mask, max_new_tokens=2)
