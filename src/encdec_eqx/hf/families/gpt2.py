"""GPT-2: its Hugging Face config and the names of its tensors (`GPT2Model`, `GPT2LMHeadModel`).

Radford et al. 2019. Its linear layers are `Conv1D`, stored `(in, out)` as ours are. Data only.
"""

from collections.abc import Mapping
from typing import Any

from ...config import (
    AttentionConfig,
    EmbeddingsConfig,
    FeedForwardConfig,
    HeadConfig,
    NormConfig,
    PositionsConfig,
    StackConfig,
)
from ..attributes import head_dim, layers, tokens
from ..family import Family

ATTRIBUTES = {
    "vocab_size": 50257,
    "n_positions": 1024,
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "n_inner": None,
    "activation_function": "gelu_new",
    "resid_pdrop": 0.1,
    "embd_pdrop": 0.1,
    "attn_pdrop": 0.1,
    "layer_norm_epsilon": 1e-5,
    "initializer_range": 0.02,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "bos_token_id": 50256,
    "eos_token_id": 50256,
}

_SUMMARY = (
    *("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels"),
    *("summary_first_dropout", "summary_last_dropout", "hidden_dropout"),
)

ROWS = {
    "base": (
        ("embeddings.tokens.weight", "wte.weight", "same"),
        ("embeddings.positions.weight", "wpe.weight", "same"),
        ("stack.shared.final_norm.weight", "ln_f.weight", "same"),
        ("stack.shared.final_norm.bias", "ln_f.bias", "same"),
    ),
    "layer": (
        ("self_norm.weight", "ln_1.weight", "same"),
        ("self_norm.bias", "ln_1.bias", "same"),
        ("self_attention.qkv.weight", "attn.c_attn.weight", "rows"),
        ("self_attention.qkv.bias", "attn.c_attn.bias", "flat"),
        ("self_attention.out.weight", "attn.c_proj.weight", "same"),
        ("self_attention.out.bias", "attn.c_proj.bias", "same"),
        ("feed_forward_norm.weight", "ln_2.weight", "same"),
        ("feed_forward_norm.bias", "ln_2.bias", "same"),
        ("feed_forward.up.weight", "mlp.c_fc.weight", "same"),
        ("feed_forward.up.bias", "mlp.c_fc.bias", "same"),
        ("feed_forward.down.weight", "mlp.c_proj.weight", "same"),
        ("feed_forward.down.bias", "mlp.c_proj.bias", "same"),
    ),
    "cross": (
        ("cross_norm.weight", "ln_cross_attn.weight", "same"),
        ("cross_norm.bias", "ln_cross_attn.bias", "same"),
        ("cross_attention.q.weight", "crossattention.q_attn.weight", "rows"),
        ("cross_attention.q.bias", "crossattention.q_attn.bias", "flat"),
        ("cross_attention.kv.weight", "crossattention.c_attn.weight", "rows"),
        ("cross_attention.kv.bias", "crossattention.c_attn.bias", "flat"),
        ("cross_attention.out.weight", "crossattention.c_proj.weight", "same"),
        ("cross_attention.out.bias", "crossattention.c_proj.bias", "same"),
    ),
    "head": (("head.projection.weight", "lm_head.weight", "transposed"),),
}


def read(hf: Mapping[str, Any]) -> StackConfig:
    """A GPT-2 config, all attributes present, as a `StackConfig`."""
    width = head_dim(hf["n_embd"], hf["n_head"])
    base = width**-0.5 if hf["scale_attn_weights"] else 1.0
    by_layer = hf["scale_attn_by_inverse_layer_idx"]
    plain = hf["scale_attn_weights"] and not by_layer
    return StackConfig(
        model_type=hf["model_type"],
        vocab_size=hf["vocab_size"],
        hidden_size=hf["n_embd"],
        layers=layers(
            hf["n_layer"],
            cross_attention=hf["add_cross_attention"],
            score_scales=lambda i: None if plain else base / (i + 1 if by_layer else 1),
        ),
        attention=AttentionConfig(num_heads=hf["n_head"], head_dim=width, dropout=hf["attn_pdrop"]),
        feed_forward=FeedForwardConfig(
            size=hf["n_inner"] if hf["n_inner"] is not None else 4 * hf["n_embd"], activation=hf["activation_function"]
        ),
        norm=NormConfig(eps=hf["layer_norm_epsilon"], placement="pre", final=True),
        positions=PositionsConfig(max_positions=hf["n_positions"]),
        embeddings=EmbeddingsConfig(token_types_from_tokens=True, dropout=hf["embd_pdrop"]),
        head=HeadConfig(tied=hf["tie_word_embeddings"]),
        causal=True,
        cross_attention_hidden_size=hf["cross_attention_hidden_size"],
        dropout=hf["resid_pdrop"],
        initializer_range=hf["initializer_range"],
        **tokens(hf),
    )


def write(config: StackConfig) -> dict[str, Any]:
    """The attributes that express a `StackConfig`, as far as GPT-2's can."""
    scales = [layer.score_scale for layer in config.layers]
    plain = scales[0] is None
    return {
        "vocab_size": config.vocab_size,
        "n_positions": config.positions.max_positions,
        "n_embd": config.hidden_size,
        "n_layer": len(config.layers),
        "n_head": config.attention.num_heads,
        "n_inner": None if config.feed_forward.size == 4 * config.hidden_size else config.feed_forward.size,
        "activation_function": config.feed_forward.activation,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.embeddings.dropout,
        "attn_pdrop": config.attention.dropout,
        "layer_norm_epsilon": config.norm.eps,
        "initializer_range": config.initializer_range,
        "scale_attn_weights": plain or scales[0] != 1.0,
        "scale_attn_by_inverse_layer_idx": not plain and (len(scales) == 1 or scales[1] != scales[0]),
    }


GPT2 = Family(
    model_type="gpt2",
    architectures={"encoder": "GPT2Model", "decoder": "GPT2LMHeadModel"},
    prefixes={"encoder": ("transformer",), "decoder": ("transformer",)},
    attributes=ATTRIBUTES,
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
    read=read,
    write=write,
)
