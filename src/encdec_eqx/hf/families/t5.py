"""T5 and its variants mT5 and UMT5: encoder and decoder of one checkpoint, each a piece too.

Raffel et al. 2020, arXiv:1910.10683. T5 v1.1, Flan-T5 and ByT5 are configs of T5. Scores are not scaled, positions are
a bias of the scores alone, and a tied head takes states scaled by d_model ** -0.5.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from ..._quoting import quoted
from ...config import MAX_SIZE, GatedMLPConfig, MLPConfig, RMSNormConfig, StackConfig
from ..attributes import NEGATED, Attribute, Convert, read_only, variant, write_only
from ..family import Family, Whole
from ..names import linear, norm, projections

_INITIAL = Convert(lambda factor, hf: factor / 32, lambda deviation, config: deviation * 32)
"""Torch draws each kind of array with a deviation of its own; here all have one, of the order of d_model ** -0.5."""


def _activation(name: str) -> tuple[str, bool]:
    """The activation of a `feed_forward_proj`, and whether the feed-forward has a gate."""
    if name == "gated-gelu":
        return "gelu_new", True
    first, _, second = name.partition("-")
    if not second and first != "gated":
        return first, False
    if first == "gated" and second and "-" not in second:
        return second, True
    raise ValueError(f"feed_forward_proj is {quoted(name)}; expected an activation, or 'gated-' and an activation")


def _write_activation(activation: str, config: StackConfig) -> str:
    if isinstance(config.feed_forward, MLPConfig):
        return activation
    return "gated-gelu" if activation == "gelu_new" else f"gated-{activation}"


def _feed_forward(*, gated: bool, **fields: Any) -> MLPConfig | GatedMLPConfig:
    return (GatedMLPConfig if gated else MLPConfig)(bias=False, **fields)


_ACTIVATION = Convert(lambda name, hf: _activation(name)[0], _write_activation)
_DECODER_LAYERS = Convert(lambda count, hf: hf["num_layers"] if count is None else count, lambda count, config: count)
_TEXT, _FLAG, _COUNT = (str, type(None)), (bool, type(None)), (int, type(None))

ATTRIBUTES = variant(
    (
        Attribute("vocab_size", "vocab_size", 32128),
        Attribute("d_model", "hidden_size", 512),
        Attribute("d_kv", "attention.head_dim", 64),
        Attribute("d_ff", "feed_forward.size", 2048),
        Attribute("num_heads", "attention.num_heads", 8),
        Attribute("num_layers", "num_hidden_layers", 6, role="encoder"),
        Attribute("num_decoder_layers", "num_hidden_layers", None, _DECODER_LAYERS, "decoder", _COUNT),
        Attribute(
            "relative_attention_num_buckets",
            ("attention.relative_bias.buckets", "attention.relative_bias.entries"),
            32,
        ),
        Attribute("relative_attention_max_distance", "attention.relative_bias.max_distance", 128),
        Attribute("dropout_rate", ("dropout", "embeddings.dropout", "attention.dropout", "feed_forward.dropout"), 0.1),
        Attribute("layer_norm_epsilon", "norm.eps", 1e-6),
        Attribute("initializer_factor", "initializer_range", 1.0, _INITIAL),
        Attribute("feed_forward_proj", "feed_forward.activation", "relu", _ACTIVATION),
        Attribute("feed_forward_proj", "feed_forward.gated", "relu", read_only(lambda name, hf: _activation(name)[1])),
        # what torch derives of it and writes beside it
        Attribute("dense_act_fn", (), None, write_only(lambda config: config.feed_forward.activation), kinds=_TEXT),
        Attribute(
            "is_gated_act",
            (),
            None,
            write_only(lambda config: isinstance(config.feed_forward, GatedMLPConfig)),
            kinds=_FLAG,
        ),
        Attribute(
            "tie_word_embeddings",
            "head.scale",
            True,
            read_only(lambda tied, hf: max(hf["d_model"], 1) ** -0.5 if tied else 1.0),
        ),
        # a decoder attends to its encoder, whatever `add_cross_attention` says
        Attribute("is_decoder", "cross_attention", False),
        Attribute("is_decoder", "attention.relative_bias.bidirectional", False, NEGATED),
        Attribute(
            "cross_attention_hidden_size",
            "cross_attention_hidden_size",
            None,
            read_only(lambda size, hf: size if hf["is_decoder"] else None),
        ),
    ),
    pad_token_id=0,
    eos_token_id=1,
)

CONSTANTS = {
    "attention.qkv_bias": False,
    "attention.out_bias": False,
    "norm.placement": "pre",
    "norm.final": True,
    "positions.kind": "none",
    # as long as memory lasts
    "positions.max_positions": MAX_SIZE,
}

IGNORED = {
    "is_encoder_decoder": "said by what is loaded: one piece, or both",
    "n_positions": "the length of pretraining; there is no table of positions",
}

_BIAS = "layer.0.SelfAttention.relative_attention_bias.weight"


def _unscaled(config: StackConfig, hf: Mapping[str, Any]) -> StackConfig:
    """The config with scores as they are, not divided by the root of a head's width."""
    return config.replace(layers=tuple(dataclasses.replace(layer, score_scale=1.0) for layer in config.layers))


def _contradiction(hf: Mapping[str, Any]) -> tuple[str, ...]:
    """A remark where derived attributes say something else than what they derive from."""
    name = hf.get("feed_forward_proj")
    if not isinstance(name, str):
        return ()
    derived = dict(zip(("dense_act_fn", "is_gated_act"), _activation(name), strict=True))
    wrong = [f"{key} = {quoted(hf[key])}" for key, value in derived.items() if hf.get(key) not in (None, value)]
    also = f"feed_forward_proj = {quoted(name)} counts; torch, which lets the file contradict itself, would follow them"
    return (f"{' and '.join(wrong)} in config.json: {also}",) if wrong else ()


def _layer(i: int, config: StackConfig) -> str:
    """Torch's encoder alone is a model that holds a stack, its decoder is a stack."""
    return f"block.{i}" if config.causal else f"encoder.block.{i}"


def _up(layer: str) -> Callable[[StackConfig], str]:
    """The name of the matrix on the way up, which depends on whether there is a gate beside it."""
    return lambda config: (
        f"{layer}.DenseReluDense.{'wi_1' if isinstance(config.feed_forward, GatedMLPConfig) else 'wi'}.weight"
    )


ROWS = {
    "base": (
        ("embeddings.tokens.weight", "shared.weight", "same", "encoder"),
        ("embeddings.tokens.weight", "embed_tokens.weight", "same", "decoder"),
        ("stack.shared.final_norm.weight", "encoder.final_layer_norm.weight", "same", "encoder"),
        ("stack.shared.final_norm.weight", "final_layer_norm.weight", "same", "decoder"),
        ("stack.shared.relative_bias.weight", f"encoder.block.0.{_BIAS}", "same", "encoder"),
        ("stack.shared.relative_bias.weight", f"block.0.{_BIAS}", "same", "decoder"),
    ),
    "layer": (
        *norm("self_norm", "layer.0.layer_norm"),
        *projections("self_attention", *(f"layer.0.SelfAttention.{name}" for name in "qkv")),
        *linear("self_attention.out", "layer.0.SelfAttention.o"),
        *(
            (*row, role)
            for role, at in (("encoder", "layer.1"), ("decoder", "layer.2"))
            for row in (
                *norm("feed_forward_norm", f"{at}.layer_norm"),
                *linear("feed_forward.gate", f"{at}.DenseReluDense.wi_0"),
                ("feed_forward.up.weight", _up(at), "transposed"),
                *linear("feed_forward.down", f"{at}.DenseReluDense.wo"),
            )
        ),
    ),
    "cross": tuple(
        (*row, "decoder")
        for row in (
            *norm("cross_norm", "layer.1.layer_norm"),
            *projections("cross_attention", *(f"layer.1.EncDecAttention.{name}" for name in "qkv")),
            *linear("cross_attention.out", "layer.1.EncDecAttention.o"),
        )
    ),
    "head": (("head.projection.weight", "lm_head.weight", "transposed"),),
}

_NEVER_READ = r"block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight"
_OLD = "of the first versions; attention to the source has no bias, there as here"
_WHOLE = Whole(architecture="T5ForConditionalGeneration", base="", unused=((rf"decoder\.{_NEVER_READ}", _OLD),))

T5 = Family(
    model_type="t5",
    architectures={"encoder": "T5EncoderModel", "decoder": "T5ForConditionalGeneration"},
    prefixes={
        "encoder": ("encoder", "transformer.encoder", "transformer"),
        "decoder": ("decoder", "transformer.decoder", "transformer"),
    },
    config_rows=ATTRIBUTES,
    constants=CONSTANTS,
    parts={"norm": RMSNormConfig, "feed_forward": _feed_forward},
    finish=_unscaled,
    ignored=IGNORED,
    spellings={
        "hidden_size": "d_model",
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers",
        "head_dim": "d_kv",
    },
    layer=_layer,
    rows=ROWS,
    unused=(
        (_NEVER_READ, _OLD),
        (r"encoder\..*", "the encoder, which is not asked for"),
        (r"decoder\..*", "the decoder, which is not asked for"),
        (r"(classification_head|classifier|qa_outputs)\..*", "the head of another task"),
    ),
    # one table for both pieces, which may stand under any of these names; each piece has its own first
    duplicates={
        "shared.weight": "embed_tokens.weight",
        "embed_tokens.weight": "shared.weight",
        "encoder.embed_tokens.weight": "embed_tokens.weight",
        "decoder.embed_tokens.weight": "shared.weight",
    },
    tied_copy=("lm_head.weight", "embed_tokens.weight"),
    remarks=_contradiction,
    whole=_WHOLE,
)
"""T5, v1.1, Flan and ByT5 included: a bias by distance that all layers share, unscaled scores, no other positions"""

_MULTILINGUAL: dict[str, Any] = {
    "vocab_size": 250112,
    "d_ff": 1024,
    "num_layers": 8,
    "num_heads": 6,
    "feed_forward_proj": "gated-gelu",
    "decoder_start_token_id": 0,
}

MT5 = dataclasses.replace(
    T5,
    model_type="mt5",
    architectures={"encoder": "MT5EncoderModel", "decoder": "MT5ForConditionalGeneration"},
    config_rows=variant(ATTRIBUTES, **_MULTILINGUAL, tie_word_embeddings=False),
    whole=dataclasses.replace(_WHOLE, architecture="MT5ForConditionalGeneration"),
)
"""mT5: T5 v1.1 with other defaults

Xue et al. 2021, arXiv:2010.11934.
"""

UMT5 = dataclasses.replace(
    T5,
    model_type="umt5",
    architectures={"encoder": "UMT5EncoderModel", "decoder": "UMT5ForConditionalGeneration"},
    config_rows=variant(ATTRIBUTES, **_MULTILINGUAL),
    constants={**CONSTANTS, "attention.relative_bias.shared": False},
    ignored=IGNORED | {"scalable_attention": "of the published configs; nothing reads it"},
    rows={
        **ROWS,
        "base": tuple(row for row in ROWS["base"] if "relative_bias" not in row[0]),
        "layer": (*ROWS["layer"], ("self_attention.relative_bias.weight", _BIAS, "same")),
    },
    whole=dataclasses.replace(_WHOLE, architecture="UMT5ForConditionalGeneration"),
)
"""UMT5: T5 v1.1 with a bias by distance of its own in each layer

Chung et al. 2023, arXiv:2304.09151.
"""
