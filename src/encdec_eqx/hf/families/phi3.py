"""Phi-3: Llama's layers, with queries, keys and values in one tensor, and gate and up in another; LongRoPE.

Abdin et al. 2024, arXiv:2404.14219.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..._quoting import quoted
from ...config import RotaryConfig, StackConfig
from ...layers.rotary import LongRopeScaling
from ..attributes import ABSENT, Attribute, Convert, head_dim, variant, write_only
from ..layer_types import window_row
from ..names import fused_gate, linear
from ..rope_scaling import rotated_share, share
from ..transforms import Fused
from . import llama
from .llama import MISTRAL

_LONG = ("longrope", "su", "yarn")
"""What configs call the one kind of scaling, the older ones by other kinds' names."""


def _rotary(theta: float, hf: Mapping[str, Any]) -> tuple[RotaryConfig, ...]:
    dim = int(head_dim(hf["hidden_size"], hf["num_attention_heads"]) * hf["partial_rotary_factor"])
    return (rotated_share(theta, dim, _scaling(hf, dim + dim % 2)),)


def _scaling(hf: Mapping[str, Any], dim: int) -> LongRopeScaling | None:
    said = hf["rope_scaling"]
    if said is None:
        return None
    if said.get("type") not in _LONG:
        raise ValueError(f"rope_scaling has the type {quoted(said.get('type'))}; expected one of {', '.join(_LONG)}")
    factors = {name: said.get(name) for name in ("short_factor", "long_factor")}
    for name, values in factors.items():
        numbers = isinstance(values, list) and all(type(value) in (int, float) for value in values)
        if not numbers or len(values) != dim // 2:
            raise ValueError(f"rope_scaling has {name} = {quoted(values)}; expected a list of {dim // 2} numbers")
    original = hf["original_max_position_embeddings"]
    if original < 1:
        raise ValueError(f"original_max_position_embeddings is {original}; expected at least 1")
    return LongRopeScaling(
        short_factors=tuple(map(float, factors["short_factor"])),
        long_factors=tuple(map(float, factors["long_factor"])),
        original_max_positions=original,
        factor=hf["max_position_embeddings"] / original,
    )


def _of(config: StackConfig) -> LongRopeScaling | None:
    scaling = config.attention.rotary[0].scaling
    return scaling if isinstance(scaling, LongRopeScaling) else None


def _written(config: StackConfig) -> dict[str, Any] | None:
    if (scaling := _of(config)) is None:
        return None
    factors = {"short_factor": list(scaling.short_factors), "long_factor": list(scaling.long_factors)}
    return {"type": "longrope", **factors}


def _original(config: StackConfig) -> Any:
    scaling = _of(config)
    return ABSENT if scaling is None else scaling.original_max_positions


def _heads(part: int) -> Any:
    """A part of the tensor that holds queries, keys and values in a row."""

    def fused(config: StackConfig) -> Fused:
        heads, kv_heads = config.attention.num_heads, config.attention.kv_heads
        return Fused("transposed", 1, (heads, kv_heads, kv_heads), config.attention.head_dim, part)

    return fused


_APART = ("self_attention.", "feed_forward.gate", "feed_forward.up")

PHI3 = dataclasses.replace(
    MISTRAL,
    model_type="phi3",
    architectures={"decoder": "Phi3ForCausalLM"},
    config_rows=variant(
        llama.ATTRIBUTES,
        Attribute("rope_theta", "attention.rotary", 10000.0, Convert(_rotary, lambda rotary, config: rotary[0].theta)),
        Attribute("rope_scaling", (), None, write_only(_written), kinds=(dict, type(None))),
        Attribute("partial_rotary_factor", (), 1.0, write_only(share)),
        Attribute("original_max_position_embeddings", (), 4096, write_only(_original)),
        Attribute("resid_pdrop", "dropout", 0.0),
        window_row(None),
        without=["attention_bias", "mlp_bias", "head_dim", "rope_theta", "rope_scaling"],
        vocab_size=32064,
        hidden_size=3072,
        intermediate_size=8192,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        eos_token_id=32000,
        pad_token_id=32000,
    ),
    ignored={"embd_pdrop": "of dropout after the embeddings, which torch does not have"},
    fixed={"attention_bias": (False, "no projection of this family has a bias")},
    remarks=lambda hf: (),
    rows={
        **llama.ROWS,
        "layer": (
            *(row for row in llama.ROWS["layer"] if not row[0].startswith(_APART)),
            *linear("self_attention.qkv", "self_attn.qkv_proj"),
            *((f"self_attention.{n}.weight", "self_attn.qkv_proj.weight", _heads(i)) for i, n in enumerate("qkv")),
            *linear("self_attention.out", "self_attn.o_proj"),
            *fused_gate("feed_forward", "mlp.gate_up_proj"),
        ),
    },
)
"""Phi-3, 3.5 and 4: rotations with a divisor for every pair"""
