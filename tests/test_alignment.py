"""What a target attends to in its source, against calls of the model; and how its tokens are written."""

import functools
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from encdec_eqx import CrossAttention, Decoder, EncoderDecoder, EncoderOutput, LayerSpec
from encdec_eqx.alignment import Alignment, align
from encdec_eqx.generation.result import counted
from encdec_eqx.text import TextToText, TokenizerPair, display_tokens
from models import decoder_config, encoder_config, random_ids, randomised, tiny_pair
from tokenizers_of import CLS, PAD, SEP, byte_pairs, sentence_pieces, unigrams, word_pieces
from tolerances import SAME_MODEL

START, END = 1, 2


@functools.cache
def _pair() -> EncoderDecoder:
    return tiny_pair()


@functools.cache
def _grafted(init: Any) -> EncoderDecoder:
    """A decoder of four layers, of which the second and the last read the source."""
    encoder = tiny_pair(encoder_config(size=12)).encoder
    bare = Decoder.init(decoder_config(layers=(LayerSpec(),) * 4), key=jax.random.key(1))
    decoder = bare.with_cross_attention(CrossAttention(every=2, init=init), key=jax.random.key(2))
    return randomised(EncoderDecoder.from_pieces(encoder, decoder))


@functools.cache
def _speaker() -> TextToText:
    tokens = {"eos_token_id": SEP, "bos_token_id": CLS, "pad_token_id": PAD}
    pair = tiny_pair(encoder_config(depth=1), decoder_config(depth=2, **tokens))
    return TextToText(randomised(pair, spread=0.5), TokenizerPair(word_pieces(), word_pieces()))


def _by_a_call(model: EncoderDecoder, source: np.ndarray, inputs: list[int]) -> tuple:
    out = model.decode(np.array([inputs], np.int32), model.encode(source[None]), output_attentions=True)
    return out.cross_attentions or ()


def _assert_same(ours: Alignment, theirs: tuple) -> None:
    assert len(ours.cross_attentions) == len(theirs)
    for mine, other in zip(ours.cross_attentions, theirs, strict=True):
        assert (mine is None) == (other is None)
        if mine is not None:
            np.testing.assert_allclose(mine, np.asarray(other)[0], atol=SAME_MODEL, rtol=0)


@pytest.mark.parametrize("layout", ["unrolled", "scanned"])
@pytest.mark.parametrize("init", [None, "random", "zero_gate", "merged"])
def test_the_weights_are_those_with_which_each_token_was_chosen(layout: Any, init: Any):
    model = (_pair() if init is None else _grafted(init)).with_layout(layout)
    source, said = random_ids(1, 5), random_ids(2, 4)
    ours = align(model, source, [*said, END])
    _assert_same(ours, _by_a_call(model, source, [START, *said]))
    assert ours.layers == ((0, 1, 2) if init is None else (1, 3))
    assert (ours.heads, ours.merged) == (3, init == "merged")
    sums = ours.weights().sum(axis=-1)
    assert (sums < 0.95).all() if init == "merged" else np.allclose(sums, 1.0, atol=1e-6)


def test_one_layer_and_head_or_means_can_be_had():
    ours = align(_grafted("random"), random_ids(1, 5), [*random_ids(2, 4), END])
    layers = np.stack([layer for layer in ours.cross_attentions if layer is not None])
    np.testing.assert_array_equal(ours.weights(1, 2), layers[0, 2])
    np.testing.assert_array_equal(ours.weights(-1, -3), layers[1, 0])
    np.testing.assert_allclose(ours.weights(layer=3), layers[1].mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(ours.weights(head=1), layers[:, 1].mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(ours.weights(), layers.mean(axis=(0, 1)), rtol=1e-6)
    for wrong, message in (
        ({"layer": 2}, "layer 2 has no cross-attention; layers 1, 3 of 4 have"),
        ({"layer": 4}, "there is no layer 4: the decoder has 4, numbered from 0 to 3"),
        ({"head": 3}, "there is no head 3: each layer has 3"),
    ):
        with pytest.raises(ValueError, match=message):
            ours.weights(**wrong)
    with pytest.raises(TypeError, match=r"layer must be a whole number, or None for the mean; got 1\.0"):
        ours.weights(layer=1.0)  # pyright: ignore[reportArgumentType]


def test_texts_are_read_as_the_model_is_trained_on_them():
    speaker = _speaker()
    ours = align(speaker, "The cats, who sat", "hello dog")
    assert ours.source_tokens == ("[CLS]", "the", "cat", "·s", ",", "who", "sat", "[SEP]")
    assert ours.target_tokens == ("hello", "dog", "[SEP]")
    ids = speaker.tokenizers.encode_source(["The cats, who sat"])[0]
    said = speaker.tokenizers.encode_target(["hello dog"])[0]
    _assert_same(ours, _by_a_call(speaker.model, ids, [CLS, *said[:-1]]))


def test_special_tokens_can_be_left_out_of_what_is_shown_but_are_read():
    whole = align(_speaker(), "the cats", "hello dog")
    bare = align(_speaker(), "the cats", "hello dog", skip_special_tokens=True)
    assert (bare.source_tokens, bare.target_tokens) == (("the", "cat", "·s"), ("hello", "dog"))
    np.testing.assert_array_equal(bare.weights(), whole.weights()[:2, 1:4])
    with pytest.raises(ValueError, match="the target has special tokens alone"):
        align(_speaker(), "the cats", "", skip_special_tokens=True)
    with pytest.raises(ValueError, match="skip_special_tokens would do nothing"):
        align(_pair(), [3, 4], [5, END], skip_special_tokens=True)


def test_what_generate_found_is_what_is_aligned():
    speaker = _speaker()
    found = speaker.generate(["the cat sat"], max_new_tokens=6, output_cross_attentions=True)
    ours = align(speaker, "the cat sat", found.sequences[0][0])
    assert found.cross_attentions is not None
    _assert_same(ours, tuple(layer[None] for layer in found.cross_attentions[0][0]))
    assert len(ours.target_tokens) == len(found.sequences[0][0]) - 1


def test_padding_is_neither_shown_nor_of_effect():
    source, said = random_ids(1, 5), random_ids(2, 3)
    alone = align(_pair(), source, [*said, END], source_tokens=list("abcde"), target_tokens=list("xyz."))
    mask = np.array([[0, 0, 1, 1, 1, 1, 1, 0]])
    padded = align(
        _pair(),
        np.array([[0, 0, *source, 0]]),
        np.array([START, *said, END, 0, 0, -100]),
        attention_mask=mask,
        source_tokens=list("--abcde-"),
        target_tokens=list("-xyz.---"),
    )
    assert padded.source_tokens == alone.source_tokens == tuple("abcde")
    assert padded.target_tokens == alone.target_tokens == tuple("xyz.")
    right = align(_pair(), [*source, 0, 0], [*said, END], attention_mask=np.array([[1] * 5 + [0] * 2]))
    np.testing.assert_allclose(right.weights(), alone.weights(), atol=SAME_MODEL, rtol=0)
    masked = _pair()(
        np.array([[0, 0, *source, 0]], np.int32),
        np.array([[START, *said]], np.int32),
        attention_mask=mask,
        output_attentions=True,
    )
    _assert_same(padded, tuple(layer[..., 2:7] for layer in masked.cross_attentions or ()))


def test_ids_without_labels_are_shown_as_numbers_and_with_tokenizers_as_words():
    assert align(_pair(), [7, 8], [9, END]).source_tokens == ("7", "8")
    ours = align(_speaker(), _speaker().tokenizers.encode_source(["the cat"])[0], "dog", source_tokens=list("abcd"))
    assert (ours.source_tokens, ours.target_tokens) == (tuple("abcd"), ("dog", "[SEP]"))


def test_a_program_serves_a_bucket_of_lengths():
    model = tiny_pair(decoder=decoder_config(depth=1))
    with counted() as first:
        align(model, random_ids(1, 5), [*random_ids(2, 4), END])
    with counted() as later:
        for source, target in ((2, 9), (16, 1), (11, 14)):
            align(model, random_ids(1, source), [*random_ids(2, target), END])
    assert (first.programs > 0, later.programs) == (True, 0)


@pytest.mark.parametrize(
    ("source", "target", "options", "kind", "message"),
    [
        ("a cat", [5, 2], {}, TypeError, r"the source is a text, and an EncoderDecoder alone reads ids: give TextTo"),
        ([3, 4], "a cat", {}, TypeError, r"the target is a text, and an EncoderDecoder alone"),
        ([[3, 4], [3, 4]], [5, 2], {}, TypeError, r"the source must be a text or one sequence of ids, got \[\[3, 4\]"),
        ([3.0], [5, 2], {}, TypeError, r"the source must be a text or one sequence of ids, got \[3\.0\]"),
        ([3, 4], [], {}, TypeError, r"the target must be a text or one sequence of ids, got \[\]"),
        ([3, 4], [-100], {}, ValueError, r"the target has no token"),
        ([3, 99], [5, 2], {}, ValueError, r"input_ids\[0, 1\] is 99; expected 0 to 52"),
        ([3, 4], [5] * 40, {}, ValueError, r"40 tokens long, but the table of positions numbers at most 24"),
        ([3, 4], [5, 2], {"source_tokens": ["a"]}, ValueError, r"source_tokens are 1 for 2 ids of the source"),
        ([3, 4], [5, 2], {"target_tokens": "abc"}, ValueError, r"target_tokens are 3 for 2 ids of the target"),
    ],
)
def test_what_cannot_be_aligned_says_why(source: Any, target: Any, options: Any, kind: type[Exception], message: str):
    with pytest.raises(kind, match=message):
        align(_pair(), source, target, **options)


def test_inside_jit_it_says_where_it_runs():
    with pytest.raises(RuntimeError, match="runs on the host"):
        jax.jit(lambda ids: align(_pair(), ids, [5, END]).weights())(np.array([3, 4]))


def test_texts_bring_their_own_tokens_and_have_no_padding():
    with pytest.raises(ValueError, match="source_tokens are for a source of ids"):
        align(_speaker(), "the cat", "dog", source_tokens=["a"])
    with pytest.raises(ValueError, match="attention_mask is for a source of ids"):
        align(_speaker(), "the cat", "dog", attention_mask=np.ones((1, 4)))
    with pytest.raises(TypeError, match="model must be a TextToText or an EncoderDecoder, got Tokenizer"):
        align(word_pieces(), "the cat", "dog")  # pyright: ignore[reportArgumentType]


class _Halving(eqx.Module):
    """An encoder of a user's own, which makes one state of every two ids, or of each."""

    table: jax.Array
    step: int = eqx.field(static=True)
    hidden_size: int = eqx.field(static=True, default=12)

    def __call__(self, inputs: Any, /, *, attention_mask: Any, position_ids: Any, key: Any) -> EncoderOutput:
        return EncoderOutput(self.table[inputs[:, :: self.step]])


def test_an_encoder_of_ones_own_is_aligned_where_its_states_are_of_ids():
    table = jax.numpy.asarray(np.random.default_rng(0).normal(size=(53, 12)), np.float32)
    pair = [EncoderDecoder.from_pieces(_Halving(table, step), _pair().decoder) for step in (1, 2)]
    source, said = random_ids(1, 6), random_ids(2, 3)
    _assert_same(align(pair[0], source, [*said, END]), _by_a_call(pair[0], source, [START, *said]))
    with pytest.raises(ValueError, match="the encoder makes 3 states of 6 ids"):
        align(pair[1], source, [*said, END])


# --- how tokens are written


@pytest.mark.parametrize(
    ("make", "text", "shown"),
    [
        (word_pieces, "The cats, hello", ["[CLS]", "the", "cat", "·s", ",", "hello", "[SEP]"]),
        (byte_pairs, "The cat,\nmat é", ["T", "·he", "␣", "cat", ",", "↵", "mat", "␣", "<0xC3>", "<0xA9>"]),
        (sentence_pieces, "The cats é", ["<s>", "␣", "T", "·he", "␣", "cat", "·s", "␣", "<0xC3>", "<0xA9>"]),
        (lambda: sentence_pieces(gemma=True), "who b", ["<bos>", "who", "␣", "b"]),
        (unigrams, "cats said", ["cat", "·s", "said", "</s>"]),
    ],
)
def test_tokens_are_written_as_people_read_them(make: Any, text: str, shown: list[str]):
    tokenizer = make()
    tokenizer.no_padding()
    tokenizer.no_truncation()
    ids = tokenizer.encode(text).ids
    assert display_tokens(tokenizer, ids) == shown
    assert display_tokens(tokenizer, [99999]) == ["99999"]


def test_words_that_end_with_a_sign_go_on_without_it():
    """Marian's and GPT-1's kind; and writing without spaces has no dots."""
    tokenizer = Tokenizer(models.BPE({"lo": 0, "w": 1, "er</w>": 2, ".</w>": 3}, [], end_of_word_suffix="</w>"))
    assert display_tokens(tokenizer, [0, 2, 3, 0, 1, 2]) == ["lo", "·er", ".", "lo", "·w", "·er"]
    tokenizer = Tokenizer(models.Unigram([("▁", -1.0), ("今", -1.0), ("天", -1.0), ("▁a\tb", -1.0), ("\x07", -1.0)]))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    assert display_tokens(tokenizer, [0, 1, 2, 3, 4]) == ["␣", "今", "天", "a⇥b", "\\x07"]
