"""Qwen 2, with biases of queries, keys and values, and Qwen 3, which norms queries and keys; both may slide above.

Yang et al. 2024, arXiv:2407.10671; 2025, arXiv:2505.09388.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ...config import QKNormConfig, RMSNormConfig, StackConfig
from ..attributes import Attribute, read_only, variant, write_only
from ..layer_types import LAYER_TYPES, window_of, window_row, with_windows
from . import llama
from .llama import LLAMA


def _upper(config: StackConfig, hf: Mapping[str, Any]) -> StackConfig:
    """The config whose layers from `max_window_layers` on slide, if any do."""
    if not hf["use_sliding_window"]:
        hf = {**hf, "sliding_window": None}
    slide = hf["sliding_window"] is not None
    usual = [slide and at >= hf["max_window_layers"] for at in range(len(config.layers))]
    return with_windows(config, hf, usual=usual)


def _first(config: StackConfig) -> int:
    windows = [layer.window is not None for layer in config.layers]
    return windows.index(True) if True in windows else len(windows)


_ATTRIBUTES = variant(
    llama.ATTRIBUTES,
    Attribute("use_sliding_window", (), False, write_only(lambda config: window_of(config) is not None)),
    window_row(4096),
    Attribute("max_window_layers", (), 28, write_only(_first)),
    LAYER_TYPES,
    without=["mlp_bias"],
    vocab_size=151936,
    intermediate_size=22016,
    num_key_value_heads=32,
    max_position_embeddings=32768,
    bos_token_id=None,
    eos_token_id=None,
)

QWEN2 = dataclasses.replace(
    LLAMA,
    model_type="qwen2",
    architectures={"decoder": "Qwen2ForCausalLM"},
    config_rows=variant(_ATTRIBUTES, without=["attention_bias"]),
    constants={**llama.CONSTANTS, "attention.qkv_bias": True, "attention.out_bias": False},
    finish=_upper,
    ignored={"use_mrope": "of configs of Qwen 2 and 2.5, whose class does not read it"},
)
"""Qwen 2 and 2.5, and QwQ"""

QWEN3 = dataclasses.replace(
    QWEN2,
    model_type="qwen3",
    architectures={"decoder": "Qwen3ForCausalLM"},
    config_rows=variant(
        _ATTRIBUTES,
        Attribute(
            "rms_norm_eps",
            "attention.qk_norm",
            1e-6,
            read_only(lambda eps, hf: QKNormConfig(norm=RMSNormConfig(eps=eps))),
        ),
        head_dim=128,
    ),
    constants=llama.CONSTANTS,
    ignored={},
    rows={
        **llama.ROWS,
        "layer": (
            *llama.ROWS["layer"],
            *((f"self_attention.{name}_norm.weight", f"self_attn.{name}_norm.weight", "same") for name in "qk"),
        ),
    },
)
"""Qwen 3: queries and keys are normed head by head"""
