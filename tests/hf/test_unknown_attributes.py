"""Attributes of a checkpoint's config that nothing is known of: loaded without, named once, saved again."""

import json
import logging
from pathlib import Path
from typing import Any

import jax
import pytest

from checkpoints import (
    BERT_CONFIG,
    GPT2_CONFIG,
    bert_tensors,
    gpt2_tensors,
    pair_config,
    pair_tensors,
    write,
)
from encdec_eqx import Decoder, Encoder, EncoderDecoder

UNKNOWN = {"author": "someone", "kobart_version": 2.0, "n_special": 0}
NAMES = "author, kobart_version, n_special"


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def _config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def test_an_encoders_are_named_once_and_saved_again(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    folder = write(tmp_path / "in", {**BERT_CONFIG, **UNKNOWN}, bert_tensors())
    encoder = Encoder.from_pretrained(folder)
    (said,) = _warnings(caplog)
    assert f"not understood: {NAMES}; if it changes numbers, so does leaving it out" in said
    assert encoder.load_report.unknown == tuple(UNKNOWN)
    assert f"not understood: {NAMES};" in str(encoder.load_report)
    encoder.save_pretrained(tmp_path / "out")
    assert UNKNOWN.items() <= _config(tmp_path / "out").items()


def test_a_decoders_are_named_in_the_warning_that_something_is_new(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    folder = write(tmp_path / "in", {**GPT2_CONFIG, **UNKNOWN, "predict_special_tokens": True}, gpt2_tensors())
    decoder = Decoder.from_pretrained(folder)
    (said,) = _warnings(caplog)
    assert f"not understood: {NAMES};" in said
    assert "cross-attention, absent" in said
    decoder.save_pretrained(tmp_path / "out")
    assert {**UNKNOWN, "predict_special_tokens": True}.items() <= _config(tmp_path / "out").items()


def test_a_pairs_are_named_with_their_piece(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    given = pair_config(author="me", encoder={**BERT_CONFIG, "author": "you"}, decoder={**GPT2_CONFIG, "n_special": 0})
    folder = write(tmp_path / "in", given, pair_tensors())
    model = EncoderDecoder.from_pretrained(folder)
    (said,) = _warnings(caplog)
    assert "not understood: author, encoder.author, decoder.n_special;" in said
    model.save_pretrained(tmp_path / "out")
    saved = _config(tmp_path / "out")
    assert (saved["author"], saved["encoder"]["author"], saved["decoder"]["n_special"]) == ("me", "you", 0)


def test_strict_config_names_them_all_in_one_error(tmp_path: Path):
    bert = write(tmp_path / "bert", {**BERT_CONFIG, **UNKNOWN}, bert_tensors())
    gpt2 = write(tmp_path / "gpt2", {**GPT2_CONFIG, **UNKNOWN}, gpt2_tensors())
    given = pair_config(surprise=[1], decoder={**GPT2_CONFIG, "n_special": 0})
    pair = write(tmp_path / "pair", given, pair_tensors())
    every = r"config\.json: not understood: author = 'someone', kobart_version = 2\.0, n_special = 0\."
    for load in (
        lambda: Encoder.from_pretrained(bert, strict_config=True),
        lambda: Decoder.from_pretrained(gpt2, strict_config=True),
        lambda: EncoderDecoder.from_encoder_decoder_pretrained(bert, gpt2, strict_config=True),
        lambda: EncoderDecoder.from_encoder_decoder_pretrained(bert, gpt2, decoder_strict_config=True),
    ):
        with pytest.raises(ValueError, match=every):
            load()
    with pytest.raises(ValueError, match=r"not understood: surprise = \[1\], decoder\.n_special = 0\."):
        EncoderDecoder.from_pretrained(pair, strict_config=True)
    known = write(tmp_path / "known", pair_config(), pair_tensors())
    assert EncoderDecoder.from_pretrained(known, strict_config=True).load_report.unknown == ()


def test_two_pieces_that_are_joined_are_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    bert = write(tmp_path / "bert", {**BERT_CONFIG, "author": "you"}, bert_tensors())
    gpt2 = write(tmp_path / "gpt2", GPT2_CONFIG, gpt2_tensors())
    caplog.set_level(logging.INFO, "encdec_eqx")
    model = EncoderDecoder.from_encoder_decoder_pretrained(bert, gpt2, key=jax.random.key(0))
    reports = [record for record in caplog.records if "tensors loaded" in record.getMessage()]
    (report,) = reports
    assert report.levelno == logging.WARNING
    assert report.getMessage() == str(model.load_report)
    assert "not understood: encoder.author;" in str(model.load_report)
    assert str(bert) in str(model.load_report)
    assert str(gpt2) in str(model.load_report)
    assert "stack.blocks" not in str(model.load_report)
    assert model.load_report.verbose().count("stack.blocks") == len(
        [name for name, _ in model.load_report.new if "stack" in name]
    )
    assert str(model.encoder.load_report).startswith("a bert encoder from")


def test_pieces_loaded_one_by_one_are_reported_each(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "encdec_eqx")
    with pytest.raises(ValueError, match="no weights"):
        (tmp_path / "none").mkdir()
        (tmp_path / "none" / "config.json").write_text(json.dumps(BERT_CONFIG))
        EncoderDecoder.from_encoder_decoder_pretrained(tmp_path / "none", tmp_path)
    Encoder.from_pretrained(write(tmp_path / "bert", BERT_CONFIG, bert_tensors()))
    assert sum("tensors loaded" in record.getMessage() for record in caplog.records) == 1
