"""Megatron-BERT: BERT with norms before each sub-layer and after the last, and none in the embeddings.

Shoeybi et al. 2019, arXiv:1909.08053 (`MegatronBertModel`, `MegatronBertForCausalLM`). Data only.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ...config import NormConfig, StackConfig
from . import bert
from .bert import BERT

ATTRIBUTES = {
    **bert.ATTRIBUTES,
    "vocab_size": 29056,
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}

_NORMS = {
    "attention.output.LayerNorm": "attention.ln",
    "crossattention.output.LayerNorm": "crossattention.ln",
    "output.LayerNorm": "ln",
}
_RENAMED = bert.renamed(bert.ROWS, _NORMS)

ROWS = {
    **_RENAMED,
    "base": (
        *_RENAMED["base"],
        ("stack.shared.final_norm.weight", "encoder.ln.weight", "same"),
        ("stack.shared.final_norm.bias", "encoder.ln.bias", "same"),
    ),
}


def read(hf: Mapping[str, Any]) -> StackConfig:
    """A Megatron-BERT config, all attributes present, as a `StackConfig`."""
    config = bert.read(hf)
    if config.cross_attention and config.attention.relative_positions != "none":
        raise ValueError(
            f"position_embedding_type is {hf['position_embedding_type']!r} in a decoder with cross-attention, where "
            "this family has distances between target and source, too, which is not built; expected 'absolute'"
        )
    return config.replace(
        norm=NormConfig(eps=config.norm.eps, placement="pre", final=True),
        embeddings=dataclasses.replace(config.embeddings, norm=False),
    )


MEGATRON_BERT = dataclasses.replace(
    BERT,
    model_type="megatron-bert",
    architectures={"encoder": "MegatronBertModel", "decoder": "MegatronBertForCausalLM"},
    attributes=ATTRIBUTES,
    rows=ROWS,
    read=read,
)
