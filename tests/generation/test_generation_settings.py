"""What may be asked of `generate`, how requests combine, and what files say: no arrays, no programs."""

import json
import logging
from typing import Any

import equinox as eqx
import numpy as np
import pytest

from encdec_eqx import GenerationConfig
from encdec_eqx.generation.plan import Settings, resolve_settings, split_options

DEFAULTS = {"prompt_width": 1, "eos_ids": (2,), "has_key": True, "vocab_size": 99, "has_source_ids": True}


def resolve(arguments=None, passed=None, file=None, **facts) -> Settings:
    options, _ = split_options(arguments or {})
    return resolve_settings(options, passed, file, **{**DEFAULTS, **facts})


def config(**options) -> GenerationConfig:
    return GenerationConfig(**options)


# --- single values ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_length", 0),
        ("max_new_tokens", 0),
        ("max_new_tokens", -3),
        ("min_length", -1),
        ("top_k", -1),
        ("num_beams", 0),
        ("num_return_sequences", 0),
        ("temperature", 0.0),
        ("temperature", -1.0),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("top_p", -0.1),
        ("top_p", 1.1),
        ("early_stopping", "soon"),
        ("eos_token_id", -1),
        ("pad_token_id", -100),
    ],
)
def test_values_out_of_range(name, value):
    with pytest.raises(ValueError, match=name):
        config(**{name: value})


def test_arguments_are_checked_like_a_config():
    for value, error in ((-1.0, ValueError), ("hot", TypeError)):
        with pytest.raises(error, match="temperature"):
            resolve({"max_new_tokens": 5, "do_sample": True, "temperature": value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", 2.5),
        ("max_new_tokens", "5"),
        ("max_new_tokens", True),
        ("top_k", 1.0),
        ("temperature", "hot"),
        ("temperature", True),
        ("do_sample", 1),
        ("do_sample", "yes"),
    ],
)
def test_values_of_the_wrong_type(name, value):
    with pytest.raises(TypeError, match=name):
        resolve({"max_length": 5, name: value})


def test_both_ways_to_say_a_length():
    for names in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
        with pytest.raises(ValueError, match="both"):
            config(**dict.fromkeys(names, 5))
        with pytest.raises(ValueError, match="both"):
            resolve({"max_new_tokens": 9, **dict.fromkeys(names, 5)})


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("max_lenght", "max_length"),
        ("max_tokens", "max_new_tokens"),
        ("topk", "top_k"),
        ("temprature", "temperature"),
        ("n_beams", "num_beams"),
        ("eos_id", "eos_token_id"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(name, nearest):
    with pytest.raises(TypeError, match=nearest):
        split_options({name: 3})


@pytest.mark.parametrize("name", ["prng_key", "params", "output_scores", "use_cache", "encoder_attention_mask"])
def test_names_from_elsewhere_are_explained(name):
    with pytest.raises(TypeError, match=f"takes no '{name}': "):
        split_options({name: 1})


@pytest.mark.parametrize(
    ("name", "value", "neutral"),
    [
        ("guidance_scale", 1.5, 1.0),
        ("token_healing", True, False),
        ("max_time", 3.0, None),
        ("stop_strings", ["x"], None),
    ],
)
def test_what_is_not_built_says_so_unless_it_would_do_nothing(name, value, neutral):
    assert resolve({"max_new_tokens": 5, name: neutral}).max_new_tokens == 5
    with pytest.raises(NotImplementedError, match=f"{name}.*nearest"):
        resolve({"max_new_tokens": 5, name: value})
    file = GenerationConfig.from_hf({"max_new_tokens": 5, name: value})
    with pytest.raises(NotImplementedError, match=f"{name}.*generation_config"):
        resolve(file=file)
    if neutral is not None:
        assert resolve({name: neutral}, file=file).max_new_tokens == 5
    assert resolve(passed=config(max_new_tokens=4), file=file).max_new_tokens == 4


# --- searches --------------------------------------------------------------------------------------------------------


def test_a_file_s_beams_are_used_and_dropped_with_a_note_where_there_are_none():
    file = config(max_new_tokens=5, num_beams=4, length_penalty=2.0, early_stopping=True)
    settings = resolve(file=file)
    assert (settings.search, settings.num_beams, settings.length_penalty) == ("beams", 4, 2.0)
    assert settings.early_stopping is True
    assert len(resolve({"num_beams": 1}, file=file).notes) == 2


@pytest.mark.parametrize(
    ("options", "search"),
    [
        ({}, "greedy"),
        ({"do_sample": True}, "sample"),
        ({"num_beams": 3}, "beams"),
        ({"num_beams": 3, "do_sample": True}, "beams"),
        ({"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5}, "beams"),
        ({"penalty_alpha": 0.6, "top_k": 4}, "contrastive"),
        ({"num_beams": 2, "force_words_ids": [[5]]}, "constrained"),
    ],
    ids=str,
)
def test_options_choose_the_search(options, search):
    assert resolve({"max_new_tokens": 5, **options}).search == search


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"length_penalty": 2.0}, "num_beams is 1"),
        ({"early_stopping": True}, "num_beams is 1"),
        ({"num_beam_groups": 2, "diversity_penalty": 0.5}, "num_beams is 1"),
        ({"diversity_penalty": 0.5}, "num_beams is 1"),
        ({"num_beams": 4, "diversity_penalty": 0.5}, "num_beam_groups is 1"),
        ({"num_beams": 4, "num_beam_groups": 2}, "diversity_penalty above 0"),
        ({"num_beams": 4, "num_beam_groups": 3, "diversity_penalty": 0.5}, "num_beams=6"),
        ({"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5, "do_sample": True}, "contradict"),
        ({"num_beams": 2, "num_return_sequences": 3}, "more than num_beams=2"),
        ({"num_return_sequences": 3}, "one result per sentence"),
        ({"num_beams": 2, "temperature": 2.0}, "do_sample is not True"),
        ({"penalty_alpha": 0.6}, "pass top_k=4"),
        ({"penalty_alpha": 0.6, "top_k": 4, "num_beams": 2}, "contrastive search takes"),
        ({"penalty_alpha": 0.6, "top_k": 4, "do_sample": True}, "contrastive search takes"),
        ({"penalty_alpha": 0.6, "top_k": 4, "length_penalty": 2.0}, "contrastive search"),
        ({"force_words_ids": [[5]]}, "num_beams is 1"),
        ({"num_beams": 2, "force_words_ids": [[5]], "do_sample": True}, "contradict"),
        ({"num_beams": 2, "force_words_ids": [[5]], "num_beam_groups": 2, "diversity_penalty": 1.0}, "contradict"),
    ],
    ids=str,
)
def test_searches_that_contradict_themselves(options, words):
    with pytest.raises(ValueError, match=words):
        resolve({"max_new_tokens": 5, **options})


# --- lengths ---------------------------------------------------------------------------------------------------------


def test_a_maximum_is_required():
    with pytest.raises(ValueError, match="neither max_new_tokens nor max_length"):
        resolve()
    with pytest.raises(ValueError, match="neither"):
        resolve(passed=config(min_length=3), file=config(max_length=9))


def test_max_length_counts_the_prompt():
    assert resolve({"max_length": 9}, prompt_width=4).max_new_tokens == 5
    assert resolve({"max_new_tokens": 9}, prompt_width=4).max_new_tokens == 9
    with pytest.raises(ValueError, match="counts the 4 token"):
        resolve({"max_length": 4}, prompt_width=4)


@pytest.mark.parametrize("first", ["max_length", "max_new_tokens"])
@pytest.mark.parametrize("second", ["max_length", "max_new_tokens"])
def test_an_argument_beats_a_file_whichever_way_they_say_it(first, second):
    file = config(**{second: 30})
    assert resolve({first: 7}, file=file).max_new_tokens == (6 if first == "max_length" else 7)
    assert resolve(file=file).max_new_tokens == (29 if second == "max_length" else 30)


def test_a_least_length_must_be_possible():
    assert resolve({"min_length": 6, "max_new_tokens": 5}).min_length == 6
    assert resolve({"min_new_tokens": 5, "max_new_tokens": 5}).min_new_tokens == 5
    with pytest.raises(ValueError, match="min_length=7"):
        resolve({"min_length": 7, "max_new_tokens": 5})
    with pytest.raises(ValueError, match="min_new_tokens=6"):
        resolve({"min_new_tokens": 6, "max_new_tokens": 5})
    settings = resolve({"max_new_tokens": 5}, file=config(min_length=40))
    assert settings.min_length == 40
    assert "no row will end early" in settings.notes[0]


def test_nothing_to_hold_back_without_an_end():
    with pytest.raises(ValueError, match="min_length=3"):
        resolve({"min_length": 3, "max_new_tokens": 5}, eos_ids=())
    settings = resolve({"max_new_tokens": 5}, file=config(min_new_tokens=3), eos_ids=())
    assert settings.min_new_tokens == 0
    assert "dropped" in settings.notes[0]


# --- combinations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0.7),
        ("top_k", 5),
        ("top_p", 0.9),
        ("min_p", 0.1),
        ("typical_p", 0.9),
        ("epsilon_cutoff", 0.01),
        ("eta_cutoff", 0.01),
        ("length_penalty", 2.0),
        ("early_stopping", True),
    ],
)
def test_what_would_do_nothing_is_an_error_from_a_caller_and_a_note_from_a_file(name, value, caplog):
    for asked in (
        {"arguments": {"max_new_tokens": 5, name: value}},
        {"passed": config(max_new_tokens=5, **{name: value})},
    ):
        with pytest.raises(ValueError, match=f"{name}=.* would do nothing"):
            resolve(**asked)
    with caplog.at_level(logging.WARNING, "encdec_eqx"):
        settings = resolve({"max_new_tokens": 5}, file=config(**{name: value}))
    assert settings == Settings(max_new_tokens=5, notes=settings.notes)
    assert len(settings.notes) == 1


def test_neutral_values_are_fine_wherever_they_come_from():
    """Callers hand on what they were given; a value that asks for nothing misleads nobody."""
    neutral: dict[str, Any] = {
        "do_sample": False,
        "num_beams": 1,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "length_penalty": 1.0,
        "early_stopping": False,
        "num_return_sequences": 1,
        "num_beam_groups": 1,
        "diversity_penalty": 0.0,
        "penalty_alpha": 0.0,
        "repetition_penalty": 1.0,
        "num_assistant_tokens": 20,
    }
    places: list[dict[str, Any]] = [{"arguments": neutral}, {"passed": config(**neutral)}, {"file": config(**neutral)}]
    for asked in places:
        arguments = {"max_new_tokens": 5, **asked.pop("arguments", {})}
        assert resolve(arguments, **asked) == Settings(max_new_tokens=5)


def test_notes_are_logged_once(caplog):
    file = config(temperature=0.123)
    with caplog.at_level(logging.WARNING, "encdec_eqx"):
        for _ in range(3):
            assert len(resolve({"max_new_tokens": 5}, file=file).notes) == 1
    assert sum("0.123" in record.message for record in caplog.records) == 1


def test_sampling_needs_a_key():
    with pytest.raises(ValueError, match=r"key=jax.random.key\(seed\)"):
        resolve({"max_new_tokens": 5, "do_sample": True}, has_key=False)
    assert not resolve({"max_new_tokens": 5}).do_sample


def test_several_results_need_sampling():
    with pytest.raises(ValueError, match="num_return_sequences=3"):
        resolve({"max_new_tokens": 5, "num_return_sequences": 3})
    assert resolve({"max_new_tokens": 5, "num_return_sequences": 3, "do_sample": True}).num_return_sequences == 3
    assert resolve({"max_new_tokens": 5}, file=config(num_return_sequences=3)).num_return_sequences == 1


def test_a_file_s_sampling_is_used_and_its_hidden_top_k_mentioned():
    file = config(max_new_tokens=5, do_sample=True, temperature=0.6)
    settings = resolve(file=file)
    assert (settings.do_sample, settings.temperature, settings.top_k) == (True, 0.6, 0)
    assert "top_k=50" in settings.notes[0]
    assert resolve({"top_k": 9}, file=file) == Settings(
        max_new_tokens=5, search="sample", do_sample=True, temperature=0.6, top_k=9
    )
    assert not resolve({"do_sample": False}, file=file).do_sample


# --- files -----------------------------------------------------------------------------------------------------------


def test_files_round_trip():
    content = {
        "_from_model_config": True,
        "transformers_version": "4.57.6",
        "max_length": 20,
        "num_beams": 4,
        "early_stopping": "never",
        "no_repeat_ngram_size": 3,
        "bad_words_ids": [[1, 2], [3]],
        "sequence_bias": [[[1, 2], 0.5]],
        "watermarking_config": {"greenlist_ratio": 0.5, "a": [1]},
    }
    read = GenerationConfig.from_hf(content)
    assert read.max_length == 20
    assert json.loads(json.dumps(read.to_hf())) == content
    assert hash(read) == hash(GenerationConfig.from_hf(content))
    assert GenerationConfig.from_hf(read.to_hf()) == read


def test_a_config_json_says_only_what_differs_from_defaults():
    verbose = {
        "model_type": "encoder-decoder",
        "max_length": 20,
        "min_length": 0,
        "do_sample": False,
        "num_beams": 1,
        "temperature": 1.0,
        "top_k": 50,
        "top_p": 1.0,
        "repetition_penalty": 1.0,
        "length_penalty": 1.0,
        "bad_words_ids": None,
        "eos_token_id": 3,
    }
    assert GenerationConfig.from_hf(None, verbose) == GenerationConfig()
    bert2bert = {**verbose, "max_length": 142, "min_length": 56, "no_repeat_ngram_size": 3, "num_beams": 4}
    read = GenerationConfig.from_hf(None, bert2bert)
    assert (read.max_length, read.min_length, read.num_beams) == (142, 56, 4)
    assert (read.no_repeat_ngram_size, read.others) == (3, ())
    assert GenerationConfig.from_hf({"max_length": 20}, bert2bert) == GenerationConfig(max_length=20)


def test_of_two_lengths_in_a_file_the_new_tokens_count(caplog):
    with caplog.at_level(logging.WARNING, "encdec_eqx"):
        read = GenerationConfig.from_hf({"max_length": 9, "max_new_tokens": 4})
    assert read == GenerationConfig(max_new_tokens=4)
    assert "max_length is dropped" in caplog.text


def test_unknown_names_in_a_file_are_reported_and_kept(caplog):
    with caplog.at_level(logging.WARNING, "encdec_eqx"):
        read = GenerationConfig.from_hf({"max_length": 9, "tempo": 4, "use_cache": True})
    assert "tempo" in caplog.text
    assert "use_cache" not in caplog.text
    assert read.to_hf() == {"max_length": 9, "tempo": 4, "use_cache": True}


# --- forced ids, and runs of the source ------------------------------------------------------------------------------


def test_forced_ids_come_from_a_file_or_a_call():
    found = resolve({"max_new_tokens": 5, "forced_bos_token_id": 7}, file=config(forced_eos_token_id=[2, 3]))
    assert (found.forced_bos_token_id, found.forced_eos_token_ids) == (7, (2, 3))
    assert config(forced_eos_token_id=2).forced_eos_token_id == (2,)


@pytest.mark.parametrize("value", [-1, [], [-1], [3, -2]])
def test_forced_ends_out_of_range(value):
    with pytest.raises(ValueError, match="forced_eos_token_id"):
        config(forced_eos_token_id=value)


@pytest.mark.parametrize("value", ["2", 2.0, True, [2.5]])
def test_forced_ends_of_the_wrong_type(value):
    with pytest.raises(TypeError, match="forced_eos_token_id must be an integer id or several"):
        config(forced_eos_token_id=value)


@pytest.mark.parametrize("name", ["forced_bos_token_id", "forced_eos_token_id"])
def test_forced_ids_beyond_the_vocabulary_are_dropped_from_a_file_only(name):
    found = resolve({"max_new_tokens": 5}, file=config(**{name: 99}))
    assert (found.forced_bos_token_id, found.forced_eos_token_ids) == (None, ())
    assert "goes beyond the decoder's vocabulary of 99: dropped" in found.notes[0]
    with pytest.raises(ValueError, match=r"beyond the decoder's vocabulary of 99\. Pass an id"):
        resolve({"max_new_tokens": 5, name: 99})


@pytest.mark.parametrize("name", ["forced_bos_token_id", "forced_eos_token_id"])
def test_a_forced_id_that_is_suppressed_leaves_no_token(name):
    with pytest.raises(ValueError, match=rf"{name}=.*7.* \(argument\) and suppress_tokens=\(5, 7\).*no token is left"):
        resolve({"max_new_tokens": 5, name: 7}, file=config(suppress_tokens=[5, 7]))
    found = resolve({"max_new_tokens": 5}, file=config(suppress_tokens=[5, 7], **{name: 7}))
    assert (found.forced_bos_token_id, found.forced_eos_token_ids) == (None, ())
    assert f"{name} is dropped" in found.notes[0]
    ends = resolve({"max_new_tokens": 5, "suppress_tokens": [7], "forced_eos_token_id": [6, 7]}).forced_eos_token_ids
    assert ends == (6, 7)


def test_suppressing_every_id_leaves_no_token():
    half = DEFAULTS["vocab_size"] // 2
    some, others = list(range(half)), list(range(half, DEFAULTS["vocab_size"]))
    with pytest.raises(ValueError, match="no token is left to generate"):
        resolve({"max_new_tokens": 5, "suppress_tokens": some, "begin_suppress_tokens": others})
    assert resolve({"max_new_tokens": 5, "suppress_tokens": some}).suppress_tokens == tuple(some)


def test_a_forced_first_token_needs_a_lone_start_token():
    assert resolve({"max_new_tokens": 5}, file=config(forced_bos_token_id=7), prompt_width=3).notes
    with pytest.raises(ValueError, match="would do nothing: it takes the place of the first token"):
        resolve({"max_new_tokens": 5, "forced_bos_token_id": 7}, prompt_width=3)


def test_runs_of_the_source_need_its_ids():
    asked = {"max_new_tokens": 5, "encoder_no_repeat_ngram_size": 3}
    assert resolve(asked).encoder_no_repeat_ngram_size == 3
    with pytest.raises(ValueError, match=r"and there are none\. Pass input_ids"):
        resolve(asked, has_source_ids=False)
    assert resolve({**asked, "encoder_no_repeat_ngram_size": 0}, has_source_ids=False).notes == ()


# --- rules -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("repetition_penalty", 0.0),
        ("repetition_penalty", -1.2),
        ("encoder_repetition_penalty", 0),
        ("encoder_repetition_penalty", float("inf")),
        ("no_repeat_ngram_size", -1),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("typical_p", 0.0),
        ("typical_p", 1.1),
        ("epsilon_cutoff", 1.0),
        ("epsilon_cutoff", -0.1),
        ("eta_cutoff", 1.0),
        ("eta_cutoff", float("nan")),
        ("bad_words_ids", [[]]),
        ("bad_words_ids", [[3, -1]]),
        ("sequence_bias", [[[], 1.0]]),
        ("sequence_bias", {(): 1.0}),
        ("sequence_bias", [[[3], float("nan")]]),
        ("sequence_bias", {(-3,): 1.0}),
        ("suppress_tokens", [-1]),
        ("begin_suppress_tokens", [3, -1]),
        ("exponential_decay_length_penalty", [-1, 1.1]),
        ("exponential_decay_length_penalty", [3, 0.0]),
    ],
)
def test_values_of_rules_out_of_range(name, value):
    with pytest.raises(ValueError, match=name):
        config(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("repetition_penalty", "much"),
        ("no_repeat_ngram_size", 2.0),
        ("min_p", True),
        ("bad_words_ids", [3]),
        ("bad_words_ids", "no"),
        ("bad_words_ids", 3),
        ("bad_words_ids", [[3.0]]),
        ("bad_words_ids", [["3"]]),
        ("sequence_bias", 1.0),
        ("sequence_bias", [[3], 1.0]),
        ("sequence_bias", [[[3], 1.0, 2.0]]),
        ("sequence_bias", [[[3], "1"]]),
        ("sequence_bias", {3: 1.0}),
        ("sequence_bias", {"three": 1.0}),
        ("suppress_tokens", ["3"]),
        ("suppress_tokens", 2.5),
        ("exponential_decay_length_penalty", 1.1),
        ("exponential_decay_length_penalty", [3]),
        ("exponential_decay_length_penalty", [3.5, 1.1]),
        ("remove_invalid_values", 1),
        ("renormalize_logits", "yes"),
    ],
)
def test_values_of_rules_of_the_wrong_type(name, value):
    with pytest.raises(TypeError, match=name):
        config(**{name: value})


BIASES = (((3,), -1.5), ((4, 5), 2.0))
RULES = {
    "sequence_bias": ([[[3], -1.5], [[4, 5], 2.0]], BIASES),
    "encoder_repetition_penalty": (1.5, 1.5),
    "repetition_penalty": (1.2, 1.2),
    "no_repeat_ngram_size": (3, 3),
    "bad_words_ids": ([[3], [4, 5]], ((3,), (4, 5))),
    "remove_invalid_values": (True, True),
    "exponential_decay_length_penalty": ([5, 1.05], (5, 1.05)),
    "suppress_tokens": ([7, 8], (7, 8)),
    "begin_suppress_tokens": ([9], (9,)),
    "renormalize_logits": (True, True),
}


@pytest.mark.parametrize("name", RULES)
def test_rules_come_from_a_file_a_config_or_a_call_and_go_back_into_a_file(name):
    written, kept = RULES[name]
    for found in (
        resolve({"max_new_tokens": 9, name: written}),
        resolve(passed=config(max_new_tokens=9, **{name: written})),
        resolve({"max_new_tokens": 9}, file=GenerationConfig.from_hf({name: written})),
    ):
        assert getattr(found, name) == kept
    read = GenerationConfig.from_hf({name: written})
    assert json.loads(json.dumps(read.to_hf())) == {name: written}
    assert GenerationConfig.from_hf(read.to_hf()) == read
    assert hash(read) == hash(config(**{name: kept}))


@pytest.mark.parametrize(
    "value",
    [
        {(3,): -1.5, (4, 5): 2.0},
        {"(3,)": -1.5, "(4, 5)": 2},
        [[np.array([3]), np.float32(-1.5)], ((4, 5), 2)],
        [[[3], 9.0], [[4, 5], 2.0], [[3], -1.5]],
    ],
)
def test_biases_come_in_several_forms_and_the_last_of_equals_counts(value):
    assert config(sequence_bias=value).sequence_bias == BIASES


def test_lists_of_ids_come_in_several_forms():
    assert config(bad_words_ids=np.array([[3, 4], [5, 6]])).bad_words_ids == ((3, 4), (5, 6))
    assert config(suppress_tokens=3).suppress_tokens == (3,)
    assert config(begin_suppress_tokens=np.array([3, 4])).begin_suppress_tokens == (3, 4)


NEUTRAL = {
    "sequence_bias": [],
    "encoder_repetition_penalty": 1.0,
    "repetition_penalty": 1,
    "no_repeat_ngram_size": 0,
    "bad_words_ids": (),
    "remove_invalid_values": False,
    "exponential_decay_length_penalty": [5, 1.0],
    "suppress_tokens": [],
    "begin_suppress_tokens": [],
    "renormalize_logits": False,
}


@pytest.mark.parametrize("name", NEUTRAL)
def test_neutral_values_are_accepted_and_undo_those_of_a_file(name):
    nothing = resolve({"max_new_tokens": 5})
    assert resolve({"max_new_tokens": 5, name: NEUTRAL[name]}) == nothing
    assert resolve({"max_new_tokens": 5}, file=GenerationConfig.from_hf({name: NEUTRAL[name]})) == nothing
    file = GenerationConfig.from_hf({"max_new_tokens": 5, name: RULES[name][0]})
    assert resolve({name: NEUTRAL[name]}, file=file) == nothing
    assert resolve(file=file) != nothing


@pytest.mark.parametrize(
    ("name", "value", "rest"),
    [
        ("sequence_bias", [[[3, 99], 1.0], [[4], 2.0]], (((4,), 2.0),)),
        ("bad_words_ids", [[3, 99], [4]], ((4,),)),
        ("suppress_tokens", [3, 99], (3,)),
        ("begin_suppress_tokens", [99, 3], (3,)),
    ],
)
def test_ids_of_rules_beyond_the_vocabulary_are_dropped_from_a_file_only(name, value, rest):
    found = resolve({"max_new_tokens": 5}, file=GenerationConfig.from_hf({name: value}))
    assert getattr(found, name) == rest
    assert "goes beyond the decoder's vocabulary of 99: dropped" in found.notes[0]
    with pytest.raises(ValueError, match=rf"{name}=.*beyond the decoder's vocabulary of 99\. Pass an id"):
        resolve({"max_new_tokens": 5, name: value})


def test_ends_among_bad_words_stay_allowed():
    found = resolve({"max_new_tokens": 5, "bad_words_ids": [[2], [2, 3], [4]]})
    assert found.bad_words_ids == ((2, 3), (4,))
    assert "stays allowed, as in torch" in found.notes[0]
    with pytest.raises(ValueError, match=r"bad_words_ids=.* would do nothing: an end-of-sequence id"):
        resolve({"max_new_tokens": 5, "bad_words_ids": [[2]]})
    assert resolve({"max_new_tokens": 5}, file=config(bad_words_ids=[[2]])).bad_words_ids == ()


def test_no_end_to_favour():
    with pytest.raises(ValueError, match="would do nothing: there is no end-of-sequence id to favour"):
        resolve({"max_new_tokens": 5, "exponential_decay_length_penalty": (1, 1.1)}, eos_ids=())
    file = config(exponential_decay_length_penalty=(1, 1.1))
    assert resolve({"max_new_tokens": 5}, file=file, eos_ids=()).exponential_decay_length_penalty is None


def test_a_penalty_of_the_source_needs_its_ids():
    asked = {"max_new_tokens": 5, "encoder_repetition_penalty": 1.5}
    with pytest.raises(ValueError, match=r"and there are none\. Pass input_ids .* or encoder_repetition_penalty=1\.0"):
        resolve(asked, has_source_ids=False)
    assert resolve({**asked, "encoder_repetition_penalty": 1.0}, has_source_ids=False).encoder_repetition_penalty == 1


class Own(eqx.Module):
    """A user's processor that changes nothing."""

    def __call__(self, logits, prefix, length):
        return logits


class OfTorchsForm(eqx.Module):
    """One that takes what torch's take."""

    def __call__(self, input_ids, scores):
        return scores


def test_a_user_s_own_processors_are_modules_of_the_right_form():
    own = Own()
    assert resolve({"max_new_tokens": 5, "logits_processor": own}).logits_processors == (own,)
    assert resolve({"max_new_tokens": 5, "logits_processor": [own, own]}).logits_processors == (own, own)
    assert resolve({"max_new_tokens": 5, "logits_processor": []}).logits_processors == ()
    for wrong in (Own, lambda logits, prefix, length: logits, [own, 3], OfTorchsForm(), eqx.nn.StateIndex(0)):
        with pytest.raises(TypeError, match=r"logits_processor .*processor\(logits, prefix, length\)"):
            resolve({"max_new_tokens": 5, "logits_processor": wrong})


def test_a_user_s_own_processors_are_no_part_of_a_config():
    with pytest.raises(TypeError, match="logits_processor"):
        config(logits_processor=Own())
