"""XGLM: a decoder in the manner of mBART's, with sinusoidal positions that no file holds (`XGLMForCausalLM`).

Lin et al. 2022, arXiv:2112.10668. Data only; what it shares with BART is taken from there.
"""

from collections.abc import Mapping
from typing import Any

from ...config import StackConfig
from ..attributes import layers
from ..family import Family
from . import bart

STYLE = bart.Style(
    placement="pre",
    final_norm=True,
    embedding_norm=False,
    positions="sinusoidal_tensor2tensor",
    fixed_bias=False,
)

_OTHERS = ("vocab_size", "max_position_embeddings", "activation_function", "d_model", "dropout", "activation_dropout")
ATTRIBUTES = {
    **{name: bart.ATTRIBUTES[name] for name in (*_OTHERS, "init_std", "bos_token_id", "eos_token_id", "pad_token_id")},
    "vocab_size": 256008,
    "max_position_embeddings": 2048,
    "num_layers": 24,
    "attention_heads": 16,
    "ffn_dim": 4096,
    "attention_dropout": 0.1,
    "scale_embedding": True,
    "decoder_start_token_id": 2,
}


def read(hf: Mapping[str, Any]) -> StackConfig:
    """An XGLM config, all attributes present, as a `StackConfig`."""
    config = bart.read(
        {**hf, "is_decoder": True},
        STYLE,
        vocab_size=hf["vocab_size"],
        depth=hf["num_layers"],
        heads=hf["attention_heads"],
        inner=hf["ffn_dim"],
    )
    return config.replace(layers=layers(hf["num_layers"], cross_attention=hf["add_cross_attention"]))


def write(config: StackConfig) -> dict[str, Any]:
    """The attributes that express a `StackConfig`, as far as XGLM's can."""
    return {
        **bart.write(config),
        "num_layers": len(config.layers),
        "attention_heads": config.attention.num_heads,
        "ffn_dim": config.feed_forward.size,
    }


_POSITIONS = ("embeddings.positions.weight", "embed_positions.weights", "same")

XGLM = Family(
    model_type="xglm",
    architectures={"decoder": "XGLMForCausalLM"},
    prefixes={"decoder": ("model",)},
    attributes=ATTRIBUTES,
    ignored={"layerdrop": bart.IGNORED["decoder_layerdrop"]},
    remarks=bart.no_layerdrop("layerdrop"),
    spellings={"hidden_size": "d_model", "num_attention_heads": "attention_heads", "num_hidden_layers": "num_layers"},
    layer="layers.{i}",
    rows={
        **bart.ROWS,
        "base": tuple(_POSITIONS if row[0] == _POSITIONS[0] else row for row in bart.ROWS["base"]),
        "head": bart.ROWS["head"][:1],
    },
    optional={"embeddings.positions.weight": False},
    unused=bart.UNUSED,
    duplicates={},
    tied_copy=("lm_head.weight", "embed_tokens.weight"),
    read=read,
    write=write,
)
