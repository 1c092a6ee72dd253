"""What the configs of all families have in common: attributes, why some are ignored, and helpers to read them.

Knows nothing of tensors, files or model classes.
"""

from collections.abc import Callable, Mapping
from typing import Any

from ..config import LayerSpec

COMMON: Mapping[str, Any] = {
    "model_type": None,
    "is_decoder": False,
    "add_cross_attention": False,
    "cross_attention_hidden_size": None,
    "tie_word_embeddings": True,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
    "decoder_start_token_id": None,
}
"""Attributes of every family that are handled, with their defaults."""

FIXED: Mapping[str, tuple[Any, str]] = {
    "pruned_heads": ({}, "pruned attention heads are not supported; load the model before it was pruned"),
    "quantization_config": (None, "quantised weights are not supported; load the model before it was quantised"),
    "auto_map": (
        None,
        "the model comes with code of its own, which is never run; its architecture is not this family's",
    ),
    "is_encoder_decoder": (False, "one encoder or decoder is expected here, not a pair"),
}
"""Attributes that are accepted only at the value given, and why."""


def _all(names: str, reason: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), reason)


IGNORED: Mapping[str, str] = {
    **_all("output_hidden_states output_attentions return_dict use_return_dict", "an argument of the call here"),
    **_all("use_cache output_past", "caching is chosen by the call here"),
    **_all("torchscript gradient_checkpointing xla_device use_bfloat16 tf_legacy_loss", "how torch or TensorFlow runs"),
    **_all("chunk_size_feed_forward", "saves torch memory and changes no number"),
    **_all("attn_implementation _attn_implementation _attn_implementation_autoset", "how torch computes attention"),
    **_all("dtype torch_dtype", "the tensors' own dtype and the `dtype` argument decide"),
    **_all("tie_encoder_decoder", "read from the pair's config"),
    **_all("architectures finetuning_task transformers_version _name_or_path name_or_path _commit_hash", "history"),
    **_all("_from_model_config model_card tags", "history"),
    **_all("id2label label2id num_labels _num_labels problem_type classifier_dropout", "of classification heads"),
    **_all("tokenizer_class prefix sep_token_id cls_token_id mask_token_id unk_token_id", "of the tokenizer"),
    **_all("task_specific_params max_length max_new_tokens min_length do_sample early_stopping", "of generation"),
    **_all("num_beams temperature top_k top_p typical_p repetition_penalty length_penalty", "of generation"),
    **_all("no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids", "of generation"),
    **_all("num_return_sequences output_scores return_dict_in_generate forced_bos_token_id", "of generation"),
    **_all("forced_eos_token_id remove_invalid_values exponential_decay_length_penalty", "of generation"),
    **_all("suppress_tokens begin_suppress_tokens num_beam_groups diversity_penalty", "of generation"),
}
"""Attributes of any family that are not used, and why."""

_OF_THE_FILE = ("architectures", "dtype", "torch_dtype", "transformers_version", "_name_or_path", "_commit_hash")


def check_kind(name: str, value: Any, default: Any) -> None:
    """JSON says what kind a value is: it must be that of the default, and token ids may be null.

    Raises:
        ValueError: it is another.
    """
    if name == "model_type":
        return
    if name == "eos_token_id" and isinstance(value, list | tuple):
        values, kinds, expected = value, (int,), "whole numbers"
    elif name.endswith("_token_id") or default is None:
        values, kinds, expected = [value], (int, type(None)), "a whole number or null"
    else:
        kind = type(default)
        kinds = (int, float) if kind is float else (kind,)
        values, expected = [value], {bool: "true or false", int: "a whole number", float: "a number"}.get(kind, "text")
    fits = all(isinstance(item, kinds) and (bool in kinds or not isinstance(item, bool)) for item in values)
    if not fits:
        raise ValueError(f"attribute {name!r} is {value!r}; expected {expected}")


def unused_attributes(hf: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of any config that reading it ignores, but for those that say how the file came to be."""
    return {name: value for name, value in hf.items() if name in IGNORED and name not in _OF_THE_FILE}


def layers(count: int, *, cross_attention: bool, score_scales: Callable[[int], float | None] = lambda i: None):
    """`count` layers of one kind."""
    if count < 1:
        raise ValueError(f"the number of layers is {count}; expected at least 1")
    return tuple(LayerSpec(cross_attention=bool(cross_attention), score_scale=score_scales(i)) for i in range(count))


def head_dim(hidden_size: int, num_heads: int) -> int:
    """Width of one head.

    Raises:
        ValueError: the heads do not divide the width.
    """
    if num_heads < 1:
        raise ValueError(f"the width is {hidden_size} and the number of heads {num_heads}; expected at least 1")
    if hidden_size % num_heads:
        raise ValueError(f"the width {hidden_size} is not a multiple of the number of heads {num_heads}")
    return hidden_size // num_heads


def tokens(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The token ids, as `StackConfig` names them."""
    return {name: attributes[name] for name in COMMON if name.endswith("_token_id")}
