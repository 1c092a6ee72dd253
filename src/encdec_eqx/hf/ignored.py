"""Attributes of any family's config that change no number of a model, and why.

Each reason is what transformers 4.57.6 does with the attribute; `tests/parity/test_attributes.py` sets every one of
them to something else and compares torch's results.
"""

from collections.abc import Mapping


def _all(names: str, reason: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), reason)


_PAIRS_READ_IT = "of generation: a pair reads it where there is no generation_config.json"

GENERATION: Mapping[str, str] = {
    **_all("max_length max_new_tokens min_length min_new_tokens do_sample early_stopping num_beams", _PAIRS_READ_IT),
    **_all("temperature top_k top_p min_p typical_p epsilon_cutoff eta_cutoff repetition_penalty", _PAIRS_READ_IT),
    **_all("encoder_repetition_penalty length_penalty no_repeat_ngram_size bad_words_ids", _PAIRS_READ_IT),
    **_all("encoder_no_repeat_ngram_size num_return_sequences forced_bos_token_id", _PAIRS_READ_IT),
    **_all("forced_eos_token_id remove_invalid_values exponential_decay_length_penalty", _PAIRS_READ_IT),
    **_all("suppress_tokens begin_suppress_tokens renormalize_logits sequence_bias", _PAIRS_READ_IT),
    **_all("num_beam_groups diversity_penalty penalty_alpha force_words_ids", _PAIRS_READ_IT),
    **_all("num_assistant_tokens prompt_lookup_num_tokens max_matching_ngram_size", _PAIRS_READ_IT),
    # not built in this library: an error of `generate`, where a pair's config asks for one
    **_all("guidance_scale watermarking_config dola_layers constraints stop_strings max_time", _PAIRS_READ_IT),
    **_all("assistant_early_exit token_healing", _PAIRS_READ_IT),
}
"""Options of generation, which older versions keep in `config.json`."""

IGNORED: Mapping[str, str] = {
    **_all("output_hidden_states output_attentions return_dict use_return_dict", "an argument of the call here"),
    **_all("use_cache", "caching is chosen by the call here, and changes no number"),
    **_all("gradient_checkpointing", "saves torch memory in training and changes no number"),
    **_all("chunk_size_feed_forward", "saves torch memory and changes no number"),
    **_all("torchscript", "copies tied tensors where torch exports a model; their values are the same"),
    **_all("xla_device use_bfloat16 tf_legacy_loss", "of TensorFlow's classes"),
    **_all("attn_implementation _attn_implementation", "how torch computes attention; the caller's choice wins"),
    **_all("_attn_implementation_autoset _attn_implementation_internal _attn_was_changed", "torch's notes to itself"),
    **_all("base_model_tp_plan base_model_pp_plan base_model_ep_plan", "how torch spreads a model over devices"),
    **_all("dtype torch_dtype", "the tensors' own dtype and the `dtype` argument decide"),
    **_all("tie_encoder_decoder", "read from a pair's own config; torch's pieces do not look at it"),
    **_all("architectures finetuning_task transformers_version _name_or_path name_or_path _commit_hash", "history"),
    **_all("_from_model_config model_card tags output_past", "history; nothing reads it"),
    **_all("id2label label2id num_labels _num_labels problem_type classifier_dropout", "of classification heads"),
    **_all("sep_token_id cls_token_id mask_token_id unk_token_id tokenizer_class", "of the tokenizer"),
    **_all("prefix task_specific_params", "of transformers' pipelines; its models do not read it"),
    **_all("output_scores return_dict_in_generate output_logits", "what torch's `generate` returns"),
    **_all("cache_implementation cache_config return_legacy_cache prefill_chunk_size", "how torch keeps its cache"),
    **_all("low_memory compile_config disable_compile is_assistant", "how torch runs `generate`"),
    **_all("num_assistant_tokens_schedule assistant_confidence_threshold", "the speed of torch's assisted generation"),
    **_all("assistant_lookbehind target_lookbehind generation_kwargs", "the speed of torch's assisted generation"),
    **GENERATION,
}
"""Attributes of any family that are not used, and why."""

# What a saved config says anew, and no loaded one keeps.
OF_THE_FILE = (
    *("model_type", "architectures", "dtype", "torch_dtype", "transformers_version", "_name_or_path", "_commit_hash"),
    *("auto_map", "configuration_files", "transformers_weights"),
)
