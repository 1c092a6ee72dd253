"""What ships with the package: two pretrained pieces, and a pair trained to the end; and random pieces of one shape.

Knows where the files are; must not know how they were trained (`examples/pronounce/`).
"""

from importlib import resources

import jax

from encdec_eqx import Decoder, Encoder, EncoderDecoder

_ASSETS = resources.files("encdec_eqx.demo").joinpath("assets")


def load_pieces(*, seed: int = 0) -> tuple[Encoder, Decoder]:
    """The character BERT and the phoneme GPT-2; the decoder's cross-attention is new, drawn from `seed`."""
    with resources.as_file(_ASSETS.joinpath("letters")) as letters:
        encoder = Encoder.from_pretrained(letters)
    with resources.as_file(_ASSETS.joinpath("phonemes")) as phonemes:
        decoder = Decoder.from_pretrained(phonemes, key=jax.random.key(seed))
    return encoder, decoder


def load_trained() -> EncoderDecoder:
    """A pair of the same families, somewhat larger, trained to the end on the training words.

    Made by `examples/pronounce/train.py`; `docs/demo.md` has its figures.
    """
    with resources.as_file(_ASSETS.joinpath("pronounce")) as folder:
        return EncoderDecoder.from_pretrained(folder)


def random_pieces(*, seed: int = 0) -> tuple[Encoder, Decoder]:
    """Pieces of the same configurations with nothing learned: the cold start that the demo is compared with."""
    encoder, decoder = load_pieces()
    encoder_key, decoder_key = jax.random.split(jax.random.key(seed))
    return Encoder.init(encoder.config, key=encoder_key), Decoder.init(decoder.config, key=decoder_key)


def join(encoder: Encoder, decoder: Decoder, *, seed: int = 0) -> EncoderDecoder:
    """The pair; the projection between the two widths is drawn from `seed`."""
    return EncoderDecoder.from_pieces(encoder, decoder, key=jax.random.fold_in(jax.random.key(seed), 1))
