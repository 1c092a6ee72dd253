"""T5's tokenizers: ByT5's, made without a file, and T5's own kind around a T5."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compositions import FAMILY_GOLDENS
from encdec_eqx import EncoderDecoder, SpecialTokens
from encdec_eqx.text import TextToText, TokenizerPair, byte_tokenizer
from tokenizers_of import unigrams

T5_TOKENS = SpecialTokens(eos_token_id=1, pad_token_id=0, decoder_start_token_id=0)
# "<" may begin a special token, and U+FFFD marks what is no UTF-8
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="<\ufffd"), max_size=24)


@pytest.fixture(scope="module")
def pair() -> TokenizerPair:
    return TokenizerPair(made := byte_tokenizer(), made, T5_TOKENS)


@given(TEXTS)
def test_an_id_is_a_byte_and_three(pair: TokenizerPair, text: str):
    expected = [byte + 3 for byte in text.encode()] + [1]
    assert pair.encode_source([text])[0].tolist() == pair.encode_target([text])[0].tolist() == expected
    assert pair.decode_target([[0, *expected, 0, 0]]) == [text] == pair.round_trip([text])


def test_special_tokens_and_what_is_no_text(pair: TokenizerPair):
    assert pair.encode_source(["a <extra_id_0>b", "a <pad> b"])[0].tolist() == [100, 35, 259, 101, 1]
    assert pair.encode_source(["a <pad> b"])[0].tolist() == [100, 0, 101, 1]
    assert (pair.source.get_vocab_size(), byte_tokenizer(extra_ids=0).get_vocab_size()) == (384, 259)
    # a letter of two bytes, cut in the middle
    (cut,) = pair.encode_target(["aö"], 3)
    assert cut.tolist() == [100, 198, 1]
    assert pair.decode_target([cut]) == ["a"]
    with pytest.raises(ValueError, match="extra_ids is -1; expected a whole number of tokens"):
        byte_tokenizer(extra_ids=-1)


@pytest.mark.parametrize(
    ("file", "content", "size"),
    [
        ("tokenizer_config.json", {"tokenizer_class": "ByT5Tokenizer", "extra_ids": 7}, 266),
        ("tokenizer_config.json", {"tokenizer_class": "ByT5Tokenizer", "additional_special_tokens": ["<x>"]}, 260),
        ("config.json", {"tokenizer_class": "ByT5Tokenizer"}, 384),
    ],
)
def test_a_folder_that_names_the_class_needs_no_tokenizer_file(
    file: str, content: dict[str, Any], size: int, tmp_path: Path
):
    (tmp_path / file).write_text(json.dumps(content))
    for made in (TokenizerPair.load(tmp_path), TokenizerPair.from_pretrained(tmp_path, tmp_path)):
        assert made.source.get_vocab_size() == size
        made.save(tmp_path / "saved")
        assert TokenizerPair.load(tmp_path / "saved").encode_source(["ö"])[0].tolist() == [198, 185, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"extra_ids": "125"}, "extra_ids is '125'; expected a whole number"),
        ({"added_tokens_decoder": {"300": {"content": "<x>"}}}, r"have the ids \[300\]; expected those from 259 on"),
        ({"added_tokens_decoder": {"259": {"content": 3}}}, "a special token is 3; expected text"),
        ({"additional_special_tokens": [None]}, "a special token is None; expected text"),
    ],
)
def test_tokens_that_cannot_be_are_named(content: dict[str, Any], message: str, tmp_path: Path):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "ByT5Tokenizer", **content}))
    with pytest.raises(ValueError, match=message):
        TokenizerPair.load(tmp_path)


def test_without_a_class_a_file_is_asked_for(tmp_path: Path):
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer"}')
    with pytest.raises(FileNotFoundError, match="has no tokenizer"):
        TokenizerPair.load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer\.json"):
        TokenizerPair.from_pretrained(tmp_path, tmp_path)


def test_a_t5_reads_and_says_texts(tmp_path: Path):
    """Its start token is its padding, its sentinels lie behind the pieces."""
    made = unigrams()
    speaker = TextToText(EncoderDecoder.from_pretrained(FAMILY_GOLDENS / "t5"), TokenizerPair(made, made))
    tokenizers = speaker.tokenizers
    assert [row.tolist() for row in tokenizers.encode_source(["the cat", "<extra_id_0> dog"])] == [
        [3, 4, 1],
        [made.token_to_id("<extra_id_0>"), 11, 1],
    ]
    assert [row.tolist() for row in tokenizers.encode_target(["the cat sat"])] == [[3, 4, 5, 1]]
    assert tokenizers.decode_target([[0, 3, 4, 5, 1, 0, 0]]) == ["the cat sat"]
    said = speaker(["the cat", "hello world ."], max_new_tokens=4)
    speaker.save_pretrained(tmp_path)
    assert TextToText.from_pretrained(tmp_path)(["the cat", "hello world ."], max_new_tokens=4) == said
