"""RoBERTa-PreLayerNorm: RoBERTa with norms before each sub-layer, and one after the last.

Wettig et al. 2022, arXiv:2202.08005 (`RobertaPreLayerNormModel`, `RobertaPreLayerNormForCausalLM`). Its last norm
belongs to the model and not to the layers, so the reference's `hidden_states` end before it. Data only.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ...config import NormConfig, StackConfig
from . import bert, roberta
from .roberta import ROBERTA

_NORMS = {
    "attention.output.LayerNorm": "attention.LayerNorm",
    "crossattention.output.LayerNorm": "crossattention.LayerNorm",
    "output.LayerNorm": "intermediate.LayerNorm",
}
_RENAMED = bert.renamed(roberta.ROWS, _NORMS)

ROWS = {
    **_RENAMED,
    "base": (
        *_RENAMED["base"],
        ("stack.shared.final_norm.weight", "LayerNorm.weight", "same"),
        ("stack.shared.final_norm.bias", "LayerNorm.bias", "same"),
    ),
}


def read(hf: Mapping[str, Any]) -> StackConfig:
    """A RoBERTa-PreLayerNorm config, all attributes present, as a `StackConfig`."""
    config = roberta.read(hf)
    norm = NormConfig(eps=config.norm.eps, placement="pre", final=True, final_in_hidden_states=False)
    return config.replace(norm=norm)


ROBERTA_PRELAYERNORM = dataclasses.replace(
    ROBERTA,
    model_type="roberta-prelayernorm",
    architectures={"encoder": "RobertaPreLayerNormModel", "decoder": "RobertaPreLayerNormForCausalLM"},
    prefixes={"encoder": ("roberta_prelayernorm",), "decoder": ("roberta_prelayernorm",)},
    rows=ROWS,
    read=read,
)
