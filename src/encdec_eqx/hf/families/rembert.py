"""RemBERT: BERT with narrow input embeddings, wide output embeddings and always a map from the former to the layers.

Chung et al. 2021, arXiv:2010.12821 (`RemBertModel`, `RemBertForCausalLM`). Its head is never tied, whatever the config
says. Data only.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ...config import HeadConfig, StackConfig
from . import bert
from .bert import BERT

ATTRIBUTES = {
    **{name: default for name, default in bert.ATTRIBUTES.items() if name != "position_embedding_type"},
    "vocab_size": 250300,
    "hidden_size": 1152,
    "num_hidden_layers": 32,
    "num_attention_heads": 18,
    "input_embedding_size": 256,
    "output_embedding_size": 1664,
    "intermediate_size": 4608,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "bos_token_id": 312,
    "eos_token_id": 313,
}

ROWS = {
    **bert.ROWS,
    "base": (
        *bert.ROWS["base"],
        ("embeddings.projection.weight", "encoder.embedding_hidden_mapping_in.weight", "transposed"),
        ("embeddings.projection.bias", "encoder.embedding_hidden_mapping_in.bias", "same"),
    ),
    "head": (
        ("head.dense.weight", "cls.predictions.dense.weight", "transposed"),
        ("head.dense.bias", "cls.predictions.dense.bias", "same"),
        ("head.norm.weight", "cls.predictions.LayerNorm.weight", "same"),
        ("head.norm.bias", "cls.predictions.LayerNorm.bias", "same"),
        ("head.projection.weight", "cls.predictions.decoder.weight", "transposed"),
        ("head.bias", "cls.predictions.decoder.bias", "same"),
    ),
}

_write = bert.write_some(ATTRIBUTES)


def read(hf: Mapping[str, Any]) -> StackConfig:
    """A RemBERT config, all attributes present, as a `StackConfig`."""
    config = bert.read({**hf, "position_embedding_type": "absolute"})
    output = HeadConfig(
        tied=False, bias=True, transform=True, activation=hf["hidden_act"], size=hf["output_embedding_size"]
    )
    return config.replace(
        embeddings=dataclasses.replace(config.embeddings, size=hf["input_embedding_size"], projection=True),
        head=None if config.head is None else output,
    )


def write(config: StackConfig) -> dict[str, Any]:
    """The attributes that express a `StackConfig`, as far as RemBERT's can."""
    return {
        **_write(config),
        "input_embedding_size": config.embedding_size,
        **({} if config.head is None else {"output_embedding_size": config.head_width}),
    }


REMBERT = dataclasses.replace(
    BERT,
    model_type="rembert",
    architectures={"encoder": "RemBertModel", "decoder": "RemBertForCausalLM"},
    prefixes={"encoder": ("rembert",), "decoder": ("rembert",)},
    attributes=ATTRIBUTES,
    ignored={
        **bert.IGNORED,
        "classifier_dropout_prob": "of classification heads",
        "embedding_size": "of older versions; repeats input_embedding_size",
    },
    fixed=bert.ABSOLUTE,
    rows=ROWS,
    duplicates={},
    read=read,
    write=write,
    other_role={"encoder": ("output_embedding_size",)},
)
