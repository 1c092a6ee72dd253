"""The fast tier: what `pytest -m fast` runs, a minute's look at every part of the package.

A file stands for all of its tests, `file::name` for the tests of one function,
`file::name[parameters]` for one. What is listed was chosen for what it
notices per second: numbers against torch's, round trips, every table of names and options, refusals; nothing that
trains, and no more compiled programs than needed.
"""

from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent

FAST = (
    "test_config.py",
    "test_encoder_decoder.py::test_a_full_cache_is_an_error_eager_and_jitted",
    "test_encoder_decoder.py::test_bad_input_is_refused",
    "test_encoder_decoder.py::test_decoding_in_chunks_equals_the_whole[chunks1]",
    "test_encoder_decoder.py::test_encode_then_decode_is_the_call",
    "test_encoder_decoder.py::test_every_leaf_of_a_model_is_an_array",
    "test_goldens.py::test_greedy_ids_equal_torchs[bert_gpt2]",
    "test_goldens.py::test_saving_what_was_loaded_gives_the_same_tensors",
    "test_goldens.py::test_the_loss_equals_torchs[bert_gpt2]",
    "test_house.py",
    "test_json.py",
    "test_moved.py",
    "test_old_words.py",
    "test_quoting.py",
    "test_words.py",
    "cli/test_cli.py",
    "cli/test_main.py",
    "demo/test_demo.py::test_words_become_ids",
    "doctor/test_catalogue.py",
    "generation/test_generation.py::test_a_second_call_of_a_bucket_compiles_nothing",
    "generation/test_generation.py::test_malformed_calls",
    "generation/test_generation_beams.py::test_it_is_the_search_written_out",
    "generation/test_generation_prompt.py",
    "generation/test_generation_settings.py",
    "generation/test_generation_tokens.py",
    "hf/test_checkpoint_files.py",
    "hf/test_checkpoint_pieces.py",
    "hf/test_config_limits.py",
    "hf/test_families.py",
    "hf/test_rows_properties.py",
    "hf/test_unknown_attributes.py",
    "layers/test_layers.py",
    "layers/test_norm.py",
    "layers/test_rotary.py",
    "mesh/test_cluster.py",
    "params/test_lora.py::test_adapters_that_cannot_be_meant_are_errors",
    "params/test_lora.py::test_an_adapter_adds_a_product_of_low_rank",
    "params/test_trainable.py::test_a_selector_picks_what_it_says_in_both_layouts",
    "params/test_trainable.py::test_a_selector_that_cannot_be_meant_is_an_error",
    "serve/test_serve.py::test_settings_that_do_not_fit_are_refused_before_anything_is_compiled",
    "stack/test_stack.py::test_a_stack_is_cut_where_arrays_differ",
    "stack/test_stack.py::test_both_layouts_say_the_same",
    "stack/test_stack.py::test_conversion_loses_nothing",
    "surgery/test_vocabularies.py::test_new_rows_have_the_spread_of_a_new_model",
    "surgery/test_vocabularies.py::test_special_tokens_are_not_cut_off",
    "text/test_text.py",
    "training/data/test_data.py::test_a_bad_line_is_named_and_the_others_are_kept",
    "training/data/test_data.py::test_every_example_stands_in_one_batch_of_an_epoch_with_all_its_ids",
    "training/data/test_data.py::test_every_format_reads_the_same",
    "training/data/test_data.py::test_records_become_the_ids_of_the_tokenizers",
    "training/data/test_data.py::test_the_chosen_shapes_are_the_best_chain",
    "training/test_loss.py",
    "training/test_metrics.py",
    "training/test_step.py::test_a_step_is_gradient_descent_on_the_mean_loss_of_the_labels",
    "training/test_train_config.py",
)


def holds(path: Path, name: str | None = None, tier: tuple[str, ...] = FAST) -> bool:
    """Whether a test is in a tier, or, without a name, whether any test of a file is.

    Args:
        path: the file of tests.
        name: of a test, which may have parameters behind it in brackets.
        tier: entries as in `FAST`.
    """
    if not path.is_relative_to(TESTS):
        return False
    file = path.relative_to(TESTS).as_posix()
    if name is None:
        return any(entry.partition("::")[0] == file for entry in tier)
    return any(entry in tier for entry in (file, f"{file}::{name}", f"{file}::{name.partition('[')[0]}"))


def chosen(options: Any, arguments: list[str]) -> bool:
    """Whether a run was told which tests it is to run: by a mark, by a word, or by their ids. It then leaves none out.

    Args:
        options: of pytest's command line.
        arguments: its paths and ids.
    """
    return bool(options.markexpr or options.keyword or any("::" in each for each in arguments))
