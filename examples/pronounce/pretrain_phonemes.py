"""Pretrain the demo's decoder: a GPT-2 that predicts the next phoneme of English pronunciations.

This made `src/encdec_eqx/demo/assets/phonemes`. It sees the first pronunciation of the training words and nothing
else: no spelling, no development or held-out word. It has no cross-attention yet; the demo adds it. The same command
gives the same file on one machine (on another kind of CPU the arithmetic is rounded differently).

    XLA_FLAGS=--xla_cpu_multi_thread_eigen=false python examples/pronounce/pretrain_phonemes.py --output phonemes

About two minutes of one CPU core. (The flag, which made the packaged file, keeps each product on one thread.)
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

from encdec_eqx import Decoder, StackConfig
from encdec_eqx.demo.lexicon import (
    PHONEME_END,
    PHONEME_PAD,
    PHONEME_START,
    PHONEME_TOKENS,
    SPLIT_SALT,
    encode_pronunciation,
    load_lexicon,
)
from encdec_eqx.demo.pieces import padded

CONFIG = {
    "model_type": "gpt2",
    "vocab_size": len(PHONEME_TOKENS),
    "n_head": 4,
    "n_positions": 32,
    "activation_function": "gelu_new",
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "initializer_range": 0.05,
    "bos_token_id": PHONEME_START,
    "eos_token_id": PHONEME_END,
    "pad_token_id": PHONEME_PAD,
}
WIDTHS = {7: 384, 9: 288, 15: 192}  # padded width → pronunciations a batch


@eqx.filter_jit
def train_step(model, opt_state, optimizer, ids):
    def loss(model):
        previous = jnp.concatenate([jnp.full_like(ids[:, :1], PHONEME_START), ids[:, :-1]], axis=1)
        logits = model(previous).logits  # causal, so the padding behind a phoneme is never seen by it
        real = ids != PHONEME_PAD
        return jnp.sum(optax.softmax_cross_entropy_with_integer_labels(logits, ids) * real) / jnp.sum(real)

    value, grads = eqx.filter_value_and_grad(loss)(model)
    updates, opt_state = optimizer.update(grads, opt_state, eqx.filter(model, eqx.is_inexact_array))
    return eqx.apply_updates(model, updates), opt_state, value


def pretrain(*, layers: int, width: int, steps: int, seed: int = 0, salt: str = SPLIT_SALT) -> Decoder:
    """A phoneme decoder, pretrained on the pronunciations of the words that `salt` puts into the training split."""
    sizes = {"n_layer": layers, "n_embd": width}
    model = Decoder.init(StackConfig.from_hf(CONFIG | sizes), key=jax.random.key(seed))
    optimizer = muon(0.02, steps=steps)
    opt_state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))

    batches = shuffled(pronunciation_groups(salt), seed=seed)
    start, losses = time.perf_counter(), []
    for step in range(1, steps + 1):
        model, opt_state, loss = train_step(model, opt_state, optimizer, next(batches)["ids"])
        losses.append(float(loss))
        if step % 50 == 0 or step == steps:
            mean = sum(losses[-50:]) / len(losses[-50:])
            print(f"step {step}: loss {mean:.4f} nats a phoneme, {time.perf_counter() - start:.0f} s", flush=True)
    return model


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder for config.json and model.safetensors")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--salt", default=SPLIT_SALT, help="of the hash that splits the words")
    chosen = parser.parse_args(arguments)
    chosen.output.mkdir(parents=True, exist_ok=True)  # a wrong path fails here, not after the work
    sizes = {"layers": chosen.layers, "width": chosen.width, "steps": chosen.steps}
    model = pretrain(**sizes, seed=chosen.seed, salt=chosen.salt)
    model.astype(jnp.float16).save_pretrained(chosen.output)


def pronunciation_groups(salt: str) -> list[tuple[dict[str, np.ndarray], int]]:
    """The training pronunciations as rows of phoneme ids, grouped by the width they are padded to."""
    lexicon = load_lexicon()
    rows = [encode_pronunciation(lexicon.pronunciations[word][0]) for word in lexicon.words("train", salt=salt)]
    groups, shorter = [], 0
    for width, batch in WIDTHS.items():
        members = [row for row in rows if shorter < len(row) <= width]
        groups.append(({"ids": padded(members, width, PHONEME_PAD)}, batch))
        shorter = width
    return groups


if __name__ == "__main__":
    main()
