"""The tokenizer pair and text to text, with tokenizers of BERT's and of GPT-2's kind."""

import dataclasses
import json
import logging
import re
import sys

import jax
import numpy as np
import pytest
from tokenizers import Tokenizer, pre_tokenizers, processors

import tolerances
from encdec_eqx import EncoderDecoder
from encdec_eqx.text import TextToText, TokenizerPair
from models import decoder_config, encoder_config, randomised, tiny_pair
from tokenizers_of import CLS, PAD, SEP, byte_pairs, word_pieces

GPT2_END = 0
WORDS = ["the cat sat on the mat", "hello", "a dog said hello world", "who?", "the dog"]


def _bert_to_gpt2(**changes) -> EncoderDecoder:
    """The decoder's start, end and padding are one token."""
    tokens = {"eos_token_id": GPT2_END, "bos_token_id": GPT2_END, "pad_token_id": GPT2_END}
    return tiny_pair(encoder_config(depth=1), decoder_config(depth=1, vocab_size=300, **{**tokens, **changes}))


def _bert_to_bert(**changes) -> EncoderDecoder:
    tokens = {"eos_token_id": SEP, "bos_token_id": CLS, "pad_token_id": PAD}
    return tiny_pair(encoder_config(depth=1), decoder_config(depth=1, **{**tokens, **changes}))


PAIRS = {
    "gpt2": lambda: TokenizerPair(word_pieces(), byte_pairs()).for_model(_bert_to_gpt2()),
    "bert": lambda: TokenizerPair(word_pieces(), word_pieces()).for_model(_bert_to_bert()),
}
END = {"gpt2": GPT2_END, "bert": SEP}


@pytest.fixture(scope="module", params=["gpt2", "bert"])
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def pair(kind) -> TokenizerPair:
    return PAIRS[kind]()


@pytest.fixture(scope="module")
def speaker() -> TextToText:
    """Weights so large that what is said depends on what is read."""
    return TextToText(randomised(_bert_to_bert(), spread=0.7), TokenizerPair(word_pieces(), word_pieces()))


# --- the pair


def test_sources_are_what_the_tokenizer_says_without_the_padding_of_its_file(pair):
    bare = word_pieces()
    bare.no_padding()
    bare.no_truncation()
    expected = [bare.encode(text).ids for text in WORDS]
    encoded = pair.encode_source(WORDS)
    assert [row.tolist() for row in encoded] == expected
    assert all(row.dtype == np.int32 and row[0] == CLS and row[-1] == SEP for row in encoded)
    assert encoded.truncated == ()


@pytest.mark.parametrize("length", [3, 5, 7])
def test_cut_sources_are_what_the_tokenizer_cuts_itself_and_are_counted(pair, length, caplog):
    cutting = word_pieces()
    cutting.no_padding()
    cutting.enable_truncation(length)
    with caplog.at_level(logging.WARNING, "encdec_eqx"):
        encoded = pair.encode_source(WORDS, length)
    assert [row.tolist() for row in encoded] == [cutting.encode(text).ids for text in WORDS]
    whole = pair.encode_source(WORDS)
    assert encoded.truncated == tuple(at for at, row in enumerate(whole) if len(row) > length)
    assert f"{len(encoded.truncated)} of 5 sources are longer than {length} tokens and were cut" in caplog.text


def test_targets_end_once_and_never_start(kind, pair):
    end = END[kind]
    for text, row in zip(WORDS, pair.encode_target(WORDS), strict=True):
        content = pair.target.encode(text, add_special_tokens=False).ids
        assert row.tolist() == [*content, end]
        assert CLS not in row or kind == "gpt2"


def test_a_target_that_ends_by_itself_gets_no_second_end_and_one_that_ends_inside_is_bad(kind, pair):
    name = pair.target.id_to_token(END[kind])
    plain, ended = pair.encode_target(["the cat", f"the cat{name}"])
    np.testing.assert_array_equal(plain, ended)
    with pytest.raises(ValueError, match=r"text 1 \(1 of 2 such\): the target has the end token"):
        pair.encode_target(["the", f"the{name} cat"])
    encoded = pair.encode_target(["the", f"the{name} cat"], on_bad="report")
    assert list(encoded.bad) == [1]
    assert len(encoded[1]) == 0


def test_cut_targets_are_ended_too(kind, pair, caplog):
    whole, cut = pair.encode_target(WORDS), pair.encode_target(WORDS, 3)
    for long, short in zip(whole, cut, strict=True):
        assert short.tolist() == (long.tolist() if len(long) <= 3 else [*long[:2].tolist(), END[kind]])
    assert cut.truncated == tuple(at for at, row in enumerate(whole) if len(row) > 3)
    assert "targets are longer than 3 tokens and were cut" in caplog.text


def test_targets_come_back(kind, pair):
    labels = pair.encode_target(WORDS)
    # WordPiece's decoder separates punctuation by its own rules
    expected = WORDS if kind == "gpt2" else [pair.target.decode(pair.target.encode(text).ids) for text in WORDS]
    assert pair.decode_target(labels) == expected
    start, pad = pair.special_tokens.decoder_start_token_id, pair.special_tokens.pad_token_id
    width = max(map(len, labels)) + 3
    generated = np.full((len(labels), width), pad)
    for row, ids in zip(generated, labels, strict=True):
        row[: len(ids) + 1] = [start, *ids]
    assert pair.decode_target(generated) == expected
    ignored = [np.append(ids, [-100, -100]) for ids in labels]
    assert pair.decode_target(ignored) == expected


def test_the_model_s_end_is_needed():
    pair = TokenizerPair(word_pieces(), byte_pairs())
    with pytest.raises(ValueError, match=r"it was not given: tokenizers.for_model\(model\)"):
        pair.encode_target(["the"])
    model = _bert_to_gpt2(eos_token_id=None, bos_token_id=GPT2_END)
    with pytest.raises(ValueError, match="no eos_token_id"):
        pair.for_model(model).encode_target(["the"])


def test_without_an_end_nothing_is_put_behind():
    model = _bert_to_gpt2().with_special_tokens(eos_token_id=())
    pair = TokenizerPair(word_pieces(), byte_pairs()).for_model(model)
    assert pair.encode_target(["the cat"])[0].tolist() == pair.target.encode("the cat").ids


@pytest.mark.parametrize("side", ["source", "target"])
def test_lengths_and_types_are_judged(pair, side):
    encode = getattr(pair, f"encode_{side}")
    with pytest.raises(ValueError, match="leave no room for text"):
        encode(WORDS, 1)


def test_one_string_is_no_list(unchecked, pair):
    for encode in (pair.encode_source, pair.encode_target):
        with pytest.raises(TypeError, match="put it into a list"):
            encode("hello")


def test_the_user_s_tokenizer_stays_as_it_is():
    mine = word_pieces()
    TokenizerPair(mine, mine)
    assert mine.padding is not None
    assert mine.truncation is not None
    with pytest.raises(TypeError, match=r"expected a tokenizers.Tokenizer, got dict"):
        TokenizerPair({}, mine)


def test_a_tokenizer_with_python_inside_is_refused():
    class Letters:
        def pre_tokenize(self, text):
            text.split(lambda index, piece: [piece])

    tokenizer = byte_pairs()
    tokenizer.pre_tokenizer = pre_tokenizers.PreTokenizer.custom(Letters())
    with pytest.raises(ValueError, match="cannot be kept with a model"):
        TokenizerPair(word_pieces(), tokenizer)


# --- does it fit the model


def test_a_vocabulary_larger_than_the_embeddings_is_an_error():
    pair = TokenizerPair(word_pieces(more=5), byte_pairs(more=7))
    with pytest.raises(ValueError, match="do not fit") as caught:
        pair.check(_bert_to_gpt2())
    text = str(caught.value)
    assert "source tokenizer makes ids up to 57; the encoder's embeddings have 53 rows" in text
    assert "target tokenizer makes ids up to 306; the decoder's embeddings have 300 rows" in text
    assert "model = model.resize_encoder_token_embeddings(58, key=jax.random.key(0))" in text
    assert "model = model.resize_decoder_token_embeddings(307, key=jax.random.key(0))" in text


def test_after_the_named_remedy_it_fits(key):
    target = byte_pairs()
    target.add_special_tokens([f"<new {i}>" for i in range(4)])
    pair, model = TokenizerPair(word_pieces(), target), _bert_to_gpt2()
    with pytest.raises(ValueError, match="resize") as caught:
        pair.check(model)
    call = str(caught.value).split("If tokens were added: ")[1].rstrip(".")
    scope = {"model": model, "jax": jax}
    exec(call, scope)
    pair.check(scope["model"])


@pytest.mark.parametrize(
    ("tokens", "says"),
    [
        ({"eos_token_id": 100}, "eos_token_id is 100, which is the ordinary token"),
        ({"decoder_start_token_id": 299}, "decoder_start_token_id is 299, which is the ordinary token"),
        ({"pad_token_id": 5000}, "pad_token_id is 5000, an id that the target tokenizer does not have"),
    ],
)
def test_special_tokens_that_are_ordinary_ones_are_errors(tokens, says):
    model = _bert_to_gpt2().with_special_tokens(**tokens)
    with pytest.raises(ValueError, match=says):
        TokenizerPair(word_pieces(), byte_pairs()).check(model)


def test_an_ordinary_token_can_be_made_special():
    target = byte_pairs()
    model = _bert_to_gpt2().with_special_tokens(eos_token_id=target.token_to_id("!"))
    with pytest.raises(ValueError, match=r"tokenizer.add_special_tokens\(\['!'\]\)"):
        TokenizerPair(word_pieces(), target).check(model)
    target.add_special_tokens(["!"])
    TokenizerPair(word_pieces(), target).check(model)


def test_the_wrong_tokenizer_is_found_by_its_special_tokens():
    """A decoder that ends with [SEP], and a tokenizer where that id is a letter."""
    with pytest.raises(ValueError, match=f"eos_token_id is {SEP}, which is the ordinary token"):
        TokenizerPair(word_pieces(), byte_pairs()).check(_bert_to_bert(vocab_size=300))


def test_the_encoder_s_padding_is_checked():
    model = tiny_pair(encoder_config(depth=1, pad_token_id=30), decoder_config(depth=1, vocab_size=300))
    model = model.with_special_tokens(eos_token_id=0, bos_token_id=0, pad_token_id=0, decoder_start_token_id=0)
    with pytest.raises(ValueError, match="the encoder's pad_token_id is 30, which is the ordinary token"):
        TokenizerPair(word_pieces(), byte_pairs()).check(model)


def test_another_end_than_the_tokenizer_s_own_is_an_error():
    model = _bert_to_bert().with_special_tokens(eos_token_id=CLS)
    with pytest.raises(ValueError, match=rf"ends a text with \['\[SEP\]'\].*eos_token_id={SEP}"):
        TokenizerPair(word_pieces(), word_pieces()).check(model)
    # a closing language code, as mBART's: the end is among what closes a text
    target = word_pieces()
    target.post_processor = processors.TemplateProcessing(
        single="$A [SEP] [CLS]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    TokenizerPair(word_pieces(), target).check(_bert_to_bert())


# --- files


def test_two_tokenizers_are_saved_and_loaded(tmp_path):
    pair = TokenizerPair(word_pieces(), byte_pairs())
    pair.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"source_tokenizer.json", "target_tokenizer.json"}
    again = TokenizerPair.load(tmp_path)
    assert again.source.to_str() == pair.source.to_str()
    assert again.target.to_str() == pair.target.to_str()


def test_one_tokenizer_is_saved_once_and_takes_the_place_of_two(tmp_path):
    TokenizerPair(word_pieces(), byte_pairs()).save(tmp_path)
    one = TokenizerPair(word_pieces(), word_pieces())
    one.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]
    again = TokenizerPair.load(tmp_path)
    assert again.source is again.target
    assert again.source.to_str() == one.target.to_str()
    TokenizerPair(word_pieces(), byte_pairs()).save(tmp_path)
    assert not (tmp_path / "tokenizer.json").exists()


def test_each_piece_s_own_folder_is_read(tmp_path):
    for name, tokenizer in (("bert", word_pieces()), ("gpt2", byte_pairs())):
        (tmp_path / name).mkdir()
        tokenizer.save(str(tmp_path / name / "tokenizer.json"))
    pair = TokenizerPair.from_pretrained(tmp_path / "bert", tmp_path / "gpt2")
    files = TokenizerPair.from_files(tmp_path / "bert" / "tokenizer.json", tmp_path / "gpt2" / "tokenizer.json")
    for one in (pair, files):
        assert one.source.get_vocab() == word_pieces().get_vocab()
        assert one.target.get_vocab() == byte_pairs().get_vocab()
    both = TokenizerPair.from_files(tmp_path / "bert" / "tokenizer.json")
    assert both.source is both.target


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no tokenizer; expected tokenizer.json, or source_tokenizer.json"):
        TokenizerPair.load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer.json\. transformers writes one"):
        TokenizerPair.from_pretrained(tmp_path, tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        TokenizerPair.from_files(tmp_path / "x.json")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer.json is no tokenizer"):
        TokenizerPair.load(tmp_path)
    (tmp_path / "source_tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"has tokenizer.json and source_tokenizer.json"):
        TokenizerPair.load(tmp_path)


def _spoilt(part: str, value: object) -> bytes:
    """A tokenizer's file with another id in one of its parts."""
    file = json.loads(word_pieces().to_str())
    if part == "vocab":
        file["model"]["vocab"]["cat"] = value
    elif part == "added_tokens":
        file["added_tokens"][0]["id"] = value
    else:
        file["post_processor"]["special_tokens"]["[SEP]"]["ids"] = [value]
    return json.dumps(file).encode()


@pytest.mark.parametrize("part", ["vocab", "added_tokens", "post_processor"])
@pytest.mark.parametrize("value", [2**31, 2**32 - 1, 2**64, -1, 1.5, None, 2_000_000])
def test_an_id_that_no_tokenizer_has_is_refused_before_the_library_makes_room_for_it(tmp_path, part, value):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(_spoilt(part, value))
    with pytest.raises(
        ValueError, match=r"tokenizer\.json gives the token .* the id .*; expected a whole number from 0"
    ):
        TokenizerPair.from_files(path)


@pytest.mark.parametrize("tokenizer", [word_pieces, byte_pairs])
def test_two_tokens_of_one_id_are_refused_before_one_of_them_is_lost(tmp_path, tokenizer):
    file = json.loads(tokenizer().to_str())
    vocabulary = file["model"]["vocab"]
    first, second = list(vocabulary)[20:22]
    vocabulary[second] = vocabulary[first]
    (tmp_path / "tokenizer.json").write_text(json.dumps(file))
    message = rf"tokenizer\.json gives the tokens '{re.escape(first)}' and '{re.escape(second)}' one id, 20; expected"
    with pytest.raises(ValueError, match=message):
        TokenizerPair.load(tmp_path)


def test_what_the_rust_side_raises_while_encoding_is_a_value_error():
    file = json.loads(word_pieces().to_str())
    file["model"]["unk_token"] = "[NONE]"
    lacking = Tokenizer.from_str(json.dumps(file))
    with pytest.raises(ValueError, match=r"the tokenizer cannot encode these texts: .*\[UNK\]|\[NONE\]"):
        TokenizerPair(lacking, lacking).encode_source(["漢"])


def test_a_large_honest_id_is_read(tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(b"\xef\xbb\xbf" + _spoilt("added_tokens", PAD))
    assert TokenizerPair.load(tmp_path).source.get_vocab() == word_pieces().get_vocab()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[1]", r"it holds \[1\]; expected an object"),
        (b"{", "not JSON: Expecting property name"),
        (b'{"version": ' + b"9" * 5000 + b"}", "a whole number of more than 4300 digits"),
        (b"[" * 200_000, "nests too deeply"),
        (b"\xff", "not JSON: 'utf-8' codec"),
    ],
)
def test_a_file_that_is_no_tokenizer_is_named_in_one_line(tmp_path, content, says):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))} is no tokenizer.json: .*{says}") as caught:
        TokenizerPair.from_files(path)
    assert len(str(caught.value).splitlines()) == 1


# --- what is no text


NO_TEXTS = [
    (["hello", None], TypeError, "text 1 is None; expected a string"),
    (
        ["hello", b"who?"],
        TypeError,
        r"text 1 is bytes b'who\?'; expected a string\. Decode bytes: text\.decode\('utf-8'\)",
    ),
    ([3, "a", 4.5], TypeError, r"text 0 \(and 1 more of 3\) is int 3; expected a string\. A number is written by str"),
    ([["hello"]], TypeError, r"text 0 is list \['hello'\]; expected a string\. Texts are one flat list"),
    (["a", "b\ud83d"], ValueError, r"text 1 holds half a surrogate pair at letter 1: 'b\\ud83d'"),
    (b"hello", TypeError, r"texts must be a list of strings, got bytes b'hello'"),
    (None, TypeError, "texts must be a list of strings, got None"),
    (7, TypeError, "texts must be a list of strings, got int 7"),
    ([float("nan")], TypeError, "text 0 is float nan; expected a string"),
    ([10**5000], TypeError, "text 0 is int a whole number of 16610 bits; expected a string"),
]


@pytest.mark.parametrize(("texts", "kind", "says"), NO_TEXTS, ids=range(len(NO_TEXTS)))
def test_what_is_no_text_names_its_place_everywhere(speaker, unchecked, texts, kind, says):
    for call in (speaker, speaker.generate, speaker.tokenizers.encode_source, speaker.tokenizers.encode_target):
        with pytest.raises(kind, match=says):
            call(texts)
    if isinstance(texts, list):
        with pytest.raises(kind, match=r"text 0 (is|holds)"):
            list(speaker.stream(texts[-1]))


def test_a_surrogate_pair_joined_as_the_message_says_is_read(speaker):
    with pytest.raises(ValueError) as caught:
        speaker.tokenizers.encode_source(["cat \ud83d\ude00"])
    assert "text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')" in str(caught.value)
    joined = "cat \ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert joined == "cat \U0001f600"
    assert len(speaker.tokenizers.encode_source([joined])) == 1


# --- text to text


def test_outputs_come_in_the_callers_order_and_do_not_depend_on_the_batches(speaker):
    alone = [speaker(text, max_new_tokens=6) for text in WORDS]
    assert len(set(alone)) > 1
    for batch_size in (2, 3, 8):
        assert speaker(WORDS, max_new_tokens=6, batch_size=batch_size) == alone


def test_it_says_what_generate_says(speaker):
    ids = speaker.tokenizers.encode_source(WORDS[:1])[0][None]
    result = speaker.model.generate(ids, max_new_tokens=6)
    assert speaker(WORDS[0], max_new_tokens=6) == speaker.tokenizers.decode_target(result.sequences)[0]
    generated = speaker.generate(WORDS, max_new_tokens=6, batch_size=2, num_beams=2, num_return_sequences=2)
    assert [len(texts) for texts in generated.texts] == [2] * 5
    assert generated.scores.shape == generated.unfinished.shape == (5, 2)
    assert (generated.scores[:, 0] >= generated.scores[:, 1]).all()
    assert generated.unfinished.all() == (speaker.model.generate(ids, max_new_tokens=6).truncated.all())


def test_outputs_that_lack_forced_words_are_marked(speaker):
    """Beside the ids themselves, in whose order batches play no part."""
    words = [[5, 6], [[7], [8, 9]]]
    asked = {"max_new_tokens": 6, "batch_size": 2, "num_beams": 4, "num_return_sequences": 2}
    result = speaker.generate(WORDS, **asked, force_words_ids=words)
    assert result.forced_words_met is not None
    assert result.forced_words_met.shape == (len(WORDS), 2)
    for rows, marks in zip(result.sequences, result.forced_words_met, strict=True):
        for row, met in zip(rows, marks, strict=True):
            pairs = {tuple(row[at : at + 2].tolist()) for at in range(len(row))}
            assert met == ((5, 6) in pairs and (7 in row or (8, 9) in pairs))
    assert any("forced_words_met" in note for note in result.notes) == (not result.forced_words_met.all())
    assert speaker.generate(WORDS, **asked).forced_words_met is None


def test_no_option_is_dropped_on_the_way(speaker):
    asked = {"max_new_tokens": 6, "num_beams": 2, "num_return_sequences": 2, "output_cross_attentions": True}
    together = speaker.generate(WORDS, batch_size=2, **asked)
    ids = speaker.tokenizers.encode_source(WORDS)
    for place in (0, len(WORDS) - 1):
        alone = speaker.model.generate(ids[place][None], **asked)
        for output in range(2):
            length = int(alone.lengths[output])
            assert together.sequences[place][output].tolist() == alone.sequences[output, : length + 1].tolist()
            assert alone.cross_attentions is not None
            for mine, theirs in zip(together.cross_attentions[place][output], alone.cross_attentions, strict=True):
                np.testing.assert_allclose(mine, theirs[output, :, :length], atol=tolerances.SAME_MODEL)
    assert speaker.generate(WORDS[:1], max_new_tokens=2).cross_attentions is None
    with pytest.raises(ValueError, match=r"output_cross_attentions would do nothing in a stream"):
        next(speaker.stream(WORDS[0], max_new_tokens=2, output_cross_attentions=True))


def test_prompts_have_a_row_a_text(speaker):
    start = speaker.model.special_tokens.decoder_start_token_id
    prompts = np.array([[start, 3 + row] for row in range(5)])
    result = speaker.generate(WORDS, max_new_tokens=2, batch_size=2, decoder_input_ids=prompts)
    assert [outputs[0][:2].tolist() for outputs in result.sequences] == prompts.tolist()
    with pytest.raises(ValueError, match="decoder_input_ids must have a row a text: got 5 rows for 2 texts"):
        speaker.generate(WORDS[:2], max_new_tokens=2, decoder_input_ids=prompts)
    for name in ("input_ids", "attention_mask", "encoder_outputs"):
        with pytest.raises(TypeError, match=f"{name} cannot be given beside texts"):
            speaker.generate(WORDS[:2], max_new_tokens=2, **{name: prompts})


def test_samples_do_not_depend_on_the_batches(speaker, key):
    drawn = [speaker(WORDS, max_new_tokens=4, do_sample=True, key=key, batch_size=size) for size in (2, 5)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != speaker(WORDS, max_new_tokens=4, do_sample=True, key=jax.random.key(9))


def test_long_sources_are_cut_to_what_the_encoder_reads_and_counted(speaker, caplog):
    result = speaker.generate(["hello", "the cat " * 30], max_new_tokens=2)
    assert result.truncated_sources == (1,)
    assert "1 of 2 sources are longer than 24 tokens and were cut" in caplog.text
    assert speaker.generate(["the cat sat"], max_new_tokens=2, max_source_length=4).truncated_sources == (0,)


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}], ids=["greedy", "beams"])
def test_streams_grow_to_what_a_call_returns(speaker, options):
    pieces = list(speaker.stream(WORDS[0], max_new_tokens=6, **options))
    assert pieces[-1] == speaker(WORDS[0], max_new_tokens=6, **options)
    assert len(set(pieces)) == len(pieces)


def test_streams_hold_back_half_letters(monkeypatch):
    """The letter é is two tokens of the byte-level tokenizer."""
    speaker = TextToText(_bert_to_gpt2(), TokenizerPair(word_pieces(), byte_pairs()))
    first, second = speaker.tokenizers.target.encode("é").ids
    chunk = dataclasses.make_dataclass("Chunk", ["tokens", "done"])
    row = [speaker.tokenizers.target.token_to_id("a"), first, second]
    chunks = [chunk(np.array([[token]]), {}) for token in row]
    chunks.append(chunk(np.array([[GPT2_END]]), {0: np.array([*row, GPT2_END])}))
    monkeypatch.setattr(EncoderDecoder, "stream", lambda self, **options: iter(chunks))
    assert list(speaker.stream("hello")) == ["a", "aé"]


def test_it_is_saved_whole_and_loaded(speaker, tmp_path):
    speaker.save_pretrained(tmp_path)
    again = TextToText.from_pretrained(tmp_path)
    assert again(WORDS, max_new_tokens=6) == speaker(WORDS, max_new_tokens=6)
    EncoderDecoder.from_pretrained(tmp_path)  # the tokenizers beside it disturb nothing


def test_a_tokenizer_that_does_not_fit_is_met_when_loading(tmp_path):
    speaker = TextToText(_bert_to_gpt2(), TokenizerPair(word_pieces(), byte_pairs()))
    speaker.save_pretrained(tmp_path)
    TokenizerPair(byte_pairs(), byte_pairs(more=10)).save(tmp_path)
    with pytest.raises(ValueError, match="the tokenizers do not fit the model"):
        TextToText.from_pretrained(tmp_path)


def test_what_cannot_be_is_refused(speaker):
    with pytest.raises(ValueError, match="no texts"):
        speaker([], max_new_tokens=2)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        speaker(WORDS, max_new_tokens=2, batch_size=0)
    for call in (speaker, lambda *args, **options: list(speaker.stream(*args, **options))):
        with pytest.raises(ValueError, match=r"call .generate\(texts"):
            call("hello", max_new_tokens=2, num_return_sequences=2, num_beams=2)


def test_an_encoder_that_adds_no_special_tokens_cannot_read_an_empty_text():
    model = tiny_pair(
        encoder_config(depth=1, vocab_size=300),
        decoder_config(depth=1, vocab_size=300, eos_token_id=0, bos_token_id=0, pad_token_id=0),
    )
    speaker = TextToText(model, TokenizerPair(byte_pairs(), byte_pairs()))
    with pytest.raises(ValueError, match="text 1 is empty"):
        speaker(["hello", ""], max_new_tokens=2)


def test_without_tokenizers_the_message_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ImportError, match=r'pip install -e "\S*\[hub\]"'):
        TokenizerPair.load(tmp_path)
