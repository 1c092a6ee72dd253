"""BERT and the families that are BERT but for a few rows: ERNIE, Megatron-BERT, BERT for generation.

Devlin et al. 2018, arXiv:1810.04805; relative positions: Shaw et al. 2018, Huang et al. 2020.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ...config import StackConfig
from ..attributes import ABSENT, NEGATED, Attribute, Convert, choice, read_only, variant, write_only
from ..family import Family
from ..names import Row, linear, norm, projections


def _in_decoders(value: bool, hf: Mapping[str, Any]) -> bool:
    if value and not hf["is_decoder"]:
        raise ValueError("add_cross_attention is true and is_decoder false; expected cross-attention in a decoder only")
    return value


_KINDS = choice(
    {"absolute": "none", "relative_key": "key", "relative_key_query": "key_query"}, "position_embedding_type"
)

ATTRIBUTES = (
    Attribute("vocab_size", "vocab_size", 30522),
    Attribute("hidden_size", "hidden_size", 768),
    Attribute("num_hidden_layers", "num_hidden_layers", 12),
    Attribute("num_attention_heads", "attention.num_heads", 12),
    Attribute("intermediate_size", "feed_forward.size", 3072),
    Attribute("hidden_act", ("feed_forward.activation", "head.activation"), "gelu"),
    Attribute("hidden_dropout_prob", ("dropout", "embeddings.dropout"), 0.1),
    Attribute("attention_probs_dropout_prob", "attention.dropout", 0.1),
    Attribute("max_position_embeddings", "positions.max_positions", 512),
    Attribute("type_vocab_size", "embeddings.token_type_size", 2),
    Attribute("initializer_range", "initializer_range", 0.02),
    Attribute("layer_norm_eps", "norm.eps", 1e-12),
    Attribute("pad_token_id", "embeddings.padding_idx", 0),
    Attribute("position_embedding_type", "attention.relative_positions", "absolute", _KINDS),
    Attribute(
        "position_embedding_type",
        "positions.use",
        "absolute",
        read_only(lambda kind, hf: "added" if kind == "absolute" else "carried"),
    ),
    Attribute("add_cross_attention", "cross_attention", False, read_only(_in_decoders)),
    Attribute("is_decoder", "pooler", False, NEGATED),
)

CONSTANTS = {"norm.placement": "post", "embeddings.norm": True, "head.bias": True, "head.transform": True}
PRE_NORM = {**CONSTANTS, "norm.placement": "pre", "norm.final": True}

_OLD_POOLER = ("fc_size", "num_attention_heads", "num_fc_layers", "size_per_head", "type")
IGNORED = dict.fromkeys(
    ("directionality", *(f"pooler_{name}" for name in _OLD_POOLER)),
    "of the original TensorFlow release; nothing reads it",
)

ROWS = {
    "base": (
        ("embeddings.tokens.weight", "embeddings.word_embeddings.weight", "same"),
        ("embeddings.positions.weight", "embeddings.position_embeddings.weight", "same"),
        *norm("embeddings.norm", "embeddings.LayerNorm"),
        ("embeddings.token_types.weight", "embeddings.token_type_embeddings.weight", "same"),
    ),
    "layer": (
        *projections("self_attention", *(f"attention.self.{name}" for name in ("query", "key", "value"))),
        *linear("self_attention.out", "attention.output.dense"),
        *norm("self_norm", "attention.output.LayerNorm"),
        *linear("feed_forward.up", "intermediate.dense"),
        *linear("feed_forward.down", "output.dense"),
        *norm("feed_forward_norm", "output.LayerNorm"),
        ("self_attention.distances.weight", "attention.self.distance_embedding.weight", "same"),
    ),
    "cross": (
        *projections("cross_attention", *(f"crossattention.self.{name}" for name in ("query", "key", "value"))),
        *linear("cross_attention.out", "crossattention.output.dense"),
        *norm("cross_norm", "crossattention.output.LayerNorm"),
    ),
    "pooler": (*linear("pooler", "pooler.dense"),),
    "head": (
        *linear("head.dense", "cls.predictions.transform.dense"),
        *norm("head.norm", "cls.predictions.transform.LayerNorm"),
        ("head.bias", "cls.predictions.bias", "same"),
        ("head.projection.weight", "cls.predictions.decoder.weight", "transposed"),
    ),
}

UNUSED = (
    (r"embeddings\.(position_ids|token_type_ids)", "a buffer of older versions"),
    (r"(classifier|qa_outputs)\..*", "the head of another task"),
)
NEXT_SENTENCE = (r"cls\.seq_relationship\..*", "the next-sentence head of pretraining")

ABSOLUTE = {"position_embedding_type": ("absolute", "the family has no other positions")}
"""What variants accept whose config does not have the attribute, though some files of theirs do."""


def rename_modules(rows: Mapping[str, tuple[Row, ...]], names: Mapping[str, str]) -> dict[str, tuple[Row, ...]]:
    """The rows of a variant in which some modules have other names: a module's name here to its name there."""

    def new(theirs: str) -> str:
        module, _, leaf = theirs.rpartition(".")
        return f"{names.get(module, module)}.{leaf}"

    return {group: tuple((ours, new(theirs), how) for ours, theirs, how in rows[group]) for group in rows}


BERT = Family(
    model_type="bert",
    architectures={"encoder": "BertModel", "decoder": "BertLMHeadModel"},
    prefixes={"encoder": ("bert",), "decoder": ("bert",)},
    config_rows=ATTRIBUTES,
    constants=CONSTANTS,
    ignored=IGNORED,
    layer="encoder.layer.{i}",
    rows=ROWS,
    unused=(*UNUSED, NEXT_SENTENCE),
    duplicates={"cls.predictions.decoder.bias": "cls.predictions.bias"},
    tied_copy=("cls.predictions.decoder.weight", "embeddings.word_embeddings.weight"),
)
"""BERT"""

_TASKS = "embeddings.task_type_embeddings.weight"

ERNIE = dataclasses.replace(
    BERT,
    model_type="ernie",
    architectures={"encoder": "ErnieModel", "decoder": "ErnieForCausalLM"},
    prefixes={"encoder": ("ernie",), "decoder": ("ernie",)},
    config_rows=variant(
        ATTRIBUTES,
        Attribute(
            "task_type_vocab_size",
            "embeddings.task_type_size",
            3,
            Convert(lambda size, hf: size if hf["use_task_id"] else 0, lambda size, config: size or ABSENT),
        ),
        Attribute("use_task_id", (), False, write_only(lambda config: config.embeddings.task_type_size > 0)),
    ),
    rows={**ROWS, "base": (*ROWS["base"], ("embeddings.task_types.weight", _TASKS, "same"))},
    unused=(*BERT.unused, (_TASKS.replace(".", r"\."), "use_task_id is false")),
)
"""ERNIE: BERT, with a table of tasks whose first row is added

Sun et al. 2020, arXiv:1907.12412. The reference can be given other tasks; here it is always the first, its default.
"""


def _no_relative_cross(config: StackConfig, hf: Mapping[str, Any]) -> StackConfig:
    if config.cross_attention and config.attention.relative_positions != "none":
        raise ValueError(
            f"position_embedding_type is {hf['position_embedding_type']!r} in a decoder with cross-attention, where "
            "this family has distances between target and source, too, which is not built; expected 'absolute'"
        )
    return config


def with_norms(rows: Mapping[str, tuple[Row, ...]], first: str, second: str, final: str) -> dict[str, tuple[Row, ...]]:
    """The rows of a variant whose norms stand before its sub-layers, under other names, and after the last layer."""
    names = {f"{block}.output.LayerNorm": f"{block}.{first}" for block in ("attention", "crossattention")}
    named = rename_modules(rows, {**names, "output.LayerNorm": second})
    last = tuple((f"stack.shared.final_norm.{leaf}", f"{final}.{leaf}", "same") for leaf in ("weight", "bias"))
    return {**named, "base": (*named["base"], *last)}


MEGATRON_BERT = dataclasses.replace(
    BERT,
    model_type="megatron-bert",
    architectures={"encoder": "MegatronBertModel", "decoder": "MegatronBertForCausalLM"},
    config_rows=variant(
        ATTRIBUTES,
        vocab_size=29056,
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
    ),
    constants={**PRE_NORM, "embeddings.norm": False},
    finish=_no_relative_cross,
    rows=with_norms(ROWS, "ln", "ln", "encoder.ln"),
)
"""Megatron-BERT: BERT with norms before each sub-layer and after the last, and none in the embeddings

Shoeybi et al. 2019, arXiv:1909.08053.
"""

BERT_GENERATION = dataclasses.replace(
    BERT,
    model_type="bert-generation",
    architectures={"encoder": "BertGenerationEncoder", "decoder": "BertGenerationDecoder"},
    config_rows=variant(
        ATTRIBUTES,
        without=["type_vocab_size"],
        vocab_size=50358,
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        bos_token_id=2,
        eos_token_id=1,
    ),
    # with relative positions the absolute ones are added all the same
    constants={
        **CONSTANTS,
        "positions.use": "added",
        "pooler": False,
        "head.transform": False,
        "head.activation": "gelu",
    },
    rows={
        **ROWS,
        "pooler": (),
        "head": (
            ("head.bias", "lm_head.bias", "same"),
            ("head.projection.weight", "lm_head.decoder.weight", "transposed"),
        ),
    },
    unused=UNUSED,
    duplicates={"lm_head.decoder.bias": "lm_head.bias"},
    tied_copy=("lm_head.decoder.weight", "embeddings.word_embeddings.weight"),
)
"""BERT for generation: BERT without token types, pooler and transform

Rothe et al. 2020, arXiv:1907.12461.
"""
