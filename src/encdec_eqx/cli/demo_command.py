"""`encdec-eqx demo`: the demo, or words of the caller's own pronounced by a model that it made."""

import argparse
import contextlib
import importlib.util
import logging
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import needed, whole_number

if TYPE_CHECKING:
    from rich.console import Console

DESCRIPTION = (
    "Joins a character BERT and a phoneme GPT-2, fine-tunes the pair for a minute on CMUdict, "
    "pronounces words it has never seen, saves the model in Hugging Face's format and loads it back. Offline, in "
    "under two minutes on two CPU cores."
)

_DEFAULT_OUTPUT = Path("encdec-eqx-demo")
_MOST_STEPS = 10**9 - 1
_MOST_SEED = 2**32 - 1  # as in training: what NumPy and jax both take


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument(
        "--words",
        metavar="WORDS",
        help="only pronounce these words (letters and apostrophes, separated by spaces), with the package's own model, "
        "trained to the end, or with that of an earlier demo in --output",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help=f"where the model is saved (default: ./{_DEFAULT_OUTPUT})"
    )
    parser.add_argument(
        "--cold",
        action="store_true",
        help="start from random pieces instead, all else equal: what the pretraining is worth",
    )
    parser.add_argument(
        "--steps", type=whole_number(1, _MOST_STEPS), metavar="N", help="training steps, instead of the recipe's"
    )
    parser.add_argument(
        "--seed",
        type=whole_number(0, _MOST_SEED),
        metavar="N",
        help="draws whatever is new, and the order of the words (default: 0)",
    )


def run(chosen: argparse.Namespace) -> int:
    """Run the demo, or pronounce words."""
    needed("rich", "demo")
    from rich.console import Console

    with _load_reports_unsaid():
        return (_run_demo if chosen.words is None else _say_words)(chosen, Console())


def _run_demo(chosen: argparse.Namespace, console: "Console") -> int:
    from .._writing import check_writable
    from ..demo.run import Recipe, run_demo

    defaults = Recipe()
    recipe = Recipe(seed=chosen.seed or defaults.seed, steps=chosen.steps or defaults.steps)
    output = chosen.output or _DEFAULT_OUTPUT
    check_writable(output, "--output")
    result = run_demo(output, console=console, recipe=recipe, cold=chosen.cold, seed=recipe.seed)
    _say_what_is_next(output, console)
    return 0 if result.reload_agrees else 1


def _say_what_is_next(output: Path, console: "Console") -> None:
    """Commands that work as they are printed, in the shell and the folder that this one was typed in."""
    command, extra = _as_it_was_called(), ""
    if importlib.util.find_spec("tyro") is None:
        from .._installing import install

        extra = f"{install('train')}\n    "
    words = f'{command} demo --words "encoder decoder"'
    lines = {
        "pronounce words of your own with this model": f"{words} --output {shlex.quote(str(output))}",
        "the same with the package's own model, trained to the end": words,
        "see what the pretraining is worth": f"{command} demo --cold --output {shlex.quote(f'{output}-cold')}",
        "fine-tune a pair on data of your own (docs/fine_tuning.md)": f"{extra}{command} train --help",
    }
    console.print("\n[bold]What you can do next[/bold]")
    for what, typed in lines.items():
        console.print(f"  {what}:\n    {typed}", markup=False, highlight=False, soft_wrap=True)


def _as_it_was_called() -> str:
    """What to type to call this command again."""
    name = Path(sys.argv[0]).name
    if name == "encdec-eqx":
        found = shutil.which(name)
        is_found = found is not None and Path(found).resolve() == Path(sys.argv[0]).resolve()
        return name if is_found else shlex.quote(sys.argv[0])
    module = "encdec_eqx" if Path(sys.argv[0]).parent.name == "encdec_eqx" else "encdec_eqx.cli"
    return f"{shlex.quote(sys.executable)} -m {module}"


def _say_words(chosen: argparse.Namespace, console: "Console") -> int:
    from ..demo.run import say_words

    if chosen.cold:
        raise ValueError(
            "--cold and --words do not go together: run the demo with --cold and another --output first, then "
            "--words with that --output"
        )
    if chosen.steps is not None or chosen.seed is not None:
        raise ValueError("--steps and --seed are of the training, and --words only pronounces: leave one out")
    say_words(chosen.words.split(), chosen.output, console=console)
    return 0


@contextlib.contextmanager
def _load_reports_unsaid() -> Iterator[None]:
    """Within, the package's logger keeps load reports to itself: the demo prints them in its own place."""
    logger = logging.getLogger("encdec_eqx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
