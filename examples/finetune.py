"""Fine-tune a pair in one plain script: join two pieces, train, look at what it says, save.

    python examples/finetune.py
    python examples/finetune.py bert-base-uncased gpt2 --steps 1000 --out pair

Without folders it joins two tiny random pieces, which learn to spell the source backwards in less than half a minute:
source ids stand for letters, and the target is the same letters in reverse, ended by the end token. With two folders
(or Hub ids) the same data is made of the first ids of their vocabularies; replace `make_batch` with your own.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from encdec_eqx import Decoder, Encoder, EncoderDecoder, StackConfig
from encdec_eqx.training import init_train_state, leaving_at_ctrl_c, make_train_step, shift_tokens_right

PAD, START, END, LETTERS = 0, 1, 2, range(3, 15)
LONGEST = 6
BERT = {"model_type": "bert", "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
BERT |= {"intermediate_size": 128, "vocab_size": 16, "max_position_embeddings": 16, "hidden_dropout_prob": 0.0}
BERT |= {"attention_probs_dropout_prob": 0.0, "pad_token_id": PAD}
GPT2 = {"model_type": "gpt2", "n_embd": 48, "n_layer": 1, "n_head": 4, "vocab_size": 16, "n_positions": 16}
GPT2 |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": START, "eos_token_id": END}
GPT2 |= {"add_cross_attention": True, "is_decoder": True}


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    key = jax.random.key(options.seed)
    model = pair(options.pieces, key).with_special_tokens(
        pad_token_id=PAD, decoder_start_token_id=START, eos_token_id=END
    )

    # Training is fastest, smallest and soonest compiled in the scanned layout; generation in the unrolled one.
    optimizer = optax.adamw(optax.warmup_cosine_decay_schedule(0.0, options.learning_rate, 20, options.steps))
    state = init_train_state(model.with_layout("scanned"), optimizer)
    step = make_train_step(optimizer, label_smoothing=0.0)
    rng = np.random.default_rng(options.seed)
    for number in range(1, options.steps + 1):
        state, metrics = step(state, make_batch(rng, options.batch_size), key)
        if number % options.report_every == 0 or number == options.steps:
            print(f"step {number:4d}   loss {metrics['loss']:.3f}   gradient norm {metrics['grad_norm']:.2f}")

    model = state.model.with_layout("unrolled")
    held_out = make_batch(np.random.default_rng(options.seed + 1), 64)
    print(f"held-out letters right, given those before: {accuracy(model, held_out):.1%}")
    said = model.generate(
        held_out["input_ids"][:4], attention_mask=held_out["attention_mask"][:4], max_new_tokens=LONGEST + 1
    )
    for source, answer in zip(held_out["input_ids"], said.sequences, strict=False):
        print(f"  {spelled(source)} -> {spelled(np.asarray(answer))}")

    with tempfile.TemporaryDirectory() as scratch:
        folder = options.out or Path(scratch) / "pair"
        model.save_pretrained(folder)
        again = EncoderDecoder.from_pretrained(folder)
        same = eqx.tree_equal(accuracy(again, held_out), accuracy(model, held_out))
        print(f"saved to {folder}; read back, it scores the same: {bool(same)}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pieces", nargs="*", help="folder or Hub id of the encoder, then of the decoder")
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--report-every", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="where to save the pair (default: nowhere)")
    options = parser.parse_args(arguments)
    if len(options.pieces) not in (0, 2):
        parser.error("give both pieces, the encoder and the decoder, or neither")
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)  # a wrong path fails here, not after the work
    return options


def pair(pieces: Sequence[str], key: jax.Array) -> EncoderDecoder:
    """The pieces joined; cross-attention and a projection are new, and reported."""
    if pieces:
        return EncoderDecoder.from_encoder_decoder_pretrained(*pieces, key=key)
    encoder_key, decoder_key, projection_key = jax.random.split(key, 3)
    encoder = Encoder.init(StackConfig.from_hf(BERT), key=encoder_key)
    decoder = Decoder.init(StackConfig.from_hf(GPT2), key=decoder_key)
    return EncoderDecoder.from_pieces(encoder, decoder, key=projection_key)


def make_batch(rng: np.random.Generator, rows: int) -> dict[str, np.ndarray]:
    """Words of 3 to 6 letters; labels are -100 behind the end token. Always of one shape: one program serves."""
    lengths = rng.integers(3, LONGEST + 1, rows)
    letters = rng.integers(LETTERS.start, LETTERS.stop, (rows, LONGEST))
    real = np.arange(LONGEST) < lengths[:, None]
    labels = np.full((rows, LONGEST + 1), -100)
    for row, length in enumerate(lengths):
        labels[row, : length + 1] = [*letters[row, :length][::-1], END]
    return {"input_ids": np.where(real, letters, PAD), "attention_mask": real, "labels": labels}


@eqx.filter_jit
def accuracy(model: EncoderDecoder, batch: dict[str, np.ndarray]) -> jax.Array:
    """Share of labels that are the model's first choice, the labels before them given. Any function jits like this."""
    labels = jnp.asarray(batch["labels"])
    ids = shift_tokens_right(labels, PAD, START)
    logits = model(batch["input_ids"], ids, attention_mask=batch["attention_mask"]).logits
    right = (jnp.argmax(logits, axis=-1) == labels) & (labels != -100)
    return jnp.sum(right) / jnp.sum(labels != -100)


def spelled(ids: np.ndarray) -> str:
    return "".join(chr(ord("a") + int(i) - LETTERS.start) for i in ids if i in LETTERS)


if __name__ == "__main__":
    with leaving_at_ctrl_c("interrupted"):
        main()
