"""OPT: a learned table of positions that the mask numbers, norms in front or behind, and tables of another width.

Zhang et al. 2022, arXiv:2205.01068.
"""

from ...config import StackConfig
from ..attributes import Attribute, Convert, choice, own_width, plus, read_only, variant
from ..family import Family
from ..names import GRAFTED, linear, norm, projections
from . import bart


def _no_final_norm(final: bool, config: StackConfig) -> bool:
    return config.norm.placement == "pre" and not final


OPT = Family(
    model_type="opt",
    architectures={"decoder": "OPTForCausalLM"},
    prefixes={"decoder": ("model.decoder", "decoder")},
    config_rows=variant(
        (
            Attribute("vocab_size", "vocab_size", 50272),
            Attribute("hidden_size", "hidden_size", 768),
            Attribute("num_hidden_layers", "num_hidden_layers", 12),
            Attribute("ffn_dim", "feed_forward.size", 3072),
            Attribute("max_position_embeddings", "positions.max_positions", 2048, plus(2)),
            Attribute(
                "do_layer_norm_before",
                "norm.placement",
                True,
                choice({True: "pre", False: "post"}, "do_layer_norm_before"),
            ),
            Attribute(
                "_remove_final_layer_norm",
                "norm.final",
                False,
                Convert(lambda removed, hf: hf["do_layer_norm_before"] and not removed, _no_final_norm),
            ),
            Attribute(
                "word_embed_proj_dim",
                ("embeddings.size", "head.input_size"),
                None,
                Convert(own_width, lambda size, config: config.embedding_size),
            ),
            Attribute(
                "word_embed_proj_dim",
                "embeddings.projection",
                None,
                read_only(lambda size, hf: own_width(size, hf) is not None),
            ),
            Attribute("dropout", "dropout", 0.1),
            Attribute("attention_dropout", "attention.dropout", 0.0),
            Attribute("num_attention_heads", "attention.num_heads", 12),
            Attribute("activation_function", "feed_forward.activation", "relu"),
            Attribute("init_std", "initializer_range", 0.02),
            Attribute("pad_token_id", "embeddings.padding_idx", 1),
            Attribute("enable_bias", ("attention.qkv_bias", "attention.out_bias", "feed_forward.bias"), True),
            Attribute("layer_norm_elementwise_affine", ("norm.scale", "norm.bias"), True),
        ),
        bos_token_id=2,
        eos_token_id=2,
    ),
    constants={
        "causal": True,
        "norm.eps": 1e-5,
        "embeddings.projected": "tokens",
        "embeddings.projection_bias": False,
        "positions.offset": 2,
        "positions.counting": "mask",
    },
    ignored={
        "layerdrop": bart.IGNORED["decoder_layerdrop"],
        "activation_dropout": "of the first version; nothing reads it",
    },
    remarks=bart.no_layerdrop("layerdrop"),
    layer="layers.{i}",
    rows={
        "base": (
            ("embeddings.tokens.weight", "embed_tokens.weight", "same"),
            ("embeddings.positions.weight", "embed_positions.weight", "same"),
            ("embeddings.projection.weight", "project_in.weight", "transposed"),
            *norm("stack.shared.final_norm", "final_layer_norm"),
            ("stack.shared.final_projection.weight", "project_out.weight", "transposed"),
        ),
        "layer": (
            *projections("self_attention", *(f"self_attn.{name}_proj" for name in "qkv")),
            *linear("self_attention.out", "self_attn.out_proj"),
            *norm("self_norm", "self_attn_layer_norm"),
            *linear("feed_forward.up", "fc1"),
            *linear("feed_forward.down", "fc2"),
            *norm("feed_forward_norm", "final_layer_norm"),
        ),
        "cross": GRAFTED,
        "head": (("head.projection.weight", "lm_head.weight", "transposed"),),
    },
    unused=((r"(score|qa_outputs)\..*", "the head of another task"),),
    duplicates={},
    tied_copy=("lm_head.weight", "embed_tokens.weight"),
)
"""OPT: norms in front of each sub-layer or behind it, tables of the layers' width or of another"""
