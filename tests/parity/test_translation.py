"""Where languages stand in texts, against transformers' tokenizers, and what models then say, against torch."""

import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    M2M100Config,
    M2M100ForConditionalGeneration,
    M2M100Tokenizer,
    MBart50TokenizerFast,
    MBartConfig,
    MBartForConditionalGeneration,
    MBartTokenizerFast,
    NllbTokenizerFast,
    PLBartTokenizer,
)

from encdec_eqx import EncoderDecoder
from encdec_eqx.text import TextToText, TokenizerPair
from hf import randomise, saved

TEXTS = ["hello world", "the cat sat on the mat", "o", "hello hello the world said"]
PIECES = ["▁hello", "▁world", "▁the", "▁cat", "▁sat", "▁on", "▁mat", "▁", *"acdehilmnorstw"]
CASES: dict[str, tuple[Any, dict[str, Any], tuple[str, str]]] = {
    "nllb": (NllbTokenizerFast, {}, ("fra_Latn", "deu_Latn")),
    "nllb_legacy": (NllbTokenizerFast, {"legacy_behaviour": True}, ("zho_Hans", "deu_Latn")),
    "mbart50": (MBart50TokenizerFast, {}, ("ro_RO", "de_DE")),
    "mbart": (MBartTokenizerFast, {}, ("ro_RO", "de_DE")),
}


def _tokenizer(case: str, folder: Path) -> Any:
    """Transformers' tokenizer over a few pieces."""
    kind, settings, _ = CASES[case]
    names = ["<s>", "<pad>", "</s>", "<unk>", *PIECES]
    model = Tokenizer(models.Unigram([(name, -float(at)) for at, name in enumerate(names)], 3, byte_fallback=False))
    model.pre_tokenizer = pre_tokenizers.Metaspace()
    model.decoder = decoders.Metaspace()
    model.add_special_tokens(names[:4])
    folder.mkdir()
    model.save(str(folder / "bare.json"))
    made = kind(tokenizer_file=str(folder / "bare.json"), **settings)
    made.save_pretrained(folder)
    (folder / "bare.json").unlink()
    return kind.from_pretrained(folder)


@pytest.mark.parametrize("case", CASES)
def test_sources_of_every_language_are_transformers_s(case: str, tmp_path: Path) -> None:
    theirs = _tokenizer(case, tmp_path / "theirs")
    pair = TokenizerPair.from_pretrained(tmp_path / "theirs", tmp_path / "theirs")
    assert [row.tolist() for row in pair.encode_source(TEXTS)] == theirs(TEXTS)["input_ids"]
    for code in CASES[case][2]:
        theirs.src_lang = code
        expected = theirs(TEXTS)["input_ids"]
        ours = pair.with_languages(code)
        assert [row.tolist() for row in ours.encode_source(TEXTS)] == expected
        assert [row.tolist() for row in pair.encode_source(TEXTS, src_lang=code)] == expected
        cut = theirs(TEXTS, truncation=True, max_length=4)["input_ids"]
        assert [row.tolist() for row in ours.encode_source(TEXTS, 4)] == cut
        assert [row.tolist() for row in pair.encode_source(TEXTS, 4, src_lang=code)] == cut
        ours.save(tmp_path / "ours")
        assert [row.tolist() for row in TokenizerPair.load(tmp_path / "ours").encode_source(TEXTS)] == expected
        assert type(theirs).from_pretrained(tmp_path / "ours")(TEXTS)["input_ids"] == expected


@pytest.mark.parametrize("case", CASES)
def test_labels_and_decoder_inputs_are_transformers_s(case: str, tmp_path: Path) -> None:
    """Of the legacy form and of mBART-25, what its model makes of the labels: there the code stands behind them."""
    theirs = _tokenizer(case, tmp_path / "theirs")
    src_lang, tgt_lang = CASES[case][2]
    theirs.src_lang, theirs.tgt_lang = src_lang, tgt_lang
    labels = theirs(text_target=TEXTS)["input_ids"]
    model, _ = _model(case, len(theirs), tmp_path / "model")
    pair = TokenizerPair.from_pretrained(tmp_path / "theirs", tmp_path / "theirs").with_languages(src_lang, tgt_lang)
    speaker = TextToText(model, pair)
    code = theirs.convert_tokens_to_ids(tgt_lang)
    ours = [row.tolist() for row in speaker.tokenizers.encode_target(TEXTS)]
    behind = {"nllb_legacy": [[*row[1:], code] for row in ours], "mbart": [[*row, code] for row in ours]}
    assert behind.get(case, ours) == labels
    assert speaker.tokenizers.decode_target(ours) == TEXTS
    assert speaker.model.special_tokens.decoder_start_token_id == (code if case == "mbart" else 2)


def _model(case: str, vocab_size: int, folder: Path) -> tuple[EncoderDecoder, Any]:
    sizes = {"vocab_size": vocab_size, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1}
    sizes |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 20}
    sizes |= {"decoder_ffn_dim": 20, "max_position_embeddings": 30}
    kinds = (MBartForConditionalGeneration, MBartConfig) if "mbart" in case else ()
    kind, config = kinds or (M2M100ForConditionalGeneration, M2M100Config)
    settings: dict[str, Any] = {"decoder_start_token_id": 2} if "mbart" in case else {}
    reference = randomise(kind(config(**sizes, **settings, attn_implementation="eager")), 3)
    return EncoderDecoder.from_pretrained(saved(reference, folder)), reference


@pytest.mark.parametrize("case", CASES)
def test_texts_are_translated_as_by_torch(case: str, tmp_path: Path) -> None:
    theirs = _tokenizer(case, tmp_path / "theirs")
    model, reference = _model(case, len(theirs), tmp_path / "model")
    src_lang, tgt_lang = CASES[case][2]
    tokenizers = TokenizerPair.from_pretrained(tmp_path / "theirs", tmp_path / "theirs")
    speaker = TextToText(model, tokenizers.with_languages(src_lang, tgt_lang))
    theirs.src_lang = src_lang
    option = "decoder_start_token_id" if case == "mbart" else "forced_bos_token_id"
    batch = theirs(TEXTS, return_tensors="pt", padding=True)

    def expected(language: str) -> list[str]:
        code = {option: theirs.convert_tokens_to_ids(language)}
        made = reference.generate(**batch, **code, num_beams=2, max_new_tokens=6, do_sample=False)
        return theirs.backend_tokenizer.decode_batch(made.tolist(), skip_special_tokens=True)

    with torch.no_grad():
        assert speaker(TEXTS, num_beams=2, max_new_tokens=6) == expected(tgt_lang)
        assert speaker(TEXTS, num_beams=2, max_new_tokens=6, tgt_lang=src_lang) == expected(src_lang)
    plain = TextToText(model, tokenizers)
    again = plain(TEXTS, num_beams=2, max_new_tokens=6, src_lang=src_lang, tgt_lang=tgt_lang)
    assert again == speaker(TEXTS, num_beams=2, max_new_tokens=6)
    speaker.save_pretrained(tmp_path / "saved")
    loaded = TextToText.from_pretrained(tmp_path / "saved")
    assert loaded(TEXTS, num_beams=2, max_new_tokens=6) == again


ODD = [
    "  two  spaces ",
    "北京 ☃☃ x☃",
    "ﬁne ½ \uff21\uff22",
    "\ttab\nnew line",
    "a" * 50,
    "--- !!! ???",
    "</s> inside",
    "",
    "▁",
    "▁ x",
]


@pytest.mark.parametrize("rule", ["nmt_nfkc", "identity"])
@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_sentencepiece_models_are_read_as_sentencepiece_reads_them(kind: str, rule: str, tmp_path: Path) -> None:
    """M2M100's numbers pieces by a file beside it, PLBart's in their own order: both have no other form."""
    lines = [line for line in Path(__file__).read_text(encoding="utf-8").splitlines() if line.strip()]
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(lines),
        model_prefix=str(tmp_path / "sentencepiece.bpe"),
        vocab_size=300,
        model_type=kind,
        normalization_rule_name=rule,
        minloglevel=2,
    )
    model = tmp_path / "sentencepiece.bpe.model"
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(model))
    names = [pieces.IdToPiece(at) for at in range(3, pieces.GetPieceSize())]
    numbered = ["<s>", "<pad>", "</s>", "<unk>", *sorted(names)]
    (tmp_path / "vocab.json").write_text(json.dumps({name: at for at, name in enumerate(numbered)}))
    m2m100 = M2M100Tokenizer(str(tmp_path / "vocab.json"), str(model))
    for theirs, codes in ((m2m100, ("en", "zu")), (PLBartTokenizer(str(model)), ("java", "en_XX"))):
        folder = tmp_path / type(theirs).__name__
        theirs.save_pretrained(folder)
        pair = TokenizerPair.from_pretrained(folder, folder)
        texts = [*lines, *ODD]
        assert [row.tolist() for row in pair.encode_source(texts)] == theirs(texts)["input_ids"]
        for code in codes:
            theirs.src_lang = code
            expected = theirs(texts)["input_ids"]
            assert [row.tolist() for row in pair.encode_source(texts, src_lang=code)] == expected
            assert [row.tolist() for row in pair.with_languages(code).encode_source(texts)] == expected
        said = [row.tolist() for row in pair.encode_source(TEXTS)]
        assert pair.source.decode_batch(said, skip_special_tokens=True) == TEXTS
        pair.save(tmp_path / "saved")
        again = TokenizerPair.load(tmp_path / "saved")
        assert [row.tolist() for row in again.encode_source(texts)] == [
            row.tolist() for row in pair.encode_source(texts)
        ]
