"""Data on random inputs: CSV as Python's csv reads it, bad records among good ones, every example once per epoch."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encdec_eqx.training.data import BadRecordsError, Batches, Example, pairs_from, read_pairs
from encdec_eqx.training.data.csv_and_parquet import rows
from encdec_eqx.training.data.records import IGNORED

PIECES = st.lists(st.sampled_from(['"', '""', ",", "\n", "\r\n", "\r", "a", "é b", "'", ""]), max_size=24).map("".join)
"""Texts of what matters to a reader of CSV."""


def _as_csv_reads(text: str) -> tuple[list[list[str]], bool]:
    """The rows before the first that a strict `csv.reader` refuses, and whether it refuses one."""
    read: list[list[str]] = []
    try:
        for row in csv.reader(io.StringIO(text, newline=""), strict=True):
            read += [row] if row else []
    except csv.Error:
        return read, True
    return read, False


@settings(max_examples=300)
@given(PIECES)
def test_csv_is_read_as_a_strict_csv_reader_reads_it(text: str):
    expected, refused = _as_csv_reads(text)
    found = list(rows(io.StringIO(text, newline=""), ","))
    good = [row.error is None for row in found]
    until = good.index(False) if False in good else len(good)
    assert [row.fields for row in found[:until]] == expected
    assert (until < len(good)) == refused


@given(st.lists(st.lists(PIECES, min_size=2, max_size=4), max_size=5))
def test_what_csv_writes_is_read_back_with_its_lines(table: list[list[str]]):
    text = io.StringIO(newline="")
    csv.writer(text).writerows(table)
    found = list(rows(io.StringIO(text.getvalue(), newline=""), ","))
    assert [row.fields for row in found] == table
    assert [row.error for row in found] == [None] * len(table)
    ends = [row.line + row.lines for row in found]
    assert [row.line for row in found] == [1, *ends][: len(found)]


GOOD: list[Any] = [("a", "b"), {"source": "a", "target": ["b", "c"]}, {"input_ids": [1], "labels": [2]}]
BAD: list[Any] = [("a", " "), {"source": "a"}, ("a", 1), "ab", None, ("\ud800", "b")]
BAD += [{"input_ids": [-1], "labels": [2]}, {"input_ids": [1], "labels": [-100]}]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20)), min_size=1, max_size=12))
def test_bad_records_are_named_and_the_others_kept(plan: list[tuple[bool, int]]):
    entries = [(GOOD if good else BAD)[at % len(GOOD if good else BAD)] for good, at in plan]
    good = [number for number, (is_good, _) in enumerate(plan, start=1) if is_good]
    bad = [number for number in range(1, len(plan) + 1) if number not in good]
    if bad:
        with pytest.raises(BadRecordsError) as caught:
            pairs_from(entries)
        assert [record.line for record in caught.value.bad] == bad
    if good:
        pairs = pairs_from(entries, on_bad="report")
        assert [record.line for record in pairs] == good
        assert [record.line for record in pairs.bad] == bad


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\t\r\n"), min_size=1, max_size=8).filter(str.strip)


@given(texts=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6))
def test_every_format_gives_the_same_pairs(tmp_path: Path, texts: list[tuple[str, str]]):
    named = [{"source": source, "target": target} for source, target in texts]
    table = io.StringIO(newline="")
    csv.writer(table).writerows([("source", "target"), *texts])
    written = {
        "lines.jsonl": "\n".join(json.dumps(one) for one in named),
        "array.json": json.dumps(named, ensure_ascii=False),
        "table.csv": table.getvalue(),
        "table.tsv": "source\ttarget\n" + "\n".join("\t".join(pair) for pair in texts),
    }
    for name, content in written.items():
        (tmp_path / name).write_bytes(content.encode())
        read = read_pairs(tmp_path / name)
        assert [(record.source, record.targets) for record in read] == [(s, (t,)) for s, t in texts], name


def _example(number: int, source: int, target: int) -> Example:
    """Its ids say which it is."""
    ids = np.full(source, number + 1, np.int32)
    return Example(input_ids=ids, labels=np.full(target, number + 1, np.int32))


@given(
    lengths=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 20)), min_size=1, max_size=40),
    rows_of=st.sampled_from([{"batch_size": 4}, {"batch_size": 3}, {"tokens_per_batch": 120}]),
    max_shapes=st.integers(1, 5),
    multiple=st.sampled_from([1, 2]),
    shuffle=st.booleans(),
    epoch=st.integers(0, 3),
)
def test_an_epoch_holds_every_example_once_in_few_shapes(
    lengths: list[tuple[int, int]],
    rows_of: dict[str, int],
    max_shapes: int,
    multiple: int,
    shuffle: bool,
    epoch: int,
):
    if rows_of.get("batch_size", 2) % multiple:
        multiple = 1
    examples = [_example(number, *both) for number, both in enumerate(lengths)]
    options: dict[str, Any] = {"max_shapes": max_shapes, "rows_multiple_of": multiple, "shuffle": shuffle, **rows_of}
    batches = Batches(examples, **options)
    seen: list[int] = []
    for at, batch in enumerate(batches.epoch(epoch)):
        shape = batches.epoch(epoch).shape(at)
        assert shape in batches.shapes and shape.rows % multiple == 0
        assert batch["input_ids"].shape == batch["attention_mask"].shape == (shape.rows, shape.source)
        assert batch["labels"].shape == (shape.rows, shape.target)
        for ids, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
            real = labels[labels != IGNORED]
            if len(real):
                number = int(real[0]) - 1
                assert (mask.sum(), len(real)) == lengths[number]
                assert set(ids[mask]) == set(real) == {number + 1}
                seen.append(number)
    assert sorted(seen) == list(range(len(lengths)))
    assert len(batches.shapes) <= max_shapes
    assert len(batches.epoch(epoch)) == len(batches)
