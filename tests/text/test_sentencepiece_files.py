"""SentencePiece models in place of a `tokenizer.json`. `tests/parity` compares with SentencePiece itself."""

import json
from pathlib import Path
from typing import Any

import pytest

from encdec_eqx.text import TokenizerPair
from encdec_eqx.text.sentencepiece_files import read_model
from encdec_eqx.training.job import ModelSource
from encdec_eqx.training.run_job import load_tokenizers
from tokenizers_of import PIECES, proto_field, sentencepiece_model

UNIGRAM, BPE, WORDS = 1, 2, 3
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]


def _folder(
    folder: Path, model: bytes, *, kind: str = "M2M100Tokenizer", vocabulary: Any = None, **config: Any
) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "sentencepiece.bpe.model").write_bytes(model)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind, **config}))
    if kind == "M2M100Tokenizer":
        names = [*SPECIAL, *sorted(PIECES)]
        numbered = {name: at for at, name in enumerate(names)} if vocabulary is None else vocabulary
        (folder / "vocab.json").write_text(json.dumps(numbered))
    return folder


def _tokens(pair: TokenizerPair, text: str) -> list[str]:
    return [pair.source.id_to_token(one) for one in pair.encode_source([text])[0].tolist()]


@pytest.mark.parametrize("kind", [UNIGRAM, BPE])
def test_m2m100_numbers_pieces_by_its_vocabulary_and_languages_behind_it(kind: int, tmp_path: Path) -> None:
    folder = _folder(tmp_path, sentencepiece_model(kind))
    for pair in (TokenizerPair.from_pretrained(folder, folder), TokenizerPair.load(folder)):
        assert _tokens(pair, "  cat  cats ") == ["__en__", "▁cat", "▁cat", "s", "</s>"]
        assert _tokens(pair.with_languages("zu"), "xy") == ["__zu__", "▁", "<unk>", "</s>"]
        assert pair.source.token_to_id("▁cat") == 4 + sorted(PIECES).index("▁cat")
        assert [pair.source.token_to_id(f"__{code}__") for code in ("af", "en", "zu")] == [12, 12 + 18, 12 + 99]
        assert pair.source.decode(pair.encode_source(["cats cat"])[0].tolist()) == "cats cat"
        pair.save(tmp_path / "saved")
        assert _tokens(TokenizerPair.load(tmp_path / "saved"), "cats") == ["__en__", "▁cat", "s", "</s>"]
    assert load_tokenizers(ModelSource(model_name_or_path=str(folder))) is not None


def test_plbart_numbers_pieces_in_their_order_behind_its_special_tokens(tmp_path: Path) -> None:
    base = TokenizerPair.load(_folder(tmp_path / "base", sentencepiece_model(UNIGRAM), kind="PLBartTokenizer"))
    assert base.encode_source(["cats"])[0].tolist() == [4, 7, 2]
    assert base.encode_source(["cats"], src_lang="python")[0].tolist() == [4, 7, 2, 13]
    assert base.source.token_to_id("<mask>") == 15
    folder = _folder(tmp_path / "multi", sentencepiece_model(UNIGRAM), kind="PLBartTokenizer", language_codes="multi")
    multi = TokenizerPair.load(folder)
    assert (multi.source.token_to_id("__go__"), multi.source.token_to_id("<mask>")) == (18, None)


def test_a_piece_that_goes_over_a_space_is_found(tmp_path: Path) -> None:
    wide = proto_field(1, proto_field(1, "▁cat▁cat".encode()) + proto_field(2, -0.5))
    folder = _folder(tmp_path, sentencepiece_model(UNIGRAM, more=wide), kind="PLBartTokenizer")
    assert _tokens(TokenizerPair.load(folder), "cat cat") == ["▁cat▁cat", "</s>"]


NUMBERS = {name: at for at, name in enumerate([*SPECIAL, *sorted(PIECES)])}


@pytest.mark.parametrize(
    ("model", "settings", "says"),
    [
        (b"\x08", {}, r"sentencepiece\.bpe\.model is no SentencePiece model, or damaged"),
        (b"", {}, "is no SentencePiece model: it has no pieces"),
        (sentencepiece_model(WORDS), {}, "is a model of words or characters; expected one of unigrams or byte pairs"),
        (sentencepiece_model(UNIGRAM, byte_fallback=1), {}, "which spells unknown characters in bytes"),
        (sentencepiece_model(UNIGRAM), {"vocabulary": {**NUMBERS, "s": 40}}, "does not number its pieces from 0"),
        (sentencepiece_model(UNIGRAM), {"vocabulary": [1]}, "does not number its pieces from 0"),
        (
            sentencepiece_model(UNIGRAM),
            {"vocabulary": {"<s>": 0}},
            r"begins with \['<s>'\]; expected <s>, <pad>, </s>, <unk>",
        ),
        (
            sentencepiece_model(BPE),
            {"vocabulary": {name: at for name, at in NUMBERS.items() if at < 11}},
            "has no id for 1 pieces of .*, such as '▁cat'.* Encode with transformers' M2M100Tokenizer",
        ),
        (
            sentencepiece_model(UNIGRAM),
            {"language_codes": "klingon"},
            "language_codes is 'klingon'; expected m2m100 or wmt21",
        ),
        (sentencepiece_model(UNIGRAM, charsmap=b"\xff" * 9), {}, "the replacements of characters are cut short"),
        (sentencepiece_model(UNIGRAM, charsmap=bytes(4) + b"\xff"), {}, r"no tokenizer can be made of .*model: "),
        (
            sentencepiece_model(BPE, more=proto_field(1, proto_field(1, b"at"))),
            {},
            "has a piece twice, or an empty one",
        ),
        (sentencepiece_model(BPE, more=proto_field(1, proto_field(1, b""))), {}, "has a piece twice, or an empty one"),
        (sentencepiece_model(BPE, more=proto_field(1, proto_field(2, float("nan")))), {}, "damaged .a score is nan"),
    ],
)
def test_what_cannot_be_read_is_named(model: bytes, settings: dict[str, Any], says: str, tmp_path: Path) -> None:
    folder = _folder(tmp_path, model, **settings)
    with pytest.raises(ValueError, match=says):
        TokenizerPair.from_pretrained(folder, folder)


def test_a_file_cut_anywhere_is_read_or_named(tmp_path: Path) -> None:
    whole = sentencepiece_model(BPE)
    for length in range(1, len(whole)):
        file = tmp_path / "cut"
        file.write_bytes(whole[:length])
        try:
            assert len(read_model(file).pieces) <= len(PIECES) + 3
        except ValueError as error:
            assert str(file) in str(error)


def test_other_folders_without_a_tokenizer_say_how_to_make_one(tmp_path: Path) -> None:
    folder = _folder(tmp_path, sentencepiece_model(UNIGRAM), kind="NllbTokenizer")
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer\.json\. transformers writes one"):
        TokenizerPair.from_pretrained(folder, folder)
