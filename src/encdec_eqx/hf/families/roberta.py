"""RoBERTa: BERT's layers, positions that count the tokens that are not padding, and a head of its own.

Liu et al. 2019, arXiv:1907.11692. Data only; what it shares with BERT is taken from there.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ...config import PositionsConfig, StackConfig
from ..family import Family
from . import bert

ATTRIBUTES = {**bert.ATTRIBUTES, "vocab_size": 50265, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}

ROWS = {
    **bert.ROWS,
    "head": (
        ("head.dense.weight", "lm_head.dense.weight", "transposed"),
        ("head.dense.bias", "lm_head.dense.bias", "same"),
        ("head.norm.weight", "lm_head.layer_norm.weight", "same"),
        ("head.norm.bias", "lm_head.layer_norm.bias", "same"),
        ("head.bias", "lm_head.bias", "same"),
        ("head.projection.weight", "lm_head.decoder.weight", "transposed"),
    ),
}


def read(hf: Mapping[str, Any]) -> StackConfig:
    """A RoBERTa config, all attributes present, as a `StackConfig`."""
    config = bert.read(hf)
    positions = PositionsConfig(
        max_positions=config.positions.max_positions,
        counting="non_padding",
        padding_idx=config.pad_token_id,
        use=config.positions.use,
    )
    # The head's activation is fixed in the reference, whatever `hidden_act` says.
    head = None if config.head is None else dataclasses.replace(config.head, activation="gelu")
    return config.replace(positions=positions, head=head)


ROBERTA = Family(
    model_type="roberta",
    architectures={"encoder": "RobertaModel", "decoder": "RobertaForCausalLM"},
    prefixes={"encoder": ("roberta",), "decoder": ("roberta",)},
    attributes=ATTRIBUTES,
    ignored=bert.IGNORED,
    layer=bert.BERT.layer,
    rows=ROWS,
    unused=bert.UNUSED,
    duplicates={"lm_head.decoder.bias": "lm_head.bias"},
    tied_copy=("lm_head.decoder.weight", "embeddings.word_embeddings.weight"),
    read=read,
    write=bert.write,
)
