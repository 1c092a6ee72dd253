"""`encdec-eqx train`: a TOML file and options, which tyro makes from the settings' own definition."""

import argparse
import dataclasses
import itertools
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from .._signals import STATUS
from .arguments import needed

DESCRIPTION = (
    "Fine-tunes an encoder-decoder pair. CONFIG.toml has the tables [model], [data], [train] and [mesh], "
    "whose names are those of the options below; an option wins over the file. Several processes, on one machine or "
    "many, train together where each is started with --coordinator, --num-processes and --process-id."
)

_GIVEN_UP = 3
"""After SIGTERM: a scheduler wants the machine back."""


def run_words(words: Sequence[str]) -> int:
    """Fine-tune as a TOML file and options say; an option wins over the file.

    Exit status 0; 130 after Ctrl-C and 3 after SIGTERM, when a checkpoint was saved and `--resume` goes on; 4 where
    another of the processes that train together was lost.
    """
    tyro = needed("tyro", "train")
    needed("rich", "train")
    from .._processes import is_first
    from ..training.callbacks import summary_lines
    from ..training.cluster import Processes, joined
    from ..training.job import TrainJob, giving_way, read_job
    from ..training.run_job import run_job
    from ..training.toml import speaking_of_options

    command = _with_processes(TrainJob, Processes, tyro.conf.OmitArgPrefixes)
    file = words[0] if words and not words[0].startswith("-") else None
    given = _options_given(words[file is not None :])
    job = TrainJob() if file is None else giving_way(read_job(file), given)
    # a caller without a file has never heard of its tables
    with speaking_of_options({field.name for field in _settings(job)} if file is None else given):
        job = tyro.cli(
            command,
            prog="encdec-eqx train [CONFIG.toml]",
            description=DESCRIPTION,
            args=list(words[file is not None :]),
            default=command(**{field.name: getattr(job, field.name) for field in dataclasses.fields(job)}),
        )
        with joined(job.processes):
            result = run_job(job)
            speaks = is_first()
    if not speaks and result.ending != "interrupted":
        return 0
    if result.ending == "interrupted":
        print(f"encdec-eqx: interrupted; step {result.step} is saved, and --resume goes on from it.", file=sys.stderr)
        return STATUS if result.signal == "SIGINT" else _GIVEN_UP
    for line in summary_lines(result):
        print(line)
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options by their names, for completion; the command itself has tyro read its words."""
    from ..training.cluster import Processes
    from ..training.job import TrainJob

    parser.add_argument("config", nargs="?", metavar="CONFIG.toml")
    for field in (*_settings(TrainJob()), *dataclasses.fields(Processes)):
        switch: dict[str, Any] = {"action": argparse.BooleanOptionalAction} if field.type is bool else {}
        parser.add_argument(f"--{field.name.replace('_', '-')}", **switch)
    for field in dataclasses.fields(TrainJob().mesh):
        parser.add_argument(f"--mesh.{field.name}")


def _with_processes(job: Any, processes: Any, unprefixed: Any) -> Any:
    """A job and where it runs, as the command takes them: the file says nothing of processes, as all read the same.

    Options are called by the names of settings alone, but for the sizes of a mesh: `--mesh.data` is no file of data.
    """
    tables = (field for field in dataclasses.fields(job) if field.name != "mesh")
    fields: list[Any] = [(field.name, unprefixed[field.type]) for field in tables]
    fields.append(("processes", unprefixed[processes], dataclasses.field(default=processes())))
    return dataclasses.make_dataclass("Command", fields, bases=(job,), frozen=True, kw_only=True)


def _settings(job: Any) -> Iterator[dataclasses.Field]:
    for table in (job.model, job.data, job.train):
        yield from dataclasses.fields(table)


def _options_given(words: Sequence[str]) -> set[str]:
    """Names of the options that have a value among the words, as the settings' fields spell them."""
    given = set()
    for word, following in itertools.zip_longest(words, words[1:], fillvalue=""):
        name, equals, value = word.partition("=")
        if name.startswith("--") and (value if equals else following) != "None":
            given.add(name.removeprefix("--").replace("-", "_"))
    return given
