"""MPNet: BERT's layers with RoBERTa's positions and a bias by distance that all layers share. An encoder only.

Song et al. 2020, arXiv:2004.09297. Two numbers are fixed in the reference, whatever the config says: distances go into
32 buckets, and positions are counted as if the padding id were 1.
"""

import dataclasses

from ..attributes import Attribute, variant
from . import bert, roberta
from .bert import BERT

_MODULES = {
    "attention.self.query": "attention.attn.q",
    "attention.self.key": "attention.attn.k",
    "attention.self.value": "attention.attn.v",
    "attention.output.dense": "attention.attn.o",
    "attention.output.LayerNorm": "attention.LayerNorm",
}
_RENAMED = bert.rename_modules(roberta.ROWS, _MODULES)
_BIAS = ("stack.shared.relative_bias.weight", "encoder.relative_attention_bias.weight", "same")

MPNET = dataclasses.replace(
    BERT,
    model_type="mpnet",
    architectures={"encoder": "MPNetModel"},
    prefixes={"encoder": ("mpnet",)},
    config_rows=variant(
        bert.ATTRIBUTES,
        Attribute("relative_attention_num_buckets", "attention.relative_bias.entries", 32),
        without=["position_embedding_type", "type_vocab_size"],
        vocab_size=30527,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    ),
    constants={
        **bert.CONSTANTS,
        "attention.relative_bias.buckets": 32,
        "positions.counting": "non_padding",
        "positions.padding_idx": 1,
        "embeddings.padding_idx": 1,
    },
    fixed=bert.ABSOLUTE,
    rows={**_RENAMED, "base": (*_RENAMED["base"], _BIAS), "cross": ()},
    unused=bert.UNUSED,
    duplicates={"lm_head.decoder.bias": "lm_head.bias"},
)
"""MPNet: BERT's layers with RoBERTa's positions and a bias by distance that all layers share"""
