"""ALBERT: BERT's layers, shared by groups, over narrow embeddings. An encoder only.

Lan et al. 2020, arXiv:1909.11942. The reference has no dropout after the feed-forward; here there is, at the rate of
the other sub-layers (its published models have rates of 0).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..._quoting import quoted
from ...config import MAX_LAYERS, LayerSpec, StackConfig
from ..attributes import Attribute, variant, write_as, write_only
from ..names import linear
from . import bert
from .bert import BERT

_UNREAD = ("down_scale_factor", "gap_size", "net_structure_type", "num_memory_blocks")
IGNORED = {
    **dict.fromkeys(_UNREAD, "of the original TensorFlow release; nothing reads it"),
    "classifier_dropout_prob": "of classification heads",
}

_MODULES = {
    "attention.self.query": "attention.query",
    "attention.self.key": "attention.key",
    "attention.self.value": "attention.value",
    "attention.output.dense": "attention.dense",
    "attention.output.LayerNorm": "attention.LayerNorm",
    "intermediate.dense": "ffn",
    "output.dense": "ffn_output",
    "output.LayerNorm": "full_layer_layer_norm",
    "pooler.dense": "pooler",
    "cls.predictions.transform.dense": "predictions.dense",
    "cls.predictions.transform.LayerNorm": "predictions.LayerNorm",
    "cls.predictions.decoder": "predictions.decoder",
    "cls.predictions": "predictions",
}
_RENAMED = bert.rename_modules(bert.ROWS, _MODULES)

ROWS = {
    **_RENAMED,
    "base": (*_RENAMED["base"], *linear("embeddings.projection", "encoder.embedding_hidden_mapping_in")),
    "cross": (),
}


def _grouped(config: StackConfig, hf: Mapping[str, Any]) -> StackConfig:
    """The config with layers that share their weights by groups."""
    depth, groups, inner = hf["num_hidden_layers"], hf["num_hidden_groups"], hf["inner_group_num"]
    if not 1 <= groups <= depth or inner < 1:
        raise ValueError(
            f"num_hidden_layers is {depth}, num_hidden_groups {groups} and inner_group_num {inner}; expected groups of "
            "at least one layer"
        )
    if depth * inner > MAX_LAYERS:
        raise ValueError(
            f"num_hidden_layers is {depth} and inner_group_num {quoted(inner)}, {quoted(depth * inner)} layers in all; "
            f"expected at most {MAX_LAYERS}"
        )
    return config.replace(
        layers=tuple(
            # the reference's formula, floating-point division included
            LayerSpec(weights=int(i / (depth / groups)) * inner + k, hidden_state=k == inner - 1)
            for i in range(depth)
            for k in range(inner)
        )
    )


def _inner(config: StackConfig) -> int:
    """Layers in a group: those up to the first whose output counts among the hidden states."""
    return 1 + next((at for at, spec in enumerate(config.layers) if spec.hidden_state), 0)


def _layer(i: int, config: StackConfig) -> str:
    group, layer = divmod(i, _inner(config))
    return f"encoder.albert_layer_groups.{group}.albert_layers.{layer}"


def _groups(config: StackConfig) -> int:
    return len({spec.weights for spec in config.layers}) // _inner(config)


ALBERT = dataclasses.replace(
    BERT,
    model_type="albert",
    architectures={"encoder": "AlbertModel"},
    prefixes={"encoder": ("albert",)},
    config_rows=variant(
        bert.ATTRIBUTES,
        Attribute(
            "num_hidden_layers", "num_hidden_layers", 12, write_as(lambda config: len(config.layers) // _inner(config))
        ),
        Attribute("embedding_size", "embeddings.size", 128, write_as(lambda config: config.embedding_size)),
        Attribute("num_hidden_groups", (), 1, write_only(_groups)),
        Attribute("inner_group_num", (), 1, write_only(_inner)),
        without=["position_embedding_type", "num_hidden_layers"],
        vocab_size=30000,
        hidden_size=4096,
        num_attention_heads=64,
        intermediate_size=16384,
        hidden_act="gelu_new",
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        bos_token_id=2,
        eos_token_id=3,
    ),
    constants={**bert.CONSTANTS, "embeddings.projection": True},
    finish=_grouped,
    ignored=IGNORED,
    fixed={
        "position_embedding_type": (
            "absolute",
            "this family does not scale the scores of relative positions, which is not built",
        )
    },
    layer=_layer,
    rows=ROWS,
    unused=(*bert.UNUSED, (r"sop_classifier\..*", "the sentence-order head of pretraining")),
    duplicates={"predictions.decoder.bias": "predictions.bias"},
)
"""ALBERT: BERT's layers, shared by groups, over narrow embeddings"""
