"""Tokenizer pairs on random texts: what comes back from ids, cuts, and targets that are encoded twice."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encdec_eqx import SpecialTokens
from encdec_eqx.text import TokenizerPair
from encdec_eqx.text.tokenizer_fit import comes_back, keeps_all, reads_alike
from tokenizers_of import byte_pairs, word_pieces

TEXTS = st.text(st.characters(codec="utf-8"), max_size=24)
WORDS = st.lists(st.sampled_from(["the", "Cat", "sät", "on", "2021-03", "mat.", "ö", "?"]), min_size=1, max_size=8)


@pytest.fixture(scope="module")
def bytewise() -> TokenizerPair:
    return TokenizerPair(byte_pairs(), byte_pairs(), SpecialTokens(eos_token_id=(0,), pad_token_id=0))


@pytest.fixture(scope="module")
def uncased() -> TokenizerPair:
    return TokenizerPair(word_pieces(), word_pieces(), SpecialTokens(eos_token_id=(3,), pad_token_id=0))


@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_a_byte_level_tokenizer_gives_every_text_back(bytewise: TokenizerPair, texts: list[str]):
    encoded = bytewise.encode_target(texts)
    assert all(row[-1] == 0 and 0 not in row[:-1] for row in encoded)
    assert bytewise.decode_target(encoded) == texts == bytewise.round_trip(texts)
    assert all(comes_back(bytewise.target, row[:-1].tolist()) for row in encoded)


@given(st.lists(WORDS.map(" ".join), min_size=1, max_size=4))
def test_what_came_back_once_stays_as_it_is(uncased: TokenizerPair, texts: list[str]):
    once = uncased.round_trip(texts)
    assert uncased.round_trip(once) == once
    for text, again in zip(texts, once, strict=True):
        assert keeps_all(uncased.target, text, again)
        assert reads_alike(again, " ".join(again.split()))


@given(text=TEXTS, max_length=st.integers(2, 12))
def test_a_cut_target_is_the_beginning_of_the_whole_and_ends(bytewise: TokenizerPair, text: str, max_length: int):
    (whole,), cut = bytewise.encode_target([text]), bytewise.encode_target([text], max_length)
    assert len(cut[0]) == min(len(whole), max_length)
    assert np.array_equal(cut[0], [*whole[: len(cut[0]) - 1], 0])
    assert cut.truncated == ((0,) if len(whole) > max_length else ())


@given(st.lists(WORDS.map(" ".join), min_size=1, max_size=4))
def test_a_text_is_encoded_alone_as_in_company(uncased: TokenizerPair, texts: list[str]):
    together = uncased.encode_source(texts, 8)
    alone = [uncased.encode_source([text], 8)[0] for text in texts]
    assert all(np.array_equal(one, other) for one, other in zip(together, alone, strict=True))
