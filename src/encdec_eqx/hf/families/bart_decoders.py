"""XGLM and TrOCR: decoders in the manner of BART's and mBART's, without an encoder of their own family.

Lin et al. 2022, arXiv:2112.10668; Li et al. 2023, arXiv:2109.10282.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ...config import PositionsConfig, StackConfig
from ..attributes import Attribute, Convert, variant, write_only
from . import bart
from .bart import BART

_ATTRIBUTES = tuple(row for row in bart.ATTRIBUTES if row.role is None)
_NO_BIAS = {"causal": True, "head.bias": False, "head.fixed_bias": False}
POSITIONS_BUFFER = ("embeddings.positions.weight", "embed_positions.weights", "same")

XGLM = dataclasses.replace(
    BART,
    model_type="xglm",
    architectures={"decoder": "XGLMForCausalLM"},
    prefixes={"decoder": ("model",)},
    config_rows=variant(
        _ATTRIBUTES,
        Attribute("num_layers", "num_hidden_layers", 24),
        Attribute("attention_heads", "attention.num_heads", 16),
        Attribute("ffn_dim", "feed_forward.size", 4096),
        without=["is_decoder", "cross_attention_hidden_size"],
        vocab_size=256008,
        max_position_embeddings=2048,
        attention_dropout=0.1,
        scale_embedding=True,
    ),
    constants={**bart.PRE_NORM, **_NO_BIAS, "embeddings.norm": False, "positions.kind": "sinusoidal_tensor2tensor"},
    ignored={"layerdrop": bart.IGNORED["decoder_layerdrop"]},
    remarks=bart.no_layerdrop("layerdrop"),
    spellings={"hidden_size": "d_model", "num_attention_heads": "attention_heads", "num_hidden_layers": "num_layers"},
    rows={
        **bart.ROWS,
        "base": tuple(POSITIONS_BUFFER if row[0] == POSITIONS_BUFFER[0] else row for row in bart.ROWS["base"]),
        "head": bart.ROWS["head"][:1],
    },
    optional={"embeddings.positions.weight": False},
    duplicates={},
    generation={},
    old_generation=lambda hf: {},
    whole=None,
)
"""XGLM: a decoder in the manner of mBART's, with sinusoidal positions that no file holds"""


def _counted(config: StackConfig, hf: Mapping[str, Any]) -> StackConfig:
    """Sinusoidal positions count the ids that are not padding, from the row after padding's on."""
    if hf["use_learned_position_embeddings"]:
        return config
    padding = hf["pad_token_id"]
    positions = PositionsConfig(
        max_positions=hf["max_position_embeddings"] + padding + 1,
        kind="sinusoidal_tensor2tensor",
        counting="non_padding",
        padding_idx=padding,
    )
    return config.replace(positions=positions)


def _float_tensor(config: StackConfig) -> Mapping[str, tuple[int, ...]]:
    """Sinusoidal positions come with a buffer of one number that says nothing."""
    return {} if config.positions.kind == "learned" else {"embed_positions._float_tensor": (1,)}


TROCR = dataclasses.replace(
    BART,
    model_type="trocr",
    architectures={"decoder": "TrOCRForCausalLM"},
    prefixes={"decoder": ("model.decoder", "decoder")},
    config_rows=variant(
        tuple(row._replace(role=None) for row in bart.ATTRIBUTES if row.role != "encoder"),
        Attribute(
            "max_position_embeddings",
            "positions.max_positions",
            512,
            Convert(lambda longest, hf: longest + 2, lambda rows, config: config.positions.longest),
        ),
        Attribute(
            "use_learned_position_embeddings", (), True, write_only(lambda config: config.positions.kind == "learned")
        ),
        Attribute("layernorm_embedding", "embeddings.norm", True),
        without=["is_decoder", "cross_attention_hidden_size", "max_position_embeddings"],
    ),
    constants={path: value for path, value in bart.CONSTANTS.items() if path != "embeddings.norm"}
    | {**_NO_BIAS, "cross_attention": True},
    finish=_counted,
    ignored={"decoder_layerdrop": bart.IGNORED["decoder_layerdrop"]},
    remarks=bart.no_layerdrop("decoder_layerdrop"),
    spellings={
        "hidden_size": "d_model",
        "num_attention_heads": "decoder_attention_heads",
        "num_hidden_layers": "decoder_layers",
    },
    rows={**bart.ROWS, "head": (("head.projection.weight", "output_projection.weight", "transposed"),)},
    optional={"embeddings.positions.weight": False},
    buffers=_float_tensor,
    duplicates={},
    tied_copy=("output_projection.weight", "embed_tokens.weight"),
    generation={},
    old_generation=lambda hf: {},
    whole=None,
)
"""TrOCR's text decoder: BART's, with a norm after the embeddings or none, learned or sinusoidal positions"""
