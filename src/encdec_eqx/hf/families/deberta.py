"""DeBERTa v2 and v3: scores with terms between contents and relative positions. An encoder only.

He et al. 2021, arXiv:2006.03654 and arXiv:2111.09543 (both versions are `deberta-v2` in configs). The reference sets
embeddings of padding to zero; here the convolution, the only part that would see them, does.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..._quoting import quoted
from ...config import AttentionConfig, ConvolutionConfig, LayerNormConfig, LayerSpec, StackConfig
from ...layers.disentangled import DisentangledAttentionConfig, DisentangledConfig
from ..attributes import ABSENT, Attribute, Convert, own_width, read_only, write_only
from ..family import Family
from ..names import linear, norm, projections

_TERMS = ("p2c", "c2p")


def _words(value: str | list[str] | None, known: tuple[str, ...], theirs: str) -> tuple[str, ...]:
    """The words of a list, or of text that has them between bars, as torch's classes read them."""
    words = [word.strip() for word in value.lower().split("|")] if isinstance(value, str) else value or ()
    if lost := [word for word in words if word not in (*known, "")]:
        raise ValueError(f"{theirs} has {quoted(lost[0])}; expected any of {', '.join(known)}")
    return tuple(word for word in known if word in words)


def _attention(config: StackConfig, hf: Mapping[str, Any], terms: tuple[str, ...]) -> DisentangledAttentionConfig:
    longest = hf["max_position_embeddings"]
    reach = hf["max_relative_positions"] if hf["max_relative_positions"] >= 1 else longest
    buckets = hf["position_buckets"]
    if buckets > 0 and longest <= buckets // 2 + 1:
        reach = max(reach, buckets // 2 + 2)  # no two tokens are so far apart that a logarithm would be taken
    normed = "layer_norm" in _words(hf["norm_rel_ebd"], ("layer_norm", "none"), "norm_rel_ebd")
    return DisentangledAttentionConfig(
        **{field.name: getattr(config.attention, field.name) for field in dataclasses.fields(AttentionConfig)},
        rows=DisentangledConfig(span=buckets if buckets > 0 else reach, max_distance=reach, buckets=buckets > 0),
        content_to_position="c2p" in terms,
        position_to_content="p2c" in terms,
        own_projections=not hf["share_att_key"],
        embedding_norm=LayerNormConfig(eps=hf["layer_norm_eps"]) if normed else None,
        embedding_dropout=hf["hidden_dropout_prob"],
    )


def _finish(config: StackConfig, hf: Mapping[str, Any]) -> StackConfig:
    """The config with its attention, its score scale and its convolution."""
    head_dim, given = config.attention.head_dim, hf["attention_head_size"]
    if given not in (None, head_dim):
        raise ValueError(
            f"attention_head_size is {quoted(given)}; expected hidden_size / num_attention_heads, {head_dim}, as the "
            "map from the heads has the layers' width"
        )
    # the scores are scaled for all terms that are named, whether or not there are relative positions
    terms = _words(hf["pos_att_type"], _TERMS, "pos_att_type")
    spec = LayerSpec(score_scale=(head_dim * (1 + len(terms))) ** -0.5 if terms else None)
    layers, convolution = (spec,) * len(config.layers), None
    if hf["conv_kernel_size"] > 0:
        convolution = ConvolutionConfig(
            kernel_size=hf["conv_kernel_size"], activation=hf["conv_act"], groups=hf["conv_groups"]
        )
        layers = (dataclasses.replace(spec, block="convolved"), *layers[1:])
    attention = _attention(config, hf, terms) if hf["relative_attention"] else config.attention
    return config.replace(layers=layers, attention=attention, convolution=convolution)


def _written_terms(config: StackConfig) -> Any:
    attention, scale = config.attention, config.layers[0].score_scale
    if isinstance(attention, DisentangledAttentionConfig):
        named = {"p2c": attention.position_to_content, "c2p": attention.content_to_position}
        return [term for term in _TERMS if named[term]]
    return None if scale is None else list(_TERMS[: round(scale**-2 / attention.head_dim) - 1])


def _of_attention(write: Any) -> Convert:
    """Written of models that have relative positions; `write` takes their attention and the whole config."""

    def written(config: StackConfig) -> Any:
        return write(config.attention, config) if isinstance(config.attention, DisentangledAttentionConfig) else ABSENT

    return write_only(written)


def _of_convolution(name: str) -> Convert:
    return write_only(lambda config: ABSENT if config.convolution is None else getattr(config.convolution, name))


def _reach(attention: DisentangledAttentionConfig, config: StackConfig) -> int:
    reach = attention.rows.max_distance
    return -1 if reach == config.positions.max_positions else reach


ATTRIBUTES = (
    Attribute("vocab_size", "vocab_size", 128100),
    Attribute("hidden_size", "hidden_size", 1536),
    Attribute("num_hidden_layers", "num_hidden_layers", 24),
    Attribute("num_attention_heads", "attention.num_heads", 24),
    Attribute("attention_head_size", (), None, write_only(lambda config: ABSENT)),
    Attribute("intermediate_size", "feed_forward.size", 6144),
    Attribute("hidden_act", "feed_forward.activation", "gelu"),
    Attribute("hidden_dropout_prob", ("dropout", "embeddings.dropout"), 0.1),
    Attribute("attention_probs_dropout_prob", "attention.dropout", 0.1),
    Attribute("max_position_embeddings", "positions.max_positions", 512),
    Attribute("type_vocab_size", "embeddings.token_type_size", 0),
    Attribute("initializer_range", "initializer_range", 0.02),
    Attribute("layer_norm_eps", "norm.eps", 1e-7),
    Attribute("pad_token_id", "embeddings.padding_idx", 0),
    Attribute("embedding_size", "embeddings.size", None, Convert(own_width, lambda size, config: size or ABSENT)),
    Attribute("embedding_size", "embeddings.projection", None, read_only(lambda n, hf: bool(own_width(n, hf)))),
    Attribute(
        "position_biased_input",
        "positions.kind",
        True,
        Convert(lambda added, hf: "learned" if added else "none", lambda kind, config: kind == "learned"),
    ),
    Attribute(
        "relative_attention",
        (),
        False,
        write_only(lambda config: isinstance(config.attention, DisentangledAttentionConfig)),
    ),
    Attribute("pos_att_type", (), None, write_only(_written_terms), kinds=(str, list, type(None))),
    Attribute("max_relative_positions", (), -1, _of_attention(_reach)),
    Attribute("position_buckets", (), -1, _of_attention(lambda it, _: it.rows.span if it.rows.buckets else -1)),
    Attribute("share_att_key", (), False, _of_attention(lambda it, _: not it.own_projections)),
    Attribute("norm_rel_ebd", (), "none", _of_attention(lambda it, _: "layer_norm" if it.embedding_norm else "none")),
    Attribute("conv_kernel_size", (), 0, _of_convolution("kernel_size")),
    Attribute("conv_act", (), "tanh", _of_convolution("activation")),
    Attribute("conv_groups", (), 1, _of_convolution("groups")),
)

ROWS = {
    "base": (
        ("embeddings.tokens.weight", "embeddings.word_embeddings.weight", "same"),
        ("embeddings.positions.weight", "embeddings.position_embeddings.weight", "same"),
        ("embeddings.token_types.weight", "embeddings.token_type_embeddings.weight", "same"),
        ("embeddings.projection.weight", "embeddings.embed_proj.weight", "transposed"),
        *norm("embeddings.norm", "embeddings.LayerNorm"),
        ("stack.shared.other.weight", "encoder.rel_embeddings.weight", "same"),
        *norm("stack.shared.other.norm", "encoder.LayerNorm"),
        ("stack.blocks.0.convolution.weight", "encoder.conv.conv.weight", "same"),
        ("stack.blocks.0.convolution.bias", "encoder.conv.conv.bias", "same"),
        *norm("stack.blocks.0.convolution_norm", "encoder.conv.LayerNorm"),
    ),
    "layer": (
        *projections("self_attention", *(f"attention.self.{name}_proj" for name in ("query", "key", "value"))),
        *linear("self_attention.position_key", "attention.self.pos_key_proj"),
        *linear("self_attention.position_query", "attention.self.pos_query_proj"),
        *linear("self_attention.out", "attention.output.dense"),
        *norm("self_norm", "attention.output.LayerNorm"),
        *linear("feed_forward.up", "intermediate.dense"),
        *linear("feed_forward.down", "output.dense"),
        *norm("feed_forward_norm", "output.LayerNorm"),
    ),
}

DEBERTA_V2 = Family(
    model_type="deberta-v2",
    architectures={"encoder": "DebertaV2Model"},
    prefixes={"encoder": ("deberta",)},
    config_rows=ATTRIBUTES,
    constants={
        "norm.placement": "post",
        "embeddings.norm": True,
        "embeddings.projected": "unnormed_sum",
        "embeddings.projection_bias": False,
    },
    finish=_finish,
    ignored={
        **dict.fromkeys(("pooler_dropout", "pooler_hidden_act", "pooler_hidden_size"), "of heads for other tasks"),
        "legacy": "which head of masked language modelling",
    },
    layer="encoder.layer.{i}",
    rows=ROWS,
    unused=(
        (r"embeddings\.position_embeddings\.weight", "position_biased_input is false"),
        (r"embeddings\.position_ids", "a buffer of older versions"),
        (r"encoder\.(rel_embeddings|LayerNorm)\..*", "relative positions, which this model does not have"),
        (r"(cls|lm_predictions|mask_predictions)\..*", "the head of pretraining"),
        (r"(pooler|classifier|qa_outputs)\..*", "the head of another task"),
    ),
    duplicates={},
    tied_copy=("cls.predictions.decoder.weight", "embeddings.word_embeddings.weight"),
)
"""DeBERTa v2 and v3: scores with terms between contents and relative positions"""
