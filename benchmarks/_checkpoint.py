"""Writes a random-weight BERT + GPT-2 pair in Hugging Face format, with torch's own initialisers.

`python -m benchmarks._checkpoint small folder`. It must not know the library: both sides read the same files.
"""

import argparse

import torch
from transformers import BertConfig, EncoderDecoderConfig, EncoderDecoderModel, GPT2Config

from benchmarks._sizes import DECODER_VOCAB, ENCODER_VOCAB, SIZES, Size

END_OF_TEXT = 50256


def configuration(size: Size) -> EncoderDecoderConfig:
    """The pair's configuration: GPT-2's end-of-text is start, end and padding; no dropout, so that runs compare."""
    encoder = BertConfig(
        vocab_size=ENCODER_VOCAB,
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        intermediate_size=4 * size.hidden,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    decoder = GPT2Config(
        vocab_size=DECODER_VOCAB,
        n_embd=size.hidden,
        n_layer=size.layers,
        n_head=size.heads,
        add_cross_attention=True,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    config = EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id = config.eos_token_id = config.pad_token_id = END_OF_TEXT
    return config


def main() -> None:
    """Writes one checkpoint."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("size", choices=SIZES)
    options.add_argument("folder")
    chosen = options.parse_args()
    torch.manual_seed(0)
    EncoderDecoderModel(configuration(SIZES[chosen.size])).save_pretrained(chosen.folder)


if __name__ == "__main__":
    main()
