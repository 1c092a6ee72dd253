"""BERT: its Hugging Face config and the names of its tensors (`BertModel`, `BertLMHeadModel` and their kin).

Devlin et al. 2018, arXiv:1810.04805; relative positions: Shaw et al. 2018, Huang et al. 2020. Data only.
"""

from collections.abc import Callable, Mapping
from typing import Any

from ..._quoting import quoted
from ...config import (
    AttentionConfig,
    EmbeddingsConfig,
    FeedForwardConfig,
    HeadConfig,
    NormConfig,
    PositionsConfig,
    StackConfig,
)
from ..attributes import head_dim, layers, tokens
from ..family import Family
from ..names import Row

RELATIVE = {"absolute": "none", "relative_key": "key", "relative_key_query": "key_query"}

ATTRIBUTES = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
}

_OLD_POOLER = ("fc_size", "num_attention_heads", "num_fc_layers", "size_per_head", "type")
IGNORED = dict.fromkeys(
    ("directionality", *(f"pooler_{name}" for name in _OLD_POOLER)),
    "of the original TensorFlow release; nothing reads it",
)

ROWS = {
    "base": (
        ("embeddings.tokens.weight", "embeddings.word_embeddings.weight", "same"),
        ("embeddings.positions.weight", "embeddings.position_embeddings.weight", "same"),
        ("embeddings.norm.weight", "embeddings.LayerNorm.weight", "same"),
        ("embeddings.norm.bias", "embeddings.LayerNorm.bias", "same"),
        ("embeddings.token_types.weight", "embeddings.token_type_embeddings.weight", "same"),
    ),
    "layer": (
        ("self_attention.qkv.weight", "attention.self.query.weight", "transposed part 0"),
        ("self_attention.qkv.weight", "attention.self.key.weight", "transposed part 1"),
        ("self_attention.qkv.weight", "attention.self.value.weight", "transposed part 2"),
        ("self_attention.qkv.bias", "attention.self.query.bias", "bias part 0"),
        ("self_attention.qkv.bias", "attention.self.key.bias", "bias part 1"),
        ("self_attention.qkv.bias", "attention.self.value.bias", "bias part 2"),
        ("self_attention.out.weight", "attention.output.dense.weight", "transposed"),
        ("self_attention.out.bias", "attention.output.dense.bias", "same"),
        ("self_norm.weight", "attention.output.LayerNorm.weight", "same"),
        ("self_norm.bias", "attention.output.LayerNorm.bias", "same"),
        ("feed_forward.up.weight", "intermediate.dense.weight", "transposed"),
        ("feed_forward.up.bias", "intermediate.dense.bias", "same"),
        ("feed_forward.down.weight", "output.dense.weight", "transposed"),
        ("feed_forward.down.bias", "output.dense.bias", "same"),
        ("feed_forward_norm.weight", "output.LayerNorm.weight", "same"),
        ("feed_forward_norm.bias", "output.LayerNorm.bias", "same"),
        ("self_attention.distances.weight", "attention.self.distance_embedding.weight", "same"),
    ),
    "cross": (
        ("cross_attention.q.weight", "crossattention.self.query.weight", "transposed"),
        ("cross_attention.q.bias", "crossattention.self.query.bias", "flat"),
        ("cross_attention.kv.weight", "crossattention.self.key.weight", "transposed part 0"),
        ("cross_attention.kv.weight", "crossattention.self.value.weight", "transposed part 1"),
        ("cross_attention.kv.bias", "crossattention.self.key.bias", "bias part 0"),
        ("cross_attention.kv.bias", "crossattention.self.value.bias", "bias part 1"),
        ("cross_attention.out.weight", "crossattention.output.dense.weight", "transposed"),
        ("cross_attention.out.bias", "crossattention.output.dense.bias", "same"),
        ("cross_norm.weight", "crossattention.output.LayerNorm.weight", "same"),
        ("cross_norm.bias", "crossattention.output.LayerNorm.bias", "same"),
    ),
    "pooler": (
        ("pooler.weight", "pooler.dense.weight", "transposed"),
        ("pooler.bias", "pooler.dense.bias", "same"),
    ),
    "head": (
        ("head.dense.weight", "cls.predictions.transform.dense.weight", "transposed"),
        ("head.dense.bias", "cls.predictions.transform.dense.bias", "same"),
        ("head.norm.weight", "cls.predictions.transform.LayerNorm.weight", "same"),
        ("head.norm.bias", "cls.predictions.transform.LayerNorm.bias", "same"),
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
"""What relatives accept whose config does not have the attribute, though some files of theirs do."""


def read(hf: Mapping[str, Any]) -> StackConfig:
    """A BERT config, all attributes present, as a `StackConfig`."""
    kind = hf["position_embedding_type"]
    if kind not in RELATIVE:
        raise ValueError(f"position_embedding_type is {quoted(kind)}; expected one of {', '.join(RELATIVE)}")
    if hf["add_cross_attention"] and not hf["is_decoder"]:
        raise ValueError("add_cross_attention is true and is_decoder false; expected cross-attention in a decoder only")
    return StackConfig(
        model_type=hf["model_type"],
        vocab_size=hf["vocab_size"],
        hidden_size=hf["hidden_size"],
        layers=layers(hf["num_hidden_layers"], cross_attention=hf["add_cross_attention"]),
        attention=AttentionConfig(
            num_heads=hf["num_attention_heads"],
            head_dim=head_dim(hf["hidden_size"], hf["num_attention_heads"]),
            dropout=hf["attention_probs_dropout_prob"],
            relative_positions=RELATIVE[kind],  # pyright: ignore[reportArgumentType]
        ),
        feed_forward=FeedForwardConfig(size=hf["intermediate_size"], activation=hf["hidden_act"]),
        norm=NormConfig(eps=hf["layer_norm_eps"], placement="post"),
        positions=PositionsConfig(
            max_positions=hf["max_position_embeddings"], use="added" if kind == "absolute" else "carried"
        ),
        embeddings=EmbeddingsConfig(
            token_type_size=hf["type_vocab_size"],
            norm=True,
            dropout=hf["hidden_dropout_prob"],
            padding_idx=hf["pad_token_id"],
        ),
        head=HeadConfig(tied=hf["tie_word_embeddings"], bias=True, transform=True, activation=hf["hidden_act"])
        if hf["is_decoder"]
        else None,
        causal=hf["is_decoder"],
        cross_attention_hidden_size=hf["cross_attention_hidden_size"],
        dropout=hf["hidden_dropout_prob"],
        initializer_range=hf["initializer_range"],
        pooler=not hf["is_decoder"],
        **tokens(hf),
    )


def write(config: StackConfig) -> dict[str, Any]:
    """The attributes that express a `StackConfig`, as far as BERT's can."""
    kinds = {effect: kind for kind, effect in RELATIVE.items()}
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": len(config.layers),
        "num_attention_heads": config.attention.num_heads,
        "intermediate_size": config.feed_forward.size,
        "hidden_act": config.feed_forward.activation,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention.dropout,
        "max_position_embeddings": config.positions.max_positions,
        "type_vocab_size": config.embeddings.token_type_size,
        "initializer_range": config.initializer_range,
        "layer_norm_eps": config.norm.eps,
        "position_embedding_type": kinds[config.attention.relative_positions],
    }


def renamed(rows: Mapping[str, tuple[Row, ...]], names: Mapping[str, str]) -> dict[str, tuple[Row, ...]]:
    """The rows of a relative in which some modules have other names.

    Args:
        rows: the rows, in their groups.
        names: a module's name here to its name there.
    """

    def new(theirs: str) -> str:
        module, _, leaf = theirs.rpartition(".")
        return f"{names.get(module, module)}.{leaf}"

    return {group: tuple((ours, new(theirs), how) for ours, theirs, how in rows[group]) for group in rows}


def write_some(attributes: Mapping[str, Any]) -> Callable[[StackConfig], dict[str, Any]]:
    """`write` for a relative whose config has only some of BERT's attributes: the others are left out."""
    return lambda config: {name: value for name, value in write(config).items() if name in attributes}


BERT = Family(
    model_type="bert",
    architectures={"encoder": "BertModel", "decoder": "BertLMHeadModel"},
    prefixes={"encoder": ("bert",), "decoder": ("bert",)},
    attributes=ATTRIBUTES,
    ignored=IGNORED,
    layer="encoder.layer.{i}",
    rows=ROWS,
    unused=(*UNUSED, NEXT_SENTENCE),
    duplicates={"cls.predictions.decoder.bias": "cls.predictions.bias"},
    tied_copy=("cls.predictions.decoder.weight", "embeddings.word_embeddings.weight"),
    read=read,
    write=write,
)
