"""What a described run would fail at later, looked at before anything is loaded: paths, and packages that it needs.

Knows paths by the names they have in the file; must not know what the files hold.
"""

import importlib.util
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from .._installing import install
from ..hf.files.hub import named_folder
from .data.files import check_format, format_of
from .job import DataSource, ModelSource, TrainJob
from .metrics.overlap import NEEDS
from .prepared import check_settings
from .reporting.output import Output
from .resume.arrays import check_installed


def check_job(job: TrainJob) -> None:
    """Raises where a run cannot come to its end.

    Raises:
        FileNotFoundError: A file or a folder that the job names is not there.
        ImportError: A package is missing.
        ValueError: Something is not of the kind it should be, or cannot be written to.
    """
    job.check()
    check_sources(job.model, job.data)
    check_settings(job.train, evaluates=job.data.validation_file is not None)
    check_installed()
    needed = {"matplotlib": "train"} | {NEEDS[name]: "eval" for name in job.train.metrics if name in NEEDS}
    for package, extra in needed.items():
        if importlib.util.find_spec(package) is None:
            raise ImportError(f"this run needs {package}, which is not installed: {install(extra)}")
    Output.check(job.train)


def check_sources(model: ModelSource, data: DataSource) -> None:
    """Raises where a model, a tokenizer or a file of records that is named is not there.

    Raises:
        FileNotFoundError: It is not there.
        ImportError: It must be fetched from the Hub, and the client is not installed.
        ValueError: It is a folder where a file is wanted, or the other way round.
    """
    for name, file in _named(data, ("train_file", "validation_file")):
        if not file.exists():
            raise FileNotFoundError(f"[data] {name}: there is no file {os.fspath(file)!r} (looked from {Path.cwd()}).")
        if file.is_dir():
            raise ValueError(f"[data] {name}: {file} is a folder; give a file of records.")
        with _naming(f"[data] {name}"):
            kind = format_of(file)
        with _naming("[data] encoding"):
            check_format(kind, data.encoding)
    for name in ("model_name_or_path", "encoder_name_or_path", "decoder_name_or_path"):
        if (path := getattr(model, name)) is not None:
            with _naming(f"[model] {name}"):
                named_folder(path)
    for name in ("source_tokenizer", "target_tokenizer"):
        path = getattr(model, name)
        if path is not None and not Path(path).is_file():
            with _naming(f"[model] {name}"):
                named_folder(path)


def _named(data: DataSource, names: Iterable[str]) -> Iterator[tuple[str, Path]]:
    for name in names:
        value: Any = getattr(data, name)
        for one in () if value is None else (value,) if isinstance(value, str | os.PathLike) else value:
            yield name, Path(one)


class _naming:  # noqa: N801 (a context manager, read like a function)
    """Puts the name of a setting in front of an error."""

    def __init__(self, name: str):
        self.name = name

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, ValueError | OSError | ImportError) and error.args:
            error.args = (f"{self.name}: {error.args[0]}",)
