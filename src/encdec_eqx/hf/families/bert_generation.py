"""BERT for generation: BERT without token types, pooler and transform.

Rothe et al. 2020, arXiv:1907.12461 (`BertGenerationEncoder`, `BertGenerationDecoder`). With relative positions the
absolute ones are added all the same. Data only.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ...config import HeadConfig, StackConfig
from . import bert
from .bert import BERT

ATTRIBUTES = {
    **{name: default for name, default in bert.ATTRIBUTES.items() if name != "type_vocab_size"},
    "vocab_size": 50358,
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "bos_token_id": 2,
    "eos_token_id": 1,
}

ROWS = {
    **bert.ROWS,
    "pooler": (),
    "head": (
        ("head.bias", "lm_head.bias", "same"),
        ("head.projection.weight", "lm_head.decoder.weight", "transposed"),
    ),
}


def read(hf: Mapping[str, Any]) -> StackConfig:
    """A config of BERT for generation, all attributes present, as a `StackConfig`."""
    config = bert.read({**hf, "type_vocab_size": 0})
    return config.replace(
        positions=dataclasses.replace(config.positions, use="added"),
        head=None if config.head is None else HeadConfig(tied=hf["tie_word_embeddings"], bias=True),
        pooler=False,
    )


BERT_GENERATION = dataclasses.replace(
    BERT,
    model_type="bert-generation",
    architectures={"encoder": "BertGenerationEncoder", "decoder": "BertGenerationDecoder"},
    attributes=ATTRIBUTES,
    rows=ROWS,
    unused=bert.UNUSED,
    duplicates={"lm_head.decoder.bias": "lm_head.bias"},
    tied_copy=("lm_head.decoder.weight", "embeddings.word_embeddings.weight"),
    read=read,
    write=bert.write_some(ATTRIBUTES),
)
