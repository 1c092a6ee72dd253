"""Right runs whose batch is skewed (sorted, tiny, all alike): nothing of it may be called an error.

The pieces are the demo's, which are really pretrained, and forms of batches that a sorted file or a single language
gives. What is found in wrong batches is tested beside this.
"""

import dataclasses
import lzma
import re
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import numpy as np
import pytest

from encdec_eqx import EncoderDecoder, GenerationConfig
from encdec_eqx.demo.lexicon import encode_pronunciation
from encdec_eqx.demo.pieces import IGNORED_LABEL, encode_words, join, load_pieces, padded
from encdec_eqx.doctor.losses import another_start_is_better, order_does_not_matter
from encdec_eqx.training import Finding, check_before_training, diagnose
from encdec_eqx.training.data.batches import from_all_over
from models import VOCAB, decoder_config, encoder_config, tiny_pair

Batch = dict[str, np.ndarray]
Words = list[tuple[str, list[str]]]
PAD, BOS, END = 0, 1, 2


def _errors(findings: tuple[Finding, ...]) -> list[str]:
    return [one.code for one in findings if one.severity == "error"]


# --- real words, in the order of their file


@pytest.fixture(scope="module")
def words() -> Words:
    """The dictionary, sorted as it is."""
    packed = (files("encdec_eqx.demo") / "assets" / "cmudict" / "cmudict.dict.xz").read_bytes()
    lines = [line.split("#")[0].split() for line in lzma.decompress(packed).decode().splitlines()]
    plain = [(word, [re.sub(r"\d", "", one) for one in phonemes]) for word, *phonemes in lines]
    return [(word, phonemes) for word, phonemes in plain if re.fullmatch("[a-z]{3,7}", word) and len(phonemes) < 8]


def _batch_of(words: Words) -> Batch:
    labels = padded([encode_pronunciation(phonemes) for _, phonemes in words], 8, IGNORED_LABEL)
    return {**encode_words([word for word, _ in words], width=8), "labels": labels}


SORTED: dict[str, Callable[[Words], Words]] = {
    "targets that begin with AH": lambda all: [one for one in all if one[1][0] == "AH"][:16],
    "the head of the file": lambda all: all[:16],
    "one word again and again": lambda all: all[700:701] * 16,
    "words that end alike": lambda all: [one for one in all if one[0].endswith("ation")][:16],
    "homophones": lambda all: [one for one in all if one[0].startswith("smi")][:16],
    "targets of two phonemes": lambda all: [one for one in all if len(one[1]) == 2][:16],
    "few beginnings": lambda all: [
        *[one for one in all if one[1][0] == "AH"][:12],
        *[next(one for one in all if one[1][0] == first) for first in ("AE", "AA", "B", "K")],
    ],
}


@pytest.fixture(scope="module")
def joined() -> EncoderDecoder:
    return join(*load_pieces())


@pytest.mark.parametrize("name", SORTED)
def test_sorted_words_give_no_alarm(name: str, words: Words, joined: EncoderDecoder):
    found = diagnose(joined, _batch_of(SORTED[name](words)))
    assert found.ok, str(found)


def test_another_start_token_must_suit_all_kinds_of_targets():
    own = {5: 4.0, 6: 4.0, 7: 4.0, 8: 4.0}
    assert not list(another_start_is_better(own, {9: {**own, 5: 0.1, 6: 0.1}}, 1))  # far better, for half of them
    assert not list(another_start_is_better(own, {9: dict.fromkeys(own, 3.5)}, 1))
    (finding,) = another_start_is_better(own, {9: dict.fromkeys(own, 2.0)}, 1)
    assert (finding.code, finding.severity, finding.evidence["best"]) == ("wrong_start_token", "warning", 9)


def test_targets_that_are_no_text_are_no_error():
    assert [one.severity for one in order_does_not_matter(4.0, 4.1, 4.2)] == ["warning"]


# --- batches without a run


def _model(**changes: Any) -> EncoderDecoder:
    return tiny_pair(encoder_config(depth=1), decoder_config(depth=1, **changes))


def _right(rows: int = 8) -> Batch:
    random, columns = np.random.default_rng(0), np.arange(7)
    lengths = np.arange(rows) % 4 + 3
    real = columns < lengths[:, None]
    labels = np.where(columns < lengths[:, None] - 1, random.integers(10, VOCAB, (rows, 7)), -100)
    labels[np.arange(rows), lengths - 1] = END
    ids = np.where(real, random.integers(10, VOCAB, (rows, 7)), PAD)
    return {"input_ids": ids, "attention_mask": real.astype(int), "labels": labels}


def _with_labels(rows: list[list[int]], **others: Any) -> Batch:
    width = max(map(len, rows))
    labels = np.array([[*row, *[-100] * (width - len(row))] for row in rows])
    sources = np.random.default_rng(1).integers(10, VOCAB, (len(rows), 5))
    return {"input_ids": sources, "attention_mask": np.ones_like(sources), "labels": labels, **others}


def _without_mask(sources: list[list[int]]) -> Batch:
    return {"input_ids": np.array(sources), "labels": np.array([[20 + at, END] for at in range(len(sources))])}


SKEWED: dict[str, tuple[EncoderDecoder, Batch]] = {
    "the longest targets, all cut off": (_model(), _with_labels([[11, 12, 13, 14 + at] for at in range(8)])),
    "one row, cut off": (_model(), _with_labels([[11, 12, 13]])),
    "a start token that is a word, which all targets begin with": (
        _model().with_special_tokens(decoder_start_token_id=11),
        _with_labels([[11, 12, 11, 30 + at, END] for at in range(8)]),
    ),
    "the same, cut off": (
        _model().with_special_tokens(decoder_start_token_id=11),
        _with_labels([[11, 12, 30 + at] for at in range(8)]),
    ),
    "inputs of one language": (
        _model(),
        _with_labels(
            [[11, 12 + at, END] for at in range(8)],
            decoder_input_ids=np.array([[50, 11, 12 + at] for at in range(8)]),
        ),
    ),
    "runs of one token, moved right": (
        _model(),
        _with_labels([[9] * 23] * 4, decoder_input_ids=np.array([[BOS] + [9] * 22] * 4)),
    ),
    "empty targets behind a start that is the end": (
        _model().with_special_tokens(decoder_start_token_id=END),
        _with_labels([[END]] * 4, decoder_input_ids=np.full((4, 1), END)),
    ),
    "words that end in the letter which the config calls padding": (
        _model(),
        _without_mask([[10, 11, PAD], [12, PAD, PAD], [13, PAD, 14]]),
    ),
    "words of one length that end in it": (_model(), _without_mask([[10, 11, PAD], [12, 13, PAD]])),
    "one token shown of each source": (
        tiny_pair(encoder_config(depth=1, pad_token_id=None, embeddings=dataclasses.replace(
            encoder_config().embeddings, padding_idx=None)), decoder_config(depth=1)),
        {**_right(), "input_ids": np.c_[np.full(8, 3), _right()["input_ids"][:, 1:]],
         "attention_mask": np.eye(1, 7, dtype=int).repeat(8, axis=0)},
    ),
    "one target for all": (_model(), _with_labels([[11, 12, END]] * 8)),
    "a single row": (_model(), _right(1)),
    "one language of several": (
        dataclasses.replace(_model(), generation_config=GenerationConfig(forced_bos_token_id=50)),
        _with_labels([[51, 11 + at, 12 + at, END] for at in range(8)]),
    ),
    "several languages": (
        dataclasses.replace(_model(), generation_config=GenerationConfig(forced_bos_token_id=50)),
        _with_labels([[50 + at % 2, 11 + at, 12 + at, END] for at in range(8)]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SKEWED)
def test_a_skewed_batch_gives_no_error(name: str):
    model, batch = SKEWED[name]
    assert not _errors(check_before_training(model, batch))


@pytest.mark.parametrize("name", ["one target for all", "a single row", "several languages"])
def test_nor_when_the_model_is_run_on_it(name: str):
    model, batch = SKEWED[name]
    assert not _errors(diagnose(model, batch).findings)


def test_a_causal_encoder_may_say_the_same_of_a_beginning():
    """Sorted sources are beginnings of each other; what a mask hides may differ as it likes."""
    encoder = encoder_config(depth=1, causal=True, pooler=False)
    model = tiny_pair(encoder, decoder_config(depth=1))
    ids = np.tile(np.arange(10, 16), (6, 1))
    batch = {
        "input_ids": ids + np.triu(np.arange(36).reshape(6, 6) % 7, 1),
        "attention_mask": np.tri(6, dtype=int),
        "labels": np.array([[20 + at, 30, END] for at in range(6)]),
    }
    assert not _errors(diagnose(model, batch).findings)


def test_records_are_drawn_from_the_whole_file():
    chosen = from_all_over(10_000, 64)
    assert len(set(chosen)) == 64
    assert chosen == from_all_over(10_000, 64)
    assert all(np.histogram(chosen, bins=4, range=(0, 10_000))[0] > 8)
    assert sorted(from_all_over(5, 64)) == [0, 1, 2, 3, 4]
    assert len({at % 2 for at in chosen}) == 2  # files whose languages take turns
