"""XLM-RoBERTa-XL: RoBERTa with norms before each sub-layer and after the last, and none in the embeddings.

Goyal et al. 2021, arXiv:2105.00572 (`XLMRobertaXLModel`, `XLMRobertaXLForCausalLM`). Data only.

The reference has no dropout after the feed-forward; here there is, at the rate of the other sub-layers.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ...config import NormConfig, StackConfig
from . import bert, roberta
from .roberta import ROBERTA

ATTRIBUTES = {
    **roberta.ATTRIBUTES,
    "vocab_size": 250880,
    "hidden_size": 2560,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "intermediate_size": 10240,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
}

_NORMS = {
    "attention.output.LayerNorm": "attention.self_attn_layer_norm",
    "crossattention.output.LayerNorm": "crossattention.self_attn_layer_norm",
    "output.LayerNorm": "LayerNorm",
}
_RENAMED = bert.renamed(roberta.ROWS, _NORMS)

ROWS = {
    **_RENAMED,
    "base": (
        *_RENAMED["base"],
        ("stack.shared.final_norm.weight", "encoder.LayerNorm.weight", "same"),
        ("stack.shared.final_norm.bias", "encoder.LayerNorm.bias", "same"),
    ),
}


def read(hf: Mapping[str, Any]) -> StackConfig:
    """An XLM-RoBERTa-XL config, all attributes present, as a `StackConfig`."""
    config = roberta.read(hf)
    return config.replace(
        norm=NormConfig(eps=config.norm.eps, placement="pre", final=True),
        embeddings=dataclasses.replace(config.embeddings, norm=False),
    )


XLM_ROBERTA_XL = dataclasses.replace(
    ROBERTA,
    model_type="xlm-roberta-xl",
    architectures={"encoder": "XLMRobertaXLModel", "decoder": "XLMRobertaXLForCausalLM"},
    attributes=ATTRIBUTES,
    rows=ROWS,
    read=read,
)
