"""What pretrained pieces are worth: the same fine-tuning from pretrained and from random pieces, over several seeds.

    python examples/pronounce/warm_start.py --output runs/warm

Four starts: both pieces pretrained, the encoder alone, the decoder alone, neither. The pieces are the demo's (letters
and phonemes); cross-attention and projection are new in all four. Every run takes the same steps over the same words
with the same settings; a seed draws what is random and the order of the words. Runs that are done are not repeated, so
the command may be stopped and given again. Writes `warm_start.png` and `warm_start.json` into `--output`.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data import records, tokenizer_pair

from encdec_eqx import EncoderDecoder
from encdec_eqx.demo.lexicon import fixed_sample
from encdec_eqx.demo.pieces import join, load_pieces, random_pieces
from encdec_eqx.plotting import compare_curves
from encdec_eqx.training import TrainConfig, fit, leaving_at_ctrl_c
from encdec_eqx.training.reporting.log import read_log

STARTS = {
    "both pretrained": (True, True),
    "encoder pretrained": (True, False),
    "decoder pretrained": (False, True),
    "both random": (False, False),
}


def start(encoder_pretrained: bool, decoder_pretrained: bool, *, seed: int) -> EncoderDecoder:
    """A pair of the demo's pieces, each pretrained or random."""
    pretrained, random = load_pieces(seed=seed), random_pieces(seed=seed)
    encoder = (pretrained if encoder_pretrained else random)[0]
    decoder = (pretrained if decoder_pretrained else random)[1]
    return join(encoder, decoder, seed=seed)


def settings(folder: Path, *, steps: int, eval_steps: int, seed: int) -> TrainConfig:
    """Those of the demo: a third of a pass over the words, without dropout."""
    return TrainConfig(
        output_dir=folder,
        resume=folder.exists(),
        max_steps=steps,
        tokens_per_batch=2800,
        max_shapes=4,
        optim="muon",
        learning_rate=6e-3,
        learning_rates={"embeddings | bias | norm": 3e-3},
        adam_beta2=0.98,
        warmup_ratio=0.05,
        max_grad_norm=None,
        metrics=("per", "ser"),
        eval_steps=eval_steps,
        per_device_eval_batch_size=250,
        save_total_limit=1,
        seed=seed,
    )


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=280)
    parser.add_argument("--eval-steps", type=int, default=40)
    parser.add_argument("--train-words", type=int, help="only so many training words, a fixed sample")
    parser.add_argument("--dev-words", type=int, default=500)
    chosen = parser.parse_args(arguments)
    chosen.output.mkdir(parents=True, exist_ok=True)  # a wrong path fails here, not after the work

    train = sampled(records("train"), chosen.train_words)
    dev = sampled(records("dev"), chosen.dev_words)
    logs: dict[str, list] = {name: [] for name in STARTS}
    for seed in range(chosen.seeds):
        for name, pretrained in STARTS.items():
            folder = chosen.output / f"{name.replace(' ', '_')}_{seed}"
            if not (folder / "model").exists():
                config = settings(folder, steps=chosen.steps, eval_steps=chosen.eval_steps, seed=seed)
                model = start(*pretrained, seed=seed)
                result = fit(model, train, config, eval_data=dev, tokenizers=tokenizer_pair())
                if result.ending == "interrupted":
                    print(
                        f"interrupted at step {result.step} of {folder.name}; the same command goes on.",
                        file=sys.stderr,
                    )
                    raise SystemExit(130)
            logs[name].append(read_log(folder / "log.jsonl"))
    compare_curves(
        logs, chosen.output / "warm_start.png", field="per", label="phoneme error rate on development words (%)"
    )
    results = {name: summary(runs) for name, runs in logs.items()}
    (chosen.output / "warm_start.json").write_text(json.dumps(results, indent=2) + "\n")
    for name, rates in results.items():
        print(
            f"{name:20}" + "  ".join(f"{rate} {at['mean']:.2f} ± {at['deviation']:.2f} %" for rate, at in rates.items())
        )
    return results


def sampled(pairs: list[dict], number: int | None) -> list[dict]:
    """A fixed sample of the words, or all."""
    if number is None:
        return pairs
    chosen = set(fixed_sample([one["source"] for one in pairs], number))
    return [one for one in pairs if one["source"] in chosen]


def summary(runs: Sequence[Sequence[dict]]) -> dict[str, dict[str, float]]:
    """Mean and standard deviation of the last evaluations."""
    last = [[line for line in log if line["event"] == "eval"][-1] for log in runs]
    values = {rate: [line[rate] for line in last] for rate in ("per", "ser")}
    return {
        rate: {"mean": statistics.mean(of), "deviation": statistics.stdev(of) if len(of) > 1 else 0.0}
        for rate, of in values.items()
    }


if __name__ == "__main__":
    with leaving_at_ctrl_c("interrupted"):
        main()
