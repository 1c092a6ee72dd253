"""Pretrain the demo's encoder: a character BERT that fills in masked letters of English words.

This made `src/encdec_eqx/demo/assets/letters`. It sees the spelling of the training words and nothing else: no
pronunciation, no development or held-out word. A quarter of the letters are hidden; the loss is taken on those. The
same command gives the same file on one machine (on another kind of CPU the arithmetic is rounded differently).

    XLA_FLAGS=--xla_cpu_multi_thread_eigen=false python examples/pronounce/pretrain_letters.py --output letters

About four minutes of one CPU core. (The flag, which made the packaged file, keeps each product on one thread.)
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from pretraining import muon, shuffled

from encdec_eqx import Encoder, StackConfig
from encdec_eqx.demo.lexicon import (
    LETTER_END,
    LETTER_MASK,
    LETTER_PAD,
    LETTER_TOKENS,
    SPLIT_SALT,
    encode_word,
    load_lexicon,
)
from encdec_eqx.demo.pieces import padded

CONFIG = {
    "model_type": "bert",
    "vocab_size": len(LETTER_TOKENS),
    "num_attention_heads": 4,
    "hidden_act": "gelu_new",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "max_position_embeddings": 32,
    "type_vocab_size": 1,
    "initializer_range": 0.05,
    "pad_token_id": LETTER_PAD,
}
WIDTHS = {8: 384, 10: 288, 16: 192}  # padded width → words a batch
MASKED_SHARE = 0.25


class MaskedLM(eqx.Module):
    """The encoder with a head that is thrown away after pretraining; its output matrix is the letter table."""

    encoder: Encoder
    dense: jax.Array
    bias: jax.Array

    def __call__(self, ids, mask):
        states = self.encoder(ids, attention_mask=mask).last_hidden_state
        table = self.encoder.embeddings.tokens.weight
        return jax.nn.gelu(states @ self.dense) @ table.T + self.bias


@eqx.filter_jit
def train_step(model, opt_state, optimizer, ids, labels):
    def loss(model):
        logits = model(ids, ids != LETTER_PAD)
        chosen = labels >= 0
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(chosen, labels, 0))
        return jnp.sum(losses * chosen) / jnp.sum(chosen)

    value, grads = eqx.filter_value_and_grad(loss)(model)
    updates, opt_state = optimizer.update(grads, opt_state, eqx.filter(model, eqx.is_inexact_array))
    return eqx.apply_updates(model, updates), opt_state, value


def pretrain(*, layers: int, width: int, steps: int, seed: int = 0, salt: str = SPLIT_SALT) -> Encoder:
    """A character encoder, pretrained on the words that `salt` puts into the training split."""
    encoder_key, dense_key = jax.random.split(jax.random.key(seed))
    sizes = {"num_hidden_layers": layers, "hidden_size": width, "intermediate_size": 4 * width}
    encoder = Encoder.init(StackConfig.from_hf(CONFIG | sizes), key=encoder_key)
    model = MaskedLM(encoder, jax.random.normal(dense_key, (width, width)) * width**-0.5, jnp.zeros(len(LETTER_TOKENS)))
    optimizer = muon(0.02, steps=steps)
    opt_state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))

    batches = shuffled(word_groups(salt), seed=seed)
    random = np.random.default_rng(seed)
    start, losses = time.perf_counter(), []
    for step in range(1, steps + 1):
        ids, labels = masked(next(batches)["ids"], random)
        model, opt_state, loss = train_step(model, opt_state, optimizer, ids, labels)
        losses.append(float(loss))
        if step % 50 == 0 or step == steps:
            mean = sum(losses[-50:]) / len(losses[-50:])
            print(f"step {step}: loss {mean:.4f} nats a masked letter, {time.perf_counter() - start:.0f} s", flush=True)
    return model.encoder


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder for config.json and model.safetensors")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--width", type=int, default=160)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--salt", default=SPLIT_SALT, help="of the hash that splits the words")
    chosen = parser.parse_args(arguments)
    chosen.output.mkdir(parents=True, exist_ok=True)  # a wrong path fails here, not after the work
    sizes = {"layers": chosen.layers, "width": chosen.width, "steps": chosen.steps}
    model = pretrain(**sizes, seed=chosen.seed, salt=chosen.salt)
    model.astype(jnp.float16).save_pretrained(chosen.output)


def word_groups(salt: str) -> list[tuple[dict[str, np.ndarray], int]]:
    """The training words as rows of letter ids, grouped by the width they are padded to; longer ones are left out."""
    rows = [encode_word(word, max_letters=len(word)) for word in load_lexicon().words("train", salt=salt)]
    groups, shorter = [], 0
    for width, batch in WIDTHS.items():
        members = [row for row in rows if shorter < len(row) <= width]
        groups.append(({"ids": padded(members, width, LETTER_PAD)}, batch))
        shorter = width
    return groups


def masked(ids: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Ids with some letters hidden, and labels that are -100 except there."""
    hidden = (random.random(ids.shape) < MASKED_SHARE) & (ids != LETTER_PAD) & (ids != LETTER_END)
    return np.where(hidden, LETTER_MASK, ids), np.where(hidden, ids, -100)


if __name__ == "__main__":
    main()
