"""Which way to graft cross-attention: steps until a deciphering task is learned, over several seeds.

    python examples/grafting.py --output runs/grafting

A tiny GPT-2 is first pretrained as a language model, on sequences in which every symbol is followed by one of four. It
is then joined to a new encoder, with cross-attention that begins in each of the four ways, in every layer and in every
second, and the pair learns to write down the sequence of which the encoder reads a cipher, symbol by symbol. All
weights are trained, with the same settings; a seed draws what is new, the cipher and the sequences. Counted are the
steps until the loss on other sequences is at most `--target` (nats per symbol; without the source it is at best ln 4 =
1.39), looked at every tenth step. Writes `grafting.png` (every layer) and `grafting.json` into
`--output`.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from encdec_eqx import CrossAttention, Decoder, Encoder, EncoderDecoder, StackConfig, seq2seq_loss
from encdec_eqx.plotting import compare_curves

WAYS = [(init, every) for every in (1, 2) for init in ("random", "copy", "zero_gate", "merged")]
SYMBOLS, FOLLOWERS, LENGTH, START = 24, 4, 10, 24
SIZES = {"vocab_size": SYMBOLS + 1, "bos_token_id": START, "eos_token_id": START, "pad_token_id": START}
DECODER = {**SIZES, "model_type": "gpt2", "n_embd": 48, "n_layer": 4, "n_head": 4, "n_positions": LENGTH + 1}
DROPOUT_FREE = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "initializer_range": 0.1}
ENCODER = {**SIZES, "model_type": "bert", "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
ENCODER |= {"intermediate_size": 128, "max_position_embeddings": LENGTH, "initializer_range": 0.1}
ENCODER |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def sequences(rng: np.random.Generator, rows: int) -> np.ndarray:
    """Each symbol is followed by one of four, which are the same in all sequences."""
    follow = np.random.default_rng(0).permuted(np.tile(np.arange(SYMBOLS), (SYMBOLS, 1)), axis=1)[:, :FOLLOWERS]
    ids = np.empty((rows, LENGTH), np.int32)
    ids[:, 0] = rng.integers(0, SYMBOLS, rows)
    for at in range(1, LENGTH):
        ids[:, at] = follow[ids[:, at - 1], rng.integers(0, FOLLOWERS, rows)]
    return ids


def inputs_of(ids: Any) -> Any:
    """What a decoder is given to predict the symbols."""
    return jnp.concatenate([jnp.full((ids.shape[0], 1), START, jnp.int32), ids[:, :-1]], axis=1)


def loss_of(model: Any, source: Any, ids: Any) -> jax.Array:
    """Nats per symbol, of a pair, or of a decoder alone where there is no source."""
    logits = model(inputs_of(ids)).logits if source is None else model(source, inputs_of(ids)).logits
    total, weight = seq2seq_loss(logits, ids)
    return total / weight


class Trainer:
    """AdamW with a short warm-up; compiled once for all models of one kind."""

    def __init__(self, rate: float):
        self.optimizer = optax.adamw(optax.linear_schedule(0.0, rate, 20), b2=0.98, weight_decay=0.0)
        self._step, self._look = eqx.filter_jit(self._update), eqx.filter_jit(loss_of)

    def _update(self, model: Any, state: Any, source: Any, ids: Any) -> tuple[Any, Any]:
        updates, state = self.optimizer.update(eqx.filter_grad(loss_of)(model, source, ids), state, model)
        return eqx.apply_updates(model, updates), state

    def train(self, model: Any, data: Callable[[], Any], watched: Any, steps: int) -> tuple[Any, list[dict[str, Any]]]:
        """The model after as many steps, and the losses on the watched sequences, every tenth step."""
        state, log = self.optimizer.init(model), []
        for number in range(steps + 1):
            if number % 10 == 0:
                log.append({"event": "eval", "step": number, "loss": float(self._look(model, *watched))})
            if number < steps:
                model, state = self._step(model, state, *data())
        return model, log


def pretrained_decoder(steps: int) -> Decoder:
    """A language model of the sequences, without cross-attention."""
    rng = np.random.default_rng(1)
    config = StackConfig.from_hf({**DECODER, **DROPOUT_FREE, "is_decoder": True})
    decoder = Decoder.init(config, key=jax.random.key(0))
    watched = None, sequences(np.random.default_rng(2), 256)
    decoder, log = Trainer(3e-3).train(decoder, lambda: (None, sequences(rng, 32)), watched, steps)
    print(f"language model: {log[0]['loss']:.2f} nats per symbol, then {log[-1]['loss']:.2f}", flush=True)
    return decoder


def joined(decoder: Decoder, init: Any, every: int, *, seed: int) -> EncoderDecoder:
    """The language model behind a new encoder, in one of the ways."""
    keys = jax.random.split(jax.random.key(seed), 3)
    encoder = Encoder.init(StackConfig.from_hf(ENCODER), key=keys[0])
    grafted = decoder.with_cross_attention(CrossAttention(every=every, init=init), key=keys[1])
    return EncoderDecoder.from_pieces(encoder, grafted, key=keys[2])


def run(trainer: Trainer, decoder: Decoder, init: Any, every: int, *, seed: int, steps: int) -> list[dict[str, Any]]:
    """The log of one way and one seed."""
    rng = np.random.default_rng(100 + seed)
    cipher = rng.permutation(SYMBOLS).astype(np.int32)

    def data() -> tuple[np.ndarray, np.ndarray]:
        ids = sequences(rng, 32)
        return cipher[ids], ids

    watched = sequences(np.random.default_rng(3), 128)
    pair = joined(decoder, init, every, seed=seed)
    return trainer.train(pair, data, (cipher[watched], watched), steps)[1]


def steps_until(log: Sequence[dict[str, Any]], target: float) -> int | None:
    """The first step at which the loss is at most the target; None if it never is."""
    return next((line["step"] for line in log if line["loss"] <= target), None)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=140)
    parser.add_argument("--pretraining-steps", type=int, default=400)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--target", type=float, default=0.5)
    chosen = parser.parse_args(arguments)
    chosen.output.mkdir(parents=True, exist_ok=True)  # a wrong path fails here, not after the work

    decoder = pretrained_decoder(chosen.pretraining_steps)
    logs: dict[str, list] = {}
    for init, every in WAYS:
        start, trainer = time.process_time(), Trainer(chosen.learning_rate)
        runs = [run(trainer, decoder, init, every, seed=seed, steps=chosen.steps) for seed in range(chosen.seeds)]
        reached = [steps_until(log, chosen.target) for log in runs]
        print(f"{init}, every {every}: {reached}, {time.process_time() - start:.0f} s", flush=True)
        logs[f"{init}, every {every}"] = runs
    drawn = dict(list(logs.items())[:4])  # as many as can be told apart
    compare_curves(drawn, chosen.output / "grafting.png", label="loss on other sequences (nats per symbol)")
    results = {name: summary(runs, chosen.target) for name, runs in logs.items()}
    (chosen.output / "grafting.json").write_text(json.dumps(results, indent=2) + "\n")
    return results


def summary(runs: Sequence[Sequence[dict[str, Any]]], target: float) -> dict[str, Any]:
    """Steps to the target by seed, and the loss at the beginning and at the end."""
    first, last = ([log[at]["loss"] for log in runs] for at in (0, -1))
    return {
        "steps": [steps_until(log, target) for log in runs],
        "first_loss": statistics.mean(first),
        "last_loss": statistics.mean(last),
        "last_loss_deviation": statistics.stdev(last) if len(last) > 1 else 0.0,
    }


if __name__ == "__main__":
    main()
