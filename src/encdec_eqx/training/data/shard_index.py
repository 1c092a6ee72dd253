"""The index of one file of a stream: where each record begins and how long it is once encoded, kept on the disk.

It is made in one pass over the file, which also finds every record that cannot be used, and is read by mapping it into
memory. What has no way to a single record (Parquet, compressed files) is written out as plain lines beside it.
"""

import hashlib
import importlib.metadata
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..._quoting import printable
from ..._writing import remove, whole_folder
from ...text import TokenizerPair
from ...text.texts import cuts_not_reported
from .examples import EncodedRecords
from .formats import encoding_of, entries, entries_of_lines, format_of
from .opening import OPENERS, DamageError, open_file
from .pairs import RecordValidator
from .records import BadRecord, Entry, Record

ENTRY = np.dtype([("offset", "<u8"), ("source", "<u4"), ("target", "<u4")])
"""Of every record that can be used: its first byte, and its numbers of source ids and labels."""

_VERSION = 1
"""Of what is kept; another makes all indices anew."""
_PORTION = 1024
"""Records that are encoded at once while the index is made."""
_FACTS, _ENTRIES, _LINES = "facts.json", "entries.bin", "lines.jsonl"


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How records become ids: what `encode_pairs` is told, and the two names that records are read by.

    Attributes:
        source: name of the source.
        target: name of the target.
        tokenizers: of the model; None where records are ids.
        max_source_length: most source ids.
        max_target_length: most labels.
        vocab_sizes: the encoder's and the decoder's.
    """

    source: str
    target: str
    tokenizers: TokenizerPair | None
    max_source_length: int | None
    max_target_length: int | None
    vocab_sizes: tuple[int, int] | None

    def records(self, records: list[Record]) -> EncodedRecords:
        """Records encoded; nothing is logged."""
        with cuts_not_reported():
            return EncodedRecords.of(
                records,
                self.tokenizers,
                max_source_length=self.max_source_length,
                max_target_length=self.max_target_length,
                vocab_sizes=self.vocab_sizes,
            )

    def digest(self) -> str:
        """A few characters that change with anything that changes an id."""
        told = [self.source, self.target, self.max_source_length, self.max_target_length, self.vocab_sizes]
        if (pair := self.tokenizers) is not None:
            told += [importlib.metadata.version("tokenizers"), pair.source.to_str(), pair.target.to_str()]
            told += [repr(pair.target_form)]
        return _digest(told)


class Lines(NamedTuple):
    """The plain lines that a file's records are read from: its own, or those that were written out.

    Attributes:
        path: where they are.
        stamp: size and time of that file; another one is another file.
        aside: records that were found bad while they were written out.
        unread: names of what was not written out, and in how many records.
    """

    path: Path
    stamp: tuple[int, int]
    aside: tuple[BadRecord, ...] = ()
    unread: Mapping[str, int] = {}


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """One file, indexed.

    Attributes:
        file: the file, as it was named.
        lines: where its records are read from.
        entries: of every record its `ENTRY`; mapped into memory.
        digest: of all ids of all records.
        bad: what cannot be used.
        unread: names of what records hold besides, and in how many.
        fields: of what records hold beside ids and labels, by name: in how many it is, its least and greatest number.
        truncated: sources and targets that are cut.
    """

    file: Path
    lines: Lines
    entries: np.ndarray
    digest: str
    bad: tuple[BadRecord, ...]
    unread: Mapping[str, int]
    fields: Mapping[str, tuple[int, int, int]]
    truncated: tuple[int, int]

    @classmethod
    def of(cls, file: Path, encoding: Encoding, cache: Path) -> "ShardIndex":
        """The index of a file: the one that is kept, or a new one.

        Args:
            file: JSON Lines, perhaps compressed, or Parquet.
            encoding: how its records become ids.
            cache: the folder to keep it in.

        Raises:
            ImportError: the file is Parquet, and pyarrow is not installed.
            ValueError: it cannot be read, or not to its end, or holds no record.
        """
        stamp = stamp_of(file)
        key = _digest([_VERSION, str(file.resolve()), stamp, encoding.source, encoding.target])
        lines = _plain_lines(file, stamp, encoding, cache / f"{file.name}-{key}")
        kept = cache / f"{file.name}-{_digest([key, encoding.digest()])}"
        facts = _kept(kept, _ENTRIES, lambda folder: _make(file, lines, encoding, folder))
        return cls(
            file,
            lines,
            np.memmap(kept / _ENTRIES, ENTRY, mode="r") if facts["bytes"] else np.zeros(0, ENTRY),
            facts["digest"],
            tuple(BadRecord(*one) for one in facts["bad"]),
            facts["unread"],
            {name: tuple(numbers) for name, numbers in facts["fields"].items()},
            tuple(facts["truncated"]),
        )


def stamp_of(path: Path) -> tuple[int, int]:
    """The size and the time of a file."""
    there = path.stat()
    return there.st_size, there.st_mtime_ns


def _digest(told: Any) -> str:
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def _kept(kept: Path, name: str, make: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """What is known of a file that is kept in a folder; both are made where they are not there, or not whole.

    Args:
        kept: the folder, which appears whole. Where another process was faster, its folder stays.
        name: the file's name.
        make: fills a folder, and returns what is known.
    """
    facts = _whole(kept, name)
    if facts is None:
        remove(kept)
        try:
            with whole_folder(kept) as folder:
                _write_facts(folder / _FACTS, {**make(folder), **_sums(folder / name)})
        except OSError:
            if _whole(kept, name) is None:
                raise
        facts = _read_facts(kept / _FACTS)
    return facts


def _whole(kept: Path, name: str) -> dict[str, Any] | None:
    """What is known of a file that is kept; None if it is not there, or one of the two is damaged."""
    try:
        facts, sums = _read_facts(kept / _FACTS), _sums(kept / name)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return facts if sums.items() <= facts.items() else None


def _sums(path: Path) -> dict[str, Any]:
    """What a file is known again by. Lines, which may be many times as long as their index, by their size alone."""
    with path.open("rb") as file:
        whole = None if path.name == _LINES else hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": whole}


def _write_facts(path: Path, facts: dict[str, Any]) -> None:
    path.write_text(json.dumps({"facts": facts, "digest": _digest(facts)}), encoding="utf-8")


def _read_facts(path: Path) -> dict[str, Any]:
    """Raises ValueError where they are not what was written."""
    read = json.loads(path.read_text(encoding="utf-8"))
    if _digest(read["facts"]) != read["digest"]:
        raise ValueError("they were changed")
    return read["facts"]


# plain lines


def _plain_lines(file: Path, stamp: tuple[int, int], encoding: Encoding, kept: Path) -> Lines:
    """The lines of a file, written out where there is no way to a single record of it."""
    if format_of(file) == "jsonl" and file.suffix not in OPENERS:
        return Lines(file, stamp)
    write = _write_out_parquet if format_of(file) == "parquet" else _decompress
    facts = _kept(kept, _LINES, lambda folder: write(file, encoding, folder / _LINES))
    path = kept / _LINES
    return Lines(path, stamp_of(path), tuple(BadRecord(*one) for one in facts["bad"]), facts["unread"])


def _decompress(file: Path, encoding: Encoding, path: Path) -> dict[str, Any]:
    try:
        with open_file(file) as packed, path.open("wb") as plain:
            shutil.copyfileobj(packed, plain)
    except DamageError as error:
        raise ValueError(
            f"{printable(file)} is damaged: {printable(str(error), 300)}. Copy or download it again."
        ) from None
    return {"bad": [], "unread": {}}


def _write_out_parquet(file: Path, encoding: Encoding, path: Path) -> dict[str, Any]:
    """One line for every row; that of a bad one is empty, so that numbers of lines are those of records."""
    unread: dict[str, int] = {}
    bad: list[BadRecord] = []
    validator = RecordValidator(encoding.source, encoding.target)
    with path.open("w", encoding="utf-8", newline="\n") as lines:
        for entry in entries(file, "parquet", (encoding.source, encoding.target), None, unread):
            read = entry if isinstance(entry, BadRecord) else validator(entry, str(file))
            if isinstance(read, BadRecord):
                bad.append(read)
            else:
                assert not isinstance(entry, BadRecord)
                # a column beside the ids may hold what JSON has no word for
                lines.write(json.dumps(entry.value, ensure_ascii=False, default=repr))
            lines.write("\n")
    return {"bad": bad, "unread": unread}


# the pass over the lines


class _Numbered:
    """The numbered lines of a file, and where the last that was given out begins."""

    def __init__(self, path: Path):
        self.begins = 0
        self._path = path

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        end = 0
        with self._path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                self.begins, end = end, end + len(line)
                yield number, line


@dataclass
class _Told:
    """What the pass has found so far."""

    bad: list[BadRecord] = field(default_factory=list)
    fields: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    truncated: tuple[int, int] = (0, 0)

    def add(self, encoded: EncodedRecords) -> np.ndarray:
        """Count a portion of records; returns the `ENTRY`s of those that can be used, without offsets."""
        for at in encoded.kept:
            for name, row in encoded.fields(at).items():
                number, least, most = self.fields.get(name, (0, int(row[0]), int(row[0])))
                self.fields[name] = (number + 1, min(least, int(row.min())), max(most, int(row.max())))
        cut = encoded.truncated
        self.truncated = (self.truncated[0] + cut[0], self.truncated[1] + cut[1])
        self.bad += encoded.bad
        made = np.zeros(len(encoded.kept), ENTRY)
        made["source"], made["target"] = encoded.lengths
        return made


def _make(file: Path, lines: Lines, encoding: Encoding, folder: Path) -> dict[str, Any]:
    """Write the index of a file into a folder; returns what else is known of the file."""
    _check_lines(file, lines.path)
    hashed, told, validator = hashlib.sha256(), _Told(), RecordValidator(encoding.source, encoding.target)
    with (folder / _ENTRIES).open("wb") as out:
        for records, offsets in _portions(file, lines.path, validator, told.bad):
            encoded = encoding.records(records)
            made = told.add(encoded)
            made["offset"] = np.array(offsets, np.uint64)[encoded.kept]
            out.write(made.tobytes())
            for row in encoded.arrays():
                hashed.update(len(row).to_bytes(4, "little"))
                hashed.update(row.tobytes())
    if stamp_of(lines.path) != lines.stamp:
        raise ValueError(f"{printable(file)} was changed while it was read: wait until it is whole, and start again.")
    bad = sorted((*lines.aside, *told.bad), key=lambda one: one.line)
    return {
        "digest": hashed.hexdigest(),
        "bad": bad,
        "unread": {**validator.unread, **lines.unread},
        "fields": told.fields,
        "truncated": told.truncated,
    }


def _check_lines(file: Path, path: Path) -> None:
    """Raise where a file's bytes are no lines of UTF-8, each with a record of its own."""
    with path.open("rb") as lines:
        encoding = encoding_of(file, lines.read(4), None)
        lines.seek(0)
        if encoding not in ("utf-8", "utf-8-sig"):
            raise ValueError(
                f"{printable(file)} is {encoding}; a stream reads UTF-8: convert it, or read it whole, without "
                "streaming."
            )
        first = next((line for line in lines if line.strip()), None)
    if first is None:
        raise ValueError(
            f"{printable(file)} holds no record. If its writing or its download broke off, do that again; else leave "
            "it out."
        )
    if first.lstrip(b"\xef\xbb\xbf \t").startswith(b"[") and not _is_whole(first):
        raise ValueError(
            f"{printable(file)} is a JSON array; a stream reads one record a line: write it so, or read it whole, "
            "without streaming."
        )


def _is_whole(line: bytes) -> bool:
    """Whether a line that opens a bracket closes it: then it is a record, if a bad one perhaps."""
    return line.rstrip().endswith(b"]")


def _portions(
    file: Path, path: Path, validator: RecordValidator, bad: list[BadRecord]
) -> Iterator[tuple[list[Record], list[int]]]:
    """The valid records of a file with their offsets, so many at once; the others go to `bad`."""
    records: list[Record] = []
    offsets: list[int] = []
    numbered = _Numbered(path)
    for entry in entries_of_lines(file, numbered):
        read = validated(entry, file, validator)
        if isinstance(read, BadRecord):
            bad.append(read)
            continue
        records.append(read)
        offsets.append(numbered.begins)
        if len(records) == _PORTION:
            yield records, offsets
            records, offsets = [], []
    if records:
        yield records, offsets


def validated(entry: Entry, file: os.PathLike, validator: RecordValidator) -> Record | BadRecord:
    """An entry as a record, or why it is none."""
    return entry if isinstance(entry, BadRecord) else validator(entry, str(file))
