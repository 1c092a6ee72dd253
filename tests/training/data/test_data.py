"""Data for training: reading and judging records, encoding, shapes, and batches by (seed, epoch)."""

import bz2
import gzip
import json
import logging
import lzma
import sys
from collections.abc import Iterator
from typing import Any, cast

import jax
import numpy as np
import optax
import pyarrow
import pyarrow.parquet
import pytest

from encdec_eqx.text import TokenizerPair
from encdec_eqx.training import init_train_state, make_train_step
from encdec_eqx.training.data import (
    BadRecordsError,
    Batches,
    Example,
    Examples,
    Pairs,
    encode_pairs,
    pairs_from,
    read_pairs,
)
from models import decoder_config, encoder_config, tiny_pair
from tokenizers_of import byte_pairs, word_pieces
from tolerances import SAME_STEP

ROWS = [{"source": f"word {i}", "target": f"Wort {i}, ü"} for i in range(5)]


def _texts(pairs: Pairs) -> list[tuple[str | None, tuple[str, ...]]]:
    return [(record.source, record.targets) for record in pairs]


EXPECTED = [(row["source"], (row["target"],)) for row in ROWS]


def _jsonl(rows: list) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _csv(comma: str = ",") -> bytes:
    def field(text: str) -> str:
        return f'"{text}"' if comma in text else text

    lines = [comma.join(["id", "target", "source"])]
    lines += [comma.join([str(i), field(row["target"]), row["source"]]) for i, row in enumerate(ROWS)]
    return "\n".join(lines).encode()


# --- reading


# Named ids: pytest would spell the bytes out, and gzip's hold the second they were made in.
FORMATS = {
    "jsonl": ("a.jsonl", _jsonl(ROWS)),
    "ndjson-with-mark": ("a.ndjson", b"\xef\xbb\xbf" + _jsonl(ROWS)),
    "csv": ("a.csv", _csv()),
    "csv-with-mark": ("a.csv", b"\xef\xbb\xbf" + _csv()),
    "tsv": ("a.b.tsv", _csv("\t")),
    "jsonl.gz": ("a.jsonl.gz", gzip.compress(_jsonl(ROWS))),
    "csv.xz": ("a.csv.xz", lzma.compress(_csv())),
    "tsv.bz2": ("a.tsv.bz2", bz2.compress(_csv("\t"))),
}


@pytest.mark.parametrize(("name", "content"), FORMATS.values(), ids=FORMATS)
def test_every_format_reads_the_same(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    pairs = read_pairs(tmp_path / name)
    assert _texts(pairs) == EXPECTED
    assert pairs.bad == ()
    assert [record.file for record in pairs] == [str(tmp_path / name)] * 5
    first = 2 if "csv" in name or "tsv" in name else 1
    assert [record.line for record in pairs] == list(range(first, first + 5))


def test_parquet_reads_the_same(tmp_path):
    table = pyarrow.table({"other": [0.0] * 5, **{name: [row[name] for row in ROWS] for name in ("source", "target")}})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    assert _texts(read_pairs(tmp_path / "a.parquet")) == EXPECTED
    ids = pyarrow.table({"input_ids": [[3, 4], [5]], "labels": [[6, 2], [2]]})
    pyarrow.parquet.write_table(ids, tmp_path / "b.parquet")
    assert [record.input_ids.tolist() for record in read_pairs(tmp_path / "b.parquet")] == [[3, 4], [5]]
    nothing = pyarrow.table({"source": ["a", None], "target": [["b", "c"], ["d"]]})
    pyarrow.parquet.write_table(nothing, tmp_path / "c.parquet")
    pairs = read_pairs(tmp_path / "c.parquet", on_bad="report")
    assert _texts(pairs) == [("a", ("b", "c"))]
    assert [(bad.line, bad.reason) for bad in pairs.bad] == [(2, "'source' is not a string: NoneType None")]


def test_several_files_other_names_and_a_stated_format(tmp_path):
    for name in ("x", "y"):
        (tmp_path / name).write_bytes(_jsonl([{"en": name, "de": name.upper()}]))
    pairs = read_pairs([tmp_path / "x", str(tmp_path / "y")], source="en", target="de", format="jsonl")
    assert _texts(pairs) == [("x", ("X",)), ("y", ("Y",))]


def test_empty_lines_hold_no_record_and_quotes_are_letters_in_tsv(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"source": "a", "target": "b"}\n\n  \n{"source": "c", "target": "d"}\n\n')
    assert [record.line for record in read_pairs(tmp_path / "a.jsonl")] == [1, 4]
    (tmp_path / "a.csv").write_text('source,target\n"a\nb","say ""c"""\n\nd,e\n')
    pairs = read_pairs(tmp_path / "a.csv")
    assert _texts(pairs) == [("a\nb", ('say "c"',)), ("d", ("e",))]
    assert [record.line for record in pairs] == [2, 5]
    (tmp_path / "a.tsv").write_text('source\ttarget\n"Hello" he said\t"Hallo\n')
    assert _texts(read_pairs(tmp_path / "a.tsv")) == [('"Hello" he said', ('"Hallo',))]


def test_iterables_of_pairs_and_mappings():
    pairs = pairs_from(
        [("a", "b"), ["c", ["d", "e"]], {"source": "f", "target": "g"}, {"input_ids": [1], "labels": [2]}]
    )
    assert _texts(pairs) == [("a", ("b",)), ("c", ("d", "e")), ("f", ("g",)), (None, ())]
    assert [record.line for record in pairs] == [1, 2, 3, 4]
    assert len(pairs_from(iter(ROWS))) == 5


BAD = [
    (b"nonsense", "not JSON: Expecting value"),
    (b'{"source": "a", "target": "b"', "not JSON"),
    (b'["a"]', "expected a mapping or a pair of source and target, got list ['a']"),
    (b'"ab"', "expected a mapping or a pair of source and target, got str 'ab'"),
    (b'{"source": "a", "tgt": "b"}', "no 'target'; it has 'source', 'tgt'"),
    (b'{"source": 3, "target": "b"}', "'source' is not a string: int 3"),
    (b'{"source": "a", "target": null}', "'target' is not a string: NoneType None"),
    (b'{"source": " \\t", "target": "b"}', "'source' is empty"),
    (b'{"source": "a", "target": []}', "'target' is an empty list"),
    (b'{"source": "a", "target": ["b", ""]}', "'target' is empty"),
    (b'{"source": "a\xff", "target": "b"}', "not UTF-8: invalid start byte at byte 13"),
    (b'{"source": "a\\ud83d", "target": "b"}', "'source' is not UTF-8: byte or half pair at letter 1"),
    (b'{"input_ids": [1, -1], "labels": [2]}', "'input_ids' holds -1, which is no id"),
    (b'{"input_ids": [1, 2.5], "labels": [2]}', "'input_ids' is not a list of integers: list [1, 2.5]"),
    (b'{"input_ids": [1, true], "labels": [[2], [3, 4]]}', "'labels' is not a list of integers"),
    (b'{"input_ids": [], "labels": [2]}', "'input_ids' is empty"),
    (b'{"input_ids": [1], "labels": [-100]}', "'labels' holds no label but -100"),
    (b'{"input_ids": [4294967296], "labels": [1]}', "'input_ids' holds 4294967296, which is no id"),
]


@pytest.mark.parametrize(("line", "reason"), BAD)
def test_a_bad_line_is_named_and_the_others_are_kept(tmp_path, line, reason, caplog):
    good = b'{"source": "a", "target": "b"}'
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([good, line, good]))
    with pytest.raises(BadRecordsError) as caught:
        read_pairs(tmp_path / "a.jsonl")
    assert f"{tmp_path / 'a.jsonl'}:2: {reason}" in str(caught.value)
    assert 'pass on_bad="report"' in str(caught.value)
    with caplog.at_level(logging.WARNING, "encdec_eqx"):
        pairs = read_pairs(tmp_path / "a.jsonl", on_bad="report")
    assert [record.line for record in pairs] == [1, 3]
    assert pairs.bad == caught.value.bad
    assert len(pairs.bad) == 1
    assert "1 of 3 records cannot be used" in caplog.text


@pytest.mark.parametrize(
    ("name", "line", "reason"),
    [
        ("a.csv", b"a,b,c", "3 columns, the first line has 2"),
        ("a.csv", b"a", "1 columns, the first line has 2"),
        ("a.csv", b'"a" b,c', "not a row: ',' expected after '\"'"),
        ("a.csv", b"a,\xff", "'target' is not UTF-8: byte or half pair at letter 0"),
        ("a.tsv", b"a\t ", "'target' is empty"),
    ],
)
def test_a_bad_row_is_named_and_the_others_are_kept(tmp_path, name, line, reason):
    comma = b"," if name == "a.csv" else b"\t"
    good = comma.join([b"a", b"b"])
    (tmp_path / name).write_bytes(b"\n".join([comma.join([b"source", b"target"]), good, line, good]))
    pairs = read_pairs(tmp_path / name, on_bad="report")
    assert [record.line for record in pairs] == [2, 4]
    assert [(bad.line, bad.reason) for bad in pairs.bad] == [(3, reason)]


def test_the_error_lists_ten_and_counts_all(tmp_path):
    (tmp_path / "a.jsonl").write_text("x\n" * 25 + '{"source": "a", "target": "b"}\n')
    with pytest.raises(BadRecordsError) as caught:
        read_pairs(tmp_path / "a.jsonl")
    text = str(caught.value)
    assert "25 of 26 records cannot be used" in text
    assert text.count("a.jsonl:") == 10
    assert "... and 15 more" in text
    assert len(caught.value.bad) == 25
    assert caught.value.bad[24][:2] == (str(tmp_path / "a.jsonl"), 25)


def test_nothing_usable_is_an_error_even_when_reporting(tmp_path):
    (tmp_path / "a.jsonl").write_text("x\n")
    with pytest.raises(BadRecordsError, match="1 of 1 records"):
        read_pairs(tmp_path / "a.jsonl", on_bad="report")
    (tmp_path / "a.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="there are no records in"):
        read_pairs(tmp_path / "a.jsonl")
    with pytest.raises(ValueError, match="there are no records in the iterable"):
        pairs_from([])


def test_files_that_cannot_be_read_at_all(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="no file was given"):
        read_pairs([])
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_pairs(tmp_path / "no.jsonl")
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(ValueError, match=r"does not say its format; expected a name that ends in \.jsonl"):
        read_pairs(tmp_path / "a.txt")
    with pytest.raises(ValueError, match="format must be one of 'jsonl', 'json', 'csv', 'tsv', 'parquet', got 'txt'"):
        read_pairs(tmp_path / "a.txt", format="txt")
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(ValueError, match=r"is empty; expected a first line"):
        read_pairs(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text("en,de\na,b\n")
    with pytest.raises(ValueError, match=r"has no column 'source'; it has 'en', 'de'\. Say which to read"):
        read_pairs(tmp_path / "a.csv", on_bad="report")
    for name, content in (("a.jsonl.gz", gzip.compress(_jsonl(ROWS))), ("a.jsonl.xz", lzma.compress(_jsonl(ROWS)))):
        (tmp_path / name).write_bytes(content[:-20])
        with pytest.raises(ValueError, match="is damaged"):
            read_pairs(tmp_path / name)
    (tmp_path / "a.parquet").write_text("no")
    with pytest.raises(ValueError, match="is damaged, or not Parquet"):
        read_pairs(tmp_path / "a.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"install -e .*\[parquet\]"):
        read_pairs(tmp_path / "a.parquet")


def test_an_unknown_way_with_bad_records_is_refused(unchecked):
    with pytest.raises(ValueError, match='on_bad must be "error" or "report", got \'skip\''):
        pairs_from([("a", "b")], on_bad=cast(Any, "skip"))


# --- encoding


@pytest.fixture(scope="module")
def tokenizers() -> TokenizerPair:
    model = tiny_pair(
        encoder_config(depth=1),
        decoder_config(depth=1, vocab_size=300, eos_token_id=0, bos_token_id=0, pad_token_id=0),
    )
    return TokenizerPair(word_pieces(), byte_pairs()).for_model(model)


def test_records_become_the_ids_of_the_tokenizers(tokenizers):
    pairs = pairs_from([("the cat", ["a dog", "dogs"]), {"input_ids": [5, 6], "labels": [7, 0]}, ("hello", "who?")])
    examples = encode_pairs(pairs, tokenizers)
    assert len(examples) == 3
    for at, (source, target) in {0: ("the cat", "a dog"), 2: ("hello", "who?")}.items():
        np.testing.assert_array_equal(examples[at].input_ids, tokenizers.encode_source([source])[0])
        np.testing.assert_array_equal(examples[at].labels, tokenizers.encode_target([target])[0])
    assert (examples[1].input_ids.tolist(), examples[1].labels.tolist()) == ([5, 6], [7, 0])
    assert examples[0].source == "the cat"
    assert examples.references == [["a dog", "dogs"], [], ["who?"]]
    assert examples.sources == ["the cat", None, "hello"]
    assert [example.labels.tolist() for example in examples[1:]] == [examples[at].labels.tolist() for at in (1, 2)]
    assert examples[-1].source == "hello"
    with pytest.raises(IndexError):
        examples[3]


def test_every_target_can_be_an_example(tokenizers):
    pairs = pairs_from([("the cat", ["a dog", "dogs"]), {"input_ids": [5], "labels": [7]}])
    examples = encode_pairs(pairs, tokenizers, every_target=True)
    assert [example.targets for example in examples] == [("a dog",), ("dogs",), ()]
    np.testing.assert_array_equal(examples[1].labels, tokenizers.encode_target(["dogs"])[0])


def test_what_is_too_long_is_cut_and_counted_or_bad(tokenizers, caplog):
    rows = [("the cat sat", "a dog"), {"input_ids": [3, 4, 5, 6, 7], "labels": [1, 2, 3, 0]}, ("the", "a")]
    with caplog.at_level(logging.WARNING, "encdec_eqx"):
        examples = encode_pairs(pairs_from(rows), tokenizers, max_source_length=4, max_target_length=3)
    assert examples[0].input_ids.tolist() == tokenizers.encode_source(["the cat"])[0].tolist()
    assert examples[1].input_ids.tolist() == [3, 4, 5, 7]
    assert examples[1].labels.tolist() == [1, 2, 0]
    assert (examples.truncated_sources, examples.truncated_targets) == (2, 2)
    assert caplog.text.count("were cut") == 4
    limits = {"max_source_length": 4, "too_long": "bad"}
    with pytest.raises(BadRecordsError, match=r"<iterable>:1: the source has 5 tokens, more than 4"):
        encode_pairs(pairs_from(rows), tokenizers, **limits)
    examples = encode_pairs(pairs_from(rows), tokenizers, **limits, on_bad="report")
    assert [example.source for example in examples] == ["the"]
    assert [bad.line for bad in examples.bad] == [1, 2]
    assert examples.truncated_sources == 0


def test_ids_out_of_range_and_ends_inside_are_bad(tokenizers):
    rows = [("the", "a<|endoftext|>b"), {"input_ids": [53], "labels": [1]}, {"input_ids": [1], "labels": [300]}]
    pairs = pairs_from([*rows, None, ("a", "b")], on_bad="report")
    examples = encode_pairs(pairs, tokenizers, vocab_sizes=(53, 300), on_bad="report")
    assert len(examples) == 1
    assert [(bad.line, bad.reason) for bad in examples.bad] == [
        (4, "expected a mapping or a pair of source and target, got NoneType None"),
        (1, "the target has the end token '<|endoftext|>' inside"),
        (2, "the source holds the id 53; its vocabulary has 53"),
        (3, "the target holds the id 300; its vocabulary has 300"),
    ]


def test_encoding_options_are_judged(tokenizers, unchecked):
    pairs = pairs_from([("a", "b")])
    with pytest.raises(ValueError, match=r"1 of 1 records are text, which needs tokenizers"):
        encode_pairs(pairs)
    with pytest.raises(ValueError, match='too_long must be "truncate" or "bad"'):
        encode_pairs(pairs, tokenizers, too_long=cast(Any, "drop"))
    with pytest.raises(ValueError, match="max_source_length must be at least 1, got 0"):
        encode_pairs(pairs_from([{"input_ids": [1], "labels": [2]}]), max_source_length=0)


def test_an_example_without_ids_is_refused():
    empty = np.zeros(0, np.int32)
    with pytest.raises(ValueError, match="example 0 is empty"):
        Examples.of([Example(input_ids=empty, labels=np.ones(1, np.int32))])


# --- shapes


def _examples(number: int, seed: int = 0, longest: int = 24) -> Examples:
    """Lengths of a long tail, the target's going with the source's; every source begins with its own number."""
    rng = np.random.default_rng(seed)
    sources = np.clip(rng.lognormal(1.5, 0.5, number).astype(int), 1, longest)
    targets = np.clip(sources + rng.integers(-2, 3, number), 1, longest)
    rows = [np.append(at, rng.integers(3, 53, length - 1)) for at, length in enumerate(sources)]
    labels = [rng.integers(3, 53, length) for length in targets]
    return Examples.of(
        Example(input_ids=row.astype(np.int32), labels=label.astype(np.int32))
        for row, label in zip(rows, labels, strict=True)
    )


@pytest.mark.parametrize("max_shapes", [1, 2, 3, 8])
@pytest.mark.parametrize("rows", [{"batch_size": 16}, {"tokens_per_batch": 512, "rows_multiple_of": 4}])
def test_shapes_are_few_and_hold_everything(max_shapes, rows):
    batches = Batches(_examples(700), max_shapes=max_shapes, **rows)
    assert 1 <= len(batches.shapes) <= max_shapes
    for batch in batches.epoch(0):
        shape = (*batch["input_ids"].shape, batch["labels"].shape[1])
        assert shape in [(shape.rows, shape.source, shape.target) for shape in batches.shapes]
        if "batch_size" in rows:
            assert shape[0] == 16
        else:
            assert shape[0] % 4 == 0
            assert shape[0] * (shape[1] + shape[2]) <= 512


def test_more_shapes_mean_less_padding():
    examples = _examples(5000)
    shares = [Batches(examples, batch_size=16, max_shapes=number).padding_share for number in (1, 2, 4, 8)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.7
    assert shares[-1] < 0.2


def test_the_chosen_shapes_are_the_best_chain():
    """Against every chain of up to three shapes, on a grid small enough to try them all."""
    examples = _examples(60, longest=5)
    sources, targets = examples.inputs.lengths, examples.labels.lengths
    found = Batches(examples, batch_size=4, max_shapes=3).padded_tokens
    last = (sources.max(), targets.max())
    points = [(s, t) for s in np.unique(sources) for t in np.unique(targets)]
    best = min(_tokens([*chain, last], sources, targets, rows=4) for chain in _chains(points, 2))
    assert found == best


def _chains(points: list, links: int) -> Iterator[list]:
    yield []
    for first in points if links else []:
        for rest in _chains([p for p in points if p[0] >= first[0] and p[1] >= first[1]], links - 1):
            yield [first, *rest]


def _tokens(chain: list, sources: np.ndarray, targets: np.ndarray, rows: int) -> int:
    left = np.ones(len(sources), bool)
    total = 0
    for source, target in chain:
        here = left & (sources <= source) & (targets <= target)
        total += -(-here.sum() // rows) * rows * (source + target)
        left &= ~here
    return int(total)


def test_few_examples_are_not_spread_over_many_shapes():
    assert len(Batches(_examples(10), batch_size=16).shapes) == 1


def test_shapes_can_be_given():
    batches = Batches(_examples(300), batch_size=8, source_lengths=[6, 24], target_lengths=[8, 26])
    assert {(shape.source, shape.target) for shape in batches.shapes} == {(6, 8), (24, 8), (24, 26)}
    only = Batches(_examples(300), batch_size=8, source_lengths=[24])
    assert [(shape.source, shape.target) for shape in only.shapes] == [(24, _examples(300).labels.lengths.max())]
    with pytest.raises(ValueError, match=r"sources are longer than source_lengths' last edge, 5.*max_source_length=5"):
        Batches(_examples(300), batch_size=8, source_lengths=[5])
    with pytest.raises(ValueError, match="target_lengths must be numbers of at least 1"):
        Batches(_examples(300), batch_size=8, target_lengths=[])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "give one of batch_size and tokens_per_batch"),
        ({"batch_size": 4, "tokens_per_batch": 100}, "give one of batch_size and tokens_per_batch"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"batch_size": 6, "rows_multiple_of": 4}, "batch_size=6 is no multiple of rows_multiple_of=4"),
        ({"batch_size": 4, "max_shapes": 0}, "max_shapes must be at least 1"),
        ({"tokens_per_batch": 20}, r"tokens_per_batch=20 has no room for 1 rows of \d+ source"),
    ],
)
def test_options_of_batches_are_judged(options, says):
    with pytest.raises(ValueError, match=says):
        Batches(_examples(50), **options)


def test_batches_of_nothing_are_refused():
    with pytest.raises(ValueError, match="no examples"):
        Batches([], batch_size=2)


# --- batches


def _numbers(batch: dict[str, np.ndarray]) -> list[int]:
    """The examples of a batch: what its real rows begin with."""
    real = (batch["labels"] != -100).any(axis=1)
    return batch["input_ids"][real, 0].tolist()


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("rows", [{"batch_size": 16}, {"tokens_per_batch": 300}])
def test_every_example_stands_in_one_batch_of_an_epoch_with_all_its_ids(shuffle, rows):
    examples = _examples(333)
    batches = Batches(examples, shuffle=shuffle, max_shapes=4, pad_token_id=7, **rows)
    for number in (0, 1):
        epoch = batches.epoch(number)
        assert len(epoch) == len(batches)
        seen: list[int] = []
        for at, batch in enumerate(epoch):
            assert _numbers(batch) == epoch.indices(at).tolist()
            seen += _numbers(batch)
            for row, index in enumerate(epoch.indices(at)):
                example, mask = examples[int(index)], batch["attention_mask"][row]
                np.testing.assert_array_equal(batch["input_ids"][row][mask], example.input_ids)
                assert (batch["input_ids"][row][~mask] == 7).all()
                labels = batch["labels"][row]
                np.testing.assert_array_equal(labels[: len(example.labels)], example.labels)
                assert (labels[len(example.labels) :] == -100).all()
        assert sorted(seen) == list(range(333))


def test_the_order_depends_on_seed_and_epoch_alone():
    def order(seed: int, epoch: int) -> list[list[int]]:
        return [_numbers(batch) for batch in Batches(_examples(200), batch_size=8, seed=seed).epoch(epoch)]

    first = order(3, 5)
    assert order(3, 5) == first
    assert order(3, 6) != first
    assert order(4, 5) != first
    batches = Batches(_examples(200), batch_size=8, seed=3)
    for number in (2, 5, 0):  # whatever was asked for before
        again = [_numbers(batch) for batch in batches.epoch(number)]
    assert [_numbers(batch) for batch in batches.epoch(5)] == first
    assert sorted(again) != sorted(first)


def test_without_shuffling_the_order_is_the_examples_own():
    batches = Batches(_examples(200), batch_size=8, max_shapes=1, shuffle=False)
    assert [number for batch in batches.epoch(3) for number in _numbers(batch)] == list(range(200))


def test_an_index_gives_what_iteration_gives():
    epoch = Batches(_examples(150), batch_size=8).epoch(2)
    whole = list(epoch)
    assert len(whole) == len(epoch)
    for at in [*range(len(whole)), -1]:
        for name, array in epoch[at].items():
            np.testing.assert_array_equal(array, whole[at][name])
    assert [_numbers(batch) for batch in epoch[3:5]] == [_numbers(batch) for batch in whole[3:5]]
    assert epoch.shape(0) in Batches(_examples(150), batch_size=8).shapes
    with pytest.raises(IndexError):
        epoch[len(epoch)]
    with pytest.raises(ValueError, match="at least 0"):
        Batches(_examples(5), batch_size=8).epoch(-1)


def test_fillers_have_no_label_and_something_to_attend_to():
    batches = Batches(_examples(5), batch_size=8, max_shapes=1)
    (batch,) = batches.epoch(0)
    assert (batch["labels"][5:] == -100).all()
    assert batch["attention_mask"][5:].sum(axis=1).tolist() == [1, 1, 1]
    assert {name: array.dtype for name, array in batch.items()} == {
        "input_ids": np.int32,
        "attention_mask": np.bool_,
        "labels": np.int32,
    }


def test_the_counts_are_those_of_the_batches():
    examples = _examples(321)
    batches = Batches(examples, tokens_per_batch=400, rows_multiple_of=2)
    epoch = list(batches.epoch(0))
    assert batches.target_tokens == sum((batch["labels"] != -100).sum() for batch in epoch)
    fillers = sum((batch["labels"] == -100).all(axis=1).sum() for batch in epoch)
    assert batches.source_tokens == sum(batch["attention_mask"].sum() for batch in epoch) - fillers
    places = sum(batch["input_ids"].size + batch["labels"].size for batch in epoch)
    assert batches.padded_tokens == places
    assert batches.padding_share == pytest.approx(1 - (batches.source_tokens + batches.target_tokens) / places)
    assert f"321 examples, {batches.padding_share:.1%} padding" in batches.describe()
    assert len(batches.describe().splitlines()) == len(batches.shapes) + 1


def test_one_of_each_shape_is_what_an_epoch_needs_compiled():
    batches = Batches(_examples(400), tokens_per_batch=300, max_shapes=5)
    ahead = {(batch["input_ids"].shape, batch["labels"].shape) for batch in batches.one_of_each_shape()}
    assert len(ahead) == len(batches.shapes) > 1
    assert {(batch["input_ids"].shape, batch["labels"].shape) for batch in batches.epoch(0)} == ahead


def test_a_filled_batch_trains_as_its_examples_alone(standard_promotion):
    """Loss, gradient norm and new weights, with the real step."""
    examples = _examples(5, longest=8)
    (filled,) = Batches(examples, batch_size=8, max_shapes=1, shuffle=False).epoch(0)
    (bare,) = Batches(examples, batch_size=5, max_shapes=1, shuffle=False).epoch(0)
    model, optimizer = tiny_pair(encoder_config(depth=1), decoder_config(depth=1)), optax.sgd(0.5)
    after = []
    for batch in (filled, bare):
        state, metrics = make_train_step(optimizer)(init_train_state(model, optimizer), batch, None)
        after.append((metrics, state.params))
    assert float(after[0][0]["tokens"]) == len(examples.labels.ids)
    for one, other in zip(*map(jax.tree.leaves, after), strict=True):
        np.testing.assert_allclose(one, other, rtol=SAME_STEP, atol=SAME_STEP)
