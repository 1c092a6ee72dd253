"""RoFormer: BERT's layers with positions that rotate queries and keys (`RoFormerModel`, `RoFormerForCausalLM`).

Su et al. 2021, arXiv:2104.09864. The table of angles is a constant that its files hold all the same. Data only.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ...config import PositionsConfig, StackConfig
from . import bert, electra
from .bert import BERT

ATTRIBUTES = {
    **{name: default for name, default in bert.ATTRIBUTES.items() if name != "position_embedding_type"},
    "vocab_size": 50000,
    "embedding_size": None,
    "max_position_embeddings": 1536,
    "rotary_value": False,
}

ROWS = {
    **bert.ROWS,
    "base": (
        *(row for row in bert.ROWS["base"] if row[0] != "embeddings.positions.weight"),
        ("embeddings.positions.weight", "encoder.embed_positions.weight", "same"),
        *electra.PROJECTION,
    ),
    "pooler": (),
}

_write = bert.write_some(ATTRIBUTES)


def read(hf: Mapping[str, Any]) -> StackConfig:
    """A RoFormer config, all attributes present, as a `StackConfig`."""
    config = bert.read({**hf, "position_embedding_type": "absolute"})
    size = hf["embedding_size"]
    return electra.factorised(config, config.hidden_size if size is None else size).replace(
        positions=PositionsConfig(max_positions=hf["max_position_embeddings"], kind="sinusoidal_halves", use="rotated"),
        attention=dataclasses.replace(config.attention, rotate_values=hf["rotary_value"]),
    )


def write(config: StackConfig) -> dict[str, Any]:
    """The attributes that express a `StackConfig`, as far as RoFormer's can."""
    return {
        **_write(config),
        "embedding_size": config.embedding_size,
        "rotary_value": config.attention.rotate_values,
    }


ROFORMER = dataclasses.replace(
    BERT,
    model_type="roformer",
    architectures={"encoder": "RoFormerModel", "decoder": "RoFormerForCausalLM"},
    prefixes={"encoder": ("roformer",), "decoder": ("roformer",)},
    attributes=ATTRIBUTES,
    ignored={**bert.IGNORED, **electra.SUMMARY},
    fixed=bert.ABSOLUTE,
    rows=ROWS,
    optional={"embeddings.positions.weight": True},
    unused=(*bert.UNUSED, (r"sequence_summary\..*", "the head of another task")),
    read=read,
    write=write,
)
