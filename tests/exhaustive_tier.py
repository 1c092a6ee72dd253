"""The exhaustive tier: what a plain run leaves out, and `pytest -m exhaustive` runs; so does `.ci/run`, once.

Entries are those of `fast_tier`. Listed is what takes long for what it alone would notice: models trained until they
have learned, pages and scripts at full length, further sizes and options of what a plain run looks at too.
"""

EXHAUSTIVE = (
    "demo/test_demo.py::test_demo_from_loading_to_reloading",
    "demo/test_demo.py::test_fine_tuning_learns",
    "doctor/test_diagnosis_host.py::test_a_fresh_pair_of_other_kinds_is_a_good_run",
    "generation/test_generation.py::test_beams_of_relative_positions_are_those_of_a_full_pass",
    "generation/test_generation_blocks.py::test_blocks_are_single_steps_to_the_last_bit[beam_sampling]",
    "generation/test_generation_blocks.py::test_blocks_are_single_steps_to_the_last_bit[groups]",
    "generation/test_generation_blocks.py::test_blocks_are_single_steps_to_the_last_bit[words]",
    "generation/test_generation_constraints.py::test_repetitions_of_what_may_be_missing_are_built_soon",
    "generation/test_generation_contrastive.py::test_candidates_of_a_real_decoder_see_the_chosen_path_alone[False]",
    "generation/test_generation_files.py::test_few_files_are_entered",
    "generation/test_generation_forced_words.py::test_both_layouts_find_the_same",
    "generation/test_generation_forced_words.py::test_every_pair_of_short_words_comes",
    "generation/test_generation_forced_words.py::test_it_is_the_search_written_out[2-True]",
    "generation/test_generation_forced_words.py::test_it_is_the_search_written_out[5-True]",
    "generation/test_generation_serving.py::test_two_hundred_requests_of_any_size_need_few_programs",
    "params/test_lora.py::test_half_precision_weights_under_adapters_of_full_precision",
)
