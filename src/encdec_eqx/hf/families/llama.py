"""Llama and Mistral: RMSNorm before each sub-layer, a gated feed-forward, rotations, grouped keys and values.

Touvron et al. 2023, arXiv:2302.13971; Jiang et al. 2023, arXiv:2310.06825.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ...config import GatedMLPConfig, RMSNormConfig, StackConfig
from ..attributes import Attribute, Convert, variant
from ..family import Family
from ..layer_types import window_row, with_windows
from ..names import GRAFTED, linear, norm, projections
from ..rope_scaling import rope_remarks, rotary_rows

KV_HEADS = Attribute(
    "num_key_value_heads",
    "attention.num_kv_heads",
    None,
    Convert(lambda value, hf: hf["num_attention_heads"] if value is None else value, lambda value, config: value),
    kinds=(int, type(None)),
)
"""As many as query heads, unless the config says another number"""

_ROWS = (
    Attribute("vocab_size", "vocab_size", 32000),
    Attribute("hidden_size", "hidden_size", 4096),
    Attribute("num_hidden_layers", "num_hidden_layers", 32),
    Attribute("num_attention_heads", "attention.num_heads", 32),
    KV_HEADS,
    Attribute("head_dim", "attention.head_dim"),
    Attribute("intermediate_size", "feed_forward.size", 11008),
    Attribute("hidden_act", "feed_forward.activation", "silu"),
    Attribute("max_position_embeddings", "positions.max_positions", 2048),
    Attribute("initializer_range", "initializer_range", 0.02),
    Attribute("rms_norm_eps", "norm.eps", 1e-6),
    Attribute("attention_bias", ("attention.qkv_bias", "attention.out_bias"), False),
    Attribute("mlp_bias", "feed_forward.bias", False),
    Attribute("attention_dropout", "attention.dropout", 0.0),
    Attribute("pad_token_id", "embeddings.padding_idx"),
    *rotary_rows(10000.0),
)
ATTRIBUTES = variant(_ROWS, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2)

CONSTANTS = {"causal": True, "norm.placement": "pre", "norm.final": True, "positions.kind": "none"}
PARTS = {"norm": RMSNormConfig, "feed_forward": GatedMLPConfig}

ROWS = {
    "base": (
        ("embeddings.tokens.weight", "embed_tokens.weight", "same"),
        *norm("stack.shared.final_norm", "norm"),
    ),
    "layer": (
        *norm("self_norm", "input_layernorm"),
        *projections("self_attention", *(f"self_attn.{name}_proj" for name in "qkv")),
        *linear("self_attention.out", "self_attn.o_proj"),
        *norm("feed_forward_norm", "post_attention_layernorm"),
        *(row for name in ("gate", "up", "down") for row in linear(f"feed_forward.{name}", f"mlp.{name}_proj")),
    ),
    "cross": GRAFTED,
    "head": (("head.projection.weight", "lm_head.weight", "transposed"),),
}

UNUSED = (
    (r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq", "a buffer of older versions"),
    (r"rotary_emb\.inv_freq", "a buffer of older versions"),
    (r"score\..*", "the head of another task"),
)

_SMOL = "of SmolLM2's configs; torch's class does not read it"
IGNORED = {
    "pretraining_tp": "how older versions split a matrix product; changes no number",
    **dict.fromkeys(("is_llama_config", "rope_interleaved", "transformers.js_config"), _SMOL),
}

LLAMA = Family(
    model_type="llama",
    architectures={"decoder": "LlamaForCausalLM"},
    prefixes={"decoder": ("model",)},
    config_rows=ATTRIBUTES,
    constants=CONSTANTS,
    parts=PARTS,
    ignored=IGNORED,
    remarks=rope_remarks,
    layer="layers.{i}",
    rows=ROWS,
    unused=UNUSED,
    duplicates={},
    tied_copy=("lm_head.weight", "embed_tokens.weight"),
)
"""Llama, and what says so in its config: SmolLM, TinyLlama, Vicuna, Yi, DeepSeek's distillations"""


def _windows(config: StackConfig, hf: Mapping[str, Any]) -> StackConfig:
    """The config with one window for all layers, if there is one."""
    return with_windows(config, hf, usual=[hf["sliding_window"] is not None] * len(config.layers))


MISTRAL = dataclasses.replace(
    LLAMA,
    model_type="mistral",
    architectures={"decoder": "MistralForCausalLM"},
    config_rows=variant(
        ATTRIBUTES,
        window_row(4096),
        without=["attention_bias", "mlp_bias"],
        intermediate_size=14336,
        num_key_value_heads=8,
        max_position_embeddings=4096 * 32,
    ),
    constants={**CONSTANTS, "attention.qkv_bias": False, "attention.out_bias": False},
    finish=_windows,
    ignored={},
)
"""Mistral: Llama's layers without biases, each of which sees a window"""
