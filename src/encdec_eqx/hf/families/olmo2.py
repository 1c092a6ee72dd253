"""OLMo 2: norms of what a sub-layer puts out, none in front; queries and keys normed over all heads.

OLMo team 2025, arXiv:2501.00656.
"""

import dataclasses

from ...config import QKNormConfig, RMSNormConfig
from ..attributes import Attribute, read_only, variant
from ..rope_scaling import rotary_rows
from . import llama
from .llama import LLAMA

_NORMS = {"input_layernorm": "post_attention_layernorm", "post_attention_layernorm": "post_feedforward_layernorm"}


def _renamed(name: str) -> str:
    module, _, leaf = name.rpartition(".")
    return f"{_NORMS.get(module, module)}.{leaf}"


OLMO2 = dataclasses.replace(
    LLAMA,
    model_type="olmo2",
    architectures={"decoder": "Olmo2ForCausalLM"},
    config_rows=variant(
        llama.ATTRIBUTES,
        *rotary_rows(10000.0, kinds=("linear", "dynamic"), word="type"),
        Attribute(
            "rms_norm_eps",
            "attention.qk_norm",
            1e-5,
            read_only(
                lambda eps, hf: QKNormConfig(norm=RMSNormConfig(eps=eps, scale_in_float32=True), span="all_heads")
            ),
        ),
        without=["mlp_bias", "rope_theta", "rope_scaling"],
        vocab_size=50304,
        rms_norm_eps=1e-5,
        pad_token_id=1,
        bos_token_id=None,
        eos_token_id=50279,
    ),
    constants={**llama.CONSTANTS, "norm.placement": "output", "norm.scale_in_float32": True},
    ignored={},
    rows={
        **llama.ROWS,
        "layer": (
            *((ours, _renamed(theirs), how) for ours, theirs, how in llama.ROWS["layer"]),
            *((f"self_attention.{name}_norm.weight", f"self_attn.{name}_norm.weight", "flat") for name in "qk"),
        ),
    },
)
"""OLMo 2: norms behind the sub-layers"""
