"""BART, mBART, PLBart, Pegasus, the Blenderbots and Marian: encoder and decoder of one checkpoint, each a piece too.

Lewis et al. 2020, arXiv:1910.13461.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from ..._quoting import quoted
from ...config import StackConfig
from ..attributes import ABSENT, Attribute, Convert, check_kind, plus, read_only, root_of, variant
from ..family import Family, Role, Whole
from ..names import linear, norm, projections

ATTRIBUTES = variant(
    (
        Attribute("vocab_size", "vocab_size", 50265),
        Attribute("max_position_embeddings", "positions.max_positions", 1024, plus(2)),
        Attribute("encoder_layers", "num_hidden_layers", 12, role="encoder"),
        Attribute("encoder_ffn_dim", "feed_forward.size", 4096, role="encoder"),
        Attribute("encoder_attention_heads", "attention.num_heads", 16, role="encoder"),
        Attribute("decoder_layers", "num_hidden_layers", 12, role="decoder"),
        Attribute("decoder_ffn_dim", "feed_forward.size", 4096, role="decoder"),
        Attribute("decoder_attention_heads", "attention.num_heads", 16, role="decoder"),
        Attribute("activation_function", "feed_forward.activation", "gelu"),
        Attribute("d_model", "hidden_size", 1024),
        Attribute("dropout", ("dropout", "embeddings.dropout"), 0.1),
        Attribute("attention_dropout", "attention.dropout", 0.0),
        Attribute("activation_dropout", "feed_forward.dropout", 0.0),
        Attribute("init_std", "initializer_range", 0.02),
        Attribute("scale_embedding", "embeddings.scale", False, root_of("d_model")),
        Attribute("pad_token_id", "embeddings.padding_idx", 1),
        # a decoder attends to its encoder, whatever `add_cross_attention` says
        Attribute("is_decoder", "cross_attention", False),
        Attribute(
            "cross_attention_hidden_size",
            "cross_attention_hidden_size",
            None,
            read_only(lambda size, hf: size if hf["is_decoder"] else None),
        ),
    ),
    bos_token_id=0,
    eos_token_id=2,
    decoder_start_token_id=2,
)

CONSTANTS = {
    "norm.eps": 1e-5,
    "norm.placement": "post",
    "norm.final": False,
    "embeddings.norm": True,
    "positions.kind": "learned",
    "positions.offset": 2,
    "head.bias": True,
    "head.fixed_bias": True,
}
PRE_NORM = {**CONSTANTS, "norm.placement": "pre", "norm.final": True}

_FIXED_BY_THE_FAMILY = (
    *("normalize_before", "normalize_embedding", "add_final_layer_norm", "static_position_embeddings"),
    *("extra_pos_embeddings", "add_bias_logits", "layernorm_variant", "do_blenderbot_90_layernorm"),
)
_LAYERDROP = ("encoder_layerdrop", "decoder_layerdrop")
IGNORED = {
    "is_encoder_decoder": "said by what is loaded: one piece, or both",
    "num_hidden_layers": "repeats encoder_layers; the layers' own numbers count",
    **dict.fromkeys(_FIXED_BY_THE_FAMILY, "of 2020's versions; since then the family fixes it and nothing reads it"),
    **dict.fromkeys(("classif_dropout", "save_step", "layerdrop"), "of 2020's versions; nothing reads it"),
    **dict.fromkeys(_LAYERDROP, "layers are dropped in training only, and never here: `remarks` says so"),
}

ROWS = {
    "base": (
        ("embeddings.tokens.weight", "embed_tokens.weight", "same"),
        ("embeddings.positions.weight", "embed_positions.weight", "same"),
        *norm("embeddings.norm", "layernorm_embedding"),
        *norm("stack.shared.final_norm", "layer_norm"),
    ),
    "layer": (
        *projections("self_attention", *(f"self_attn.{name}_proj" for name in "qkv")),
        *linear("self_attention.out", "self_attn.out_proj"),
        *norm("self_norm", "self_attn_layer_norm"),
        *linear("feed_forward.up", "fc1"),
        *linear("feed_forward.down", "fc2"),
        *norm("feed_forward_norm", "final_layer_norm"),
    ),
    "cross": (
        *projections("cross_attention", *(f"encoder_attn.{name}_proj" for name in "qkv")),
        *linear("cross_attention.out", "encoder_attn.out_proj"),
        *norm("cross_norm", "encoder_attn_layer_norm"),
    ),
    "head": (("head.projection.weight", "lm_head.weight", "transposed"), ("head.bias", "final_logits_bias", "row")),
}

UNUSED = (
    (r"version", "a mark of older versions"),
    (r"encoder\..*", "the encoder, which is not asked for"),
    (r"decoder\..*", "the decoder, which is not asked for"),
    (r"(classification_head|qa_outputs)\..*", "the head of another task"),
)

# In a file of both pieces they share one table, which may stand under any of three names.
SHARED = {
    "shared.weight": "embed_tokens.weight",
    "encoder.embed_tokens.weight": "embed_tokens.weight",
    "decoder.embed_tokens.weight": "embed_tokens.weight",
}

BARTS_ALONE = "of 2020's versions of BART alone; nothing reads it"

PREFIXES: dict[Role, tuple[str, ...]] = {
    "encoder": ("model.encoder", "encoder", "model"),
    "decoder": ("model.decoder", "decoder", "model"),
}


def old_generation(hf: Mapping[str, Any]) -> dict[str, Any]:
    """What 2020's BART checkpoints call `force_bos_token_to_be_generated`: as in torch, BART's alone."""
    forced = hf.get("force_bos_token_to_be_generated", False)
    if forced is not None:
        check_kind("force_bos_token_to_be_generated", forced, False)
    return {"forced_bos_token_id": hf["bos_token_id"]} if forced else {}


def no_layerdrop(*names: str) -> Callable[[Mapping[str, Any]], tuple[str, ...]]:
    """A family's remark that no layer is dropped in training, by the attributes of its rates."""

    def remarks(hf: Mapping[str, Any]) -> tuple[str, ...]:
        rates = [f"{name} = {quoted(hf[name])}" for name in names if hf.get(name)]
        return (f"{', '.join(rates)}: in training, no layer is dropped here",) if rates else ()

    return remarks


def number_from_zero(rows: tuple[Attribute, ...]) -> tuple[Attribute, ...]:
    """The rows of a variant whose table of positions has no rows in front of that of position 0."""
    return tuple(row._replace(how=plus(0)) if row.theirs == "max_position_embeddings" else row for row in rows)


BART = Family(
    model_type="bart",
    architectures={"encoder": "BartEncoder", "decoder": "BartForCausalLM"},
    prefixes=PREFIXES,
    config_rows=ATTRIBUTES,
    constants=CONSTANTS,
    ignored=IGNORED | {"force_bos_token_to_be_generated": "of 2020's versions; `old_generation` reads it"},
    spellings={"hidden_size": "d_model", "num_attention_heads": "encoder_attention_heads"},
    layer="layers.{i}",
    rows=ROWS,
    optional={"embeddings.positions.weight": True, "head.bias": False},
    unused=UNUSED,
    duplicates=SHARED,
    tied_copy=("lm_head.weight", "embed_tokens.weight"),
    remarks=no_layerdrop(*_LAYERDROP),
    generation={"forced_eos_token_id": 2},
    old_generation=old_generation,
    whole=Whole(architecture="BartForConditionalGeneration"),
)
"""BART: encoder and decoder of one checkpoint, each of which is a piece of its own"""


def _variant(name: str, **changes: Any) -> Family:
    """A family whose checkpoints hold both pieces, as BART's do; torch's classes begin with `name`."""
    own: dict[str, Any] = {
        "architectures": {"encoder": f"{name}Encoder", "decoder": f"{name}ForCausalLM"},
        "ignored": IGNORED | {"force_bos_token_to_be_generated": BARTS_ALONE},
        "old_generation": lambda hf: {},
        "whole": Whole(architecture=f"{name}ForConditionalGeneration"),
    }
    return dataclasses.replace(BART, **{**own, **changes})


MBART = _variant(
    "MBart", model_type="mbart", config_rows=variant(ATTRIBUTES, decoder_start_token_id=None), constants=PRE_NORM
)
"""mBART: BART with norms in front of each sub-layer and one after the last

Liu et al. 2020, arXiv:2001.08210.
"""

PEGASUS = _variant(
    "Pegasus",
    model_type="pegasus",
    config_rows=variant(
        number_from_zero(ATTRIBUTES), pad_token_id=0, bos_token_id=None, eos_token_id=1, decoder_start_token_id=0
    ),
    constants={**PRE_NORM, "embeddings.norm": False, "positions.kind": "sinusoidal_halves", "positions.offset": 0},
    generation={"forced_eos_token_id": 1},
)
"""Pegasus: BART with norms in front of each sub-layer, one after the last, and sinusoidal positions

Zhang et al. 2020, arXiv:1912.08777.
"""

BLENDERBOT = _variant(
    "Blenderbot",
    model_type="blenderbot",
    config_rows=variant(
        number_from_zero(ATTRIBUTES),
        vocab_size=8008,
        max_position_embeddings=128,
        encoder_layers=2,
        encoder_ffn_dim=10240,
        encoder_attention_heads=32,
        decoder_layers=24,
        decoder_ffn_dim=10240,
        decoder_attention_heads=32,
        d_model=2560,
        pad_token_id=0,
        bos_token_id=1,
        decoder_start_token_id=1,
    ),
    constants={**PRE_NORM, "embeddings.norm": False, "positions.offset": 0},
    generation={"forced_eos_token_id": 2, "encoder_no_repeat_ngram_size": 3},
)
"""Blenderbot: BART with norms in front of each sub-layer and one after the last, none after the embeddings

Roller et al. 2020, arXiv:2004.13637.
"""

BLENDERBOT_SMALL = _variant(
    "BlenderbotSmall",
    model_type="blenderbot-small",
    config_rows=variant(
        number_from_zero(ATTRIBUTES),
        Attribute("scale_embedding", "embeddings.scale", False, root_of("d_model"), role="encoder"),
        Attribute("is_decoder", "embeddings.norm_before_positions", False),
        without=["scale_embedding"],
        max_position_embeddings=512,
        encoder_layers=8,
        encoder_ffn_dim=2048,
        decoder_layers=8,
        decoder_ffn_dim=2048,
        d_model=512,
        pad_token_id=0,
        bos_token_id=1,
        decoder_start_token_id=1,
    ),
    constants={**CONSTANTS, "positions.offset": 0},
)
"""Blenderbot-small: BART, but its decoder adds positions to token embeddings that are normed and never scaled

Roller et al. 2020, arXiv:2004.13637.
"""

PLBART = _variant(
    "PLBart",
    model_type="plbart",
    config_rows=variant(
        ATTRIBUTES,
        vocab_size=50005,
        encoder_layers=6,
        encoder_ffn_dim=3072,
        encoder_attention_heads=12,
        decoder_layers=6,
        decoder_ffn_dim=3072,
        decoder_attention_heads=12,
        d_model=768,
        attention_dropout=0.1,
        scale_embedding=True,
        decoder_start_token_id=None,
    ),
    spellings={**BART.spellings, "initializer_range": "init_std"},
)
"""PLBart: BART under another name, for programs

Ahmad et al. 2021, arXiv:2103.06333.
"""


def _own_vocabulary(size: int | None, hf: Mapping[str, Any]) -> Any:
    own = hf["is_decoder"] and not hf["share_encoder_decoder_embeddings"] and size is not None
    return size if own else ABSENT


def _both_vocabularies(encoder: StackConfig, decoder: StackConfig, shared: bool) -> dict[str, Any]:
    return {
        "vocab_size": encoder.vocab_size,
        "decoder_vocab_size": decoder.vocab_size,
        "share_encoder_decoder_embeddings": shared,
    }


MARIAN = _variant(
    "Marian",
    model_type="marian",
    config_rows=variant(
        number_from_zero(ATTRIBUTES),
        Attribute("decoder_vocab_size", "vocab_size", None, Convert(_own_vocabulary, lambda size, config: size)),
        Attribute("share_encoder_decoder_embeddings", (), True),
        vocab_size=58101,
        pad_token_id=58100,
        bos_token_id=None,
        eos_token_id=0,
        decoder_start_token_id=58100,
    ),
    constants={**CONSTANTS, "embeddings.norm": False, "positions.kind": "sinusoidal_halves", "positions.offset": 0},
    generation={"forced_eos_token_id": 0},
    whole=Whole(
        architecture="MarianMTModel",
        saves_positions=False,
        shared=lambda hf: hf.get("share_encoder_decoder_embeddings", True),
        write=_both_vocabularies,
    ),
)
"""Marian: BART with sinusoidal positions and no norm after the embeddings; two vocabularies are possible

Junczys-Dowmunt et al. 2018, arXiv:1804.00344. Decoding starts with the padding token.
"""
