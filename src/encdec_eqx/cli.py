"""The command `encdec-eqx`: reads arguments, calls what does the work, turns known errors into one line.

The parts are imported when they are asked for, so that `--help` is quick.
"""

import argparse
import contextlib
import importlib
import importlib.util
import itertools
import logging
import math
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

_DEFAULT_OUTPUT = Path("encdec-eqx-demo")
_INTERRUPTED = 3
_AT_CTRL_C = "encdec-eqx: interrupted; nothing was saved after the last message."
_MOST_STEPS = 10**9 - 1
_MOST_SEED = 2**32 - 1  # as in training: what NumPy and jax both take


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: the words after the command's name; default those of the process.

    Returns:
        The exit status: 0, or 1 after an error that is the caller's to fix (argparse itself exits with 2).
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words[:1] == ["train"]:
            return _patient(_train, words[1:])
        chosen = _parser().parse_args(words)
        return _patient(chosen.run, chosen)
    except BrokenPipeError:  # whoever read the output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (ValueError, TypeError, ImportError, OSError, FloatingPointError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not type(error).__module__.startswith("encdec_eqx."):
            raise  # not one of ours: a trace says more
        print(f"encdec-eqx: {_printable(_sentence(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(_AT_CTRL_C, file=sys.stderr)
        return 130


def _patient(run: Callable[[Any], int], argument: Any) -> int:
    from ._signals import leaving_at_ctrl_c

    with leaving_at_ctrl_c(_AT_CTRL_C):
        return run(argument)


def _printable(text: str) -> str:
    """The lines of a message, without characters that a terminal would obey: names of files may hold any."""
    from ._quoting import printable

    return "\n".join(printable(line) for line in text.split("\n"))


def _sentence(error: BaseException) -> str:
    """What an error says; of one that comes from the system, without its number."""
    if isinstance(error, OSError) and error.errno is not None:
        return f"{error.strerror}." if error.filename is None else f"{error.filename}: {error.strerror}."
    return str(error)


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
        help="only pronounce these words (letters and apostrophes, separated by spaces), with the package's own model, "
        "trained to the end, or with that of an earlier demo in --output",
    )
    demo.add_argument(
        "--output", type=Path, metavar="FOLDER", help=f"where the model is saved (default: ./{_DEFAULT_OUTPUT})"
    )
    demo.add_argument(
        "--cold",
        action="store_true",
        help="start from random pieces instead, all else equal: what the pretraining is worth",
    )
    demo.add_argument(
        "--steps", type=_whole_number(1, _MOST_STEPS), metavar="N", help="training steps, instead of the recipe's"
    )
    demo.add_argument(
        "--seed",
        type=_whole_number(0, _MOST_SEED),
        metavar="N",
        help="draws whatever is new, and the order of the words (default: 0)",
    )
    demo.set_defaults(run=_demo)
    doctor = commands.add_parser(
        "doctor",
        help="look for what breaks training: special tokens, labels, masks, dead attention, learning rate, ...",
        description="Looks at a saved pair, or at the run that a TOML file for 'train' describes, and says what is "
        "wrong and how to fix it. Exit status 1 if something is.",
    )
    doctor.add_argument("path", help="folder or Hub id of a saved pair, or a TOML file as for 'train'")
    doctor.add_argument(
        "--data",
        type=Path,
        action="append",
        metavar="FILE",
        help="pairs to look at: JSONL, JSON, CSV, TSV or Parquet; may be given several times",
    )
    doctor.add_argument("--source-column", metavar="NAME", help="name of the source in each record")
    doctor.add_argument("--target-column", metavar="NAME", help="name of the target in each record")
    doctor.add_argument(
        "--learning-rate", type=_above_zero, metavar="RATE", help="highest rate of the schedule, to be tried"
    )
    doctor.set_defaults(run=_doctor)
    # its options are made from the settings' own definition, see `_train`
    commands.add_parser(
        "train", help="fine-tune a pair: encdec-eqx train config.toml (encdec-eqx train --help shows every option)"
    )
    return parser


def _train(words: Sequence[str]) -> int:
    """Fine-tune as a TOML file and options say; an option wins over the file.

    Exit status 0; 3 after SIGTERM or Ctrl-C, when a checkpoint was saved and `--resume` goes on.
    """
    tyro = _needed("tyro", "train")
    _needed("rich", "train")
    from .training.callbacks import summary_lines
    from .training.job import TrainJob, giving_way, read_job
    from .training.run_job import run_job

    file = words[0] if words and not words[0].startswith("-") else None
    job = TrainJob() if file is None else giving_way(read_job(file), _options_given(words[1:]))
    job = tyro.cli(
        TrainJob,
        prog="encdec-eqx train [CONFIG.toml]",
        description="Fine-tunes an encoder-decoder pair. CONFIG.toml has the tables [model], [data] and [train], whose "
        "names are those of the options below; an option wins over the file.",
        args=list(words[1:] if file is not None else words),
        default=job,
        config=(tyro.conf.OmitArgPrefixes,),
    )
    result = run_job(job)
    if result.ending == "interrupted":
        print(f"encdec-eqx: interrupted; step {result.step} is saved, and --resume goes on from it.", file=sys.stderr)
        return _INTERRUPTED
    for line in summary_lines(result):
        print(line)
    return 0


def _doctor(chosen: argparse.Namespace) -> int:
    _needed("rich", "train")
    from .doctor.command import run_doctor

    return run_doctor(
        chosen.path,
        data=chosen.data[0] if chosen.data and len(chosen.data) == 1 else chosen.data,
        source_column=chosen.source_column,
        target_column=chosen.target_column,
        learning_rate=chosen.learning_rate,
    )


def _needed(package: str, extra: str) -> Any:
    """An optional package, or an ImportError that says how to install it."""
    if importlib.util.find_spec(package) is None:
        from ._installing import install

        raise ImportError(f"{package} is not installed, which this command needs: {install(extra)}")
    return importlib.import_module(package)


def _demo(chosen: argparse.Namespace) -> int:
    _needed("rich", "demo")
    from rich.console import Console

    with _load_reports_unsaid():
        return (_run_demo if chosen.words is None else _say_words)(chosen, Console())


def _run_demo(chosen: argparse.Namespace, console: "Console") -> int:
    from ._writing import check_writable
    from .demo.run import Recipe, run_demo

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
        from ._installing import install

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
    return f"{shlex.quote(sys.executable)} -m encdec_eqx.cli"


def _say_words(chosen: argparse.Namespace, console: "Console") -> int:
    from .demo.run import say_words

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


def _options_given(words: Sequence[str]) -> set[str]:
    """Names of the options that have a value among the words, as the settings' fields spell them."""
    given = set()
    for word, following in itertools.zip_longest(words, words[1:], fillvalue=""):
        name, equals, value = word.partition("=")
        if name.startswith("--") and (value if equals else following) != "None":
            given.add(name.removeprefix("--").replace("-", "_"))
    return given


def _whole_number(least: int, most: int) -> Callable[[str], int]:
    """What reads the number; argparse puts the option's name in front of the message."""

    def read(text: str) -> int:
        # the length first: Python does not read thousands of digits
        if not (text.isascii() and text.isdigit() and len(text) <= len(str(most)) and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number from {least} to {most}")
        return int(text)

    return read


def _above_zero(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a finite number greater than 0")


if __name__ == "__main__":
    sys.exit(main())
