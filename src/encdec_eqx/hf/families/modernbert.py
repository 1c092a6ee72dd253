"""ModernBERT: global and local attention in turn, rotations of two bases, gated feed-forwards. An encoder only.

Warner et al. 2024, arXiv:2412.13663. The reference has no dropout after the feed-forward; here there is, at the rate of
attention's output (its published models have rates of 0).
"""

from collections.abc import Mapping
from typing import Any

from ..._quoting import quoted
from ...config import GatedMLPConfig, LayerSpec, RotaryConfig, StackConfig
from ..attributes import ABSENT, Attribute, Convert, read_only, write_only
from ..family import Family
from ..names import fused_gate, linear, norm


def _bases(theta: float, hf: Mapping[str, Any]) -> tuple[RotaryConfig, RotaryConfig]:
    """The rotations of global and of local layers."""
    local = hf["local_rope_theta"]
    return RotaryConfig(theta=theta), RotaryConfig(theta=theta if local is None else float(local))


def _local_theta(config: StackConfig) -> Any:
    return config.attention.rotary[1].theta if len(config.attention.rotary) == 2 else ABSENT


def _in_turn(config: StackConfig, hf: Mapping[str, Any]) -> StackConfig:
    """The config with layers that attend to all, or to as many tokens on either side as half of `local_attention`."""
    every, local = hf["global_attn_every_n_layers"], hf["local_attention"]
    if every < 1:
        raise ValueError(f"global_attn_every_n_layers is {quoted(every)}; expected at least 1")
    if local < 0:
        raise ValueError(f"local_attention is {quoted(local)}; expected the width of a window, 0 for the token alone")
    everything, near = LayerSpec(), LayerSpec(window=local // 2 + 1, rotary=1)
    others = (near if at % every else everything for at in range(1, len(config.layers)))
    # the embeddings are normed, so that nothing is in front of the first attention
    return config.replace(layers=(LayerSpec(self_norm=False), *others))


def _every(config: StackConfig) -> int:
    """From one global layer to the next; where there is no next, to the end."""
    layers = config.layers
    return next((at for at, layer in enumerate(layers) if at and layer.window is None), len(layers))


def _local(config: StackConfig) -> Any:
    return next((2 * (layer.window - 1) for layer in config.layers if layer.window is not None), ABSENT)


ATTRIBUTES = (
    Attribute("vocab_size", "vocab_size", 50368),
    Attribute("hidden_size", "hidden_size", 768),
    Attribute("num_hidden_layers", "num_hidden_layers", 22),
    Attribute("num_attention_heads", "attention.num_heads", 12),
    Attribute("intermediate_size", "feed_forward.size", 1152),
    Attribute("hidden_activation", "feed_forward.activation", "gelu"),
    Attribute("max_position_embeddings", "positions.max_positions", 8192),
    Attribute("initializer_range", "initializer_range", 0.02),
    Attribute("norm_eps", "norm.eps", 1e-5),
    Attribute("norm_bias", "norm.bias", False),
    Attribute("attention_bias", ("attention.qkv_bias", "attention.out_bias"), False),
    Attribute("mlp_bias", "feed_forward.bias", False),
    Attribute("attention_dropout", ("attention.dropout", "dropout"), 0.0),
    Attribute("embedding_dropout", "embeddings.dropout", 0.0),
    Attribute("mlp_dropout", "feed_forward.dropout", 0.0),
    Attribute(
        "global_rope_theta",
        "attention.rotary",
        160000.0,
        Convert(_bases, lambda rotary, config: rotary[0].theta if rotary else ABSENT),
    ),
    Attribute("local_rope_theta", (), 10000.0, write_only(_local_theta), kinds=(float, int, type(None))),
    Attribute("global_attn_every_n_layers", (), 3, write_only(_every)),
    Attribute("local_attention", (), 128, write_only(_local)),
    Attribute("pad_token_id", "embeddings.padding_idx", 50283, read_only(lambda idx, hf: idx)),
    Attribute("pad_token_id", "pad_token_id", 50283),
    Attribute("bos_token_id", "bos_token_id", 50281),
    Attribute("eos_token_id", "eos_token_id", 50282),
)


ROWS = {
    "base": (
        ("embeddings.tokens.weight", "embeddings.tok_embeddings.weight", "same"),
        *norm("embeddings.norm", "embeddings.norm"),
        *norm("stack.shared.final_norm", "final_norm"),
    ),
    "layer": (
        *norm("self_norm", "attn_norm"),
        *linear("self_attention.qkv", "attn.Wqkv"),
        *linear("self_attention.out", "attn.Wo"),
        *norm("feed_forward_norm", "mlp_norm"),
        *fused_gate("feed_forward", "mlp.Wi"),
        *linear("feed_forward.down", "mlp.Wo"),
    ),
}

_HEADS = "classifier_pooling classifier_bias classifier_activation decoder_bias sparse_prediction"
_OF_BERT = "of BERT's configs; nothing reads it"

MODERNBERT = Family(
    model_type="modernbert",
    architectures={"encoder": "ModernBertModel"},
    prefixes={"encoder": ("model",)},
    config_rows=ATTRIBUTES,
    parts={"feed_forward": GatedMLPConfig},
    constants={
        "norm.placement": "pre",
        "norm.final": True,
        "norm.final_in_hidden_states": False,
        "positions.kind": "none",
        "embeddings.norm": True,
    },
    finish=_in_turn,
    ignored={
        **dict.fromkeys((*_HEADS.split(), "sparse_pred_ignore_index", "repad_logits_with_grad"), "of heads"),
        "initializer_cutoff_factor": "of torch's initial weights",
        "deterministic_flash_attn": "how torch computes attention on GPUs",
        "reference_compile": "whether torch compiles parts of the model",
        "layer_norm_eps": _OF_BERT,
        "position_embedding_type": _OF_BERT,
    },
    fixed={"rope_scaling": (None, "scaled rotations are not built for this family")},
    spellings={"rope_theta": "global_rope_theta"},
    layer="layers.{i}",
    rows=ROWS,
    unused=(
        (r"(head\.(dense|norm)|decoder)\..*", "the head of masked language modelling"),
        (r"classifier\..*", "the head of another task"),
    ),
    duplicates={},
    tied_copy=("decoder.weight", "embeddings.tok_embeddings.weight"),
)
"""ModernBERT: global and local attention in turn, rotations of two bases, gated feed-forwards"""
