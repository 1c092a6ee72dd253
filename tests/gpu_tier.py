"""What `pytest -m gpu` runs, on a GPU before all: numbers against torch's, generation, the kernels of attention.

See `gpu.md` beside this file for the command; entries are those of `fast_tier`.
"""

GPU = (
    "test_goldens.py",
    "test_padding.py",
    "cli/test_verify.py::test_a_right_device_passes",
    "generation/test_export.py::test_a_program_of_another_family",
    "generation/test_export.py::test_a_program_says_what_generate_says",
    "generation/test_generation.py::test_a_second_call_of_a_bucket_compiles_nothing",
    "generation/test_generation.py::test_both_layouts_generate_the_same",
    "generation/test_generation.py::test_greedy_tokens_and_scores_are_those_of_a_full_pass",
    "generation/test_generation.py::test_prompts_continue_a_full_pass",
    "generation/test_generation_beams.py::test_it_is_the_search_written_out[1.0-True]",
    "generation/test_generation_beams.py::test_prompts_of_different_lengths_are_as_alone",
    "hf/test_family_goldens.py",
    "layers/test_attend.py",
    "layers/test_attention_kernels.py",
    "training/test_step.py::test_a_step_is_gradient_descent_on_the_mean_loss_of_the_labels",
)
