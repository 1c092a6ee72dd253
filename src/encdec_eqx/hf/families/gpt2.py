"""GPT-2, whose linear layers are `Conv1D`, stored `(in, out)` as ours are.

Radford et al. 2019.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ...config import StackConfig
from ..attributes import Attribute, Convert, variant, write_only
from ..family import Family
from ..names import linear, norm

INNER = Convert(
    lambda size, hf: 4 * hf["n_embd"] if size is None else size,
    lambda size, config: None if size == 4 * config.hidden_size else size,
)


def _by_layer(config: StackConfig) -> bool:
    first, *others = [layer.score_scale for layer in config.layers]
    return first is not None and (not others or others[0] != first)


_ROWS = (
    Attribute("vocab_size", "vocab_size", 50257),
    Attribute("n_positions", "positions.max_positions", 1024),
    Attribute("n_embd", "hidden_size", 768),
    Attribute("n_layer", "num_hidden_layers", 12),
    Attribute("n_head", "attention.num_heads", 12),
    Attribute("n_inner", "feed_forward.size", None, INNER),
    Attribute("activation_function", "feed_forward.activation", "gelu_new"),
    Attribute("resid_pdrop", "dropout", 0.1),
    Attribute("embd_pdrop", "embeddings.dropout", 0.1),
    Attribute("attn_pdrop", "attention.dropout", 0.1),
    Attribute("layer_norm_epsilon", "norm.eps", 1e-5),
    Attribute("initializer_range", "initializer_range", 0.02),
    Attribute("scale_attn_weights", (), True, write_only(lambda config: config.layers[0].score_scale != 1.0)),
    Attribute("scale_attn_by_inverse_layer_idx", (), False, write_only(_by_layer)),
)
ATTRIBUTES = variant(_ROWS, bos_token_id=50256, eos_token_id=50256)

_SUMMARY = (
    *("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels"),
    *("summary_first_dropout", "summary_last_dropout", "hidden_dropout"),
)

ROWS = {
    "base": (
        ("embeddings.tokens.weight", "wte.weight", "same"),
        ("embeddings.positions.weight", "wpe.weight", "same"),
        *norm("stack.shared.final_norm", "ln_f"),
    ),
    "layer": (
        *norm("self_norm", "ln_1"),
        *linear("self_attention.qkv", "attn.c_attn", how="rows"),
        *linear("self_attention.out", "attn.c_proj", how="rows"),
        *norm("feed_forward_norm", "ln_2"),
        *linear("feed_forward.up", "mlp.c_fc", how="rows"),
        *linear("feed_forward.down", "mlp.c_proj", how="rows"),
    ),
    "cross": (
        *norm("cross_norm", "ln_cross_attn"),
        *linear("cross_attention.q", "crossattention.q_attn", how="rows"),
        *linear("cross_attention.kv", "crossattention.c_attn", how="rows"),
        *linear("cross_attention.out", "crossattention.c_proj", how="rows"),
    ),
    "head": (("head.projection.weight", "lm_head.weight", "transposed"),),
}


def _scaled(config: StackConfig, hf: Mapping[str, Any]) -> StackConfig:
    """The config with a factor on each layer's scores, where they are not all divided by the root of a head's width."""
    by_layer = hf["scale_attn_by_inverse_layer_idx"]
    if hf["scale_attn_weights"] and not by_layer:
        return config
    base = config.attention.head_dim**-0.5 if hf["scale_attn_weights"] else 1.0
    layers = tuple(
        dataclasses.replace(layer, score_scale=base / (i + 1 if by_layer else 1))
        for i, layer in enumerate(config.layers)
    )
    return config.replace(layers=layers)


GPT2 = Family(
    model_type="gpt2",
    architectures={"encoder": "GPT2Model", "decoder": "GPT2LMHeadModel"},
    prefixes={"encoder": ("transformer",), "decoder": ("transformer",)},
    config_rows=ATTRIBUTES,
    constants={"causal": True, "norm.placement": "pre", "norm.final": True, "embeddings.token_types_from_tokens": True},
    finish=_scaled,
    ignored={
        **dict.fromkeys(_SUMMARY, "of classification heads"),
        "reorder_and_upcast_attn": "scores are always computed in float32 here",
        "n_ctx": "the size of a buffer in older versions; nothing reads it",
        "predict_special_tokens": "of the first version; nothing reads it",
    },
    spellings={
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    },
    layer="h.{i}",
    rows=ROWS,
    unused=(
        (r"h\.\d+\.(attn|crossattention)\.(bias|masked_bias)", "a buffer of older versions"),
        (r"(score|classifier|multiple_choice_head)\..*", "the head of another task"),
    ),
    duplicates={},
    tied_copy=("lm_head.weight", "wte.weight"),
)
"""GPT-2"""
