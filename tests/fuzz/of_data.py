"""Damaged files of records, against naive readings of the same bytes: JSON Lines, JSON, CSV, TSV, Parquet, compressed.

The oracles are a few lines each and use none of the library's code.
"""

import bz2
import csv
import gzip
import io
import json
import lzma
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from judging import Attempt, attempt
from mutations import HOSTILE_TEXTS, Pairs, change_bytes, change_object, encoded, parsed, written

from encdec_eqx.training import read_pairs

Tell = Callable[[str], None]
Entry = tuple[str, tuple[str, ...]]
"""A source and its targets."""

TEXTS = (
    *("a", "word", "two words", "é漢字", 'with "quotes"', "comma, here", "tab\there", "line\nbreak", "cr\rhere", "=x"),
    *("'", '"', "  spaces  ", "\u2028", "\x1c", "0", "null", "\\", "#", "x" * 300),
)


def random_entries(rng: random.Random, *, plain: bool = False) -> list[Entry]:
    """Some records; plain ones have one target and no ends of lines."""

    def text() -> str:
        chosen = rng.choice(TEXTS) + str(rng.randrange(1_000))
        return "".join(c for c in chosen if c not in "\n\r\t\u2028\x1c") if plain else chosen

    return [
        (text(), tuple(text() for _ in range(1 if plain else rng.choice([1, 1, 1, 2]))))
        for _ in range(rng.choice([1, 3, 8, 20]))
    ]


def usable(value: Any) -> bool:
    """Whether a value is a text that a record may have."""
    if not isinstance(value, str) or not value.strip():
        return False
    return not any("\ud800" <= letter < "\ue000" for letter in value)


def entry_of(raw: Any, source: str = "source", target: str = "target") -> Entry | None:
    """A record of a raw value, or None."""
    if not isinstance(raw, dict) or source not in raw or target not in raw:
        return None
    targets = raw[target] if isinstance(raw[target], list) else [raw[target]]
    if not usable(raw[source]) or not targets or not all(map(usable, targets)):
        return None
    return raw[source], tuple(targets)


class DataFile:
    """A file of records, damaged in one way, read with `on_bad="report"` and with `on_bad="error"`."""

    suffix = ""

    def __init__(self, folder: Path):
        self.folder = folder

    def damaged(self, rng: random.Random) -> tuple[bytes, str]:
        """The file's bytes, and what was done."""
        raise NotImplementedError

    def wrong(self, data: bytes, found: list[tuple[int, Entry]], bad: list[int]) -> list[str]:
        """What is wrong about the records that were found, and the lines that were put aside."""
        raise NotImplementedError

    def refusal_is_right(self, data: bytes) -> bool:
        """Whether a file may be refused as a whole although bad records are only to be reported."""
        return True

    def __call__(self, rng: random.Random, tell: Tell) -> tuple[str, list[str]]:
        """One mutation."""
        data, what = self.damaged(rng)
        tell(what)
        folder = self.folder / "data"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        path = folder / f"pairs{self.suffix}"
        path.write_bytes(data)
        reported = self._read(path, "report")
        strict = self._read(path, "error")
        faults = reported.faults + strict.faults
        if reported.value is None:
            if strict.value is not None:
                faults.append("was refused with on_bad='report' and read with on_bad='error'")
            if not self.refusal_is_right(data):
                faults.append(f"was refused as a whole: {reported.error}")
            return "refused", faults
        pairs = reported.value
        if (strict.error is None) != (not pairs.bad):
            faults.append(f"{len(pairs.bad)} bad records reported, and on_bad='error' raised {strict.error!r:.200}")
        elif strict.value is not None and list(strict.value.records) != list(pairs.records):
            faults.append("on_bad='error' and on_bad='report' read other records")
        found = [(record.line, (record.source or "", record.targets)) for record in pairs.records]
        faults += self.wrong(data, found, [one.line for one in pairs.bad])
        return ("bad records" if pairs.bad else "read"), faults

    def _read(self, path: Path, on_bad: Any) -> Attempt:
        return attempt(lambda: read_pairs(path, on_bad=on_bad), names=[str(path)], unchanged=[self.folder])


class JsonLines(DataFile):
    """Lines of JSON: each stands or falls alone."""

    suffix = ".jsonl"

    def damaged(self, rng: random.Random) -> tuple[bytes, str]:
        entries = random_entries(rng)
        lines = [_json_line(rng, entry) for entry in entries]
        told = []
        for _ in range(rng.choice([1, 1, 2, 4])):
            at = rng.randrange(len(lines))
            lines[at], what = _changed_line(rng, lines[at])
            told.append(f"line {at + 1}: {what}")
        end = rng.choice([b"\n", b"\n", b"\n", b"\r\n"])
        data = end.join(lines) + rng.choice([b"", end, end + end])
        if rng.random() < 0.1:
            data, what = b"\xef\xbb\xbf" + data, "a byte order mark"
            told.append(what)
        return data, "; ".join(told)

    def wrong(self, data: bytes, found: list[tuple[int, Entry]], bad: list[int]) -> list[str]:
        expected, expected_bad = naive_json_lines(data)
        return _compared(expected, found) + _compared(expected_bad, bad, "bad lines")

    def refusal_is_right(self, data: bytes) -> bool:
        # zeros at the beginning are taken for UTF-16 without a mark
        return b"\0" in data[:100] or not naive_json_lines(data)[0]


def naive_json_lines(data: bytes) -> tuple[list[tuple[int, Entry]], list[int]]:
    """Records with their lines, and the lines that hold none, by one `json.loads` a line."""
    good, bad = [], []
    for line, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        try:
            text = raw.decode()
            if not text.strip():
                continue
            entry = entry_of(json.loads(text, object_pairs_hook=_each_once))
        except (ValueError, RecursionError):
            entry = None
        if entry is None:
            bad.append(line)
        else:
            good.append((line, entry))
    return good, bad


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key comes twice")
    return dict(pairs)


def _json_line(rng: random.Random, entry: Entry) -> bytes:
    targets = entry[1][0] if len(entry[1]) == 1 else list(entry[1])
    more = {"id": rng.randrange(99), "note": rng.choice(TEXTS)} if rng.random() < 0.3 else {}
    return json.dumps({"source": entry[0], "target": targets, **more}, ensure_ascii=rng.random() < 0.5).encode()


def _changed_line(rng: random.Random, line: bytes) -> tuple[bytes, str]:
    if rng.random() < 0.5:
        return change_bytes(rng, line)
    try:
        tree = parsed(line.decode())
    except (ValueError, RecursionError):
        return b"{}", "an empty object"
    if not isinstance(tree, Pairs):
        return b"[]", "an empty list"
    what = change_object(rng, tree)
    return encoded(written(tree)).replace(b"\n", b" "), what


class JsonArray(DataFile):
    """One array of records, over several lines or in one."""

    suffix = ".json"

    def damaged(self, rng: random.Random) -> tuple[bytes, str]:
        lines = [_json_line(rng, entry).decode() for entry in random_entries(rng)]
        tree = parsed("[" + ",".join(lines) + "]")
        told = "nothing"
        if rng.random() < 0.7:
            told = change_object(rng, rng.choice(tree))
        text = written(tree)
        if rng.random() < 0.5:
            text = "[\n" + ",\n".join(map(written, tree)) + "\n]"
        self.entries = list(map(entry_of, naive_array(encoded(text)) or []))
        if rng.random() < 0.3:
            return change_bytes(rng, encoded(text))
        return encoded(text) + rng.choice([b"", b"\n", b" \n\n"]), told

    def wrong(self, data: bytes, found: list[tuple[int, Entry]], bad: list[int]) -> list[str]:
        elements = naive_array(data)
        if elements is None:
            strange = [entry for _, entry in found if entry not in self.entries]
            return [f"read {strange[0]!r:.150} from what is no array"] if strange else []
        expected = [(number, entry_of(element)) for number, element in enumerate(elements, start=1)]
        good = [(number, entry) for number, entry in expected if entry is not None]
        return _compared(good, found) + _compared([n for n, entry in expected if entry is None], bad, "bad records")

    def refusal_is_right(self, data: bytes) -> bool:
        elements = naive_array(data)
        return elements is None or not any(map(entry_of, elements))


def naive_array(data: bytes) -> list[Any] | None:
    """The elements of an array, of which an object with a doubled key is none; None for what is no array."""
    text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    try:
        found = json.loads(text, object_pairs_hook=_once_or_none)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, list) else None


def _once_or_none(pairs: list[tuple[str, Any]]) -> dict[str, Any] | None:
    return dict(pairs) if len(dict(pairs)) == len(pairs) else None


class Table(DataFile):
    """CSV: quoted fields, which may hold ends of lines."""

    suffix = ".csv"

    def damaged(self, rng: random.Random) -> tuple[bytes, str]:
        entries = [(source, targets[:1]) for source, targets in random_entries(rng, plain=rng.random() < 0.5)]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator=rng.choice(["\n", "\r\n"]), quoting=rng.choice([0, 0, 1]))
        writer.writerow(["source", "target"])
        writer.writerows([source, targets[0]] for source, targets in entries)
        data = text.getvalue().encode()
        if rng.random() < 0.15:
            return b"\xef\xbb\xbf" + data, "a byte order mark"
        if rng.random() < 0.3:
            at = rng.randrange(len(data))
            new = rng.choice([b'"', b'""', b",", b"\n", b"\r", b"\0", b"\xff", b'"\n', b'x"y', b"x" * 140_000])
            return data[:at] + new + data[at:], f"inserted {new[:9]!r} at {at}"
        return change_bytes(rng, data, start=rng.choice([0, len("source,target\r\n")]))

    def wrong(self, data: bytes, found: list[tuple[int, Entry]], bad: list[int]) -> list[str]:
        expected, whole = naive_table(data)
        if whole:
            good = [(line, entry) for line, entry in expected if entry is not None]
            return _compared(good, found) + _compared(
                [line for line, entry in expected if entry is None], bad, "bad lines"
            )
        # up to the row that cannot be read, all is as it should be
        before = [(line, entry) for line, entry in expected if entry is not None]
        return _compared(before, found[: len(before)]) + ([] if bad else ["a row that is none was not reported"])

    def refusal_is_right(self, data: bytes) -> bool:
        return not any(entry for _, entry in naive_table(data)[0])


def naive_table(data: bytes) -> tuple[list[tuple[int, Entry | None]], bool]:
    """Rows with the lines they begin on, and whether every row could be read, by a strict `csv.reader`."""
    limit = csv.field_size_limit(2**31 - 1)
    found: list[tuple[int, Entry | None]] = []
    try:
        text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
        rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        names = next(filter(None, rows), [])
        while True:
            line = rows.line_num + 1
            try:
                row = next(rows)
            except StopIteration:
                return found, True
            if row:
                fits = len(row) == len(names) and {"source", "target"} <= set(names)
                found.append((line, entry_of(dict(zip(names, row, strict=True))) if fits else None))
    except csv.Error:
        return found, False
    finally:
        csv.field_size_limit(limit)


class Tabbed(DataFile):
    """TSV: tabs and ends of lines, and nothing else."""

    suffix = ".tsv"

    def damaged(self, rng: random.Random) -> tuple[bytes, str]:
        entries = random_entries(rng, plain=True)
        end = rng.choice(["\n", "\n", "\r\n"])
        data = "".join(f"{a}\t{b[0]}{end}" for a, b in [("source", ("target",)), *entries]).encode()
        if rng.random() < 0.3:
            at = rng.randrange(len(data))
            new = rng.choice([b'"', b"\t", b"\n", b"\r", b"\0", b"\xff", b"\xe2\x80\xa8", b"\x1c", b"x" * 140_000])
            return data[:at] + new + data[at:], f"inserted {new[:9]!r} at {at}"
        return change_bytes(rng, data, start=rng.choice([0, len("source\ttarget\r\n")]))

    def wrong(self, data: bytes, found: list[tuple[int, Entry]], bad: list[int]) -> list[str]:
        expected = naive_tabs(data)
        good = [(line, entry) for line, entry in expected if entry is not None]
        return _compared(good, found) + _compared([line for line, entry in expected if entry is None], bad, "bad lines")

    def refusal_is_right(self, data: bytes) -> bool:
        return not any(entry for _, entry in naive_tabs(data))


def naive_tabs(data: bytes) -> list[tuple[int, Entry | None]]:
    """Lines with what they hold, by splitting."""
    text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    first = next((at for at, line in enumerate(lines) if line), 0)
    names = lines[first].split("\t")
    found: list[tuple[int, Entry | None]] = []
    for number, line in enumerate(lines[first + 1 :], start=first + 2):
        row = line.split("\t")
        if line:
            fits = len(row) == len(names) and {"source", "target"} <= set(names)
            found.append((number, entry_of(dict(zip(names, row, strict=True))) if fits else None))
    return found


class Columns(DataFile):
    """Parquet, whose own library reads it: whatever it says must come with the file's name."""

    suffix = ".parquet"

    def damaged(self, rng: random.Random) -> tuple[bytes, str]:
        entries = random_entries(rng, plain=True)
        columns: dict[str, Any] = {"source": [a for a, _ in entries], "target": [b[0] for _, b in entries]}
        told = ""
        if rng.random() < 0.3:
            told = _changed_columns(rng, columns)
        out = io.BytesIO()
        codec = rng.choice(["none", "snappy", "gzip", "zstd"])
        pyarrow.parquet.write_table(pyarrow.table(columns), out, compression=codec, use_dictionary=rng.random() < 0.5)
        if told and rng.random() < 0.7:
            return out.getvalue(), told
        data, what = change_bytes(rng, out.getvalue(), start=rng.choice([0, 0, out.tell() - 200]))
        return data, f"{codec} {told} {what}"

    def wrong(self, data: bytes, found: list[tuple[int, Entry]], bad: list[int]) -> list[str]:
        rows = [line for line, _ in found] + bad
        unusable = [entry for _, entry in found if not (usable(entry[0]) and all(map(usable, entry[1])))]
        return _compared(sorted(set(rows)), sorted(rows), "rows") + [f"read {entry!r:.100}" for entry in unusable[:1]]


def _changed_columns(rng: random.Random, columns: dict[str, Any]) -> str:
    count, name = len(columns["source"]), rng.choice(["source", "target"])
    values = [None, 1, 2.5, True, b"\xff\xfe", ["a", "b"], [], {"en": "a"}, "", " "]
    what = rng.choice(["value", "all", "rename", "drop", "more", "null"])
    if what == "value":
        at, value = rng.randrange(count), rng.choice([None, "", " "])
        columns[name][at] = value
        return f"{name} {at} is {value!r}"
    if what == "rename":
        new = rng.choice(HOSTILE_TEXTS[:-4])
        columns[new] = columns.pop(name)
        return f"{name} is called {new!r}"
    if what == "drop":
        del columns[name]
        return f"no {name}"
    value = rng.choice(values)
    columns[{"all": name, "more": "more", "null": name}[what]] = [value if what != "null" else None] * count
    return f"{what} {name} {value!r}"


PACK = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


class Compressed(DataFile):
    """JSON Lines, CSV and TSV in gzip, bzip2 and xz: whole or refused."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        line = b'{"source": "' + b"a" * 2**27
        self.bombs = {suffix: pack(line) for suffix, pack in PACK.items()}
        self.whole: list[tuple[int, Entry]] = []

    def damaged(self, rng: random.Random) -> tuple[bytes, str]:
        entries = random_entries(rng, plain=True)
        packed = rng.choice(sorted(PACK))
        kind = rng.choice([".jsonl", ".csv", ".tsv"])
        self.suffix = kind + packed
        if kind == ".jsonl":
            data = b"".join(_json_line(rng, entry) + b"\n" for entry in entries)
            self.whole = list(enumerate(entries, start=1))
        else:
            text = io.StringIO()
            rows = [["source", "target"], *([a, b[0]] for a, b in entries)]
            if kind == ".csv":
                csv.writer(text).writerows(rows)
            else:
                text.write("".join("\t".join(row) + "\n" for row in rows))
            data = text.getvalue().encode()
            self.whole = list(enumerate(entries, start=2))
        if rng.random() < 0.02:
            self.whole = []
            return self.bombs[packed], f"a bomb in {packed}"
        content = PACK[packed](data)
        if rng.random() < 0.1:
            return content + rng.choice([b"\0" * 9, b"more", content[:-3]]), f"{self.suffix} with more behind"
        changed, what = change_bytes(rng, content)
        return changed, f"{self.suffix} {what}"

    def wrong(self, data: bytes, found: list[tuple[int, Entry]], bad: list[int]) -> list[str]:
        # a second stream may follow the first: the records of the first are there then
        return _compared(self.whole, found[: len(self.whole)])


def _compared(expected: list[Any], found: list[Any], what: str = "records") -> list[str]:
    if expected == found:
        return []
    pairs = zip([*expected, "nothing"], [*found, "nothing"], strict=False)
    one, other = next((pair for pair in pairs if pair[0] != pair[1]), ("the end", "the end"))
    return [f"{len(found)} {what} read, {len(expected)} are there: {other!r:.150} for {one!r:.150}"]


KINDS = {
    "jsonl": JsonLines,
    "json": JsonArray,
    "csv": Table,
    "tsv": Tabbed,
    "parquet": Columns,
    "compressed": Compressed,
}
