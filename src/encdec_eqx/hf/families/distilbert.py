"""DistilBERT: BERT's layers without token types and pooler, under other names (`DistilBertModel`). An encoder only.

Sanh et al. 2019, arXiv:1910.01108. Data only. The reference has no dropout after self-attention; here there is, at the
rate of the other sub-layers.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ...config import StackConfig
from . import bert
from .bert import BERT

_ITS_NAMES = {
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim",
    "hidden_act": "activation",
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
}

ATTRIBUTES = {
    "vocab_size": 30522,
    "max_position_embeddings": 512,
    "sinusoidal_pos_embds": False,
    "n_layers": 6,
    "n_heads": 12,
    "dim": 768,
    "hidden_dim": 3072,
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "activation": "gelu",
    "initializer_range": 0.02,
    "pad_token_id": 0,
}

_MODULES = {
    "attention.self.query": "attention.q_lin",
    "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin",
    "attention.output.dense": "attention.out_lin",
    "attention.output.LayerNorm": "sa_layer_norm",
    "intermediate.dense": "ffn.lin1",
    "output.dense": "ffn.lin2",
    "output.LayerNorm": "output_layer_norm",
    "cls.predictions.transform.dense": "vocab_transform",
    "cls.predictions.transform.LayerNorm": "vocab_layer_norm",
    "cls.predictions.decoder": "vocab_projector",
    "cls.predictions": "vocab_projector",
}


def read(hf: Mapping[str, Any]) -> StackConfig:
    """A DistilBERT config, all attributes present, as a `StackConfig`."""
    common = {name: hf[its] for name, its in _ITS_NAMES.items()}
    fixed = {"type_vocab_size": 0, "position_embedding_type": "absolute", "layer_norm_eps": 1e-12}
    config = bert.read({**hf, **common, **fixed})
    kind = "sinusoidal_interleaved" if hf["sinusoidal_pos_embds"] else "learned"
    return config.replace(positions=dataclasses.replace(config.positions, kind=kind), pooler=False)


def write(config: StackConfig) -> dict[str, Any]:
    """The attributes that express a `StackConfig`, as far as DistilBERT's can."""
    named = {_ITS_NAMES.get(name, name): value for name, value in bert.write(config).items()}
    sinusoidal = config.positions.kind != "learned"
    return {name: value for name, value in named.items() if name in ATTRIBUTES} | {"sinusoidal_pos_embds": sinusoidal}


DISTILBERT = dataclasses.replace(
    BERT,
    model_type="distilbert",
    architectures={"encoder": "DistilBertModel"},
    prefixes={"encoder": ("distilbert",)},
    attributes=ATTRIBUTES,
    ignored={
        **dict.fromkeys(("qa_dropout", "seq_classif_dropout"), "of heads for other tasks"),
        "tie_weights_": "of older versions; nothing reads it",
    },
    spellings={name: _ITS_NAMES[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")},
    layer="transformer.layer.{i}",
    rows={**bert.renamed(bert.ROWS, _MODULES), "cross": (), "pooler": ()},
    optional={"embeddings.positions.weight": True},
    unused=(*bert.UNUSED, (r"pre_classifier\..*", "the head of another task")),
    duplicates={},
    read=read,
    write=write,
)
