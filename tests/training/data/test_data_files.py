"""Data files as people have them: quotes that never close, encodings, arrays, translations, damage, endless numbers."""

import bz2
import csv
import gzip
import io
import itertools
import json
import logging
import lzma
import os
import random
import time
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from encdec_eqx.training.data import BadRecord, BadRecordsError, Pairs, pairs_from, read_pairs
from encdec_eqx.training.data.csv_and_parquet import rows
from encdec_eqx.training.data.opening import FREE_GROWTH, MOST_GROWTH

SECONDS = 5.0
"""For a refusal, on a machine that does other things as well; alone it takes less than one."""


def _written(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def _texts(pairs: Pairs) -> list[tuple[str | None, tuple[str, ...]]]:
    return [(record.source, record.targets) for record in pairs]


def _error(path: Path, **options) -> str:
    with pytest.raises(ValueError) as caught:
        read_pairs(path, **options)
    return str(caught.value)


# --- CSV


def _oracle(text: str) -> tuple[list[list[str]], list[int], bool]:
    """Rows and their first lines as Python's own reader has them, up to its first error, and whether there is one."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    found, lines, line = [], [], 1
    try:
        for row in reader:
            if row:
                found.append(row)
                lines.append(line)
            line = reader.line_num + 1
    except csv.Error:
        return found, lines, True
    return found, lines, False


@pytest.mark.parametrize("seed", range(4))
def test_rows_are_those_of_pythons_reader_up_to_the_first_error(seed):
    draw = random.Random(seed)
    for _ in range(3000):
        text = "".join(draw.choice('ab",,\n"\r é') for _ in range(draw.randint(1, 20)))
        expected, lines, fails = _oracle(text)
        got = list(rows(io.StringIO(text, newline=""), ","))
        good = got[: next((at for at, row in enumerate(got) if row.error), len(got))]
        assert [row.fields for row in good] == expected, text
        assert [row.line for row in good] == lines
        assert fails == (len(good) < len(got))
        assert sum(row.lines for row in got) <= len(text.splitlines(keepends=True)) + 1
        for one, following in itertools.pairwise(got):
            assert one.line + one.lines <= following.line


def test_long_fields_are_read_without_touching_the_limit_of_the_process(tmp_path):
    before = csv.field_size_limit()
    long = "word " * 100_000
    path = _written(tmp_path, "a.csv", f'source,target\n{long}.,b\n"{long},\n{long}.",d\n')
    assert _texts(read_pairs(path)) == [(f"{long}.", ("b",)), (f"{long},\n{long}.", ("d",))]
    path = _written(tmp_path, "a.tsv", f"source\ttarget\n{long}.\tb\n")
    assert _texts(read_pairs(path)) == [(f"{long}.", ("b",))]
    assert csv.field_size_limit() == before


BODY = [f"word {i},Wort {i}" for i in range(1000)]
UNCLOSED = {
    # name: lines behind the good first two; lines and reason of the bad record; sources of what is read behind it
    "to the end": (
        ['"a,b', *BODY],
        1001,
        "the quote that opens in line 3 is never closed, up to the end in line 1003",
        [],
    ),
    "to a row in quotes": (
        ['"a,b', *BODY, 'q,"r"', "z,y"],
        1002,
        "a quote opens in line 3 and closes in line 1004",
        ["z"],
    ),
    "to a field of lines": (
        ['"a,b', *BODY, 'q,"r', 's"', "z,y"],
        1003,
        "a quote opens in line 3 and closes in line 1004",
        ["z"],
    ),
    "to a row of quoted fields": (
        ['a,"b', *BODY, '"q","r"', "z,y"],
        1002,
        "a quote opens in line 3 and closes in line 1004",
        ["z"],
    ),
    "to another number of columns": (
        ['a,"b', *BODY, 'q"', "z,y", 'c,"d"'],
        1002,
        None,  # it reads as a row
        ["z", "c"],
    ),
    "in one line": (['"a" b,c', "z,y"], 1, "not a row: ',' expected after '\"'", ["z"]),
    "in one line, closed by the next field's": (['"a,"b"', "z,y"], 1, "not a row: ',' expected after '\"'", ["z"]),
    "behind text of lines": (['"a\nb" c,d', "z,y"], 2, "a quote opens in line 3 and closes in line 4", ["z"]),
}


@pytest.mark.parametrize("name", UNCLOSED)
def test_a_row_that_is_spoilt_is_followed_to_its_end(tmp_path, name, caplog):
    lines, taken, reason, sources = UNCLOSED[name]
    path = _written(tmp_path, "a.csv", "\n".join(["source,target", "x,y", *lines, ""]))
    with caplog.at_level(logging.WARNING, "encdec_eqx"):
        pairs = read_pairs(path, on_bad="report")
    swallowed = [] if reason is not None else [pairs[1].source]
    assert [record.source for record in pairs] == ["x", *swallowed, *sources]
    if reason is None:
        assert f"a.csv:3: the lines 3 to {2 + taken} are one row" in caplog.text
        assert pairs.bad == ()
        return
    (bad,) = pairs.bad
    assert (bad.line, bad.lines) == (3, taken)
    assert reason in bad.reason
    over = f"over {taken} lines" if taken > 1 else "cannot be used:"
    assert f"1 of {len(pairs) + 1} records cannot be used" in caplog.text
    assert over in caplog.text


def test_columns_that_do_not_fit_say_how_many_lines_they_take(tmp_path):
    path = _written(tmp_path, "a.csv", 'source,target\n"a\nb\nc"\nx,y\n" \n",z\n')
    pairs = read_pairs(path, on_bad="report")
    assert pairs.bad == (
        BadRecord(str(path), 2, "1 columns, the first line has 2; is a quote in it not closed?", 3),
        BadRecord(str(path), 6, "'source' is empty", 2),
    )
    assert str(pairs.bad[0]).endswith("is a quote in it not closed? (3 lines, to line 4)")


def test_an_honest_field_of_lines_is_not_suspected(tmp_path, caplog):
    article = "\n".join("A line of an article, with commas, and no end." for _ in range(200))
    path = _written(tmp_path, "a.csv", f'source,target\n"{article}",b\n')
    with caplog.at_level(logging.WARNING, "encdec_eqx"):
        assert _texts(read_pairs(path)) == [(article, ("b",))]
    assert caplog.text == ""


def test_columns_named_twice_are_refused_where_they_are_read(tmp_path):
    path = _written(tmp_path, "a.csv", "source,target,source\na,b,c\n")
    says = "has 2 columns named 'source', in the places 1 and 3: which to read cannot be known. Rename all but one."
    assert says in _error(path)
    path = _written(tmp_path, "b.csv", "source,other,target,other\na,1,b,2\n")
    assert _texts(read_pairs(path)) == [("a", ("b",))]
    path = _written(tmp_path, "c.csv", 'source,"tar\nget\na,b\n')
    assert "c.csv:1: the columns' names cannot be read: not a row: the quote that opens in line 1" in _error(path)
    path = _written(
        tmp_path, "d.jsonl", '{"source": "a", "target": "b", "source": "c"}\n{"source": "d", "target": "e"}\n'
    )
    pairs = read_pairs(path, on_bad="report")
    assert [(bad.line, bad.reason) for bad in pairs.bad] == [(1, "'source' stands in it more than once")]
    table = pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 3, names=["source", "target", "source"])
    pyarrow.parquet.write_table(table, tmp_path / "e.parquet")
    assert "has 2 columns named 'source'" in _error(tmp_path / "e.parquet")


# --- encodings

TABLE = "source,target\nGrüße,Ça va\nd,e\n"
LINES = '{"source": "Grüße", "target": "Ça va"}\n{"source": "d", "target": "e"}\n'
READ = [("Grüße", ("Ça va",)), ("d", ("e",))]
FILES = {"a.csv": TABLE, "a.tsv": TABLE.replace(",", "\t"), "a.jsonl": LINES, "a.json": f"[{LINES.strip()}]"}
FILES["a.json"] = FILES["a.json"].replace("}\n", "},\n")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("name", FILES)
def test_a_mark_says_the_encoding(tmp_path, name, encoding):
    path = _written(tmp_path, name, FILES[name].encode(encoding))
    assert _texts(read_pairs(path)) == READ
    assert _texts(read_pairs(path, encoding=encoding)) == READ
    path = _written(tmp_path, f"{name}.gz", gzip.compress(FILES[name].encode(encoding)))
    assert _texts(read_pairs(path)) == READ


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", FILES)
def test_utf_16_without_a_mark_says_what_to_do_and_that_works(tmp_path, name, encoding):
    path = _written(tmp_path, name, FILES[name].encode(encoding))
    assert f"Say encoding={encoding!r}, or save it as UTF-8" in _error(path)
    assert _texts(read_pairs(path, encoding=encoding)) == READ


def test_an_encoding_may_be_said_and_is_checked(tmp_path):
    path = _written(tmp_path, "a.csv", TABLE.encode("cp1252"))
    assert _texts(read_pairs(path, encoding="cp1252")) == READ
    assert "'source' is not UTF-8: byte or half pair" in _error(path)
    for wrong in ("klingon", "base64", "x\0"):
        assert "encoding must be one that Python knows, such as 'utf-8'" in _error(path, encoding=wrong)
    pyarrow.parquet.write_table(pyarrow.table({"source": ["a"], "target": ["b"]}), tmp_path / "a.parquet")
    assert "would do nothing" in _error(tmp_path / "a.parquet", encoding="utf-8")
    path = _written(tmp_path, "odd.csv", TABLE.encode("utf-16") + b"x")
    assert "odd.csv is damaged behind line 3: " in _error(path)


# --- forms of JSON

RECORDS = [{"source": "a", "target": "b"}, ["c", ["d", "e"]], {"source": "f", "target": "g"}]
OF_RECORDS = [("a", ("b",)), ("c", ("d", "e")), ("f", ("g",))]


@pytest.mark.parametrize("indent", [None, 0, 2])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_an_array_of_records_is_read(tmp_path, name, indent):
    text = "\n " + json.dumps(RECORDS, indent=indent) + "\n\n"
    pairs = read_pairs(_written(tmp_path, name, text))
    assert _texts(pairs) == OF_RECORDS
    assert [record.line for record in pairs] == [1, 2, 3]
    lines = "".join(json.dumps(record) + "\n" for record in RECORDS)
    assert _texts(read_pairs(_written(tmp_path, name, lines))) == OF_RECORDS
    assert _texts(read_pairs(_written(tmp_path, name, json.dumps(["a", "b"])))) == [("a", ("b",))]
    assert "there are no records" in _error(_written(tmp_path, name, "[]"))


def test_what_is_bad_in_an_array_is_named_by_its_number(tmp_path):
    path = _written(tmp_path, "a.json", json.dumps([*RECORDS, {"source": 3, "target": "h"}]))
    pairs = read_pairs(path, on_bad="report")
    assert [str(bad) for bad in pairs.bad] == [f"{path}:4: 'source' is not a string: int 3"]
    for text, says in (
        ('[{"source": "a", "target": "b"},\n {"source" "c"}]', r"record 2: not JSON: Expecting ':' delimiter: line 2"),
        ('[{"source": "a", "target": "b"}\n {}]', "record 1: not JSON: Expecting ',' or ']' behind it: line 2"),
        ('[{"source": "a", "target": "b"}', "record 1: not JSON: Expecting ',' or ']' behind it: line 1"),
        ('[\n{"source": "a", "target": "b"}\n] 5', "record 1: not JSON: Extra data behind the array: line 3"),
        (f'[\n{{"source": {"9" * 5000}}}\n]', "record 1: not JSON: it holds a whole number of more than 4300 digits"),
    ):
        message = _error(_written(tmp_path, "b.json", text), on_bad="report")
        assert f"b.json, {says}" in message
        assert "JSON Lines (one record a line) can" in message
    path = _written(tmp_path, "c.json", json.dumps({"data": RECORDS, "version": 1}, indent=1))
    assert "c.json is one JSON object, which holds 'data', 'version'; expected an array of records" in _error(path)


def test_a_bad_line_that_begins_with_a_bracket_is_no_array(tmp_path):
    for bad in ("[" * 100_000, '["a"]', "[broken", '{"source": ' + "9" * 5000 + "}"):
        path = _written(tmp_path, "a.jsonl", f"{bad}\n{LINES}")
        pairs = read_pairs(path, on_bad="report")
        assert _texts(pairs) == READ
        assert [record.line for record in pairs.bad] == [1]


TRANSLATIONS = [{"id": at, "translation": {"en": f"word {at}", "de": f"Wort {at}"}} for at in range(3)]


@pytest.mark.parametrize("names", [("en", "de"), ("translation.en", "translation.de"), ("en", "translation.de")])
def test_translations_are_read_by_the_names_of_their_languages(tmp_path, names):
    source, target = names
    expected = [(f"word {at}", (f"Wort {at}",)) for at in range(3)]
    lines = _written(tmp_path, "a.jsonl", "".join(json.dumps(row) + "\n" for row in TRANSLATIONS))
    array = _written(tmp_path, "a.json", json.dumps(TRANSLATIONS))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(TRANSLATIONS), tmp_path / "a.parquet")
    for path in (lines, array, tmp_path / "a.parquet"):
        pairs = read_pairs(path, source=source, target=target)
        assert _texts(pairs) == expected
        assert pairs.unread == ("id",)
    assert _texts(pairs_from(TRANSLATIONS, source=source, target=target)) == expected
    flat = _written(tmp_path, "a.csv", "translation.en,translation.de\nword,Wort\n")
    assert _texts(read_pairs(flat, source="translation.en", target="translation.de")) == [("word", ("Wort",))]


def test_translations_without_names_say_which_there_are(tmp_path):
    path = _written(tmp_path, "a.jsonl", json.dumps(TRANSLATIONS[0]))
    assert "no 'source'; it has 'id', 'translation', which holds 'en', 'de': name two of them" in _error(path)
    three = {"translation": {"en": "a", "de": "b", "fr": "c"}, "source": "d"}
    assert pairs_from([three], source="en", target="de").unread == ("translation.fr", "source")
    only = {"input_ids": [1]}
    with pytest.raises(BadRecordsError, match="ids need both 'input_ids' and 'labels': 'labels' is missing"):
        pairs_from([only])


def test_several_files_of_several_formats_are_one_after_another(tmp_path):
    files = [_written(tmp_path, name, FILES[name]) for name in FILES]
    assert _texts(read_pairs(files)) == READ * len(files)
    with pytest.raises(IsADirectoryError, match="is a folder; expected a file, or a list of files"):
        read_pairs([*files, tmp_path])
    os.mkfifo(tmp_path / "pipe.csv")
    assert "pipe.csv is a pipe or a device; expected a file" in _error(tmp_path / "pipe.csv")


# --- damage, and what was made to do harm

ENDLESS = "9" * 5000


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (f'{{"source": "a", "target": {ENDLESS}}}', "not JSON: it holds a whole number of more than 4300 digits"),
        (f'{{"input_ids": [{ENDLESS}], "labels": [1]}}', "not JSON: it holds a whole number of more than 4300 digits"),
        (
            f'{{"input_ids": [{"9" * 4000}], "labels": [1]}}',
            "'input_ids' holds a whole number of 13288 bits, which is no",
        ),
        (f'{{"input_ids": [1], "labels": [{"9" * 30}]}}', f"'labels' holds {'9' * 30}, which is no id"),
        ('{"source": ' + "[" * 100_000, "not JSON: it nests too deeply"),
        (
            f'{{"source": [{"0," * 99}0], "target": "b"}}',
            "'source' is not a string: list [0, 0, 0, 0, 0, 0, 0, 0, ...]",
        ),
    ],
)
def test_endless_numbers_spoil_their_own_line_and_no_other(tmp_path, line, reason):
    path = _written(tmp_path, "a.jsonl", f"{LINES}{line}\n{LINES}")
    pairs = read_pairs(path, on_bad="report")
    assert _texts(pairs) == READ * 2
    (bad,) = pairs.bad
    assert bad.line == 3
    assert bad.reason.startswith(reason)
    assert len(bad.reason) < 200


PACKERS = {".gz": gzip, ".bz2": bz2, ".xz": lzma}


@pytest.mark.parametrize("ending", PACKERS)
@pytest.mark.parametrize("unit", [b"\0", b"\n", b'{"source": "a", "target": "b"}\n'], ids=["zeros", "lines", "records"])
def test_a_small_file_that_grows_to_fill_the_memory_is_refused_at_once(tmp_path, ending, unit):
    path = tmp_path / f"a.jsonl{ending}"
    stream = PACKERS[ending].compress(unit * (2**20 // len(unit)))
    path.write_bytes(stream * (FREE_GROWTH // 2**20 + 6))  # one behind another are one file
    began = time.perf_counter()
    message = _error(path, on_bad="report")
    assert time.perf_counter() - began < SECONDS
    assert f"{path} grows to more than {MOST_GROWTH} times its size" in message
    assert "decompress it first and read the plain file" in message


def test_a_file_that_begins_honestly_and_then_grows_is_refused_too(tmp_path, monkeypatch):
    monkeypatch.setattr("encdec_eqx.training.data.opening.FREE_GROWTH", 1 << 20)
    draw = random.Random(0)
    honest = "".join(json.dumps({"source": draw.random(), "target": str(at)}) + "\n" for at in range(2000)).encode()
    path = _written(tmp_path, "a.jsonl.gz", gzip.compress(honest) + gzip.compress(b"\0" * 20_000_000))
    assert "grows to more than 200 times its size" in _error(path, on_bad="report")


def test_an_honest_file_that_repeats_itself_is_read(tmp_path):
    """Ids padded with zeros shrink most of all that is honest."""
    record = json.dumps({"input_ids": [5, 6, *[0] * 500], "labels": [7, *[-100] * 100]}) + "\n"
    path = _written(tmp_path, "a.jsonl.gz", gzip.compress(record.encode() * 2000))
    assert len(read_pairs(path)) == 2000


@pytest.mark.parametrize("ending", PACKERS)
def test_damage_names_the_file_and_the_line_that_was_reached(tmp_path, ending):
    draw = random.Random(0)
    content = "".join(json.dumps({"source": str(draw.random()), "target": "b"}) + "\n" for _ in range(6000))
    small_blocks = {"compresslevel": 1} if ending == ".bz2" else {}
    packed = PACKERS[ending].compress(content.encode(), **small_blocks)
    name = f"a.jsonl{ending}"
    for spoilt in (packed[: len(packed) // 2], packed[:-4], packed[: len(packed) // 2] + b"\0" * 99 + packed[-9:]):
        message = _error(_written(tmp_path, name, spoilt), on_bad="report")
        assert message.startswith(f"{tmp_path / name} is damaged behind line ")
        assert message.endswith("Copy or download it again.")
    assert f"{name} is damaged: " in _error(_written(tmp_path, name, b"nonsense"))


def test_every_damage_of_a_parquet_file_names_it_and_where(tmp_path):
    """Each byte of a small file spoilt in turn: it is read, or it is a ValueError that names the file."""
    table = pyarrow.table({"source": [f"word {at}" for at in range(50)], "target": ["Wort"] * 50})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=10)
    whole = (tmp_path / "a.parquet").read_bytes()
    refused = 0
    for at in range(0, len(whole), 7):
        path = _written(tmp_path, "b.parquet", whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            read_pairs(path, on_bad="report")
        except ValueError as error:
            refused += 1
            assert str(path) in str(error)
            assert len(str(error)) < 2500
    assert refused > 20


def test_a_parquet_file_that_grows_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("encdec_eqx.training.data.opening.FREE_GROWTH", 1 << 20)
    long = "x" * 100_000
    table = pyarrow.table({"source": pyarrow.array([long] * 2000).dictionary_encode(), "target": ["b"] * 2000})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert "a.parquet grows to more than 200 times its size" in _error(tmp_path / "a.parquet")


def test_control_characters_in_names_and_values_do_not_reach_the_terminal(tmp_path):
    path = _written(tmp_path, "a\x1b[31m.jsonl", '{"so\\u001b[31murce": "a"}\n')
    message = _error(path)
    assert "\x1b" not in message
    assert "a\\x1b[31m.jsonl:1: no 'source'; it has 'so\\x1b[31murce'" in message
    assert "\x1b" not in _error(_written(tmp_path, "a\x1b.csv", "\x1b,target\n"))
