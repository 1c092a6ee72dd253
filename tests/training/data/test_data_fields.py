"""What records hold beside ids and labels (masks, segments, decoder inputs, ...): carried, cut, padded, or named."""

import json
import logging

import jax
import numpy as np
import optax
import pytest

from encdec_eqx.config import EmbeddingsConfig
from encdec_eqx.training import init_train_state, make_train_step
from encdec_eqx.training.batch import KEYS, checked_batch
from encdec_eqx.training.data import BadRecordsError, Batches, Example, Examples, encode_pairs, pairs_from, read_pairs
from encdec_eqx.training.data.records import FIELDS
from encdec_eqx.training.evaluation import generate_ids, mean_loss
from encdec_eqx.training.model_examples import digest, examples_for
from encdec_eqx.training.train_config import TrainConfig
from models import decoder_config, encoder_config, tiny_pair
from tolerances import SAME_STEP

SOURCE, TARGET = 10, 8
LENGTHS = [(4, 3), (7, 5), (3, 2), (6, 6)]


def _record(rng: np.random.Generator, source: int, target: int) -> dict[str, np.ndarray]:
    """What `datasets.map(tokenize, padding="max_length")` leaves, with every field, and with holes in the masks."""

    def behind(row: np.ndarray, fill: int, width: int) -> np.ndarray:
        return np.append(row, np.full(width - len(row), fill))

    labels = rng.integers(4, 50, target)
    record = {
        "input_ids": behind(rng.integers(4, 50, source), 0, SOURCE),
        "attention_mask": behind(np.ones(source, int), 0, SOURCE),
        "token_type_ids": behind(rng.integers(0, 2, source), 0, SOURCE),
        "position_ids": behind(rng.permutation(source), 0, SOURCE),
        "labels": behind(labels, -100, TARGET),
        "decoder_input_ids": behind(np.append(1, labels[:-1]), 0, TARGET),
        "decoder_attention_mask": behind(np.ones(target, int), 0, TARGET),
        "decoder_position_ids": behind(np.arange(target)[::-1], 0, TARGET),
    }
    record["attention_mask"][1] = 0
    record["decoder_attention_mask"][0] = 0
    record["labels"][0] = -100
    return record


RECORDS = [_record(np.random.default_rng(at), *lengths) for at, lengths in enumerate(LENGTHS)]


@pytest.fixture(scope="module")
def model():
    return tiny_pair(encoder_config(depth=1), decoder_config(depth=1))


def _batch(records: list, **options) -> dict[str, np.ndarray]:
    examples = encode_pairs(pairs_from(records), **options)
    (batch,) = Batches(examples, batch_size=len(records), max_shapes=1, shuffle=False).epoch(0)
    return batch


def _stepped(model, batch: dict[str, np.ndarray]) -> list:
    optimizer = optax.sgd(0.5)
    state, metrics = make_train_step(optimizer)(init_train_state(model, optimizer), batch, None)
    return [metrics, state.params]


def _same_step(model, one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    for a, b in zip(*(jax.tree.leaves(_stepped(model, batch)) for batch in (one, other)), strict=True):
        np.testing.assert_allclose(a, b, rtol=SAME_STEP, atol=SAME_STEP)


def test_records_may_hold_all_that_a_step_knows():
    assert {*FIELDS, "input_ids", "labels"} == set(KEYS)


@pytest.mark.parametrize("form", ["arrays", "lists", "bools"])
def test_a_step_on_records_is_the_step_on_the_batch_made_by_hand(model, form, standard_promotion):
    by_hand = {name: np.stack([record[name] for record in RECORDS]) for name in KEYS}
    make = {
        "arrays": lambda name, row: row,
        "lists": lambda name, row: row.tolist(),
        "bools": lambda name, row: row.astype(bool) if "mask" in name else row,
    }[form]
    batch = _batch([{name: make(name, row) for name, row in record.items()} for record in RECORDS])
    assert set(batch) == set(KEYS)
    assert batch["input_ids"].shape == (4, 7)
    assert batch["labels"].shape == (4, 6)
    _same_step(model, batch, by_hand)


def test_each_field_counts_and_comes_from_files_too(model, tmp_path):
    """Without any one of them the loss is another; a file of JSON Lines gives the same batch."""
    whole = _batch(RECORDS)
    loss = mean_loss(model, [whole])
    for name in FIELDS:
        without = _batch([{key: row for key, row in record.items() if key != name} for record in RECORDS])
        assert abs(mean_loss(model, [without]) - loss) > 1e-4, name
    lines = [json.dumps({name: row.tolist() for name, row in record.items()}) for record in RECORDS]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    (read,) = Batches(encode_pairs(read_pairs(tmp_path / "a.jsonl")), batch_size=4, max_shapes=1, shuffle=False).epoch(
        0
    )
    for name, array in whole.items():
        np.testing.assert_array_equal(read[name], array)


def test_padded_records_are_the_unpadded_ones(model, standard_promotion):
    """With the mask that came with the padding, and -100 behind the labels."""
    plain = [
        {"input_ids": record["input_ids"][:source], "labels": record["labels"][:target]}
        for record, (source, target) in zip(RECORDS, LENGTHS, strict=True)
    ]
    padded = [
        {name: record[name] for name in ("input_ids", "labels")} | {"attention_mask": record["input_ids"] != 0}
        for record in RECORDS
    ]
    _same_step(model, _batch(padded), _batch(plain))
    examples = encode_pairs(pairs_from(padded), max_source_length=7, max_target_length=6)
    assert examples.inputs.lengths.tolist() == [source for source, _ in LENGTHS]
    assert examples.labels.lengths.tolist() == [target for _, target in LENGTHS]
    assert examples.truncated_sources == examples.truncated_targets == 0
    batches = Batches(examples, batch_size=2)
    assert batches.source_tokens == sum(source for source, _ in LENGTHS)


def test_padding_on_the_left_stays_where_it_is(model, standard_promotion):
    """Positions count from the first place, as in torch, whatever the mask: moving the ids would change numbers."""
    row = {"input_ids": [0, 0, 5, 6], "attention_mask": [0, 0, 1, 1], "labels": [7, 8]}
    batch = _batch([row])
    assert batch["input_ids"].tolist() == [[0, 0, 5, 6]]
    assert batch["attention_mask"].tolist() == [[False, False, True, True]]
    by_hand = {name: np.asarray([value]) for name, value in row.items()}
    _same_step(model, batch, by_hand)


def test_cutting_keeps_the_last_token_with_its_mask_and_its_segment_and_every_place_its_position():
    row = {
        "input_ids": [11, 12, 13, 14, 15],
        "attention_mask": [1, 0, 1, 1, 1],
        "token_type_ids": [0, 0, 0, 1, 1],
        "position_ids": [0, 1, 2, 3, 4],
        "labels": [21, 22, 23, 2],
        "decoder_input_ids": [1, 21, 22, 23],
        "decoder_attention_mask": [0, 1, 1, 1],
        "decoder_position_ids": [5, 6, 7, 8],
    }
    (example,) = encode_pairs(pairs_from([row]), max_source_length=3, max_target_length=3)
    assert {name: example.fields[name].tolist() for name in FIELDS} == {
        "attention_mask": [1, 0, 1],
        "token_type_ids": [0, 0, 1],
        "position_ids": [0, 1, 2],
        "decoder_input_ids": [1, 21, 22],
        "decoder_attention_mask": [0, 1, 1],
        "decoder_position_ids": [5, 6, 7],
    }
    assert (example.input_ids.tolist(), example.labels.tolist()) == ([11, 12, 15], [21, 22, 2])


def test_a_field_that_some_records_have_is_filled_in_where_a_model_would_do_the_same(model, standard_promotion):
    some = [dict(record) for record in RECORDS]
    for name in ("attention_mask", "token_type_ids", "decoder_attention_mask"):
        del some[0][name]
    by_hand = {name: np.stack([record[name] for record in RECORDS]) for name in KEYS}
    by_hand["attention_mask"][0], by_hand["token_type_ids"][0], by_hand["decoder_attention_mask"][0] = 1, 0, 1
    _same_step(model, _batch(some), by_hand)
    for name in ("position_ids", "decoder_input_ids", "decoder_position_ids"):
        some = [dict(RECORDS[0]), {key: row for key, row in RECORDS[1].items() if key != name}]
        with pytest.raises(ValueError, match=f"1 of 2 examples have '{name}' and the others do not: give it for all"):
            _batch(some)
    assert "token_type_ids" not in _batch([{**record, "token_type_ids": None} for record in RECORDS])


BAD = [
    ({"attention_mask": [1, 1]}, "'attention_mask' has 2 entries, 'input_ids' has 3"),
    ({"decoder_input_ids": [1]}, "'decoder_input_ids' has 1 entries, 'labels' has 2"),
    ({"attention_mask": [1, 2, 0]}, "'attention_mask' holds 2; a mask holds 1 for real tokens and 0 for padding"),
    (
        {"attention_mask": [1.0, 1.0, 0.0]},
        r"'attention_mask' is not a list of integers 0 and 1, or booleans: list \[1.0",
    ),
    ({"attention_mask": [0, 0, 0]}, "'attention_mask' is 0 everywhere: it hides all tokens"),
    ({"decoder_attention_mask": [0, 0]}, "'decoder_attention_mask' is 0 everywhere"),
    ({"token_type_ids": [0, -1, 0]}, "'token_type_ids' holds -1, which is no id"),
    ({"decoder_input_ids": [1, -100]}, "'decoder_input_ids' holds -100, which is no id"),
    ({"position_ids": "012"}, "'position_ids' is not a list of integers: str '012'"),
]


@pytest.mark.parametrize(("field", "reason"), BAD)
def test_a_bad_field_is_named(field, reason):
    good = {"input_ids": [3, 4, 5], "labels": [6, 2]}
    with pytest.raises(BadRecordsError, match=f"<iterable>:2: {reason}"):
        pairs_from([good, {**good, **field}])


def test_ids_that_the_decoder_cannot_read_are_bad(model):
    row = {"input_ids": [3], "labels": [6, 2], "decoder_input_ids": [1, 99]}
    with pytest.raises(BadRecordsError, match="'decoder_input_ids' holds the id 99; its vocabulary has 53"):
        encode_pairs(pairs_from([row]), vocab_sizes=(53, 53))


def test_what_the_model_has_no_table_for_is_found_before_the_run(model):
    config = TrainConfig()
    for field, says in (
        ({"token_type_ids": [0, 7]}, "`token_type_ids` holds 7; expected values from 0 to 1"),
        ({"position_ids": [0, 900]}, "`position_ids` holds 900"),
        ({"decoder_position_ids": [0, 900]}, "`decoder_position_ids` holds 900"),
    ):
        row = {"input_ids": [3, 4], "labels": [6, 2], **field}
        with pytest.raises(ValueError, match=f"does not fit the model: {says}"):
            examples_for(model, [row], config, None, "error")
        batch = {name: np.asarray([value]) for name, value in row.items()}
        with pytest.raises(ValueError, match=says):
            checked_batch(batch, model)
    row = {"input_ids": [3], "labels": [2], "token_type_ids": [0]}
    embeddings = EmbeddingsConfig(norm=True, padding_idx=0)
    typeless = tiny_pair(encoder_config(depth=1, embeddings=embeddings), decoder_config(depth=1))
    with pytest.raises(ValueError, match="without token types ignores them: leave them out"):
        examples_for(typeless, [row], config, None, "error")


def test_what_is_not_used_is_named_once(caplog, tmp_path):
    rows = [
        {"source": "a", "target": "b", "id": 1, "attention_mask": [1]},
        {"source": "c", "target": "d", "id": 2, "attn_mask": None},
        {"input_ids": [3], "labels": [2], "atention_mask": [1], "source": "e"},
    ]
    with caplog.at_level(logging.WARNING, "encdec_eqx"):
        pairs = pairs_from(rows)
    assert caplog.messages == [
        "of the records' fields these are not used: 'id' in 2 of 3, 'attention_mask' (which goes with input_ids and "
        "labels) in 1 of 3, 'atention_mask' (did you mean 'attention_mask'?) in 1 of 3, 'source' in 1 of 3."
    ]
    assert pairs.unread == ("id", "attention_mask", "atention_mask", "source")
    caplog.clear()
    (tmp_path / "a.csv").write_text("source,id,target\na,1,b\nc,2,d\n")
    with caplog.at_level(logging.WARNING, "encdec_eqx"):
        read_pairs(tmp_path / "a.csv")
        pairs_from([("a", "b"), {"source": "c", "target": "d"}])
    assert caplog.messages == ["of the records' fields these are not used: 'id'."]


def test_examples_made_by_hand_hold_fields_too():
    ids, labels = np.arange(3, 7, dtype=np.int32), np.array([5, 2, -100], np.int32)
    example = Example(input_ids=ids, labels=labels, attention_mask=np.array([1, 1, 0, 0]))
    examples = Examples.of([example, Example(input_ids=ids, labels=labels)])
    assert [one.attention_mask.tolist() for one in examples] == [[1, 1], [1, 1, 1, 1]]
    assert examples.labels.lengths.tolist() == [2, 2]
    with pytest.raises(ValueError, match=r"example 0 has attention_mask of shape \(3,\); expected one number for each"):
        Examples.of([Example(input_ids=ids, labels=labels, attention_mask=np.ones(3, int))])
    with pytest.raises(TypeError, match="example 0 has attention_mask of dtype float64; expected integers"):
        Examples.of([Example(input_ids=ids, labels=labels, attention_mask=np.ones(4))])


def test_filler_rows_weigh_nothing_and_have_something_to_attend_to(model, standard_promotion):
    examples = encode_pairs(pairs_from(RECORDS))
    (filled,) = Batches(examples, batch_size=6, max_shapes=1, shuffle=False, decoder_pad_token_id=9).epoch(0)
    assert filled["attention_mask"][4:].sum() == filled["decoder_attention_mask"][4:].sum() == 2
    assert (filled["decoder_input_ids"][4:] == 9).all()
    assert (filled["labels"][4:] == -100).all()
    _same_step(model, filled, _batch(RECORDS))


def test_a_run_s_data_is_another_if_a_mask_is_another():
    def of(**fields) -> str:
        return digest(encode_pairs(pairs_from([{"input_ids": [3, 4], "labels": [2], **fields}])))

    plain = of()
    assert of(attention_mask=[0, 1]) != of(attention_mask=[1, 1]) != plain
    assert of(token_type_ids=[1, 1]) != of(attention_mask=[1, 1])
    assert of() == plain


def test_evaluations_generate_with_the_sources_own_masks_segments_and_positions(model):
    sources = [np.array([7, 8, 9, 10], np.int32), np.array([11, 12], np.int32)]
    fields = [
        {
            "attention_mask": np.array([0, 1, 1, 1]),
            "token_type_ids": np.array([0, 1, 1, 0]),
            "position_ids": np.arange(4),
        },
        {"attention_mask": np.array([1, 1]), "token_type_ids": np.array([1, 0]), "position_ids": np.array([3, 1])},
    ]
    got = generate_ids(model, sources, batch_size=2, max_new_tokens=5, fields=fields)
    for source, field, row in zip(sources, fields, got, strict=True):
        alone = model.generate(source[None], **{name: value[None] for name, value in field.items()}, max_new_tokens=5)
        assert row == alone.sequences[0, 1 : 1 + len(row)].tolist()
        assert alone.lengths[0] - (not alone.truncated[0]) == len(row)
