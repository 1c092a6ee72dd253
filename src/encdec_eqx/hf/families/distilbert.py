"""DistilBERT: BERT's layers without token types and pooler, under other names. An encoder only.

Sanh et al. 2019, arXiv:1910.01108. The reference has no dropout after self-attention; here there is, at the rate of the
other sub-layers.
"""

import dataclasses

from ..attributes import Attribute, Convert, variant
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

_SINUSOIDAL = Convert(
    lambda sinusoidal, hf: "sinusoidal_interleaved" if sinusoidal else "learned", lambda kind, config: kind != "learned"
)

DISTILBERT = dataclasses.replace(
    BERT,
    model_type="distilbert",
    architectures={"encoder": "DistilBertModel"},
    prefixes={"encoder": ("distilbert",)},
    config_rows=variant(
        bert.ATTRIBUTES,
        Attribute("sinusoidal_pos_embds", "positions.kind", False, _SINUSOIDAL),
        without=["type_vocab_size", "position_embedding_type", "layer_norm_eps"],
        names=_ITS_NAMES,
        n_layers=6,
    ),
    constants={**bert.CONSTANTS, "norm.eps": 1e-12, "pooler": False},
    ignored={
        **dict.fromkeys(("qa_dropout", "seq_classif_dropout"), "of heads for other tasks"),
        "tie_weights_": "of older versions; nothing reads it",
    },
    spellings={name: _ITS_NAMES[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")},
    layer="transformer.layer.{i}",
    rows={**bert.rename_modules(bert.ROWS, _MODULES), "cross": (), "pooler": ()},
    optional={"embeddings.positions.weight": True},
    unused=(*bert.UNUSED, (r"pre_classifier\..*", "the head of another task")),
    duplicates={},
)
"""DistilBERT: BERT's layers without token types and pooler, under other names"""
