"""The command `encdec-eqx`: reads arguments, calls what does the work, turns known errors into one line.

Knows the parts by name only and imports them when they are asked for, so that `--help` is quick.
"""

import argparse
import importlib.util
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

_DEFAULT_OUTPUT = Path("encdec-eqx-demo")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: the words after the command's name; default those of the process.

    Returns:
        The exit status: 0, or 1 after an error that is the caller's to mend (argparse itself exits with 2).
    """
    chosen = _parser().parse_args(arguments)
    try:
        return chosen.run(chosen)
    except (ValueError, OSError) as error:
        print(f"encdec-eqx: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("encdec-eqx: interrupted; nothing was saved after the last message.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="encdec-eqx",
        description="Encoder-decoder models on JAX and Equinox: any pretrained encoder, any pretrained decoder.",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    demo = commands.add_parser(
        "demo",
        help="join two small pretrained pieces, fine-tune them on English pronunciation, score, save and reload",
        description="Joins a character BERT and a phoneme GPT-2, fine-tunes the pair for a minute on CMUdict, "
        "pronounces words it has never seen, saves the model in Hugging Face's format and loads it back. Offline, in "
        "under two minutes on two CPU cores.",
    )
    demo.add_argument(
        "--words",
        metavar="WORDS",
        help="pronounce these words (letters and apostrophes, separated by spaces) with the model in --output; "
        "if there is none, the demo runs first",
    )
    demo.add_argument(
        "--output",
        type=Path,
        default=_DEFAULT_OUTPUT,
        metavar="FOLDER",
        help="where the model is saved (default: ./%(default)s)",
    )
    demo.add_argument(
        "--cold",
        action="store_true",
        help="start from random pieces instead, all else equal: what the pretraining is worth",
    )
    demo.add_argument("--steps", type=_at_least_one, metavar="N", help="training steps, instead of the recipe's")
    demo.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="draws whatever is new, and the order of the words (default: %(default)s)",
    )
    demo.set_defaults(run=_demo)
    return parser


def _demo(chosen: argparse.Namespace) -> int:
    if importlib.util.find_spec("rich") is None:
        raise ValueError("the demo draws with rich, which is not installed: pip install 'encdec-eqx[demo]'")
    from rich.console import Console

    from .demo.recipe import Recipe
    from .demo.run import run_demo, say_words

    logging.getLogger("encdec_eqx").setLevel(logging.ERROR)  # the demo prints the load reports itself
    defaults = Recipe()
    recipe = Recipe(seed=chosen.seed, steps=chosen.steps or defaults.steps)
    console = Console()
    if chosen.words is not None:
        if chosen.cold:
            raise ValueError(
                "--cold and --words do not go together: run the demo with --cold and another --output first, then "
                "--words with that --output"
            )
        say_words(chosen.words.split(), chosen.output, console=console, recipe=recipe)
        return 0
    result = run_demo(chosen.output, console=console, recipe=recipe, cold=chosen.cold, seed=chosen.seed)
    return 0 if result.reload_agrees else 1


def _at_least_one(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
