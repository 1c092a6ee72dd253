"""Random models of the measured sizes, made by the library itself: no checkpoint, no torch. No dropout either."""

import jax

from benchmarks._sizes import DECODER_VOCAB, ENCODER_VOCAB, Size
from encdec_eqx import Decoder, Encoder, StackConfig

END_OF_TEXT = DECODER_VOCAB - 1


def bert(size: Size, *, seed: int = 0) -> Encoder:
    """A BERT encoder."""
    config = {
        "model_type": "bert",
        "vocab_size": ENCODER_VOCAB,
        "hidden_size": size.hidden,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "intermediate_size": 4 * size.hidden,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    return Encoder.init(StackConfig.from_hf(config), key=jax.random.key(seed))


def gpt2(size: Size, *, tied: bool = True, spread: float = 0.02, seed: int = 0) -> Decoder:
    """A GPT-2 decoder with cross-attention.

    Args:
        size: its layers, width and heads.
        tied: whether the head is the table of tokens. If it is, random weights mostly repeat the token they read.
        spread: standard deviation of the weights.
        seed: of the random weights.
    """
    config = {
        "model_type": "gpt2",
        "vocab_size": DECODER_VOCAB,
        "n_embd": size.hidden,
        "n_layer": size.layers,
        "n_head": size.heads,
        "add_cross_attention": True,
        "tie_word_embeddings": tied,
        "initializer_range": spread,
        "eos_token_id": END_OF_TEXT,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    }
    return Decoder.init(StackConfig.from_hf(config), key=jax.random.key(seed))
