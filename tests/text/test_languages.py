"""Languages: where their codes stand in sources, labels and outputs. `tests/parity` compares with transformers."""

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from encdec_eqx import EncoderDecoder
from encdec_eqx.text import TextToText, TokenizerPair
from encdec_eqx.training.data import encode_pairs, pairs_from
from encdec_eqx.training.job import ModelSource
from encdec_eqx.training.run_job import load_model, load_tokenizers, speaking
from models import decoder_config, encoder_config, randomised, tiny_pair

CODES = {"M2M100Tokenizer": ["__de__", "__en__", "__fr__"], "NllbTokenizer": ["deu_Latn", "eng_Latn", "fra_Latn"]}
CODES |= {"PLBartTokenizer": ["__java__", "__python__"]}
CODES |= {kind: ["de_DE", "en_XX", "fr_FR"] for kind in ("MBartTokenizer", "MBart50Tokenizer")}
END, PAD, CAT, DE = 2, 1, 4, 6


def _tokenizer(kind: str) -> Tokenizer:
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "cat", "dog", *CODES[kind]]
    tokenizer = Tokenizer(models.WordLevel({token: at for at, token in enumerate(tokens)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([*tokens[:4], *CODES[kind]])
    return tokenizer


def _pair(kind: str, *languages: str | None) -> TokenizerPair:
    tokenizer = _tokenizer(kind)
    return TokenizerPair(tokenizer, tokenizer).with_languages(*languages, kind=kind)


def _model() -> EncoderDecoder:
    tokens = {"eos_token_id": END, "bos_token_id": 0, "pad_token_id": PAD, "vocab_size": 11}
    encoder = encoder_config(depth=1, vocab_size=11)
    return tiny_pair(encoder, decoder_config(depth=1, **tokens)).with_special_tokens(decoder_start_token_id=END)


def _ids(encoded: Any) -> list[list[int]]:
    return [row.tolist() for row in encoded]


@pytest.mark.parametrize(
    ("kind", "languages", "source", "labels", "start"),
    [
        ("M2M100Tokenizer", ("en", "de"), [7, CAT, END], [DE, 5, END], END),
        ("M2M100Tokenizer", ("__en__", "__de__"), [7, CAT, END], [DE, 5, END], END),
        ("NllbTokenizer", ("eng_Latn", "deu_Latn"), [7, CAT, END], [DE, 5, END], END),
        ("MBart50Tokenizer", ("en_XX", "de_DE"), [7, CAT, END], [DE, 5, END], END),
        ("MBartTokenizer", ("en_XX", "de_DE"), [CAT, END, 7], [5, END], DE),
        ("PLBartTokenizer", ("python", "java"), [CAT, END, 7], [5, END], DE),
        ("NllbTokenizer", (None, "deu_Latn"), [CAT], [DE, 5, END], END),
        ("NllbTokenizer", ("eng_Latn", None), [7, CAT, END], [5, END], END),
    ],
)
def test_codes_stand_where_the_kind_of_tokenizer_puts_them(
    kind: str, languages: tuple[str | None, str | None], source: list[int], labels: list[int], start: int
) -> None:
    tokenizers = _pair(kind, *languages)
    model = tokenizers.configure(_model())
    tokenizers = tokenizers.for_model(model)
    assert _ids(tokenizers.encode_source(["cat"])) == [source]
    (example,) = encode_pairs(pairs_from([("cat", "dog")]), tokenizers)
    assert (example.input_ids.tolist(), example.labels.tolist()) == (source, labels)
    assert model.special_tokens.decoder_start_token_id == start
    assert tokenizers.decode_target([labels]) == ["dog"]


def test_the_legacy_form_is_read_from_a_file_and_written_again(tmp_path: Path) -> None:
    _pair("NllbTokenizer").save(tmp_path)
    said = {"tokenizer_class": "NllbTokenizerFast", "src_lang": "fra_Latn", "legacy_behaviour": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
    for pair in (TokenizerPair.load(tmp_path), TokenizerPair.from_pretrained(tmp_path, tmp_path)):
        assert _ids(pair.encode_source(["cat"])) == [[CAT, END, 8]]
        pair.with_languages("eng_Latn", "deu_Latn").save(tmp_path / "again")
        again = TokenizerPair.load(tmp_path / "again")
        assert _ids(again.encode_source(["cat"])) == [[CAT, END, 7]]
        # what a model says is the model's to know
        assert again.languages is not None
        assert again.languages.tgt_lang is None
    assert json.loads((tmp_path / "again" / "tokenizer_config.json").read_text()) == {
        "tokenizer_class": "NllbTokenizer",
        "src_lang": "eng_Latn",
        "tgt_lang": "deu_Latn",
        "legacy_behaviour": True,
    }


def test_a_call_may_name_its_languages(tmp_path: Path) -> None:
    model = randomised(_model(), spread=0.7)
    speaker = TextToText(model, _pair("M2M100Tokenizer", "en", "de"))
    options: dict[str, Any] = {"max_new_tokens": 4}
    assert speaker.generate(["cat"], **options).sequences[0][0][:2].tolist() == [END, DE]
    found = speaker.generate(["cat dog"], src_lang="fr", tgt_lang="en", **options)
    assert found.sequences[0][0][:2].tolist() == [END, 7]
    ids = np.array([[8, CAT, 5, END]], np.int32)
    assert found.sequences[0][0].tolist() == model.generate(ids, forced_bos_token_id=7, **options).sequences[0].tolist()
    assert list(speaker.stream("cat dog", src_lang="fr", tgt_lang="en", **options))[-1] == found.texts[0][0]
    speaker.save_pretrained(tmp_path)
    assert TextToText.from_pretrained(tmp_path)("cat", **options) == speaker("cat", **options)
    french = TextToText.from_pretrained(tmp_path, tgt_lang="fr")
    assert french("cat", **options) == speaker("cat", tgt_lang="fr", **options)
    with pytest.raises(ValueError, match="tgt_lang and forced_bos_token_id both say how an output begins"):
        speaker("cat", tgt_lang="fr", forced_bos_token_id=7)


@pytest.mark.parametrize(
    ("kind", "code", "says"),
    [
        ("NllbTokenizer", "eng", "no language 'eng': it has 3, such as eng_Latn"),
        ("NllbTokenizer", "de", "no language 'de': it has 3, such as deu_Latn"),
        ("M2M100Tokenizer", "english", "no language 'english': it has 3, such as en"),
        ("M2M100Tokenizer", "cat", "no language 'cat': it has 3, such as "),
        ("MBartTokenizer", "", "no language '': it has 3, such as de_DE, en_XX, fr_FR"),
    ],
)
def test_an_unknown_language_is_an_error_that_names_near_ones(kind: str, code: str, says: str) -> None:
    pair = _pair(kind)
    for call in (
        lambda: pair.with_languages(code),
        lambda: pair.with_languages(tgt_lang=code),
        lambda: pair.encode_source(["cat"], src_lang=code),
        lambda: TextToText(_model(), pair)("cat", tgt_lang=code),
    ):
        with pytest.raises(ValueError, match=says):
            call()


def test_the_id_of_a_language_is_not_its_code() -> None:
    pair, code = _pair("NllbTokenizer"), cast(Any, 7)
    for call in (
        lambda: pair.with_languages(code),
        lambda: pair.with_languages(tgt_lang=code),
        lambda: pair.encode_source(["cat"], src_lang=code),
        lambda: TextToText(_model(), pair)("cat", tgt_lang=code),
    ):
        with pytest.raises(TypeError, match=r"(?s)lang.*7"):
            call()


def test_what_is_not_known_of_languages_is_asked_for() -> None:
    tokenizer = _tokenizer("NllbTokenizer")
    plain = TokenizerPair(tokenizer, tokenizer)
    for call in (
        lambda: plain.with_languages("eng_Latn"),
        lambda: plain.encode_source(["cat"], src_lang="eng_Latn"),
        lambda: TextToText(_model(), plain)("cat", tgt_lang="eng_Latn"),
    ):
        with pytest.raises(ValueError, match=r"no tokenizer_config\.json .* kind='NllbTokenizer'\) names it"):
            call()
    with pytest.raises(ValueError, match="kind is 'BertTokenizer'; expected one of M2M100Tokenizer, NllbTokenizer"):
        plain.with_languages("eng_Latn", kind="BertTokenizer")
    with pytest.raises(ValueError, match=r"targets are in 'deu_Latn'; .* model = tokenizers\.configure\(model\) tells"):
        _pair("NllbTokenizer", None, "deu_Latn").for_model(_model())


def test_a_job_names_languages(tmp_path: Path) -> None:
    model = _model()
    model.save_pretrained(tmp_path)
    source = ModelSource(model_name_or_path=str(tmp_path), src_lang="en", tgt_lang="de")
    with pytest.raises(ValueError, match=r"\[model\] src_lang and tgt_lang are languages of a tokenizer, and there is"):
        load_tokenizers(source)
    _pair("M2M100Tokenizer").save(tmp_path)
    tokenizers = load_tokenizers(source)
    assert tokenizers is not None
    fitting = tokenizers.for_model(speaking(load_model(source), tokenizers))
    assert _ids(fitting.encode_source(["cat"])) == [[7, CAT, END]]
    assert _ids(fitting.encode_target(["dog"])) == [[DE, 5, END]]
    with pytest.raises(ValueError, match=r"\[model\] src_lang, tgt_lang: the tokenizer has no language 'it'"):
        load_tokenizers(ModelSource(model_name_or_path=str(tmp_path), tgt_lang="it"))
