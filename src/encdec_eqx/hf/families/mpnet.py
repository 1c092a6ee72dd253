"""MPNet: BERT's layers with RoBERTa's positions and a bias by distance that all layers share (`MPNetModel`).

Song et al. 2020, arXiv:2004.09297. An encoder only. Data only. Two numbers are fixed in the reference, whatever the
config says: distances go into 32 buckets, and positions are counted as if the padding id were 1.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ...config import PositionsConfig, RelativeBiasConfig, StackConfig
from . import bert, roberta
from .bert import BERT

_BUCKETS = 32
_PADDING = 1

ATTRIBUTES = {
    **{
        name: default
        for name, default in bert.ATTRIBUTES.items()
        if name not in ("position_embedding_type", "type_vocab_size")
    },
    "vocab_size": 30527,
    "relative_attention_num_buckets": 32,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}

_MODULES = {
    "attention.self.query": "attention.attn.q",
    "attention.self.key": "attention.attn.k",
    "attention.self.value": "attention.attn.v",
    "attention.output.dense": "attention.attn.o",
    "attention.output.LayerNorm": "attention.LayerNorm",
}
_RENAMED = bert.renamed(roberta.ROWS, _MODULES)

ROWS = {
    **_RENAMED,
    "base": (
        *_RENAMED["base"],
        ("stack.shared.relative_bias.weight", "encoder.relative_attention_bias.weight", "same"),
    ),
    "cross": (),
}

_write = bert.write_some(ATTRIBUTES)


def read(hf: Mapping[str, Any]) -> StackConfig:
    """An MPNet config, all attributes present, as a `StackConfig`."""
    config = bert.read({**hf, "position_embedding_type": "absolute", "type_vocab_size": 0})
    bias = RelativeBiasConfig(entries=hf["relative_attention_num_buckets"], buckets=_BUCKETS)
    return config.replace(
        attention=dataclasses.replace(config.attention, relative_bias=bias),
        positions=PositionsConfig(
            max_positions=hf["max_position_embeddings"], counting="non_padding", padding_idx=_PADDING
        ),
        embeddings=dataclasses.replace(config.embeddings, padding_idx=_PADDING),
    )


def write(config: StackConfig) -> dict[str, Any]:
    """The attributes that express a `StackConfig`, as far as MPNet's can."""
    bias = config.attention.relative_bias
    return {**_write(config), **({} if bias is None else {"relative_attention_num_buckets": bias.entries})}


MPNET = dataclasses.replace(
    BERT,
    model_type="mpnet",
    architectures={"encoder": "MPNetModel"},
    prefixes={"encoder": ("mpnet",)},
    attributes=ATTRIBUTES,
    fixed=bert.ABSOLUTE,
    rows=ROWS,
    unused=bert.UNUSED,
    duplicates={"lm_head.decoder.bias": "lm_head.bias"},
    read=read,
    write=write,
)
