"""`encdec-eqx export`: a saved model's `generate` as a folder that runs where jax alone is installed."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import needed, whole_number

if TYPE_CHECKING:
    from ..encoder_decoder import EncoderDecoder

DESCRIPTION = (
    "Writes a call of generate as one StableHLO program, with its weights, its tokenizers and a script that runs it "
    "where jax alone is installed: python FOLDER/run.py. Sources, prompts, seeds, and fewer new tokens are up to each "
    "call; the other options of generation are fixed in the program."
)

_SIZE = whole_number(1, 2**20)
_SOURCE = 128


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    from .generation_options import add_generation_options

    parser.usage = "%(prog)s [options] MODEL FOLDER"
    parser.add_argument("model", metavar="MODEL", help="folder or Hub id of a saved pair")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where to write; made if it does not exist")
    parser.add_argument("--batch", type=_SIZE, default=1, metavar="N", help="sources at once (default: 1)")
    parser.add_argument(
        "--source",
        type=_SIZE,
        metavar="N",
        help="most tokens of a source (default: 128, or what the encoder has positions for)",
    )
    parser.add_argument(
        "--prompt", type=_SIZE, default=1, metavar="N", help="most tokens of a prompt, its start token among them"
    )
    parser.add_argument(
        "--platforms",
        default="cpu,cuda",
        metavar="NAMES",
        help="what it is to run on, of cpu, cuda, rocm and tpu; none need be here (default: cpu,cuda)",
    )
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="of the arrays")
    add_generation_options(parser)


def run(chosen: argparse.Namespace) -> int:
    """Export."""
    from .._quoting import printable
    from .._writing import check_writable
    from ..generation.source_and_prompt import longest_sequence
    from .generation_options import given_options, speaking_options

    with speaking_options():
        options = given_options(chosen)
        if "max_new_tokens" not in options:
            raise ValueError("--max-new-tokens is needed: the most that a call may ask for. Pass --max-new-tokens 64.")
        needed("flatbuffers", "export")
        check_writable(chosen.folder, "FOLDER")
        model, tokenizers = _load(chosen)
        manifest = model.export_generate(
            chosen.folder,
            chosen.batch,
            chosen.source or min(_SOURCE, longest_sequence(model.encoder.config)),
            options.pop("max_new_tokens"),
            prompt=chosen.prompt,
            platforms=chosen.platforms.split(","),
            tokenizers=tokenizers,
            **options,
        )
    size = sum(path.stat().st_size for path in chosen.folder.rglob("*") if path.is_file())
    search, platforms = manifest["search"], ", ".join(manifest["platforms"])
    print(f"{printable(chosen.folder)}: {search} search for {platforms}, {size:,} bytes")
    example = "'some text'" if tokenizers is not None else "--ids '5 6 7'"
    seed = " --seed 0" if any(one["name"] == "keys" for one in manifest["inputs"]) else ""
    print(f"run it with: python {printable(chosen.folder / 'run.py')}{seed} {example}")
    return 0


def _load(chosen: argparse.Namespace) -> "tuple[EncoderDecoder, Any]":
    """The model, and its tokenizers if it has some."""
    from ..encoder_decoder import EncoderDecoder
    from ..text import TextToText

    try:
        speaker = TextToText.from_pretrained(chosen.model, dtype=chosen.dtype)
    except FileNotFoundError:
        model = EncoderDecoder.from_pretrained(chosen.model, dtype=chosen.dtype)  # says what is not there
        print("no tokenizers were found: the program takes and gives token ids.")
        return model, None
    return speaker.model, speaker.tokenizers
