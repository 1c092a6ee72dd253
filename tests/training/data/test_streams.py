"""Streams: they give what reading whole would give, in an order that seed and epoch alone decide, in parts too."""

import gzip
import json
import logging
import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encdec_eqx import SpecialTokens
from encdec_eqx.text import TokenizerPair
from encdec_eqx.training.data import (
    BadRecordsError,
    Batches,
    StreamedBatches,
    StreamedExamples,
    encode_pairs,
    encode_stream,
    read_pairs,
    stream_pairs,
)
from models import VOCAB
from tokenizers_of import byte_pairs, word_pieces

SIZES = (VOCAB, VOCAB)


def _records(number: int, seed: int = 0) -> list[dict[str, list[int]]]:
    rng = np.random.default_rng(seed)
    ids = [rng.integers(3, VOCAB, rng.integers(2, 20)).tolist() for _ in range(number)]
    return [{"input_ids": source, "labels": [*source[: 1 + at % 7], 2]} for at, source in enumerate(ids)]


def _write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def _shards(folder: Path, number: int = 300, shards: int = 3) -> list[Path]:
    rows = _records(number)
    return [_write(folder / f"shard-{at}.jsonl", rows[at::shards]) for at in range(shards)]


def _streamed(files: Any, **how: Any) -> StreamedBatches:
    return StreamedBatches(encode_stream(stream_pairs(files)), **{"batch_size": 8, "max_shapes": 3, **how})


def _same(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    assert sorted(ours) == sorted(theirs)
    for name, array in ours.items():
        assert array.dtype == theirs[name].dtype
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)


# --- what is read


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "parquet"])
def test_batches_are_those_of_the_same_records_held_in_memory(tmp_path: Path, kind: str):
    rows = _records(150)
    files = [tmp_path / f"{at}.{kind}" for at in range(2)]
    for file, part in zip(files, (rows[:90], rows[90:]), strict=True):
        if kind == "parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(part), file, row_group_size=40)
        else:
            text = _write(tmp_path / "plain", part).read_bytes()
            file.write_bytes(gzip.compress(text) if kind == "jsonl.gz" else text)
    streamed = _streamed(files)
    held = Batches(encode_pairs(read_pairs(files)), batch_size=8, max_shapes=3)
    assert streamed.shapes == held.shapes
    assert streamed.describe() == held.describe()
    assert len(streamed) == len(held)
    epoch = streamed.epoch(1)
    for at, batch in enumerate(epoch.read()):
        _same(batch, held.batch(epoch.shape(at), epoch.indices(at)))
    for ours, theirs in zip(streamed.one_of_each_shape(), held.one_of_each_shape(), strict=True):
        _same(ours, theirs)


def test_without_shuffling_the_order_is_that_of_batches_held_in_memory(tmp_path: Path):
    files = _shards(tmp_path)
    held = Batches(encode_pairs(read_pairs(files)), batch_size=8, max_shapes=3, shuffle=False)
    for ours, theirs in zip(_streamed(files, shuffle=False).epoch(0), held.epoch(0), strict=True):
        _same(ours, theirs)


def test_texts_are_encoded_as_they_would_be_and_cuts_are_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    rows = [{"source": f"word {'word ' * (at % 9)}", "target": f"Wort {at}, ü", "id": at} for at in range(40)]
    file = _write(tmp_path / "a.jsonl", rows)
    pair = _byte_pairs()
    held = encode_pairs(read_pairs(file), pair, max_source_length=6)
    caplog.clear()
    with caplog.at_level(logging.WARNING, "encdec_eqx"):
        streamed = encode_stream(stream_pairs(file), pair, max_source_length=6)
        assert [len(message) > 0 for message in caplog.messages] == [True, True]
        assert "sources are longer than their limit and are cut" in caplog.messages[0]
        assert "these are not used: 'id'" in caplog.messages[1]
        caplog.clear()
        examples = streamed[:]
    assert not caplog.messages
    assert streamed.truncated_sources == held.truncated_sources > 0
    assert len(streamed) == len(held) == 40
    assert streamed.longest_target == held.longest_target
    for ours, theirs in zip(examples, held, strict=True):
        assert (ours.source, ours.targets) == (theirs.source, theirs.targets)
        np.testing.assert_array_equal(ours.input_ids, theirs.input_ids)
        np.testing.assert_array_equal(ours.labels, theirs.labels)


def test_a_field_of_some_records_is_in_every_batch_and_one_that_has_no_default_is_for_all(tmp_path: Path):
    rows: list[dict[str, Any]] = list(_records(30))
    rows[7] = {**rows[7], "token_type_ids": [1] * len(rows[7]["input_ids"])}
    batches = _streamed(_write(tmp_path / "a.jsonl", rows), shuffle=False, max_shapes=1)
    assert [bool(batch["token_type_ids"].any()) for batch in batches.epoch(0)] == [True, False, False, False]
    rows[3] = {**rows[3], "position_ids": list(range(len(rows[3]["input_ids"])))}
    with pytest.raises(ValueError, match="1 of 30 examples have 'position_ids' and the others do not"):
        encode_stream(stream_pairs(_write(tmp_path / "b.jsonl", rows)))


def test_an_index_is_made_once_and_anew_when_the_file_or_a_length_changes(tmp_path: Path):
    (file,) = _shards(tmp_path, 20, 1)
    stream = stream_pairs(file, cache_dir=tmp_path / "cache")

    def kept() -> set[str]:
        return {path.name for path in (tmp_path / "cache").iterdir()}

    before = encode_stream(stream)
    first = kept()
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")}
    assert encode_stream(stream).digest == before.digest
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")} == stamps
    encode_stream(stream, max_source_length=5)
    assert len(kept()) == len(first) + 1
    _write(file, _records(21))
    assert len(encode_stream(stream)) == 21
    _write(tmp_path / "elsewhere.jsonl", _records(20))
    assert encode_stream(stream_pairs(tmp_path / "elsewhere.jsonl")).digest == before.digest


def test_an_index_that_is_damaged_is_made_again(tmp_path: Path):
    (file,) = _shards(tmp_path, 20, 1)
    (tmp_path / "packed.jsonl.gz").write_bytes(gzip.compress(file.read_bytes()))
    stream = stream_pairs(tmp_path / "packed.jsonl.gz", cache_dir=tmp_path / "cache")
    before = encode_stream(stream)
    last = before[19].input_ids
    damages = [
        ("entries.bin", lambda data: data[:3]),
        ("entries.bin", lambda data: data[:16] + b"\x01" + data[17:]),
        ("lines.jsonl", lambda data: b""),
        ("facts.json", lambda data: b"{"),
        ("facts.json", lambda data: data.replace(b'"truncated": [0, 0]', b'"truncated": [0, 1]')),
    ]
    for name, damage in damages:
        found = list((tmp_path / "cache").rglob(name))
        assert found
        for path in found:
            path.write_bytes(damage(path.read_bytes()))
        again = encode_stream(stream)
        assert again.digest == before.digest
        np.testing.assert_array_equal(again[19].input_ids, last)


# --- the order


@pytest.fixture(scope="module")
def streams(tmp_path_factory: pytest.TempPathFactory) -> dict[int, StreamedExamples]:
    """Examples of streams by their number."""
    folder = tmp_path_factory.mktemp("streams")
    files = {number: _write(folder / f"{number}.jsonl", _records(number)) for number in (1, 2, 7, 64, 121)}
    return {number: encode_stream(stream_pairs(file)) for number, file in files.items()}


@given(
    number=st.sampled_from([1, 2, 7, 64, 121]),
    rows=st.sampled_from([1, 4, 6]),
    seed=st.integers(0, 2**32 - 2),
    shapes=st.integers(1, 3),
)
def test_every_record_comes_once_an_epoch_in_an_order_of_seed_and_epoch(
    streams: dict[int, StreamedExamples], number: int, rows: int, seed: int, shapes: int
):
    def order(seed: int, epoch: int) -> list[int]:
        plan = StreamedBatches(streams[number], batch_size=rows, max_shapes=shapes, seed=seed).epoch(epoch)
        return [int(index) for at in range(len(plan)) for index in plan.indices(at)]

    assert sorted(order(seed, 0)) == sorted(order(seed, 1)) == list(range(number))
    assert order(seed, 1) == order(seed, 1)
    if number > 30:
        assert order(seed, 0) != order(seed, 1) != order(seed + 1, 1)
        assert order(seed, 1) != order(seed + 1, 0)  # the epochs of one seed are not those of the next, moved


def test_reading_from_any_step_goes_on_with_the_same_batches(tmp_path: Path):
    epoch = _streamed(_shards(tmp_path), seed=3).epoch(2)
    whole = list(epoch.read())
    assert len(whole) == len(epoch) > 20
    for start in (0, 1, 17, len(epoch)):
        rest = list(epoch.read(start))
        assert len(rest) == len(epoch) - start
        for ours, theirs in zip(rest, whole[start:], strict=True):
            _same(ours, theirs)
    assert len(list(epoch.read(4, 9))) == 5
    _same(epoch[11], whole[11])


@pytest.mark.parametrize("held", [False, True], ids=["streamed", "held"])
def test_parts_of_processes_make_up_the_whole_batch_whatever_their_number(tmp_path: Path, held: bool):
    files = _shards(tmp_path)
    how: dict[str, Any] = {"batch_size": 8, "max_shapes": 3, "rows_multiple_of": 4}
    batches = Batches(encode_pairs(read_pairs(files)), **how) if held else _streamed(files, **how)
    epoch = batches.epoch(0)
    for count in (2, 4):
        parts = [list(epoch.read(3, 30, process_index=index, process_count=count)) for index in range(count)]
        for at, of_all in enumerate(zip(*parts, strict=True)):
            assert {len(part["labels"]) for part in of_all} == {8 // count}
            _same({name: np.concatenate([part[name] for part in of_all]) for name in of_all[0]}, epoch[3 + at])
    with pytest.raises(ValueError, match=r"8 rows cannot be split among 3 processes: .*rows_multiple_of=3"):
        list(epoch.read(process_count=3))
    with pytest.raises(ValueError, match="below process_count, got 2 of 2"):
        epoch.read(process_index=2, process_count=2)


def test_a_process_encodes_its_own_rows_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    batches = _streamed(_shards(tmp_path))
    asked: list[int] = []
    encoded = batches.examples.encoded
    monkeypatch.setattr(batches.examples, "encoded", lambda indices: (asked.append(len(indices)), encoded(indices))[1])
    list(batches.epoch(0).read(0, 10, process_index=1, process_count=4))
    assert len(asked) == 10
    assert max(asked) == 2


def test_memory_does_not_grow_with_the_records(tmp_path: Path):
    (file,) = _shards(tmp_path, 20_000, 1)
    examples = encode_stream(stream_pairs(file))
    next(StreamedBatches(examples, batch_size=8).epoch(0).read())  # imports grain
    tracemalloc.start()
    try:
        batches = StreamedBatches(encode_stream(stream_pairs(file)), batch_size=8, max_shapes=3)
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for _ in batches.epoch(0).read(0, 40):
            pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert file.stat().st_size > 1_500_000
    assert held < 400_000  # 4 bytes each, and what is imported and interned along the way
    assert peak - held < 1_000_000
    assert len(examples) == 20_000


# --- what is wrong


def test_bad_records_are_told_with_file_and_line_as_reading_whole_tells_them(tmp_path: Path):
    good, worse = _shards(tmp_path, 20, 2)
    rows = worse.read_text().splitlines()
    rows[4:4] = ['{"input_ids": [1]}', "", "{broken"]
    worse.write_text("\n".join([*rows, '{"input_ids": [4], "labels": [99]}']))
    with pytest.raises(BadRecordsError) as ours:
        encode_stream(stream_pairs([good, worse]), vocab_sizes=SIZES)
    told = str(ours.value)
    assert "3 of 23 records cannot be used" in told
    assert f"{worse}:5: no 'source'; it has 'input_ids' (ids need both 'input_ids' and 'labels'" in told
    assert f"{worse}:7: not JSON: Expecting property name" in told
    assert f"{worse}:14: the target holds the id 99; its vocabulary has 53" in told
    streamed = encode_stream(stream_pairs([good, worse]), vocab_sizes=SIZES, on_bad="report")
    held = encode_pairs(read_pairs([good, worse], on_bad="report"), vocab_sizes=SIZES, on_bad="report")
    assert len(streamed) == len(held) == 20
    assert sorted(streamed.bad) == sorted(held.bad)
    batches = StreamedBatches(streamed, batch_size=4)
    epoch = batches.epoch(0)
    assert sorted(index for at in range(len(epoch)) for index in epoch.indices(at)) == list(range(20))


def test_a_bad_row_of_parquet_is_told_with_its_number(tmp_path: Path):
    rows = [{"source": "a", "target": "b"}, {"source": " ", "target": "b"}, {"source": "c", "target": None}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    with pytest.raises(BadRecordsError) as error:
        encode_stream(stream_pairs(tmp_path / "a.parquet"), _byte_pairs())
    assert [(one.line, one.reason) for one in error.value.bad] == [
        (2, "'source' is empty"),
        (3, "'target' is not a string: NoneType None"),
    ]


def _byte_pairs() -> TokenizerPair:
    """Tokenizers of a model whose special tokens are theirs."""
    special = SpecialTokens(bos_token_id=0, eos_token_id=(0,), pad_token_id=0, decoder_start_token_id=0)
    return TokenizerPair(word_pieces(), byte_pairs(), special)


@pytest.mark.parametrize("files", ["none-*.jsonl", "absent.jsonl", []], ids=["pattern", "name", "nothing"])
def test_what_is_not_there_is_told(tmp_path: Path, files: Any):
    name = [] if files == [] else tmp_path / files
    told = {"none-*.jsonl": "no file matches", "absent.jsonl": "there is no file"}.get(str(files), "no file was given")
    with pytest.raises((FileNotFoundError, ValueError), match=told):
        stream_pairs(name)


def test_what_cannot_be_streamed_is_told(tmp_path: Path):
    (file,) = _shards(tmp_path, 4, 1)
    (tmp_path / "a.csv").write_text("source,target\na,b\n")
    with pytest.raises(ValueError, match=r"a\.csv is CSV; a stream reads JSON Lines .* without streaming"):
        stream_pairs([file, tmp_path / "a.csv"])
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(_records(4)), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"shard-0\.jsonl and .*a\.parquet are of different formats"):
        stream_pairs([file, tmp_path / "a.parquet"])
    with pytest.raises(ValueError, match=r"shard-0\.jsonl is named more than once"):
        stream_pairs([tmp_path / "*.jsonl", file])
    with pytest.raises(ValueError, match=r"cache_dir .*shard-0\.jsonl is a file; give a folder"):
        stream_pairs(file, cache_dir=file)
    for name, content, told in (
        ("empty", b"", "holds no record. If its writing or its download broke off, do that again"),
        ("blank", b"\n\n", "holds no record"),
        ("array", b'[\n{"source": "a", "target": "b"}\n]', "is a JSON array; a stream reads one record a line"),
        ("utf16", '{"source": "a"}'.encode("utf-16"), "is utf-16; a stream reads UTF-8: convert it"),
    ):
        (tmp_path / f"{name}.jsonl").write_bytes(content)
        with pytest.raises(ValueError, match=told):
            encode_stream(stream_pairs([file, tmp_path / f"{name}.jsonl"]))
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(file.read_bytes())[:-20])
    with pytest.raises(ValueError, match=r"cut\.jsonl\.gz is damaged: .*Copy or download it again"):
        encode_stream(stream_pairs(tmp_path / "cut.jsonl.gz"))


def test_a_file_that_is_changed_while_it_is_trained_on_is_told(tmp_path: Path):
    files = _shards(tmp_path)
    epoch = _streamed(files).epoch(0)
    epoch[0]
    there = files[1].stat()
    text = files[1].read_text()
    files[1].write_text(text + "\n")
    with pytest.raises(ValueError, match=r"shard-1\.jsonl is not what it was when the run began: the file was changed"):
        list(epoch.read())
    # of the same size and time, but with other content
    lines = text.splitlines()
    lines[5] = "x" * len(lines[5])
    files[1].write_text("\n".join([*lines, ""]))
    os.utime(files[1], ns=(there.st_atime_ns, there.st_mtime_ns))
    with pytest.raises(ValueError, match=r"shard-1\.jsonl:6 is not what it was when the run began \(not JSON"):
        list(epoch.read())
