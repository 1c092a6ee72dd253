"""Special tokens: where they come from, what stands in for what, what is said when one is missing."""

import pytest

from encdec_eqx import SpecialTokens
from encdec_eqx.generation.plan import resolve_tokens


def test_the_strongest_place_wins():
    tokens = SpecialTokens.resolve(
        ("argument", {"eos_token_id": 9}),
        ("generation_config.json", {"eos_token_id": [4, 5], "bos_token_id": 1}),
        ("config.json", {"pad_token_id": 0, "bos_token_id": 2}),
        ("the decoder's config", {"decoder_start_token_id": 7, "pad_token_id": 3}),
    )
    assert tokens == SpecialTokens(eos_token_id=9, bos_token_id=1, pad_token_id=0, decoder_start_token_id=7)
    assert dict(tokens.sources) == {
        "bos_token_id": "generation_config.json",
        "eos_token_id": "argument",
        "pad_token_id": "config.json",
        "decoder_start_token_id": "the decoder's config",
    }


def test_ends_are_a_tuple_without_repetitions():
    assert SpecialTokens(eos_token_id=[5, 3, 5]).eos_token_id == (5, 3)
    assert SpecialTokens(eos_token_id=5).eos_token_id == (5,)
    assert SpecialTokens(eos_token_id=()).eos_token_id == ()


def test_zero_is_an_id_and_a_negative_one_in_a_file_is_none():
    tokens = SpecialTokens.resolve(("config.json", {"pad_token_id": -1, "bos_token_id": 0, "eos_token_id": 4}))
    assert (tokens.pad_token_id, tokens.bos_token_id, tokens.decoder_start_token_id) == (4, 0, 0)


def test_stand_ins_are_reported_and_follow_what_they_stand_for():
    tokens = SpecialTokens.resolve(("config.json", {"bos_token_id": 1, "eos_token_id": [8, 9]}))
    assert (tokens.pad_token_id, tokens.decoder_start_token_id) == (8, 1)
    assert "taken from eos_token_id" in tokens.describe()
    assert "taken from bos_token_id" in tokens.describe()
    other = tokens.override("argument", eos_token_id=5, bos_token_id=6)
    assert (other.pad_token_id, other.decoder_start_token_id) == (5, 6)
    assert tokens.override("argument", pad_token_id=3).override("argument", eos_token_id=5).pad_token_id == 3
    assert tokens.to_hf() == {"bos_token_id": 1, "eos_token_id": [8, 9]}


def test_where_they_come_from_is_no_part_of_equality():
    one = SpecialTokens.resolve(("here", {"eos_token_id": 3}))
    assert one == SpecialTokens.resolve(("there", {"eos_token_id": 3}))
    assert hash(one) == hash(SpecialTokens.resolve(("there", {"eos_token_id": 3})))


def test_nothing_overridden_is_nothing_changed():
    tokens = SpecialTokens(eos_token_id=3)
    assert tokens.override("argument", eos_token_id=None) is tokens


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("decoder_start_token_id", ["nor bos_token_id", "eos_token_id=", r"\[CLS\]", "with_special_tokens"]),
        ("eos_token_id", [r"eos_token_id=\(\)", "with_special_tokens"]),
        ("pad_token_id", ["nor eos_token_id"]),
    ],
)
def test_a_missing_one_fails_at_first_use_and_names_candidates(name, words):
    tokens = SpecialTokens.resolve(("config.json", {"pad_token_id": 4, "eos_token_id": 3}))
    if name != "decoder_start_token_id":
        tokens = SpecialTokens(bos_token_id=1)
    for word in words:
        with pytest.raises(ValueError, match=word):
            tokens.require(name)


def test_what_is_no_id():
    with pytest.raises(ValueError, match="pad_token_id"):
        SpecialTokens().override("argument", pad_token_id=-1)
    with pytest.raises(TypeError, match="eos_token_id"):
        SpecialTokens().override("argument", eos_token_id=["</s>"])
    with pytest.raises(TypeError, match="bos_token_id"):
        SpecialTokens().override("argument", bos_token_id=1.0)
    with pytest.raises(TypeError, match="cls_token_id"):
        SpecialTokens().override("argument", cls_token_id=1)


def test_of_several_ends_only_those_beyond_the_vocabulary_are_dropped():
    tokens = SpecialTokens.resolve(
        ("config.json", {"bos_token_id": 1, "eos_token_id": [999, 3, -1], "pad_token_id": 0})
    )
    assert tokens.eos_token_id == (999, 3)
    found, (note,) = resolve_tokens(tokens, None, {}, 17)
    assert found.eos_token_id == (3,)
    assert note == "eos_token_id=[999] (config.json) is beyond the decoder's vocabulary of 17: dropped; [3] stays."
