"""T5Gemma: Gemma 2's layers as an encoder, which sees both ways, and with cross-attention as a decoder.

Zhang et al. 2025, arXiv:2504.06225. One checkpoint holds both, each with a token table of its own. Torch also drops out
the states after the last norm; here dropout sits where it does in every family.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..attributes import Attribute, read_only, variant
from ..names import linear, norm, projections
from ..nested_config import NestedFormat
from . import gemma, llama
from .gemma import GEMMA2


def _other_width(size: int | None, hf: Mapping[str, Any]) -> int | None:
    """The width of the states that a decoder reads, where it is not its own."""
    return size if hf["is_decoder"] and size != hf["hidden_size"] else None


_ROWS = {
    "layer": (
        *norm("self_norm", "pre_self_attn_layernorm"),
        *projections("self_attention", *(f"self_attn.{name}_proj" for name in "qkv")),
        *linear("self_attention.out", "self_attn.o_proj"),
        *norm("self_output_norm", "post_self_attn_layernorm"),
        *norm("feed_forward_norm", "pre_feedforward_layernorm"),
        *(row for name in ("gate", "up", "down") for row in linear(f"feed_forward.{name}", f"mlp.{name}_proj")),
        *norm("feed_forward_output_norm", "post_feedforward_layernorm"),
    ),
    "cross": (
        *norm("cross_norm", "pre_cross_attn_layernorm"),
        *projections("cross_attention", *(f"cross_attn.{name}_proj" for name in "qkv")),
        *linear("cross_attention.out", "cross_attn.o_proj"),
        *norm("cross_output_norm", "post_cross_attn_layernorm"),
    ),
    "head": (("head.projection.weight", "lm_head.out_proj.weight", "transposed"),),
}

T5_GEMMA_MODULE = dataclasses.replace(
    GEMMA2,
    model_type="t5_gemma_module",
    architectures={"encoder": "T5GemmaEncoder", "decoder": "T5GemmaDecoder"},
    prefixes={"encoder": ("model.encoder", "encoder", "model"), "decoder": ("", "model.decoder", "decoder", "model")},
    config_rows=variant(
        gemma.ATTRIBUTES_2,
        Attribute("dropout_rate", ("dropout", "embeddings.dropout", "feed_forward.dropout"), 0.0),
        Attribute("final_logit_softcapping", "head.logit_cap", 30.0, role="decoder", kinds=gemma.NUMBER_OR_NULL),
        # a decoder attends to its encoder, whatever `add_cross_attention` says
        Attribute("is_decoder", "cross_attention", False),
        Attribute("cross_attention_hidden_size", "cross_attention_hidden_size", None, read_only(_other_width)),
        without=["final_logit_softcapping"],
    ),
    constants={path: value for path, value in gemma.CONSTANTS_2.items() if path != "causal"},
    rows={**llama.ROWS, **_ROWS},
    unused=(
        (r"encoder\..*", "the encoder, which is not asked for"),
        (r"decoder\..*", "the decoder, which is not asked for"),
        (r"score\..*", "the head of another task"),
    ),
    tied_copy=("lm_head.out_proj.weight", "embed_tokens.weight"),
)
"""T5Gemma's two pieces: Gemma 2 that sees both ways, and Gemma 2 with cross-attention"""

T5GEMMA = NestedFormat("t5gemma", "T5GemmaForConditionalGeneration", T5_GEMMA_MODULE)
"""The format of its checkpoints, whose config holds the pieces' as objects of their own."""
