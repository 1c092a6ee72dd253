"""Marian: BART with sinusoidal positions and no norm after the embeddings; two vocabularies are possible.

Junczys-Dowmunt et al. 2018, arXiv:1804.00344 (`MarianModel`, `MarianMTModel`). Data only; what it shares with BART is
taken from there. Decoding starts with the padding token.
"""

from collections.abc import Mapping
from typing import Any

from ...config import StackConfig
from ..family import Whole
from . import bart

STYLE = bart.Style(embedding_norm=False, positions="sinusoidal_halves", offset=0)

ATTRIBUTES = {
    **bart.ATTRIBUTES,
    "vocab_size": 58101,
    "decoder_vocab_size": None,
    "share_encoder_decoder_embeddings": True,
    "pad_token_id": 58100,
    "bos_token_id": None,
    "eos_token_id": 0,
    "decoder_start_token_id": 58100,
}


def read(hf: Mapping[str, Any]) -> StackConfig:
    """One piece's config; a decoder that shares no table with its encoder may have a vocabulary of its own."""
    own = hf["is_decoder"] and not hf["share_encoder_decoder_embeddings"]
    return bart.read_role(hf, STYLE, vocab_size=hf["decoder_vocab_size"] if own else None)


def write(config: StackConfig) -> dict[str, Any]:
    """The attributes that express one piece."""
    return {**bart.write_role(config), "decoder_vocab_size": config.vocab_size}


def write_both(encoder: StackConfig, decoder: StackConfig, shared: bool) -> dict[str, Any]:
    """Both vocabularies, and whether they are one."""
    return {
        "vocab_size": encoder.vocab_size,
        "decoder_vocab_size": decoder.vocab_size,
        "share_encoder_decoder_embeddings": shared,
    }


MARIAN = bart.relative(
    "Marian",
    STYLE,
    ATTRIBUTES,
    Whole(
        architecture="MarianMTModel",
        saves_positions=False,
        shared=lambda hf: hf.get("share_encoder_decoder_embeddings", True),
        write=write_both,
    ),
    model_type="marian",
    generation={"forced_eos_token_id": 0},
    read=read,
    write=write,
)
