"""Pairs that stay in their files: `stream_pairs` names them; examples are read and encoded when they are asked for."""

import glob
import hashlib
import importlib.util
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, overload

import numpy as np
from jaxtyping import Int, Integer

from ..._installing import install
from ..._quoting import listed, printable, quoted
from ..._writing import check_writable
from ...text import TokenizerPair
from .examples import Example, Examples
from .formats import entries_of_lines, format_of
from .opening import OPENERS
from .pairs import RecordValidator, check_is_file, unread_message
from .records import SOURCE_FIELDS, WHEN_ABSENT, BadRecord, OnBad, Ragged, Record, settle
from .shard_index import Encoding, ShardIndex, stamp_of, validated

_logger = logging.getLogger("encdec_eqx")

CACHE = ".encdec_eqx_streams"
"""Name of the folder beside the first file that indices are kept in, unless another is given."""

_FORMATS = ("jsonl", "parquet")
_MOST = 2**32 - 1
"""Records of a stream: what grain's shuffle counts to."""
_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class PairStream:
    """Files of pairs that are not held in memory; from `stream_pairs`.

    Attributes:
        files: the files, in order.
        source: the source's name in each record.
        target: the target's name.
        cache_dir: the folder that indices are kept in.
    """

    files: tuple[Path, ...]
    source: str
    target: str
    cache_dir: Path


def stream_pairs(
    paths: str | os.PathLike | Iterable[str | os.PathLike],
    *,
    source: str = "source",
    target: str = "target",
    cache_dir: str | os.PathLike | None = None,
) -> PairStream:
    """Name files of pairs to train on that need not fit in memory; `fit` takes what this returns as its data.

    The files (shards) are JSON Lines in UTF-8 or Parquet, with records as `read_pairs` reads them. Nothing is read yet.
    Before a run's first step each file is read and encoded once, for an index of 16 bytes a record, which is kept in
    `cache_dir` and used again until the file, the tokenizers or a length that cuts changes. Compressed files (`.gz`,
    `.xz`, `.bz2`) and Parquet are also written out there as plain lines, since a single record cannot be read out of
    them. While training, records are read and encoded in the background, shortly before their step.

    Args:
        paths: a file or several; names with `*`, `?` or `[...]` stand for all files that match, sorted.
        source: the source's name, as in `read_pairs`.
        target: the target's name.
        cache_dir: a folder for the indices; default: `.encdec_eqx_streams` beside the first file. Processes that share
            it share the indices; it may be removed when no run uses it.

    Raises:
        FileNotFoundError: a file is not there, or nothing matches.
        ImportError: grain is not installed.
        ValueError: a file is neither JSON Lines nor Parquet, they are of both formats, or one is named twice; or
            nothing can be written to `cache_dir`.
    """
    files = _found([paths] if isinstance(paths, str | os.PathLike) else paths)
    formats: dict[str, Path] = {}
    for file in files:
        check_is_file(file)
        kind = format_of(file)
        if kind not in _FORMATS:
            raise ValueError(
                f"{printable(file)} is {kind.upper()}; a stream reads JSON Lines (.jsonl, also {', '.join(OPENERS)}) "
                "and Parquet: write it as one of them, or read it whole, without streaming."
            )
        formats.setdefault(kind, file)
    if len(formats) > 1:
        one, other = formats.values()
        raise ValueError(
            f"{printable(one)} and {printable(other)} are of different formats, as where the same records lie there in "
            "both: name files of one format."
        )
    twice = [file for file, number in Counter(file.resolve() for file in files).items() if number > 1]
    if twice:
        raise ValueError(f"{printable(twice[0])} is named more than once: name every file once.")
    if importlib.util.find_spec("grain") is None:
        raise ImportError(f"streaming needs grain, which is not installed: {install('stream')}")
    folder = Path(cache_dir) if cache_dir is not None else files[0].parent / CACHE
    check_writable(folder, "cache_dir")
    return PairStream(files=tuple(files), source=source, target=target, cache_dir=folder)


def _found(paths: Iterable[str | os.PathLike]) -> list[Path]:
    """The files, names with a pattern replaced by what matches them."""
    files: list[Path] = []
    for path in paths:
        name = os.fspath(path)
        if not glob.has_magic(name) or Path(name).exists():
            files.append(Path(name))
            continue
        matches = glob.glob(name, recursive=True)  # noqa: PTH207 (Path.glob takes no absolute pattern)
        matching = sorted(one for one in matches if Path(one).is_file())
        if not matching:
            raise FileNotFoundError(f"no file matches {printable(name)!r} (looked from {Path.cwd()}).")
        files += map(Path, matching)
    if not files:
        raise ValueError("there is nothing to read: no file was given.")
    return files


def encode_stream(
    stream: PairStream,
    tokenizers: TokenizerPair | None = None,
    *,
    max_source_length: int | None = None,
    max_target_length: int | None = None,
    vocab_sizes: tuple[int, int] | None = None,
    on_bad: OnBad = "error",
) -> "StreamedExamples":
    """Index the files of a stream, unless they are, for examples that are encoded when they are asked for.

    They are those that `read_pairs` and `encode_pairs` would make of the same files, in the same order.

    Args:
        stream: from `stream_pairs`.
        tokenizers: from `TokenizerPair.for_model(model)`; not needed if all records are encoded.
        max_source_length: most source ids, special tokens included; what is longer is cut.
        max_target_length: most labels, EOS included.
        vocab_sizes: the encoder's and the decoder's: ids outside are bad records.
        on_bad: see `read_pairs`. All files are looked through before the first error.

    Raises:
        BadRecordsError: there are bad records (a ValueError).
        ImportError: a file is Parquet, and pyarrow is not installed.
        ValueError: a file cannot be read, or not to its end, or holds no record; an option is out of its range; there
            is text and no tokenizers; or some records have a field that cannot be filled in for the others.
    """
    encoding = Encoding(
        source=stream.source,
        target=stream.target,
        tokenizers=tokenizers,
        max_source_length=max_source_length,
        max_target_length=max_target_length,
        vocab_sizes=vocab_sizes,
    )
    shards = [ShardIndex.of(file, encoding, stream.cache_dir) for file in stream.files]
    examples = StreamedExamples(shards, encoding)
    settle(len(examples), examples.bad, on_bad)
    examples.check()
    for name, cut in (("source", examples.truncated_sources), ("target", examples.truncated_targets)):
        if cut:
            _logger.warning("%d of %d %ss are longer than their limit and are cut.", cut, len(examples), name)
    unread = Counter[str]()
    for shard in shards:
        unread.update(shard.unread)
    if unread:
        _logger.warning("%s", unread_message(unread, len(examples)))
    return examples


class StreamedExamples(Sequence[Example]):
    """Encoded examples in the order of their files, each read and encoded when it is asked for.

    Attributes:
        bad: records that were put aside.
        fields: what examples hold beside ids and labels: by name the least and the greatest number.
        truncated_sources: how many sources are cut.
        truncated_targets: how many targets are cut.
    """

    def __init__(self, shards: Sequence[ShardIndex], encoding: Encoding):
        self._shards = shards
        self._encoding = encoding
        self._starts = np.concatenate([[0], np.cumsum([len(shard.entries) for shard in shards])])
        self.bad: tuple[BadRecord, ...] = tuple(one for shard in shards for one in shard.bad)
        self.truncated_sources, self.truncated_targets = (sum(shard.truncated[at] for shard in shards) for at in (0, 1))
        self._counted: dict[str, int] = {}
        self.fields: dict[str, tuple[int, int]] = {}
        for shard in shards:
            for name, (number, least, most) in shard.fields.items():
                low, high = self.fields.get(name, (least, most))
                self.fields[name] = min(low, least), max(high, most)
                self._counted[name] = self._counted.get(name, 0) + number

    def check(self) -> None:
        """Raises ValueError where only some examples have what others cannot do without, or there are too many."""
        for name, number in self._counted.items():
            if number < len(self) and name not in WHEN_ABSENT:
                raise ValueError(
                    f"{number} of {len(self)} examples have {name!r} and the others do not: give it for all or for "
                    "none."
                )
        if len(self) > _MOST:
            raise ValueError(f"the stream has {len(self)} records, more than {_MOST}: train on a part of its files.")

    def __len__(self) -> int:
        return int(self._starts[-1])

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        at = range(len(self))[index]
        if isinstance(at, range):
            return list(self.encoded(np.array(at, np.int64)))
        return self.encoded(np.array([at]))[0]

    @property
    def files(self) -> tuple[Path, ...]:
        """Where they are."""
        return tuple(shard.file for shard in self._shards)

    @property
    def digest(self) -> str:
        """Changes with any id of any example; not with where the files lie."""
        return hashlib.sha256("".join(shard.digest for shard in self._shards).encode()).hexdigest()[:16]

    @property
    def longest_target(self) -> int:
        """The most labels of an example."""
        return max(int(targets.max()) for _, targets in self.lengths())

    def lengths(self) -> Iterator[tuple[Int[np.ndarray, " part"], Int[np.ndarray, " part"]]]:
        """Numbers of source ids and of labels, a part of the examples at a time, in order."""
        for shard in self._shards:
            for start in range(0, len(shard.entries), _PART):
                part = np.asarray(shard.entries[start : start + _PART])
                yield part["source"].astype(np.int64), part["target"].astype(np.int64)

    def encoded(self, indices: Integer[np.ndarray, " chosen"]) -> Examples:
        """Some examples, read and encoded now, in the order that was asked for.

        Raises:
            ValueError: a file was changed since it was indexed.
        """
        records: list[Record] = [None] * len(indices)  # pyright: ignore[reportAssignmentType]
        shard_of = np.searchsorted(self._starts, indices, side="right") - 1
        for number in np.unique(shard_of):
            chosen = np.flatnonzero(shard_of == number)
            entries = self._shards[number].entries[indices[chosen] - self._starts[number]]
            for at, record in zip(chosen, self._read(self._shards[number], entries), strict=True):
                records[at] = record
        encoded = self._encoding.records(records)
        for at, (index, number) in enumerate(zip(indices, shard_of, strict=True)):
            shard = self._shards[number]
            entry = shard.entries[index - self._starts[number]]
            if encoded.length_of(at) != (entry["source"], entry["target"]):
                raise _changed_error(shard, int(entry["offset"]), "its ids are others")
        return self._with_all_fields(encoded.examples())

    def _read(self, shard: ShardIndex, entries: np.ndarray) -> Iterator[Record]:
        """The records of a file that begin at some offsets."""
        validator = RecordValidator(self._encoding.source, self._encoding.target)
        with shard.lines.path.open("rb") as file:
            if stamp_of(shard.lines.path) != shard.lines.stamp:
                raise _changed_error(shard)
            offsets = entries["offset"].tolist()
            found = entries_of_lines(shard.file, enumerate(_lines_at(file, offsets)))
            for at, offset in enumerate(offsets):
                entry = next(found, None)
                read = None if entry is None else validated(entry, shard.file, validator)
                if read is None or read.line != at or isinstance(read, BadRecord):
                    reason = read.reason if isinstance(read, BadRecord) and read.line == at else "an empty line"
                    raise _changed_error(shard, offset, reason)
                yield read

    def _with_all_fields(self, examples: Examples) -> Examples:
        """With the fields that examples elsewhere in the stream have, so that all batches have the same."""
        for name in self.fields:
            if name not in examples.fields:
                beside = examples.inputs if name in SOURCE_FIELDS else examples.labels
                filled = np.full(len(beside.ids), WHEN_ABSENT[name], np.int32)
                examples.fields[name] = Ragged(filled, beside.offsets)
        return examples


def _lines_at(file: BinaryIO, offsets: Iterable[int]) -> Iterator[bytes]:
    """The lines that begin at some offsets."""
    for offset in offsets:
        file.seek(offset)
        yield file.readline()


_PART = 1 << 16
"""Lengths that are looked at together."""


def _changed_error(shard: ShardIndex, offset: int | None = None, now: str = "") -> ValueError:
    """A file is not what was indexed; says in which line, where that is known."""
    where = printable(shard.file)
    if offset is not None:
        with shard.lines.path.open("rb") as file:
            ends = sum(file.read(min(_PART, offset - at)).count(b"\n") for at in range(0, offset, _PART))
        where += f":{ends + 1}"
    return ValueError(
        f"{where} is not what it was when the run began{f' ({now})' if now else ''}: the file was changed meanwhile. "
        "Start the run again, which indexes it anew; a run that is resumed needs the same records as before."
    )


def check_not_streamed(data: object, name: str) -> None:
    """Raise where a stream is given for what is held in memory."""
    if isinstance(data, PairStream):
        names = listed([quoted(str(file)) for file in data.files], _SHOWN)
        raise ValueError(
            f"{name} is held in memory and cannot be a stream: give the files themselves, {name}=[{names}]."
        )


def fields_seen(examples: StreamedExamples) -> Mapping[str, np.ndarray]:
    """By name the least and greatest number that examples hold, in the form of a batch."""
    return {name: np.array([numbers], np.int32) for name, numbers in examples.fields.items()}
