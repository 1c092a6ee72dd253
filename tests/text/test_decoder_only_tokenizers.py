"""Tokenizers of decoder-only families as targets: Llama's and Gemma's put a token in front, Qwen's none; no padding."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from encdec_eqx import EncoderDecoder, StackConfig, shift_tokens_right
from encdec_eqx.text import TextToText, TokenizerPair
from encdec_eqx.training import Batches, encode_pairs, pairs_from
from models import encoder_config, randomised, tiny_pair
from tokenizers_of import chat_byte_pairs, sentence_pieces, word_pieces


@dataclasses.dataclass(frozen=True)
class Kind:
    """A tokenizer, what its model's config says, and what its targets begin and end with, and are padded with."""

    tokenizer: Tokenizer
    family: str
    ids: dict[str, Any]
    start: str
    end: str
    pad: str


KINDS = {
    "llama": Kind(
        sentence_pieces(),
        "llama",
        {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": -1},
        start="<s>",
        end="</s>",
        pad="</s>",
    ),
    "gemma": Kind(
        sentence_pieces(gemma=True),
        "mistral",
        {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0},
        start="<bos>",
        end="<eos>",
        pad="<pad>",
    ),
    "qwen": Kind(
        chat_byte_pairs(),
        "qwen2",
        {"bos_token_id": 0, "eos_token_id": [301, 0]},
        start="<|endoftext|>",
        end="<|im_end|>",
        pad="<|im_end|>",
    ),
}
TEXTS = ["the cat sat", "hello and who?", "dog \U0001f600 caf\u00e9"]


def _model(kind: Kind, **ids: Any) -> EncoderDecoder:
    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    sizes |= {"intermediate_size": 20, "vocab_size": kind.tokenizer.get_vocab_size(), "max_position_embeddings": 32}
    joined = {"is_decoder": True, "add_cross_attention": True}
    hf = {"model_type": kind.family, **sizes, **joined, **kind.ids, **ids}
    return tiny_pair(encoder_config(depth=1), StackConfig.from_hf(hf))


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture(scope="module")
def pair(kind: Kind) -> TokenizerPair:
    return TokenizerPair(word_pieces(), kind.tokenizer).for_model(_model(kind))


def _id(kind: Kind, token: str) -> int:
    found = kind.tokenizer.token_to_id(token)
    assert found is not None
    return found


def test_what_the_config_says_becomes_start_end_and_padding(kind: Kind):
    tokens = _model(kind).special_tokens
    assert tokens.decoder_start_token_id == _id(kind, kind.start)
    assert tokens.eos_token_id is not None
    assert isinstance(tokens.eos_token_id, tuple)
    assert tokens.eos_token_id[0] == _id(kind, kind.end)
    assert tokens.pad_token_id == _id(kind, kind.pad)


def test_labels_end_once_and_have_no_token_in_front(kind: Kind, pair: TokenizerPair):
    for text, row in zip(TEXTS, pair.encode_target(TEXTS), strict=True):
        content = kind.tokenizer.encode(text, add_special_tokens=False).ids
        assert row.tolist() == [*content, _id(kind, kind.end)]
        assert _id(kind, kind.start) not in row


def test_a_text_that_brings_the_token_in_front_along_is_not_given_it_twice(kind: Kind, pair: TokenizerPair):
    """As what a chat template makes does. Where the token ends sequences too, it is no text."""
    brought = [kind.start + text for text in TEXTS]
    assert pair.target_form is not None
    if _id(kind, kind.start) in (pair.target_form.ends or ()):
        with pytest.raises(ValueError, match=r"the target has the end token '<\|endoftext\|>' inside"):
            pair.encode_target(brought)
        return
    for plain, row in zip(pair.encode_target(TEXTS), pair.encode_target(brought), strict=True):
        np.testing.assert_array_equal(row, plain)


def test_texts_come_back_from_what_is_generated(kind: Kind, pair: TokenizerPair):
    """Bytes and all, and whatever the padding: where there is none, it is the token that ends."""
    start, pad = _id(kind, kind.start), _id(kind, kind.pad)
    rows = [[start, *row.tolist(), *[pad] * (20 - len(row))] for row in pair.encode_target(TEXTS)]
    assert pair.decode_target(rows) == TEXTS
    assert pair.round_trip(TEXTS) == TEXTS


def test_batches_hold_what_generation_says(kind: Kind, pair: TokenizerPair):
    records = pairs_from([{"source": "the cat", "target": text} for text in TEXTS])
    (batch,) = Batches(encode_pairs(records, pair), batch_size=3, shuffle=False).epoch(0)
    labels = np.asarray(batch["labels"])
    for row, expected in zip(labels, pair.encode_target(TEXTS), strict=True):
        np.testing.assert_array_equal(row[row != -100], expected)
    tokens = _model(kind).special_tokens
    inputs = np.asarray(shift_tokens_right(labels, tokens.pad_token_id, tokens.decoder_start_token_id))
    assert (inputs[:, 0] == _id(kind, kind.start)).all()
    assert not (inputs[:, 1] == _id(kind, kind.start)).any()


def test_it_speaks():
    """From the token in front on, and without it."""
    kind = KINDS["llama"]
    model = randomised(_model(kind), spread=0.5)
    speaker = TextToText(model, TokenizerPair(word_pieces(), kind.tokenizer))
    result = speaker.generate(TEXTS[:2], max_new_tokens=6, suppress_tokens=[0])
    for (text,), (ids,) in zip(result.texts, result.sequences, strict=True):
        assert ids[0] == 1
        ended = ids[1:].tolist().index(2) if 2 in ids[1:] else len(ids) - 1
        assert text == kind.tokenizer.decode(ids[1 : 1 + ended].tolist())


def test_without_any_start_token_generation_says_what_to_set():
    kind = KINDS["qwen"]
    model = _model(kind, bos_token_id=None)
    with pytest.raises(ValueError, match=r"nor bos_token_id.*\(GPT-2, Qwen, OLMo\) it is <\|endoftext\|>"):
        model.generate(np.array([[2, 5, 3]]), max_new_tokens=2)
    started = model.with_special_tokens(decoder_start_token_id=0)
    assert started.special_tokens.decoder_start_token_id == 0
