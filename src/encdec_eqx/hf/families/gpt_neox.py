"""GPT-NeoX, GPT-J and Phi: attention and feed-forward side by side, with rotations of a part of each head.

Black et al. 2022, arXiv:2204.06745 (GPT-NeoX); Wang & Komatsuzaki 2021 (GPT-J); Gunasekar et al. 2023, arXiv:2306.11644
(Phi).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from ...config import LayerNormConfig, QKNormConfig, RotaryConfig, StackConfig
from ..attributes import Attribute, Convert, head_dim, variant, write_only
from ..family import Family
from ..names import GRAFTED, fused_projections, linear, norm, projections
from ..rope_scaling import rope_remarks, rotary_rows, rotated_share, scaling_from_hf, scaling_row, share
from .gpt2 import INNER
from .llama import KV_HEADS

CONSTANTS = {"causal": True, "norm.placement": "pre", "norm.final": True, "positions.kind": "none"}
BUFFERS = (
    (r".*\.(attn|attention|self_attn)\.(bias|masked_bias)", "a buffer of older versions"),
    (r".*rotary_emb\.inv_freq", "a buffer of older versions"),
    (r"(score|classifier|qa_outputs)\..*", "the head of another task"),
)


def every_layer(block: Callable[[Mapping[str, Any]], str]) -> Callable[[StackConfig, Mapping[str, Any]], StackConfig]:
    """A family's `finish` that gives all layers one kind of block, by the attributes."""

    def finish(config: StackConfig, hf: Mapping[str, Any]) -> StackConfig:
        kind: Any = block(hf)
        return config.replace(layers=tuple(dataclasses.replace(layer, block=kind) for layer in config.layers))

    return finish


def _rotations(base: float, hf: Mapping[str, Any]) -> tuple[RotaryConfig, ...]:
    dim = int(head_dim(hf["hidden_size"], hf["num_attention_heads"]) * hf["rotary_pct"])
    return (rotated_share(base, dim, scaling_from_hf(hf)),)


GPT_NEOX = Family(
    model_type="gpt_neox",
    architectures={"decoder": "GPTNeoXForCausalLM"},
    prefixes={"decoder": ("gpt_neox",)},
    config_rows=variant(
        (
            Attribute("vocab_size", "vocab_size", 50432),
            Attribute("hidden_size", "hidden_size", 6144),
            Attribute("num_hidden_layers", "num_hidden_layers", 44),
            Attribute("num_attention_heads", "attention.num_heads", 64),
            Attribute("intermediate_size", "feed_forward.size", 24576),
            Attribute("hidden_act", "feed_forward.activation", "gelu"),
            Attribute(
                "rotary_emb_base",
                "attention.rotary",
                10000.0,
                Convert(_rotations, lambda rotary, config: rotary[0].theta),
            ),
            Attribute("rotary_pct", (), 0.25, write_only(share)),
            scaling_row(),
            Attribute("attention_dropout", "attention.dropout", 0.0),
            Attribute("hidden_dropout", ("dropout", "embeddings.dropout"), 0.0),
            Attribute("max_position_embeddings", "positions.max_positions", 2048),
            Attribute("initializer_range", "initializer_range", 0.02),
            Attribute("layer_norm_eps", "norm.eps", 1e-5),
            Attribute("attention_bias", ("attention.qkv_bias", "attention.out_bias"), True),
            Attribute(
                "use_parallel_residual", (), True, write_only(lambda config: config.layers[0].block == "parallel_norms")
            ),
        ),
        bos_token_id=0,
        eos_token_id=2,
        tie_word_embeddings=False,
    ),
    constants=CONSTANTS,
    finish=every_layer(lambda hf: "parallel_norms" if hf["use_parallel_residual"] else "serial"),
    ignored={
        "rope_theta": "repeats rotary_emb_base, which counts",
        "partial_rotary_factor": "repeats rotary_pct, which counts",
    },
    remarks=rope_remarks,
    layer="layers.{i}",
    rows={
        "base": (
            ("embeddings.tokens.weight", "embed_in.weight", "same"),
            *norm("stack.shared.final_norm", "final_layer_norm"),
        ),
        "layer": (
            *norm("self_norm", "input_layernorm"),
            *fused_projections("self_attention", "attention.query_key_value"),
            *linear("self_attention.out", "attention.dense"),
            *norm("feed_forward_norm", "post_attention_layernorm"),
            *linear("feed_forward.up", "mlp.dense_h_to_4h"),
            *linear("feed_forward.down", "mlp.dense_4h_to_h"),
        ),
        "cross": GRAFTED,
        "head": (("head.projection.weight", "embed_out.weight", "transposed"),),
    },
    unused=BUFFERS,
    duplicates={},
    tied_copy=("embed_out.weight", "embed_in.weight"),
)
"""GPT-NeoX (Pythia, Dolly): attention and feed-forward side by side, each with its norm, or one after the other"""


def _rotated_entries(dim: int | None, hf: Mapping[str, Any]) -> tuple[RotaryConfig, ...]:
    if dim is None:
        raise ValueError("rotary_dim is null, more than a head has; expected how many of a head are to rotate")
    return (RotaryConfig(dim=dim, pairs="neighbours"),)


GPTJ = Family(
    model_type="gptj",
    architectures={"decoder": "GPTJForCausalLM"},
    prefixes={"decoder": ("transformer",)},
    config_rows=variant(
        (
            Attribute("vocab_size", "vocab_size", 50400),
            Attribute("n_positions", "positions.max_positions", 2048),
            Attribute("n_embd", "hidden_size", 4096),
            Attribute("n_layer", "num_hidden_layers", 28),
            Attribute("n_head", "attention.num_heads", 16),
            Attribute(
                "rotary_dim",
                "attention.rotary",
                64,
                Convert(_rotated_entries, lambda rotary, config: rotary[0].dim),
                kinds=(int, type(None)),
            ),
            Attribute("n_inner", "feed_forward.size", None, INNER),
            Attribute("activation_function", "feed_forward.activation", "gelu_new"),
            Attribute("resid_pdrop", "dropout", 0.0),
            Attribute("embd_pdrop", "embeddings.dropout", 0.0),
            Attribute("attn_pdrop", "attention.dropout", 0.0),
            Attribute("layer_norm_epsilon", "norm.eps", 1e-5),
            Attribute("initializer_range", "initializer_range", 0.02),
        ),
        bos_token_id=50256,
        eos_token_id=50256,
        tie_word_embeddings=False,
    ),
    constants={
        **CONSTANTS,
        "attention.qkv_bias": False,
        "attention.out_bias": False,
        "embeddings.token_types_from_tokens": True,
        "head.bias": True,
    },
    finish=every_layer(lambda hf: "parallel"),
    ignored={
        **dict.fromkeys(("rotary", "scale_attn_weights", "n_ctx"), "of the first version; nothing reads it"),
        **dict.fromkeys(
            ("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels"),
            "of GPT-2's classification heads; nothing reads it",
        ),
        "summary_first_dropout": "of GPT-2's classification heads; nothing reads it",
    },
    spellings={
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    },
    layer="h.{i}",
    rows={
        "base": (
            ("embeddings.tokens.weight", "wte.weight", "same"),
            *norm("stack.shared.final_norm", "ln_f"),
        ),
        "layer": (
            *norm("self_norm", "ln_1"),
            *projections("self_attention", *(f"attn.{name}_proj" for name in "qkv")),
            *linear("self_attention.out", "attn.out_proj"),
            *linear("feed_forward.up", "mlp.fc_in"),
            *linear("feed_forward.down", "mlp.fc_out"),
        ),
        "cross": GRAFTED,
        "head": (("head.projection.weight", "lm_head.weight", "transposed"), ("head.bias", "lm_head.bias", "same")),
    },
    unused=BUFFERS,
    duplicates={},
    tied_copy=("lm_head.weight", "wte.weight"),
)
"""GPT-J: attention and feed-forward side by side after one norm, rotations of neighbours, a head with a bias"""


def _head_norms(value: bool, hf: Mapping[str, Any]) -> QKNormConfig | None:
    return QKNormConfig(norm=LayerNormConfig(eps=hf["layer_norm_eps"])) if value else None


PHI = Family(
    model_type="phi",
    architectures={"decoder": "PhiForCausalLM"},
    prefixes={"decoder": ("model",)},
    config_rows=variant(
        (
            Attribute("vocab_size", "vocab_size", 51200),
            Attribute("hidden_size", "hidden_size", 2048),
            Attribute("intermediate_size", "feed_forward.size", 8192),
            Attribute("num_hidden_layers", "num_hidden_layers", 24),
            Attribute("num_attention_heads", "attention.num_heads", 32),
            KV_HEADS,
            Attribute("head_dim", "attention.head_dim"),
            Attribute("resid_pdrop", "dropout", 0.0),
            Attribute("embd_pdrop", "embeddings.dropout", 0.0),
            Attribute("attention_dropout", "attention.dropout", 0.0),
            Attribute("hidden_act", "feed_forward.activation", "gelu_new"),
            Attribute("max_position_embeddings", "positions.max_positions", 2048),
            Attribute("initializer_range", "initializer_range", 0.02),
            Attribute("layer_norm_eps", "norm.eps", 1e-5),
            *rotary_rows(10000.0, partial=0.5),
            Attribute(
                "qk_layernorm",
                "attention.qk_norm",
                False,
                Convert(_head_norms, lambda qk_norm, config: qk_norm is not None),
            ),
            Attribute("pad_token_id", "embeddings.padding_idx"),
        ),
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
    ),
    constants={**CONSTANTS, "head.bias": True},
    finish=every_layer(lambda hf: "parallel"),
    ignored={},
    remarks=rope_remarks,
    layer="layers.{i}",
    rows={
        "base": (
            ("embeddings.tokens.weight", "embed_tokens.weight", "same"),
            *norm("stack.shared.final_norm", "final_layernorm"),
        ),
        "layer": (
            *norm("self_norm", "input_layernorm"),
            *projections("self_attention", *(f"self_attn.{name}_proj" for name in "qkv")),
            *linear("self_attention.out", "self_attn.dense"),
            *norm("self_attention.q_norm", "self_attn.q_layernorm"),
            *norm("self_attention.k_norm", "self_attn.k_layernorm"),
            *linear("feed_forward.up", "mlp.fc1"),
            *linear("feed_forward.down", "mlp.fc2"),
        ),
        "cross": GRAFTED,
        "head": (("head.projection.weight", "lm_head.weight", "transposed"), ("head.bias", "lm_head.bias", "same")),
    },
    unused=BUFFERS,
    duplicates={},
    tied_copy=("lm_head.weight", "embed_tokens.weight"),
)
"""Phi (1, 1.5 and 2): attention and feed-forward side by side after one norm, and biases everywhere, the head's too"""
