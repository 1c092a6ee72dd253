"""Bloom and Falcon, whose files hold queries, keys and values as one tensor, by head: ALiBi, or rotations.

Le Scao et al. 2022, arXiv:2211.05100; Almazrouei et al. 2023, arXiv:2311.16867.
"""

from collections.abc import Mapping
from typing import Any

from ...config import AlibiConfig, RotaryConfig, StackConfig
from ..attributes import ABSENT, Attribute, Convert, choice, read_only, variant, write_only
from ..family import Family
from ..names import GRAFTED, fused_projections, linear, norm
from ..rope_scaling import rope_remarks, scaling_from_hf, scaling_row
from .gpt_neox import BUFFERS, CONSTANTS, every_layer

_OF_MEGATRON = (
    *("offset_alibi", "seq_length", "masked_softmax_fusion", "bias_dropout_fusion", "attention_softmax_in_fp32"),
    *("skip_bias_add", "skip_bias_add_qkv", "n_inner"),
)

_LAYER = (
    *fused_projections("self_attention", "self_attention.query_key_value"),
    *linear("self_attention.out", "self_attention.dense"),
    *linear("feed_forward.up", "mlp.dense_h_to_4h"),
    *linear("feed_forward.down", "mlp.dense_4h_to_h"),
)

BLOOM = Family(
    model_type="bloom",
    architectures={"decoder": "BloomForCausalLM"},
    prefixes={"decoder": ("transformer",)},
    config_rows=variant(
        (
            Attribute("vocab_size", "vocab_size", 250880),
            Attribute("hidden_size", "hidden_size", 64),
            Attribute("hidden_size", "feed_forward.size", 64, read_only(lambda size, hf: 4 * size)),
            Attribute("n_layer", "num_hidden_layers", 2),
            Attribute("n_head", "attention.num_heads", 8),
            Attribute("layer_norm_epsilon", "norm.eps", 1e-5),
            Attribute("initializer_range", "initializer_range", 0.02),
            Attribute(
                "apply_residual_connection_post_layernorm",
                "norm.placement",
                False,
                choice({False: "pre", True: "pre_residual"}, "apply_residual_connection_post_layernorm"),
            ),
            Attribute("hidden_dropout", "dropout", 0.0),
            Attribute("attention_dropout", "attention.dropout", 0.0),
        ),
        bos_token_id=1,
        eos_token_id=2,
    ),
    constants={
        "causal": True,
        "norm.final": True,
        "attention.alibi": AlibiConfig(),
        "feed_forward.activation": "gelu_new",
        "embeddings.norm": True,
        "positions.kind": "none",
        # no config says how long sequences of pretraining were; it limits nothing
        "positions.max_positions": 2048,
    },
    ignored={
        **dict.fromkeys(_OF_MEGATRON, "of Megatron's training; nothing reads it"),
        "pretraining_tp": "read with slow_but_exact alone",
    },
    fixed={
        "slow_but_exact": (
            False,
            "torch sums in parts then, and leaves out the biases of `dense` and `dense_4h_to_h`. Set it to false: "
            "the model is the same, and has its biases",
        ),
    },
    spellings={"num_hidden_layers": "n_layer", "num_attention_heads": "n_head", "n_embed": "hidden_size"},
    layer="h.{i}",
    rows={
        "base": (
            ("embeddings.tokens.weight", "word_embeddings.weight", "same"),
            *norm("embeddings.norm", "word_embeddings_layernorm"),
            *norm("stack.shared.final_norm", "ln_f"),
        ),
        "layer": (
            *_LAYER,
            *norm("self_norm", "input_layernorm"),
            *norm("feed_forward_norm", "post_attention_layernorm"),
        ),
        "cross": GRAFTED,
        "head": (("head.projection.weight", "lm_head.weight", "transposed"),),
    },
    unused=BUFFERS,
    duplicates={},
    tied_copy=("lm_head.weight", "word_embeddings.weight"),
)
"""Bloom: ALiBi in place of positions, a norm after the embeddings, and a tied head"""


def _kv_heads(value: int | None, hf: Mapping[str, Any]) -> int | None:
    """One for all queries, as many as there are of queries, or in the new architecture any number."""
    heads, given = hf["num_attention_heads"], hf["num_attention_heads"] if value is None else value
    if not hf["new_decoder_architecture"]:
        if hf["multi_query"]:
            return 1 if heads > 1 else None
        if given != heads:
            raise ValueError(
                f"num_kv_heads is {value}, num_attention_heads {heads} and new_decoder_architecture false; expected as "
                "many of both, or the new architecture"
            )
    return None if given == heads else given


def _new(config: StackConfig) -> bool:
    """Whether only the new architecture has such layers."""
    block, heads, kv_heads = config.layers[0].block, config.attention.num_heads, config.attention.kv_heads
    return block == "parallel_norms" or (block == "parallel" and 1 < kv_heads < heads)


def _block(hf: Mapping[str, Any]) -> str:
    """The kind of layers; what torch cannot run is refused."""
    new, parallel, norms = hf["new_decoder_architecture"], hf["parallel_attn"], hf["num_ln_in_parallel_attn"]
    if new and not parallel:
        raise ValueError(
            "parallel_attn is false in the new_decoder_architecture; expected true: torch has no such layer"
        )
    if new and norms not in (None, 1, 2):
        raise ValueError(f"num_ln_in_parallel_attn is {norms}; expected 1 or 2")
    if not new and parallel and norms == 2:
        raise ValueError(
            "num_ln_in_parallel_attn is 2 and new_decoder_architecture false; expected null or 1: torch has no such "
            "layer"
        )
    return "parallel_norms" if new and norms != 1 else "parallel" if parallel else "serial"


def _rotations(theta: float, hf: Mapping[str, Any]) -> tuple[RotaryConfig, ...]:
    return () if hf["alibi"] else (RotaryConfig(theta=theta, scaling=scaling_from_hf(hf)),)


def _norms(config: StackConfig) -> int | None:
    return None if not _new(config) else 2 if config.layers[0].block == "parallel_norms" else 1


def _first_norm(leaf: str) -> tuple[str, Any, str]:
    """That of attention stands under two names."""

    def name(config: StackConfig) -> str:
        return f"{'ln_attn' if config.layers[0].block == 'parallel_norms' else 'input_layernorm'}.{leaf}"

    return f"self_norm.{leaf}", name, "same"


def _second_norm(leaf: str) -> tuple[str, Any, str]:
    """So does that of the feed-forward."""

    def name(config: StackConfig) -> str:
        return f"{'ln_mlp' if config.layers[0].block == 'parallel_norms' else 'post_attention_layernorm'}.{leaf}"

    return f"feed_forward_norm.{leaf}", name, "same"


def _remarks(hf: Mapping[str, Any]) -> tuple[str, ...]:
    twice = "ALiBi is added once, as torch's default attention does; its eager attention (4.57.6) adds it twice"
    return (twice,) if hf.get("alibi") else rope_remarks(hf)


FALCON = Family(
    model_type="falcon",
    architectures={"decoder": "FalconForCausalLM"},
    prefixes={"decoder": ("transformer",)},
    config_rows=variant(
        (
            Attribute("vocab_size", "vocab_size", 65024),
            Attribute("hidden_size", "hidden_size", 4544),
            Attribute("num_hidden_layers", "num_hidden_layers", 32),
            Attribute("num_attention_heads", "attention.num_heads", 71),
            Attribute("num_ln_in_parallel_attn", (), None, write_only(_norms)),
            Attribute("layer_norm_epsilon", "norm.eps", 1e-5),
            Attribute("initializer_range", "initializer_range", 0.02),
            Attribute("hidden_dropout", "dropout", 0.0),
            Attribute("attention_dropout", "attention.dropout", 0.0),
            Attribute(
                "num_kv_heads",
                "attention.num_kv_heads",
                None,
                Convert(
                    _kv_heads,
                    lambda heads, config: config.attention.kv_heads if _new(config) else config.attention.num_heads,
                ),
            ),
            Attribute(
                "alibi",
                "attention.alibi",
                False,
                Convert(
                    lambda value, hf: AlibiConfig(scaled=True, bfloat16=True) if value else None,
                    lambda alibi, config: alibi is not None,
                ),
            ),
            Attribute("new_decoder_architecture", (), False, write_only(_new)),
            Attribute(
                "multi_query", (), True, write_only(lambda config: _new(config) or config.attention.kv_heads == 1)
            ),
            Attribute("parallel_attn", (), True, write_only(lambda config: config.layers[0].block != "serial")),
            Attribute("bias", ("attention.qkv_bias", "attention.out_bias", "feed_forward.bias"), False),
            Attribute("max_position_embeddings", "positions.max_positions", 2048),
            Attribute(
                "rope_theta",
                "attention.rotary",
                10000.0,
                Convert(_rotations, lambda rotary, config: rotary[0].theta if rotary else ABSENT),
            ),
            scaling_row(),
            Attribute(
                "ffn_hidden_size",
                "feed_forward.size",
                None,
                Convert(lambda size, hf: 4 * hf["hidden_size"] if size is None else size, lambda size, config: size),
            ),
            Attribute("activation", "feed_forward.activation", "gelu"),
        ),
        bos_token_id=11,
        eos_token_id=11,
    ),
    constants=CONSTANTS,
    finish=every_layer(_block),
    ignored={"apply_residual_connection_post_layernorm": "of Bloom; nothing reads it"},
    remarks=_remarks,
    spellings={"n_embed": "hidden_size"},
    layer="h.{i}",
    rows={
        "base": (
            ("embeddings.tokens.weight", "word_embeddings.weight", "same"),
            *norm("stack.shared.final_norm", "ln_f"),
        ),
        "layer": (*_LAYER, *(row(leaf) for row in (_first_norm, _second_norm) for leaf in ("weight", "bias"))),
        "cross": GRAFTED,
        "head": (("head.projection.weight", "lm_head.weight", "transposed"),),
    },
    unused=BUFFERS,
    duplicates={},
    tied_copy=("lm_head.weight", "word_embeddings.weight"),
)
"""Falcon: attention and feed-forward side by side or one after the other, with rotations or ALiBi

ALiBi counts once, as where torch attends by `scaled_dot_product_attention`, its default; its eager attention of 4.57.6
adds it twice. Dropout: torch has one mask for the sum of both sides, none of attention weights beside rotations, and
where sub-layers stand in turn attention's output is dropped at `attention_dropout`.
"""
