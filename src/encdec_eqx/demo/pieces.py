"""The demo's pieces, loaded and joined, and the words they read as arrays."""

from collections.abc import Sequence
from importlib import resources
from typing import Any

import jax
import numpy as np

from encdec_eqx import Decoder, Encoder, EncoderDecoder

from .lexicon import LETTER_PAD, encode_word

IGNORED_LABEL = -100
_ASSETS = resources.files("encdec_eqx.demo").joinpath("assets")


def load_pieces(*, seed: int = 0) -> tuple[Encoder, Decoder]:
    """The character BERT and the phoneme GPT-2; the decoder's cross-attention is newly initialised from `seed`."""
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
    """The pair; the projection between the two widths is newly initialised from `seed`."""
    return EncoderDecoder.from_pieces(encoder, decoder, key=jax.random.fold_in(jax.random.key(seed), 1))


def encode_words(words: Sequence[str], *, width: int, rows: int | None = None) -> dict[str, Any]:
    """`input_ids` and `attention_mask` of a batch of words, padded on the right to `width`, EOS included.

    The last word is repeated to fill `rows`, of which there are by default as many as words.

    Raises:
        WordError: a word that cannot be read, or does not fit into `width`.
    """
    filled = [*words, *[words[-1]] * ((rows or len(words)) - len(words))]
    ids = padded([encode_word(word, max_letters=width - 1) for word in filled], width, LETTER_PAD)
    return {"input_ids": ids, "attention_mask": ids != LETTER_PAD}


def padded(rows: Sequence[Sequence[int]], width: int, fill: int) -> np.ndarray:
    """Rows of ids as one array, padded on the right."""
    array = np.full((len(rows), width), fill, np.int32)
    for row, ids in zip(array, rows, strict=True):
        row[: len(ids)] = ids
    return array
