"""A model and its tokenizers in one call: from a saved pair, and from two pieces."""

from pathlib import Path
from typing import Any

import huggingface_hub
import jax
import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from encdec_eqx import Decoder, Encoder, EncoderDecoder
from encdec_eqx.text import TextToText, TokenizerPair
from models import decoder_config, encoder_config, randomised, tiny_pair
from tokenizers_of import CLS, PAD, SEP, byte_pairs, word_pieces

KEY = jax.random.key(3)
OPTIONS: dict[str, Any] = {"max_new_tokens": 4}


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders as on the Hub: a BERT, and a BERT and a GPT-2 to decode with, each with its tokenizer."""
    folder = tmp_path_factory.mktemp("pieces")
    unnamed = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": PAD}
    bert = randomised(tiny_pair(encoder_config(depth=1), decoder_config(depth=1, **unnamed)), spread=0.7)
    bert.encoder.save_pretrained(folder / "bert")
    bert.decoder.save_pretrained(folder / "bert-decoder")
    gpt2 = {"model_type": "gpt2", "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    tiny_pair(encoder_config(depth=1), decoder_config(depth=1, vocab_size=300, **gpt2)).decoder.save_pretrained(
        folder / "gpt2"
    )
    for name, tokenizer in (("bert", word_pieces()), ("bert-decoder", word_pieces()), ("gpt2", byte_pairs())):
        tokenizer.save(str(folder / name / "tokenizer.json"))
    return {path.name: path for path in folder.iterdir()}


def _same(one: EncoderDecoder, other: EncoderDecoder) -> bool:
    return all(map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(other)))


def test_two_folders_are_the_long_way_in_one_line(pieces):
    speaker = TextToText.from_pieces(pieces["bert"], pieces["gpt2"], key=KEY)
    model = EncoderDecoder.from_encoder_decoder_pretrained(pieces["bert"], pieces["gpt2"], key=KEY)
    assert _same(speaker.model, model)
    assert speaker.model.special_tokens == model.special_tokens
    long = TextToText(model, TokenizerPair.from_pretrained(pieces["bert"], pieces["gpt2"]))
    assert speaker(["the cat", "hello"], **OPTIONS) == long(["the cat", "hello"], **OPTIONS)


def test_tokens_that_a_decoder_does_not_name_are_its_tokenizers(pieces, tmp_path):
    speaker = TextToText.from_pieces(pieces["bert"], pieces["bert-decoder"], key=KEY)
    tokens = speaker.model.special_tokens
    assert (tokens.decoder_start_token_id, tokens.eos_token_id, tokens.pad_token_id) == (CLS, (SEP,), PAD)
    speaker.save_pretrained(tmp_path / "pair")
    again = TextToText.from_pretrained(tmp_path / "pair")
    assert again("hello world", **OPTIONS) == speaker("hello world", **OPTIONS)


def test_tokens_that_a_decoder_names_stay():
    tokens = {"eos_token_id": SEP, "bos_token_id": 7, "pad_token_id": 8}
    pair = tiny_pair(encoder_config(depth=1), decoder_config(depth=1, **tokens))
    with pytest.raises(ValueError, match="pad_token_id is 8, which is the ordinary token"):
        TextToText.from_pieces((pair.encoder, word_pieces()), (pair.decoder, word_pieces()))


def test_loaded_pieces_come_with_a_tokenizer_or_its_place(pieces):
    encoder, decoder = Encoder.from_pretrained(pieces["bert"]), Decoder.from_pretrained(pieces["gpt2"])
    whole = TextToText.from_pieces(pieces["bert"], (decoder, pieces["gpt2"]), key=KEY)
    for source in (word_pieces(), pieces["bert"], pieces["bert"] / "tokenizer.json"):
        mixed = TextToText.from_pieces((encoder, source), (decoder, byte_pairs()), key=KEY)
        assert _same(mixed.model, whole.model)
        assert mixed("the dog", **OPTIONS) == whole("the dog", **OPTIONS)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"speed": 1}, "got the option 'speed'; expected dtype or strict_config, or one that begins with encoder_"),
        ({"encoder_speed": 1}, "got 'speed', which is neither an argument nor an attribute"),
        ({"decoder_dtype": None}, "decoder_dtype would do nothing: what it is for is loaded already"),
    ],
)
def test_options_that_are_unknown_or_of_no_use_are_refused(pieces, options, told):
    decoder = Decoder.from_pretrained(pieces["gpt2"])
    with pytest.raises(TypeError, match=told):
        TextToText.from_pieces(pieces["bert"], (decoder, byte_pairs()), **options)


def test_what_is_no_piece_is_refused_by_side(pieces):
    with pytest.raises(TypeError, match=r"decoder must be a folder or a Hub id .* or \(decoder, tokenizer\); got Dec"):
        TextToText.from_pieces(pieces["bert"], Decoder.from_pretrained(pieces["gpt2"]))


def test_unknown_options_of_a_saved_pair_are_refused_before_anything_is_read():
    with pytest.raises(TypeError, match="unexpected keyword argument 'speed'"):
        TextToText.from_pretrained("nowhere", speed=1)
    with pytest.raises(TypeError, match="takes no from_pt=: leave it out"):
        TextToText.from_pretrained("nowhere", from_pt=True)


def test_missing_tokenizers_say_what_to_do(pieces, tmp_path):
    encoder = Encoder.from_pretrained(pieces["bert"])
    encoder.save_pretrained(tmp_path / "bare")
    with pytest.raises(FileNotFoundError, match=r"bare has no tokenizer\.json. transformers writes one: AutoTokenizer"):
        TextToText.from_pieces(tmp_path / "bare", pieces["gpt2"])
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer; .* tokenizers\)\.save_pretrained\(folder\)"):
        TextToText.from_pretrained(tmp_path / "bare")


def test_an_id_is_fetched_with_its_tokenizers_and_with_all_options(pieces, tmp_path, monkeypatch):
    TextToText.from_pieces(pieces["bert"], pieces["gpt2"], key=KEY).save_pretrained(tmp_path / "pair")
    asked = []

    def snapshot_download(repo_id: str, *, allow_patterns: list[str], **options: Any) -> str:
        asked.append((repo_id, "tokenizer.json" in allow_patterns, options["revision"]))
        return str({"some/pair": tmp_path / "pair", "some/bert": pieces["bert"]}[repo_id])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    again = TextToText.from_pretrained("some/pair", revision="v1")
    joined = TextToText.from_pieces("some/bert", pieces["gpt2"], key=KEY, encoder_revision="v2")
    assert asked == [("some/pair", True, "v1"), ("some/pair", False, "v1")] + [
        ("some/bert", has, "v2") for has in (True, False)
    ]
    assert again("the cat", **OPTIONS) == joined("the cat", **OPTIONS)


def test_a_tokenizer_without_an_unknown_token_fits_or_not_by_what_it_knows():
    words = Tokenizer(models.WordLevel({token: at for at, token in enumerate(["<pad>", "</s>", "cat", "dog"])}))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.add_special_tokens(["<pad>", "</s>"])
    tokens = {"eos_token_id": 1, "bos_token_id": None, "pad_token_id": None}
    pair = tiny_pair(encoder_config(depth=1), decoder_config(depth=1, **tokens))
    speaker = TextToText.from_pieces((pair.encoder, word_pieces()), (pair.decoder, words))
    assert speaker.model.special_tokens.eos_token_id == (1,)
