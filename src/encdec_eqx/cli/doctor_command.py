"""`encdec-eqx doctor`: the diagnosis of a saved pair, or of a run that a TOML file describes."""

import argparse
from pathlib import Path

from .arguments import above_zero, needed

DESCRIPTION = (
    "Looks at a saved pair, or at the run that a TOML file for 'train' describes, and says what is "
    "wrong and how to fix it. Exit status 1 if something is."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("path", help="folder or Hub id of a saved pair, or a TOML file as for 'train'")
    parser.add_argument(
        "--data",
        type=Path,
        action="append",
        metavar="FILE",
        help="pairs to look at: JSONL, JSON, CSV, TSV or Parquet; may be given several times",
    )
    parser.add_argument("--source-column", metavar="NAME", help="name of the source in each record")
    parser.add_argument("--target-column", metavar="NAME", help="name of the target in each record")
    parser.add_argument(
        "--learning-rate", type=above_zero, metavar="RATE", help="highest rate of the schedule, to be tried"
    )


def run(chosen: argparse.Namespace) -> int:
    """Look; 1 if something is wrong."""
    needed("rich", "train")
    from ..doctor.command import run_doctor

    return run_doctor(
        chosen.path,
        data=chosen.data[0] if chosen.data and len(chosen.data) == 1 else chosen.data,
        source_column=chosen.source_column,
        target_column=chosen.target_column,
        learning_rate=chosen.learning_rate,
    )
