"""Train the pronunciation model that the package ships, from nothing: both pieces, then the pair, on CMUdict.

    python examples/pronounce/train.py --output runs/pronounce
    python examples/pronounce/train.py --output runs/salted --salt "another split"

Some two hours on two CPU cores that do nothing else; stop it whenever you like, the same command goes on where it was.
A salt decides which words are held out, and nothing is kept from one salt to another: the pieces are pretrained on the
training words of that very split. `--output` then holds `letters/`, `phonemes/`, the runs of `fit` in `run1/` and
`run2/` (log, curve, checkpoints), and in `model/` the model in float16 with its tokenizers, which `score.py` reads. The
settings were chosen on the development split.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import pretrain_letters
import pretrain_phonemes
from data import records, tokenizer_pair

from encdec_eqx import EncoderDecoder
from encdec_eqx.demo.lexicon import SPLIT_SALT, fixed_sample
from encdec_eqx.training import TrainConfig, fit, leaving_at_ctrl_c

LETTERS = {"layers": 4, "width": 192, "steps": 500}
PHONEMES = {"layers": 3, "width": 192, "steps": 400}
DROPOUT = 0.1
STAGES = ((12.0, 6e-3), (8.0, 3e-3))
"""Passes over the words and the peak of the learning rate: trained, then trained again from a lower peak (a warm
restart, Loshchilov and Hutter 2017), which took the word error rate on the development words from 31.4 % to 29.3 %."""


def pieces(folder: Path, *, letters: dict[str, int], phonemes: dict[str, int], salt: str, seed: int) -> list[Path]:
    """The two pretrained pieces, made unless an earlier call has made them."""
    made = []
    for name, script, sizes in (("letters", pretrain_letters, letters), ("phonemes", pretrain_phonemes, phonemes)):
        if not (folder / name / "model.safetensors").is_file():
            print(f"pretraining {name}", flush=True)
            script.pretrain(**sizes, seed=seed, salt=salt).save_pretrained(folder / name)
        made.append(folder / name)
    return made


def joined(letters: Path, phonemes: Path, *, seed: int) -> EncoderDecoder:
    """The pair, with dropout; cross-attention is drawn from `seed`."""
    return EncoderDecoder.from_encoder_decoder_pretrained(
        letters,
        phonemes,
        key=jax.random.key(seed),
        encoder_hidden_dropout_prob=DROPOUT,
        decoder_resid_pdrop=DROPOUT,
        decoder_embd_pdrop=DROPOUT,
    )


def settings(folder: Path, *, epochs: float, learning_rate: float, seed: int) -> TrainConfig:
    """What was found best on the development split."""
    return TrainConfig(
        output_dir=folder,
        resume=folder.exists(),
        num_train_epochs=epochs,
        tokens_per_batch=6000,
        max_shapes=8,
        optim="muon",
        learning_rate=learning_rate,
        learning_rates={"embeddings | bias | norm": learning_rate / 2},
        adam_beta2=0.98,
        warmup_ratio=0.05,
        max_grad_norm=None,
        label_smoothing_factor=0.1,
        metrics=("ser", "per"),
        per_device_eval_batch_size=250,
        save_steps=200,
        logging_steps=50,
        seed=seed,
    )


def main(arguments: Sequence[str] | None = None) -> Path:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder for the pieces, the run and the model")
    parser.add_argument("--salt", default=SPLIT_SALT, help="of the hash that splits the words")
    parser.add_argument("--length", type=float, default=1.0, help="factor on the passes over the words of each stage")
    parser.add_argument("--dev-words", type=int, default=1000, help="words of an evaluation along the way")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    chosen.output.mkdir(parents=True, exist_ok=True)  # a wrong path fails here, not after the work

    folder, salt, seed = chosen.output, chosen.salt, chosen.seed
    letters, phonemes = pieces(folder, letters=LETTERS, phonemes=PHONEMES, salt=salt, seed=seed)
    dev = {one["source"]: one for one in records("dev", salt=salt)}
    model = joined(letters, phonemes, seed=seed)
    for stage, (epochs, rate) in enumerate(STAGES):
        result = fit(
            model,
            records("train", salt=salt),
            settings(folder / f"run{stage + 1}", epochs=chosen.length * epochs, learning_rate=rate, seed=seed + stage),
            eval_data=[dev[word] for word in fixed_sample(list(dev), chosen.dev_words)],
            tokenizers=tokenizer_pair(),
        )
        if result.ending == "interrupted":
            print(f"interrupted at step {result.step}; the same command goes on.", file=sys.stderr)
            raise SystemExit(130)
        model = result.model
    model.astype(jnp.float16).save_pretrained(folder / "model")
    tokenizer_pair().save(folder / "model")
    print(f"the model is in {folder / 'model'}; now: python examples/pronounce/score.py {folder / 'model'}")
    return folder / "model"


if __name__ == "__main__":
    with leaving_at_ctrl_c("interrupted"):
        main()
