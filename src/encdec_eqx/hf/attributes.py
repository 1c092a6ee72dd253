"""What the configs of all families have in common: attributes, their kinds, and helpers to read them.

Knows nothing of tensors, files or model classes.
"""

from collections.abc import Callable, Mapping
from typing import Any

from .._quoting import quoted
from ..config import MAX_LAYERS, LayerSpec

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

_CACHE = "torch's cache would drop tokens by it, which is not built; remove it if the model was trained without"

FIXED: Mapping[str, tuple[Any, str]] = {
    "pruned_heads": ({}, "pruned attention heads are not built; load the checkpoint from before it was pruned"),
    "quantization_config": (
        None,
        "quantised weights are not supported; load the checkpoint that was quantised, or save this one from torch "
        "after `model.dequantize()`",
    ),
    "auto_map": (
        None,
        "the checkpoint comes with code of its own, which is never run. If its architecture is this family's all the "
        "same, remove 'auto_map' from config.json (of a copy: huggingface_hub.snapshot_download(id, local_dir=...))",
    ),
    "is_encoder_decoder": (
        False,
        "one encoder or decoder is expected here, not a pair. If it is one of the two, remove the attribute",
    ),
    "configuration_files": (
        [],
        "torch reads another file in place of config.json; put the one for version 4.57.6 in its place",
    ),
    "transformers_weights": (
        None,
        "torch reads the weights from that file; rename it to model.safetensors and remove the attribute",
    ),
    **dict.fromkeys(("sliding_window", "attention_chunk_size", "num_kv_shared_layers", "layer_types"), (None, _CACHE)),
}
"""Attributes that are accepted only at the value given, and why."""


# What a saved config says anew, and no loaded one keeps.
OF_THE_FILE = (
    *("model_type", "architectures", "dtype", "torch_dtype", "transformers_version", "_name_or_path", "_commit_hash"),
    *("auto_map", "configuration_files", "transformers_weights"),
)


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
        raise ValueError(f"attribute {name!r} is {quoted(value)}; expected {expected}")


def at_fixed(value: Any, allowed: Any) -> bool:
    """Whether an attribute is at its only value. Null stands for what is empty or false, and for nothing else."""
    return (value is None and not allowed) or (type(value) is type(allowed) and value == allowed)


def layers(count: int, *, cross_attention: bool, score_scales: Callable[[int], float | None] = lambda i: None):
    """`count` layers of one kind."""
    if count < 1:
        raise ValueError(f"the number of layers is {count}; expected at least 1")
    if count > MAX_LAYERS:  # before as many specs are made
        raise ValueError(f"the number of layers is {quoted(count)}; expected at most {MAX_LAYERS}")
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
