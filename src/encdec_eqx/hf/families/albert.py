"""ALBERT: BERT's layers, shared by groups, over narrow embeddings (`AlbertModel`). An encoder only.

Lan et al. 2020, arXiv:1909.11942. Data only. The reference has no dropout after the feed-forward; here there is, at the
rate of the other sub-layers (its published models have rates of 0).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..._quoting import quoted
from ...config import MAX_LAYERS, LayerSpec, StackConfig
from . import bert
from .bert import BERT

ATTRIBUTES = {
    **{name: default for name, default in bert.ATTRIBUTES.items() if name != "position_embedding_type"},
    "vocab_size": 30000,
    "embedding_size": 128,
    "hidden_size": 4096,
    "num_hidden_groups": 1,
    "num_attention_heads": 64,
    "intermediate_size": 16384,
    "inner_group_num": 1,
    "hidden_act": "gelu_new",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}

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
_RENAMED = bert.renamed(bert.ROWS, _MODULES)

ROWS = {
    **_RENAMED,
    "base": (
        *_RENAMED["base"],
        ("embeddings.projection.weight", "encoder.embedding_hidden_mapping_in.weight", "transposed"),
        ("embeddings.projection.bias", "encoder.embedding_hidden_mapping_in.bias", "same"),
    ),
    "cross": (),
}

_write = bert.write_some(ATTRIBUTES)


def read(hf: Mapping[str, Any]) -> StackConfig:
    """An ALBERT config, all attributes present, as a `StackConfig`."""
    depth, groups, inner = hf["num_hidden_layers"], hf["num_hidden_groups"], hf["inner_group_num"]
    config = bert.read({**hf, "position_embedding_type": "absolute"})
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
        ),
        embeddings=dataclasses.replace(config.embeddings, size=hf["embedding_size"], projection=True),
    )


def write(config: StackConfig) -> dict[str, Any]:
    """The attributes that express a `StackConfig`, as far as ALBERT's can."""
    inner = _inner(config)
    return {
        **_write(config),
        "num_hidden_layers": len(config.layers) // inner,
        "num_hidden_groups": len({spec.weights for spec in config.layers}) // inner,
        "inner_group_num": inner,
        "embedding_size": config.embedding_size,
    }


def _inner(config: StackConfig) -> int:
    """Layers in a group: those up to the first whose output counts among the hidden states."""
    return 1 + next((at for at, spec in enumerate(config.layers) if spec.hidden_state), 0)


def _layer(i: int, config: StackConfig) -> str:
    group, layer = divmod(i, _inner(config))
    return f"encoder.albert_layer_groups.{group}.albert_layers.{layer}"


ALBERT = dataclasses.replace(
    BERT,
    model_type="albert",
    architectures={"encoder": "AlbertModel"},
    prefixes={"encoder": ("albert",)},
    attributes=ATTRIBUTES,
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
    read=read,
    write=write,
)
