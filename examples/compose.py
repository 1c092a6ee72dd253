"""Join any two checkpoints: an encoder folder and a decoder folder become one pair, saved in Hugging Face's format.

    python examples/compose.py path/to/bert path/to/gpt2 --output pair

The folders hold `config.json` and `model.safetensors`, as `save_pretrained` of either library writes them; Hub ids
work too, with the `hub` extra. Prints what was loaded and what is new: cross-attention and the projection, which
fine-tuning has to train.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp

from encdec_eqx import Decoder, Encoder, EncoderDecoder


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("encoder", help="folder or Hub id of the encoder, such as bert-base-uncased")
    parser.add_argument("decoder", help="folder or Hub id of the decoder, such as gpt2")
    parser.add_argument("--output", type=Path, required=True, help="folder for the pair")
    parser.add_argument("--seed", type=int, default=0, help="draws the new arrays (default: 0)")
    chosen = parser.parse_args(arguments)
    chosen.output.mkdir(parents=True, exist_ok=True)  # a wrong path fails here, not after the work

    decoder_key, join_key = jax.random.split(jax.random.key(chosen.seed))
    encoder = Encoder.from_pretrained(chosen.encoder)
    decoder = Decoder.from_pretrained(chosen.decoder, key=decoder_key)
    model = EncoderDecoder.from_pieces(encoder, decoder, key=join_key)
    print(model.load_report)

    # One forward pass: every row of target ids gets logits over the decoder's vocabulary.
    source, target = jnp.ones((2, 5), jnp.int32), jnp.ones((2, 3), jnp.int32)
    print("logits:", model(source, target).logits.shape)

    model.save_pretrained(chosen.output)
    print(f"saved in {chosen.output}; load it with EncoderDecoder.from_pretrained({str(chosen.output)!r})")


if __name__ == "__main__":
    main()
