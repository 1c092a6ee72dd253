"""Pairs from files, or from any Python iterable. Knows nothing of tokenizers and models."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from .files import entries, format_of
from .judge import judged
from .records import BadRecord, OnBad, Pairs, Record, settle


def read_pairs(
    paths: str | os.PathLike | Iterable[str | os.PathLike],
    *,
    source: str = "source",
    target: str = "target",
    format: str | None = None,
    on_bad: OnBad = "error",
) -> Pairs:
    """Read pairs of source and target from JSON Lines, CSV, TSV or Parquet, compressed with gzip, xz or bzip2 or not.

    A record is text under two names (the target may be a list of accepted texts), or ids that were made earlier, under
    `input_ids` and `labels`. Empty lines hold no record. CSV and TSV have the columns' names in their first line; in
    TSV quotes are letters.

    Args:
        paths: a file or several.
        source: the source's name.
        target: the target's name.
        format: "jsonl", "csv", "tsv" or "parquet"; default: what each file's name says.
        on_bad: what to do with records that cannot be used: "error" raises one error that lists the first ten with
            file and line, "report" goes on without them: counted and logged, and all in `bad`.

    Returns:
        The records, in order, and those that were put aside.

    Raises:
        BadRecordsError: there are bad records (a ValueError).
        FileNotFoundError: a file is not there.
        ImportError: a file is Parquet, and pyarrow is not installed.
        ValueError: no files, no records, an unknown format, or a table without such columns.
    """
    files = [Path(path) for path in ([paths] if isinstance(paths, str | os.PathLike) else paths)]
    if not files:
        raise ValueError("there is nothing to read: no file was given.")
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"there is no file {os.fspath(file)!r} (looked from {Path.cwd()}).")
    formats = [format or format_of(file) for file in files]
    names = {"source": source, "target": target}

    def read() -> Iterator[Record | BadRecord]:
        for file, kind in zip(files, formats, strict=True):
            for entry in entries(file, kind, (source, target)):
                yield entry if isinstance(entry, BadRecord) else judged(entry[1], str(file), entry[0], **names)

    return _sorted(read(), on_bad, what=", ".join(map(str, files)))


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
    read = (judged(raw, "<iterable>", line, source=source, target=target) for line, raw in enumerate(iterable, start=1))
    return _sorted(read, on_bad, what="the iterable")


def _sorted(read: Iterable[Record | BadRecord], on_bad: OnBad, *, what: str) -> Pairs:
    records: list[Record] = []
    bad: list[BadRecord] = []
    for one in read:
        (bad if isinstance(one, BadRecord) else records).append(one)  # pyright: ignore[reportArgumentType]
    settle(len(records), bad, on_bad)
    if not records:
        raise ValueError(f"there are no records in {what}.")
    return Pairs(tuple(records), tuple(bad))
