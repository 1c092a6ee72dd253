"""Gemma, Gemma 2 and the text part of Gemma 3, each the one before with a few things more.

Gemma Team 2024, arXiv:2403.08295 and arXiv:2408.00118; 2025, arXiv:2503.19786.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from ..._quoting import quoted
from ...config import QKNormConfig, RMSNormConfig, RotaryConfig, StackConfig
from ..attributes import ABSENT, Attribute, variant, write_only
from ..layer_types import LAYER_TYPES, window_of, window_row, with_windows
from ..names import norm
from ..nested_config import NestedText
from ..rope_scaling import rope_remarks
from . import llama
from .llama import LLAMA


def _activation_remark(hf: Mapping[str, Any]) -> tuple[str, ...]:
    said, read = hf.get("hidden_activation"), hf.get("hidden_act", "gelu_pytorch_tanh")
    if said in (None, read):
        return rope_remarks(hf)
    words = f"hidden_act = {quoted(read)} is the activation, and hidden_activation = {quoted(said)} is not read"
    return (*rope_remarks(hf), f"{words}, as in transformers 4.57.6")


def _scaled(config: StackConfig, hf: Mapping[str, Any]) -> StackConfig:
    """The config with token embeddings multiplied by the root of their width."""
    return config.replace(embeddings=dataclasses.replace(config.embeddings, scale=math.sqrt(config.hidden_size)))


ATTRIBUTES = variant(
    llama.ATTRIBUTES,
    without=["mlp_bias"],
    vocab_size=256000,
    hidden_size=3072,
    num_hidden_layers=28,
    num_attention_heads=16,
    num_key_value_heads=16,
    head_dim=256,
    intermediate_size=24576,
    hidden_act="gelu_pytorch_tanh",
    max_position_embeddings=8192,
    pad_token_id=0,
    bos_token_id=2,
    eos_token_id=1,
    tie_word_embeddings=True,
)

CONSTANTS = {
    **llama.CONSTANTS,
    "norm.unit_offset": True,
    "norm.scale_in_float32": True,
    "embeddings.scale_inputs_embeds": True,
}

GEMMA = dataclasses.replace(
    LLAMA,
    model_type="gemma",
    architectures={"decoder": "GemmaForCausalLM"},
    config_rows=ATTRIBUTES,
    constants=CONSTANTS,
    finish=_scaled,
    ignored={"hidden_activation": "transformers 4.57.6 reads hidden_act alone; `remarks` says so where they differ"},
    remarks=_activation_remark,
)
"""Gemma: Llama with scales of norms around 0, and embeddings multiplied by the root of their width"""


def in_layers(config: StackConfig, hf: Mapping[str, Any], *, period: int = 2, local: int = 0) -> StackConfig:
    """The config with what differs from layer to layer, and with scaled embeddings.

    Args:
        config: what the rows made.
        hf: all attributes.
        period: where `layer_types` is absent, all layers but every one of this period slide.
        local: which rotation layers that slide have.

    Raises:
        ValueError: an attribute has a value that is not supported.
    """
    scalar = hf["query_pre_attn_scalar"]
    if not 0 < scalar < math.inf:
        raise ValueError(f"query_pre_attn_scalar is {quoted(scalar)}; expected a number above 0")
    scale = None if scalar == config.attention.head_dim else scalar**-0.5
    windowed = with_windows(config, hf, usual=[(at + 1) % period > 0 for at in range(len(config.layers))])
    layers = tuple(
        dataclasses.replace(layer, score_scale=scale, rotary=0 if layer.window is None else local)
        for layer in windowed.layers
    )
    return _scaled(config.replace(layers=layers), hf)


def _scalar(config: StackConfig) -> Any:
    """The number whose root divides the scores, as it would be written down."""
    scale = config.layers[0].score_scale
    if scale is None:
        return config.attention.head_dim
    exact = scale**-2
    near = (round(exact), float(f"{exact:.15g}"))
    return next((number for number in near if number > 0 and number**-0.5 == scale), exact)


NUMBER_OR_NULL = (int, float, type(None))
ATTRIBUTES_2 = variant(
    ATTRIBUTES,
    Attribute("query_pre_attn_scalar", (), 256, write_only(_scalar), kinds=(int, float)),
    # torch makes the mask of a window even if no layer has one: the default then
    window_row(4096)._replace(how=write_only(lambda config: window_of(config) or ABSENT)),
    LAYER_TYPES,
    Attribute("attn_logit_softcapping", "attention.logit_cap", 50.0, kinds=NUMBER_OR_NULL),
    Attribute("final_logit_softcapping", "head.logit_cap", 30.0, kinds=NUMBER_OR_NULL),
    names={"hidden_act": "hidden_activation"},
    hidden_size=2304,
    intermediate_size=9216,
    num_hidden_layers=26,
    num_attention_heads=8,
    num_key_value_heads=4,
)

CONSTANTS_2 = {**CONSTANTS, "norm.placement": "both"}

ROWS_2 = {
    **llama.ROWS,
    "layer": (
        *(row for row in llama.ROWS["layer"] if not row[0].startswith("feed_forward_norm")),
        *norm("self_output_norm", "post_attention_layernorm"),
        *norm("feed_forward_norm", "pre_feedforward_layernorm"),
        *norm("feed_forward_output_norm", "post_feedforward_layernorm"),
    ),
}

GEMMA2 = dataclasses.replace(
    LLAMA,
    model_type="gemma2",
    architectures={"decoder": "Gemma2ForCausalLM"},
    config_rows=ATTRIBUTES_2,
    constants=CONSTANTS_2,
    finish=in_layers,
    ignored={},
    rows=ROWS_2,
)
"""Gemma 2: a norm on both sides of each sub-layer, capped scores and logits, a window in every second layer"""


def _two_rotations(config: StackConfig, hf: Mapping[str, Any]) -> StackConfig:
    """The config whose layers with a window have a rotation of their own, which is never scaled."""
    period = hf["sliding_window_pattern"]
    if period < 1:
        raise ValueError(f"sliding_window_pattern is {quoted(period)}; expected at least 1")
    rotary = (*config.attention.rotary, RotaryConfig(theta=hf["rope_local_base_freq"]))
    attention = dataclasses.replace(config.attention, rotary=rotary)
    return in_layers(config.replace(attention=attention), hf, period=period, local=1)


_QK_NORM = {name.replace("norm.", "attention.qk_norm.norm."): CONSTANTS[name] for name in CONSTANTS if "norm" in name}

GEMMA3_TEXT = dataclasses.replace(
    GEMMA2,
    model_type="gemma3_text",
    architectures={"decoder": "Gemma3ForCausalLM"},
    prefixes={"decoder": ("model", "language_model.model", "model.language_model", "language_model")},
    config_rows=variant(
        ATTRIBUTES_2,
        Attribute("rms_norm_eps", ("norm.eps", "attention.qk_norm.norm.eps"), 1e-6),
        Attribute("rope_local_base_freq", (), 10000.0, write_only(lambda config: config.attention.rotary[1].theta)),
        Attribute("sliding_window_pattern", (), 6, write_only(lambda config: ABSENT)),
        without=["rms_norm_eps", "attn_logit_softcapping"],
        vocab_size=262208,
        max_position_embeddings=131072,
        rope_theta=1000000.0,
        final_logit_softcapping=None,
    ),
    constants={**CONSTANTS_2, "embeddings.scale_inputs_embeds": False, **_QK_NORM},
    parts={**LLAMA.parts, "attention.qk_norm": QKNormConfig, "attention.qk_norm.norm": RMSNormConfig},
    finish=_two_rotations,
    ignored={
        "attn_logit_softcapping": "torch's attention is not told of it",
        "_sliding_window_pattern": "what torch notes of sliding_window_pattern; layer_types beside it counts",
    },
    fixed={"use_bidirectional_attention": (False, "a decoder sees no token after its own")},
    unused=(*LLAMA.unused, (r"(vision_tower|multi_modal_projector)\..*", "what takes images")),
    rows={
        **ROWS_2,
        "layer": (
            *ROWS_2["layer"],
            *((f"self_attention.{x}_norm.weight", f"self_attn.{x}_norm.weight", "same") for x in "qk"),
        ),
    },
)
"""Gemma 3's text part: Gemma 2 with norms of queries and keys, and two bases of rotations in place of the caps"""

GEMMA3_WITH_IMAGES = NestedText("gemma3", "Gemma3ForConditionalGeneration", "gemma3_text", ("text_config",))
"""Gemma 3's larger models, which take images too: their text model is read, and saved as one of its own."""
