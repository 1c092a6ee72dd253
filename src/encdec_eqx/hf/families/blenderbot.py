"""Blenderbot: BART with norms in front of each sub-layer and one after the last, none after the embeddings.

Roller et al. 2020, arXiv:2004.13637 (`BlenderbotModel` and its kin). Data only; what it shares with BART is there.
"""

from ..family import Whole
from . import bart

ATTRIBUTES = {
    **bart.ATTRIBUTES,
    "vocab_size": 8008,
    "max_position_embeddings": 128,
    "encoder_layers": 2,
    "encoder_ffn_dim": 10240,
    "encoder_attention_heads": 32,
    "decoder_layers": 24,
    "decoder_ffn_dim": 10240,
    "decoder_attention_heads": 32,
    "d_model": 2560,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "decoder_start_token_id": 1,
}

BLENDERBOT = bart.relative(
    "Blenderbot",
    bart.Style(placement="pre", final_norm=True, embedding_norm=False, offset=0),
    ATTRIBUTES,
    Whole(architecture="BlenderbotForConditionalGeneration"),
    model_type="blenderbot",
    generation={"forced_eos_token_id": 2, "encoder_no_repeat_ngram_size": 3},
)
