"""Pairs from files, or from any Python iterable. Knows nothing of tokenizers and models."""

import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..._quoting import printable
from .files import check_format, entries, format_of
from .judge import Judge, said_of_unread
from .records import BadRecord, Found, OnBad, Pairs, Record, settle

_logger = logging.getLogger("encdec_eqx")


def read_pairs(
    paths: str | os.PathLike | Iterable[str | os.PathLike],
    *,
    source: str = "source",
    target: str = "target",
    format: str | None = None,
    encoding: str | None = None,
    on_bad: OnBad = "error",
) -> Pairs:
    """Read pairs of source and target from JSON Lines, a JSON array, CSV, TSV or Parquet; text also compressed.

    A record is text under two names (the target may be a list of accepted texts), or ids that were made earlier, under
    `input_ids` and `labels`, with what goes with them (`attention_mask`, ...; see `Example`). Of texts inside another
    mapping the name has a dot: "translation.en"; inside "translation", "en" will do. Empty lines hold no record. CSV
    and TSV have the columns' names in their first line; in TSV quotes are letters. What else records hold is not used,
    which is logged.

    Args:
        paths: a file or several.
        source: the source's name.
        target: the target's name.
        format: "jsonl" (or a JSON array), "json" (the same), "csv", "tsv" or "parquet"; default: what each file's name
            says.
        encoding: of text files, such as "utf-16" or "cp1252"; default: what a mark (BOM) at the beginning says, else
            UTF-8.
        on_bad: what to do with records that cannot be used: "error" raises one error that lists the first ten with
            file and line, "report" goes on without them: counted and logged, and all in `bad`.

    Returns:
        The records, in order, and those that were put aside.

    Raises:
        BadRecordsError: there are bad records (a ValueError).
        FileNotFoundError: a file is not there.
        ImportError: a file is Parquet, and pyarrow is not installed.
        ValueError: no files, no records, an unknown format or encoding, a table without such columns, or a file that
            cannot be read, or not to its end; says which, and where.
    """
    files = [Path(path) for path in ([paths] if isinstance(paths, str | os.PathLike) else paths)]
    if not files:
        raise ValueError("there is nothing to read: no file was given.")
    for file in files:
        check_is_file(file)
    formats = [format or format_of(file) for file in files]
    for kind in formats:
        check_format(kind, encoding)
    judge = Judge(source, target)

    def read() -> Iterator[Record | BadRecord]:
        for file, kind in zip(files, formats, strict=True):
            for entry in entries(file, kind, (source, target), encoding, judge.unread):
                yield entry if isinstance(entry, BadRecord) else judge(entry, str(file))

    return _sorted(read(), judge, on_bad, what=", ".join(map(printable, files)))


def check_is_file(path: Path) -> None:
    """Raise where nothing can be read from a path.

    Raises:
        FileNotFoundError: nothing is there.
        IsADirectoryError: it is a folder.
        ValueError: it is a pipe or a device, which may never end.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{printable(path)} is a folder; expected a file, or a list of files.")
    if not path.exists():
        raise FileNotFoundError(f"there is no file {printable(path)!r} (looked from {Path.cwd()}).")
    if not path.is_file():
        raise ValueError(f"{printable(path)} is a pipe or a device; expected a file: write its content to one first.")


def pairs_from(
    iterable: Iterable[Any], *, source: str = "source", target: str = "target", on_bad: OnBad = "error"
) -> Pairs:
    """Pairs from a Python iterable: of pairs `(source, target)`, or of mappings as `read_pairs` reads.

    Args:
        iterable: what holds them; gone through once.
        source: the source's name in a mapping.
        target: the target's name in a mapping.
        on_bad: see `read_pairs`. The "line" of a record is its number, from 1.

    Raises:
        BadRecordsError: there are bad records (a ValueError).
        ValueError: there are no records.
    """
    judge = Judge(source, target)
    read = (judge(Found(number, raw), "<iterable>") for number, raw in enumerate(iterable, start=1))
    return _sorted(read, judge, on_bad, what="the iterable")


def _sorted(read: Iterable[Record | BadRecord], judge: Judge, on_bad: OnBad, *, what: str) -> Pairs:
    records: list[Record] = []
    bad: list[BadRecord] = []
    for one in read:
        (bad if isinstance(one, BadRecord) else records).append(one)  # pyright: ignore[reportArgumentType]
    settle(len(records), bad, on_bad)
    if not records:
        raise ValueError(f"there are no records in {what}.")
    if judge.unread:
        _logger.warning("%s", said_of_unread(judge.unread, len(records)))
    return Pairs(tuple(records), tuple(bad), tuple(judge.unread))
