"""RemBERT: narrow input embeddings, wide output embeddings, a head that is never tied, whatever the config says.

Chung et al. 2021, arXiv:2010.12821.
"""

import dataclasses

from ..attributes import Attribute, variant, write_as
from ..names import linear, norm
from . import bert
from .bert import BERT

REMBERT = dataclasses.replace(
    BERT,
    model_type="rembert",
    architectures={"encoder": "RemBertModel", "decoder": "RemBertForCausalLM"},
    prefixes={"encoder": ("rembert",), "decoder": ("rembert",)},
    config_rows=variant(
        bert.ATTRIBUTES,
        Attribute("input_embedding_size", "embeddings.size", 256, write_as(lambda config: config.embedding_size)),
        Attribute(
            "output_embedding_size", "head.size", 1664, write_as(lambda config: config.head_width), role="decoder"
        ),
        without=["position_embedding_type"],
        vocab_size=250300,
        hidden_size=1152,
        num_hidden_layers=32,
        num_attention_heads=18,
        intermediate_size=4608,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        bos_token_id=312,
        eos_token_id=313,
    ),
    constants={**bert.CONSTANTS, "embeddings.projection": True, "head.tied": False},
    ignored={
        **bert.IGNORED,
        "classifier_dropout_prob": "of classification heads",
        "embedding_size": "of older versions; repeats input_embedding_size",
    },
    fixed=bert.ABSOLUTE,
    rows={
        **bert.ROWS,
        "base": (*bert.ROWS["base"], *linear("embeddings.projection", "encoder.embedding_hidden_mapping_in")),
        "head": (
            *linear("head.dense", "cls.predictions.dense"),
            *norm("head.norm", "cls.predictions.LayerNorm"),
            ("head.projection.weight", "cls.predictions.decoder.weight", "transposed"),
            ("head.bias", "cls.predictions.decoder.bias", "same"),
        ),
    },
    duplicates={},
)
"""RemBERT: BERT with narrow input embeddings, wide output embeddings and always a map from the former to the layers"""
