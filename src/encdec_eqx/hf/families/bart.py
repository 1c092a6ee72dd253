"""BART and its kin: encoder and decoder of one checkpoint, each of which is a piece of its own (`BartModel` and so on).

Lewis et al. 2020, arXiv:1910.13461. What mBART, Marian, Pegasus, Blenderbot, XGLM and TrOCR share with it is here: the
names of tensors, and the two functions that read and write their configs. Data only.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

from ..._quoting import quoted
from ...config import (
    AttentionConfig,
    EmbeddingsConfig,
    FeedForwardConfig,
    HeadConfig,
    NormConfig,
    PositionsConfig,
    StackConfig,
)
from ..attributes import check_kind, head_dim, layers, tokens
from ..family import Family, Role, Whole

ATTRIBUTES = {
    "vocab_size": 50265,
    "max_position_embeddings": 1024,
    "encoder_layers": 12,
    "encoder_ffn_dim": 4096,
    "encoder_attention_heads": 16,
    "decoder_layers": 12,
    "decoder_ffn_dim": 4096,
    "decoder_attention_heads": 16,
    "activation_function": "gelu",
    "d_model": 1024,
    "dropout": 0.1,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "init_std": 0.02,
    "scale_embedding": False,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}

_FIXED_BY_THE_FAMILY = (
    *("normalize_before", "normalize_embedding", "add_final_layer_norm", "static_position_embeddings"),
    *("extra_pos_embeddings", "add_bias_logits", "layernorm_variant", "do_blenderbot_90_layernorm"),
)
_LAYERDROP = ("encoder_layerdrop", "decoder_layerdrop")
IGNORED = {
    "is_encoder_decoder": "said by what is loaded: one piece, or both",
    "num_hidden_layers": "repeats encoder_layers; the layers' own numbers count",
    **dict.fromkeys(_FIXED_BY_THE_FAMILY, "of 2020's versions; since then the family fixes it and nothing reads it"),
    **dict.fromkeys(("classif_dropout", "save_step", "layerdrop"), "of 2020's versions; nothing reads it"),
    **dict.fromkeys(_LAYERDROP, "layers are dropped in training only, and never here: `remarks` says so"),
}

_LAYER = (
    ("self_attention.qkv.weight", "self_attn.q_proj.weight", "transposed part 0"),
    ("self_attention.qkv.weight", "self_attn.k_proj.weight", "transposed part 1"),
    ("self_attention.qkv.weight", "self_attn.v_proj.weight", "transposed part 2"),
    ("self_attention.qkv.bias", "self_attn.q_proj.bias", "bias part 0"),
    ("self_attention.qkv.bias", "self_attn.k_proj.bias", "bias part 1"),
    ("self_attention.qkv.bias", "self_attn.v_proj.bias", "bias part 2"),
    ("self_attention.out.weight", "self_attn.out_proj.weight", "transposed"),
    ("self_attention.out.bias", "self_attn.out_proj.bias", "same"),
    ("self_norm.weight", "self_attn_layer_norm.weight", "same"),
    ("self_norm.bias", "self_attn_layer_norm.bias", "same"),
    ("feed_forward.up.weight", "fc1.weight", "transposed"),
    ("feed_forward.up.bias", "fc1.bias", "same"),
    ("feed_forward.down.weight", "fc2.weight", "transposed"),
    ("feed_forward.down.bias", "fc2.bias", "same"),
    ("feed_forward_norm.weight", "final_layer_norm.weight", "same"),
    ("feed_forward_norm.bias", "final_layer_norm.bias", "same"),
)

ROWS = {
    "base": (
        ("embeddings.tokens.weight", "embed_tokens.weight", "same"),
        ("embeddings.positions.weight", "embed_positions.weight", "same"),
        ("embeddings.norm.weight", "layernorm_embedding.weight", "same"),
        ("embeddings.norm.bias", "layernorm_embedding.bias", "same"),
        ("stack.shared.final_norm.weight", "layer_norm.weight", "same"),
        ("stack.shared.final_norm.bias", "layer_norm.bias", "same"),
    ),
    "layer": _LAYER,
    "cross": (
        ("cross_attention.q.weight", "encoder_attn.q_proj.weight", "transposed"),
        ("cross_attention.q.bias", "encoder_attn.q_proj.bias", "flat"),
        ("cross_attention.kv.weight", "encoder_attn.k_proj.weight", "transposed part 0"),
        ("cross_attention.kv.weight", "encoder_attn.v_proj.weight", "transposed part 1"),
        ("cross_attention.kv.bias", "encoder_attn.k_proj.bias", "bias part 0"),
        ("cross_attention.kv.bias", "encoder_attn.v_proj.bias", "bias part 1"),
        ("cross_attention.out.weight", "encoder_attn.out_proj.weight", "transposed"),
        ("cross_attention.out.bias", "encoder_attn.out_proj.bias", "same"),
        ("cross_norm.weight", "encoder_attn_layer_norm.weight", "same"),
        ("cross_norm.bias", "encoder_attn_layer_norm.bias", "same"),
    ),
    "head": (
        ("head.projection.weight", "lm_head.weight", "transposed"),
        ("head.bias", "final_logits_bias", "row"),
    ),
}

UNUSED = (
    (r"version", "a mark of older versions"),
    (r"encoder\..*", "the encoder, which is not asked for"),
    (r"decoder\..*", "the decoder, which is not asked for"),
    (r"(classification_head|qa_outputs)\..*", "the head of another task"),
)

# In a file of both pieces they share one table, which may stand under any of three names.
SHARED = {
    "shared.weight": "embed_tokens.weight",
    "encoder.embed_tokens.weight": "embed_tokens.weight",
    "decoder.embed_tokens.weight": "embed_tokens.weight",
}

PREFIXES: Mapping[Role, tuple[str, ...]] = {
    "encoder": ("model.encoder", "encoder", "model"),
    "decoder": ("model.decoder", "decoder", "model"),
}

# Attributes of one piece that the other does not read.
OTHER_ROLE: Mapping[Role, tuple[str, ...]] = {
    "encoder": ("decoder_layers", "decoder_ffn_dim", "decoder_attention_heads"),
    "decoder": ("encoder_layers", "encoder_ffn_dim", "encoder_attention_heads"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Style:
    """In what a relative differs from BART.

    Attributes:
        placement: of the norms in a layer.
        final_norm: whether a norm follows the last layer.
        embedding_norm: whether a norm follows the embeddings.
        positions: the kind of table.
        offset: the table's row of position 0.
        fixed_bias: whether the logits have a constant bias.
    """

    placement: Literal["post", "pre"] = "post"
    final_norm: bool = False
    embedding_norm: bool = True
    positions: Literal["learned", "sinusoidal_halves", "sinusoidal_tensor2tensor"] = "learned"
    offset: int = 2
    fixed_bias: bool = True


def read(hf: Mapping[str, Any], style: Style, *, vocab_size: int, depth: int, heads: int, inner: int) -> StackConfig:
    """One piece's config, all attributes present, as a `StackConfig`."""
    width, decoder = hf["d_model"], hf["is_decoder"]
    return StackConfig(
        model_type=hf["model_type"],
        vocab_size=vocab_size,
        hidden_size=width,
        layers=layers(depth, cross_attention=decoder),
        attention=AttentionConfig(num_heads=heads, head_dim=head_dim(width, heads), dropout=hf["attention_dropout"]),
        feed_forward=FeedForwardConfig(
            size=inner, activation=hf["activation_function"], dropout=hf["activation_dropout"]
        ),
        norm=NormConfig(eps=1e-5, placement=style.placement, final=style.final_norm),
        positions=PositionsConfig(
            max_positions=hf["max_position_embeddings"] + style.offset, kind=style.positions, offset=style.offset
        ),
        embeddings=EmbeddingsConfig(
            norm=style.embedding_norm,
            dropout=hf["dropout"],
            padding_idx=hf["pad_token_id"],
            scale=math.sqrt(width) if hf["scale_embedding"] else 1.0,
        ),
        head=HeadConfig(tied=hf["tie_word_embeddings"], bias=style.fixed_bias, fixed_bias=style.fixed_bias)
        if decoder
        else None,
        causal=decoder,
        cross_attention_hidden_size=hf["cross_attention_hidden_size"] if decoder else None,
        dropout=hf["dropout"],
        initializer_range=hf["init_std"],
        **tokens(hf),
    )


def write(config: StackConfig) -> dict[str, Any]:
    """The attributes that express a `StackConfig`, but for the sizes that have other names in other relatives."""
    return {
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.positions.max_positions - config.positions.offset,
        "activation_function": config.feed_forward.activation,
        "d_model": config.hidden_size,
        "dropout": config.dropout,
        "attention_dropout": config.attention.dropout,
        "activation_dropout": config.feed_forward.dropout,
        "init_std": config.initializer_range,
        "scale_embedding": config.embeddings.scale != 1.0,
    }


def old_generation(hf: Mapping[str, Any]) -> dict[str, Any]:
    """What 2020's BART checkpoints call `force_bos_token_to_be_generated`: as in torch, BART's alone."""
    forced = hf.get("force_bos_token_to_be_generated", False)
    if forced is not None:
        check_kind("force_bos_token_to_be_generated", forced, False)
    return {"forced_bos_token_id": hf["bos_token_id"]} if forced else {}


def no_layerdrop(*names: str) -> Callable[[Mapping[str, Any]], tuple[str, ...]]:
    """A family's remark that no layer is dropped in training, by the attributes of its rates."""

    def remarks(hf: Mapping[str, Any]) -> tuple[str, ...]:
        rates = [f"{name} = {quoted(hf[name])}" for name in names if hf.get(name)]
        return (f"{', '.join(rates)}: in training, no layer is dropped here",) if rates else ()

    return remarks


def role_of(hf: Mapping[str, Any]) -> Role:
    """Which of the two pieces a config is read for."""
    return "decoder" if hf["is_decoder"] else "encoder"


def read_role(hf: Mapping[str, Any], style: Style, *, vocab_size: int | None = None) -> StackConfig:
    """The piece that `is_decoder` names, of a config that describes both."""
    role = role_of(hf)
    return read(
        hf,
        style,
        vocab_size=hf["vocab_size"] if vocab_size is None else vocab_size,
        depth=hf[f"{role}_layers"],
        heads=hf[f"{role}_attention_heads"],
        inner=hf[f"{role}_ffn_dim"],
    )


def write_role(config: StackConfig) -> dict[str, Any]:
    """The attributes that express one of the two pieces."""
    role = "decoder" if config.causal else "encoder"
    return {
        **write(config),
        f"{role}_layers": len(config.layers),
        f"{role}_attention_heads": config.attention.num_heads,
        f"{role}_ffn_dim": config.feed_forward.size,
    }


def relative(
    name: str,
    style: Style,
    attributes: Mapping[str, Any],
    whole: Whole,
    *,
    model_type: str,
    generation: Mapping[str, Any],
    read: Callable[[Mapping[str, Any]], StackConfig] | None = None,
    write: Callable[[StackConfig], dict[str, Any]] = write_role,
) -> Family:
    """A family whose checkpoints hold both pieces, as BART's do.

    Args:
        name: what torch's classes begin with.
        style: in what it differs from BART.
        attributes: attributes that are handled, with the family's defaults.
        whole: how both pieces stand in one checkpoint.
        model_type: its name in configs.
        generation: defaults of torch's config class for generating.
        read: reads one piece's config; default `read_role`.
        write: writes one piece's config.
    """
    return Family(
        model_type=model_type,
        architectures={"encoder": f"{name}Encoder", "decoder": f"{name}ForCausalLM"},
        prefixes=PREFIXES,
        attributes=attributes,
        ignored=IGNORED | {"force_bos_token_to_be_generated": "of 2020's versions of BART alone; nothing reads it"},
        spellings={"hidden_size": "d_model", "num_attention_heads": "encoder_attention_heads"},
        layer="layers.{i}",
        rows=ROWS,
        optional={"embeddings.positions.weight": True, "head.bias": False},
        unused=UNUSED,
        duplicates=SHARED,
        tied_copy=("lm_head.weight", "embed_tokens.weight"),
        read=(lambda hf: read_role(hf, style)) if read is None else read,
        write=write,
        other_role=OTHER_ROLE,
        remarks=no_layerdrop(*_LAYERDROP),
        generation=generation,
        whole=whole,
    )


_FORCED = "of 2020's versions; `old_generation` reads it"
BART = dataclasses.replace(
    relative(
        "Bart",
        Style(),
        ATTRIBUTES,
        Whole(architecture="BartForConditionalGeneration"),
        model_type="bart",
        generation={"forced_eos_token_id": 2},
    ),
    ignored=IGNORED | {"force_bos_token_to_be_generated": _FORCED},
    old_generation=old_generation,
)
