"""RoBERTa and its variants: BERT's layers, positions that count the tokens that are not padding, a head of their own.

Liu et al. 2019, arXiv:1907.11692.
"""

import dataclasses
from typing import Any

from ..attributes import Attribute, variant
from ..names import linear, norm
from . import bert
from .bert import BERT

ATTRIBUTES = variant(
    bert.ATTRIBUTES,
    Attribute("pad_token_id", "positions.padding_idx", 1),
    vocab_size=50265,
    bos_token_id=0,
    eos_token_id=2,
    pad_token_id=1,
)
# The head's activation is fixed in the reference, whatever `hidden_act` says.
_OWN = {"positions.counting": "non_padding", "head.activation": "gelu"}

HEAD = (
    *linear("head.dense", "lm_head.dense"),
    *norm("head.norm", "lm_head.layer_norm"),
    ("head.bias", "lm_head.bias", "same"),
    ("head.projection.weight", "lm_head.decoder.weight", "transposed"),
)
ROWS = {**bert.ROWS, "head": HEAD}

ROBERTA = dataclasses.replace(
    BERT,
    model_type="roberta",
    architectures={"encoder": "RobertaModel", "decoder": "RobertaForCausalLM"},
    prefixes={"encoder": ("roberta",), "decoder": ("roberta",)},
    config_rows=ATTRIBUTES,
    constants={**bert.CONSTANTS, **_OWN},
    rows=ROWS,
    unused=bert.UNUSED,
    duplicates={"lm_head.decoder.bias": "lm_head.bias"},
    tied_copy=("lm_head.decoder.weight", "embeddings.word_embeddings.weight"),
)
"""RoBERTa: BERT's layers, positions that count the tokens that are not padding, and a head of its own"""


def _named(name: str, prefix: str = "roberta") -> dict[str, Any]:
    """What torch calls a variant."""
    return {
        "architectures": {"encoder": f"{name}Model", "decoder": f"{name}ForCausalLM"},
        "prefixes": {"encoder": (prefix,), "decoder": (prefix,)},
    }


_RENAMED = variant(ATTRIBUTES, vocab_size=30522)

XLM_ROBERTA = dataclasses.replace(ROBERTA, model_type="xlm-roberta", config_rows=_RENAMED, **_named("XLMRoberta"))
"""XLM-RoBERTa: RoBERTa under another name

Conneau et al. 2020, arXiv:1911.02116.
"""

CAMEMBERT = dataclasses.replace(ROBERTA, model_type="camembert", config_rows=_RENAMED, **_named("Camembert"))
"""CamemBERT: RoBERTa under another name

Martin et al. 2020, arXiv:1911.03894.
"""

DATA2VEC_TEXT = dataclasses.replace(
    ROBERTA, model_type="data2vec-text", config_rows=_RENAMED, **_named("Data2VecText", "data2vec_text")
)
"""data2vec for text: RoBERTa under another name and prefix

Baevski et al. 2022, arXiv:2202.03555.
"""

XLM_ROBERTA_XL = dataclasses.replace(
    ROBERTA,
    model_type="xlm-roberta-xl",
    config_rows=variant(
        ATTRIBUTES,
        vocab_size=250880,
        hidden_size=2560,
        num_hidden_layers=36,
        num_attention_heads=32,
        intermediate_size=10240,
        max_position_embeddings=514,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
    ),
    constants={**bert.PRE_NORM, **_OWN, "embeddings.norm": False},
    rows=bert.with_norms(ROWS, "self_attn_layer_norm", "LayerNorm", "encoder.LayerNorm"),
    **_named("XLMRobertaXL"),
)
"""XLM-RoBERTa-XL: RoBERTa with norms before each sub-layer and after the last, and none in the embeddings

Goyal et al. 2021, arXiv:2105.00572. The reference has no dropout after the feed-forward; here there is, at the rate of
the other sub-layers.
"""

ROBERTA_PRELAYERNORM = dataclasses.replace(
    ROBERTA,
    model_type="roberta-prelayernorm",
    constants={**bert.PRE_NORM, **_OWN, "norm.final_in_hidden_states": False},
    rows=bert.with_norms(ROWS, "LayerNorm", "intermediate.LayerNorm", "LayerNorm"),
    **_named("RobertaPreLayerNorm", "roberta_prelayernorm"),
)
"""RoBERTa-PreLayerNorm: RoBERTa with norms before each sub-layer, and one after the last

Wettig et al. 2022, arXiv:2202.08005. Its last norm belongs to the model and not to the layers, so the reference's
`hidden_states` end before it.
"""
