"""StableLM: Llama with LayerNorm, a part of each head rotated, and feed-forwards that may stand beside attention.

Bellagamba et al. 2024, arXiv:2402.17834. Torch drops out what the feed-forward adds alone; here attention's too.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ...config import GatedMLPConfig, LayerNormConfig, QKNormConfig, StackConfig
from ..attributes import Attribute, variant, write_only
from ..rope_scaling import rotary_rows
from . import llama
from .llama import LLAMA


def _finished(config: StackConfig, hf: Mapping[str, Any]) -> StackConfig:
    """The config with norms of queries and keys, and the kind of block."""
    if hf["qk_layernorm"]:
        qk_norm = QKNormConfig(norm=LayerNormConfig(eps=config.norm.eps, bias=False), span="each_head")
        config = config.replace(attention=dataclasses.replace(config.attention, qk_norm=qk_norm))
    if hf["use_parallel_residual"]:
        config = config.replace(layers=tuple(dataclasses.replace(spec, block="parallel") for spec in config.layers))
    return config


STABLELM = dataclasses.replace(
    LLAMA,
    model_type="stablelm",
    architectures={"decoder": "StableLmForCausalLM"},
    config_rows=variant(
        llama.ATTRIBUTES,
        *rotary_rows(10000.0, partial=0.25),
        Attribute("use_qkv_bias", "attention.qkv_bias", False),
        Attribute("qk_layernorm", (), False, write_only(lambda config: config.attention.qk_norm is not None)),
        Attribute("use_parallel_residual", (), False, write_only(lambda config: config.layers[0].block == "parallel")),
        Attribute("hidden_dropout", "dropout", 0.0),
        without=["attention_bias", "mlp_bias", "head_dim", "rope_theta", "rope_scaling"],
        names={"rms_norm_eps": "layer_norm_eps"},
        layer_norm_eps=1e-5,
        vocab_size=50304,
        intermediate_size=6912,
        hidden_size=2560,
        num_key_value_heads=32,
        max_position_embeddings=4096,
        bos_token_id=0,
        eos_token_id=0,
    ),
    constants={**llama.CONSTANTS, "attention.out_bias": False},
    parts={"norm": LayerNormConfig, "feed_forward": GatedMLPConfig},
    finish=_finished,
    ignored={},
    rows={
        **llama.ROWS,
        "layer": (
            *llama.ROWS["layer"],
            (
                "self_attention.q_norm.weight",
                "self_attn.q_layernorm.norms.{k}.weight",
                lambda config: tuple(f"bias part {head}" for head in range(config.attention.num_heads)),
            ),
            (
                "self_attention.k_norm.weight",
                "self_attn.k_layernorm.norms.{k}.weight",
                lambda config: tuple(f"bias part {head}" for head in range(config.attention.kv_heads)),
            ),
        ),
    },
)
"""StableLM: LayerNorm, and a quarter of each head rotated"""
