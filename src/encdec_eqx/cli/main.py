"""The parser of `encdec-eqx`: its commands, its own options, and what becomes of an error.

A command is a line in `COMMANDS` and a file `<verb>_command.py` with its `DESCRIPTION`, `add_arguments(parser)` and
`run(chosen)`, which returns the exit status; one that has `run_words(words)` in its place reads all words behind its
name itself. What does the work is imported inside `run`, so that `--help` is quick.
"""

import argparse
import importlib
import importlib.metadata
import os
import platform
import signal
import sys
from collections.abc import Collection, Sequence
from types import ModuleType
from typing import Any

from .._signals import SAID_LAST, STATUS, leaving_at_ctrl_c
from .arguments import needed

COMMANDS = {
    "demo": "join two small pretrained pieces, fine-tune them on English pronunciation, score, save and reload",
    "train": "fine-tune a pair: encdec-eqx train config.toml (encdec-eqx train --help shows every option)",
    "doctor": "look for what breaks training: special tokens, labels, masks, dead attention, learning rate, ...",
    "generate": "texts in, texts out: of arguments, a file or a pipe, as lines or JSONL with scores",
    "serve": "answer requests over HTTP, and show a page to try a model with",
    "inspect": "what a checkpoint is, from its headers: architecture, sizes, special tokens, what loading it would do",
    "verify": "whether this device computes right numbers: against stored ones, or a model against torch, live",
    "convert": "another format, dtype or size of shards; a piece of a pair, a pair of two pieces",
    "export": "generate as one program, with a script that runs it where jax alone is installed",
}
"""Every command and its line of help."""

SHELLS = ("bash", "zsh", "tcsh")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: the words after the command's name; default those of the process.

    Returns:
        The exit status: 0, or 1 after an error that is the caller's to fix (argparse itself exits with 2). Ctrl-C ends
        the process with 130, whatever it is at; where the words are the process's own, its end cannot be interrupted.
    """
    with leaving_at_ctrl_c(SAID_LAST, at_exit=arguments is None):
        return _run(list(sys.argv[1:] if arguments is None else arguments))


def _run(words: list[str]) -> int:
    try:
        if words and words[0] in COMMANDS:
            return _run_command(words[0], words[1:])
        parser = make_parser()
        parser.parse_args(words)
        parser.print_help()  # called bare, to see what there is: nothing went wrong
        return 0
    except BrokenPipeError:  # whoever read the output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (ValueError, TypeError, ImportError, OSError, FloatingPointError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not type(error).__module__.startswith("encdec_eqx."):
            raise  # not one of ours: a trace says more
        print(f"encdec-eqx: {_printable(_sentence(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(SAID_LAST, file=sys.stderr)
        return STATUS


def make_parser(verbs: Collection[str] = ()) -> argparse.ArgumentParser:
    """The parser, with the arguments of some commands.

    Args:
        verbs: the commands; what others take is not looked up, as it may be made from definitions that import jax.
    """
    parser = argparse.ArgumentParser(
        prog="encdec-eqx",
        description="Encoder-decoder models on JAX and Equinox: any pretrained encoder, any pretrained decoder.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, help="show the versions of this, jax and Python, and exit")
    parser.add_argument(
        "--print-completion",
        action=_PrintCompletion,
        choices=SHELLS,
        help="write a shell's completion script to stdout, and exit; docs/commands.md says where it goes",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for verb, said in COMMANDS.items():
        command = commands.add_parser(verb, help=said)
        if verb in verbs:
            _module(verb).add_arguments(command)
    return parser


def _run_command(verb: str, words: Sequence[str]) -> int:
    module = _module(verb)
    if hasattr(module, "run_words"):
        return module.run_words(words)
    parser = argparse.ArgumentParser(prog=f"encdec-eqx {verb}", description=module.DESCRIPTION, allow_abbrev=False)
    module.add_arguments(parser)
    # options may stand anywhere among the other arguments
    return module.run(parser.parse_intermixed_args(words))


def _module(verb: str) -> ModuleType:
    return importlib.import_module(f".{verb}_command", __package__)


class _Version(argparse.Action):
    """`--version`; jax is asked for its number only, as importing it takes a second."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any):
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, **options)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from .. import __version__

        jax = importlib.metadata.version("jax")
        print(f"{parser.prog} {__version__} (jax {jax}, Python {platform.python_version()})")
        parser.exit()


class _PrintCompletion(argparse.Action):
    """`--print-completion SHELL`, by shtab."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, shell: Any, *_: Any) -> None:
        print(needed("shtab", "completion").complete(make_parser(COMMANDS), shell))
        parser.exit()


def _printable(text: str) -> str:
    """The lines of a message, without characters that a terminal would obey: names of files may hold any."""
    from .._quoting import printable

    return "\n".join(printable(line) for line in text.split("\n"))


def _sentence(error: BaseException) -> str:
    """What an error says; of one that comes from the system, without its number."""
    if isinstance(error, OSError) and error.errno is not None:
        return f"{error.strerror}." if error.filename is None else f"{error.filename}: {error.strerror}."
    return str(error)
