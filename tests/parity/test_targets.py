"""Labels, decoder inputs and losses of BART and mBART's variants, against transformers' tokenizers and models."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BartTokenizerFast,
    MBart50TokenizerFast,
    MBartConfig,
    MBartForConditionalGeneration,
    MBartTokenizerFast,
)

from encdec_eqx import EncoderDecoder
from encdec_eqx.text import TextToText, TokenizerPair
from encdec_eqx.training import check_before_training
from encdec_eqx.training.evaluation import mean_loss
from tolerances import PARITY_LOSS

BOS, PAD, END, UNKNOWN = 0, 1, 2, 3
TEXTS = ["a b c", "b", "d c b a e"]
VOCAB = 160
"""Letters, and the codes of mBART-50's languages."""

SIZES: dict[str, Any] = {
    "vocab_size": VOCAB, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 32,
    "init_std": 0.3, "attn_implementation": "eager",
}  # fmt: skip


def _theirs(kind: str, folder: Path) -> Any:
    """Their tokenizer over a vocabulary of letters."""
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *"abcdefgh", "<mask>"]
    letters = Tokenizer(models.WordLevel({token: at for at, token in enumerate(tokens)}, unk_token="<unk>"))
    letters.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if kind == "bart":  # as its converter makes it; the others' classes set their own
        letters.post_processor = processors.RobertaProcessing(("</s>", END), ("<s>", BOS), add_prefix_space=False)
    letters.save(str(folder / "letters.json"))
    languages = {} if kind == "bart" else {"src_lang": "en_XX", "tgt_lang": "ro_RO"}
    classes = {"bart": BartTokenizerFast, "mbart-25": MBartTokenizerFast, "mbart-50": MBart50TokenizerFast}
    return classes[kind](tokenizer_file=str(folder / "letters.json"), **languages)


@pytest.fixture(params=["bart", "mbart-25", "mbart-50"])
def both(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Any, Any, EncoderDecoder]:
    """Which it is, their tokenizer, their model, and ours with what generation is told about the language."""
    kind: str = request.param
    tokenizer = _theirs(kind, tmp_path)
    torch.manual_seed(0)
    if kind == "bart":
        theirs: Any = BartForConditionalGeneration(BartConfig(**SIZES))
        theirs.generation_config.forced_bos_token_id = BOS
    else:
        theirs = MBartForConditionalGeneration(MBartConfig(**SIZES, decoder_start_token_id=END))
    theirs.eval().save_pretrained(tmp_path)
    ours = EncoderDecoder.from_pretrained(tmp_path)
    language = None if kind == "bart" else tokenizer.convert_tokens_to_ids("ro_RO")
    if kind == "mbart-25":
        ours = ours.with_special_tokens(decoder_start_token_id=language)
    if kind == "mbart-50":
        ours = ours.with_special_tokens(forced_bos_token_id=language)
    return kind, tokenizer, theirs, ours


def _pair(tokenizer: Any, model: EncoderDecoder) -> TokenizerPair:
    return TokenizerPair(tokenizer.backend_tokenizer, tokenizer.backend_tokenizer).for_model(model)


def _labels(tokenizer: Any, texts: list[str] = TEXTS) -> np.ndarray:
    made = tokenizer(text_target=texts, padding=True, return_tensors="np")
    return np.where(made["attention_mask"] == 1, made["input_ids"], -100)


def test_labels_are_what_their_tokenizer_makes(both: tuple[str, Any, Any, EncoderDecoder]) -> None:
    kind, tokenizer, _, model = both
    expected = [row[row >= 0].tolist() for row in _labels(tokenizer)]
    if kind == "mbart-25":  # the code behind the end is never generated: it is what decoding starts with
        assert {row[-1] for row in expected} == {model.special_tokens.decoder_start_token_id}
        expected = [row[:-1] for row in expected]
    pair = _pair(tokenizer, model)
    assert [row.tolist() for row in pair.encode_target(TEXTS)] == expected
    assert pair.decode_target(_labels(tokenizer)) == TEXTS


def test_the_loss_of_their_labels_is_theirs(both: tuple[str, Any, Any, EncoderDecoder]) -> None:
    """Of mBART-25 in two languages, which differ from row to row."""
    kind, tokenizer, reference, model = both
    sources = tokenizer(TEXTS, padding=True, return_tensors="np")
    labels = _labels(tokenizer)
    if kind == "mbart-25":
        labels[labels == model.special_tokens.decoder_start_token_id] = tokenizer.convert_tokens_to_ids("ro_RO")
        labels[1][labels[1] > 12] = tokenizer.convert_tokens_to_ids("de_DE")
    batch = {"input_ids": sources["input_ids"], "attention_mask": sources["attention_mask"], "labels": labels}
    with torch.no_grad():
        expected = reference(**{name: torch.tensor(value) for name, value in batch.items()}).loss
    np.testing.assert_allclose(mean_loss(model, [batch]), expected.item(), rtol=0, atol=PARITY_LOSS)


def test_their_labels_are_no_finding(both: tuple[str, Any, Any, EncoderDecoder]) -> None:
    _, tokenizer, _, model = both
    sources = tokenizer(TEXTS, padding=True, return_tensors="np")
    batch = {"input_ids": sources["input_ids"], "attention_mask": sources["attention_mask"]}
    found = check_before_training(model, {**batch, "labels": _labels(tokenizer)}, tokenizers=_pair(tokenizer, model))
    assert not [one for one in found if one.severity != "info"]


def test_what_is_generated_is_theirs(both: tuple[str, Any, Any, EncoderDecoder]) -> None:
    kind, tokenizer, reference, model = both
    language = None if kind == "bart" else tokenizer.convert_tokens_to_ids("ro_RO")
    names = {"mbart-25": "decoder_start_token_id", "mbart-50": "forced_bos_token_id"}
    asked = {} if language is None else {names[kind]: language}
    inputs = tokenizer(TEXTS[:1], return_tensors="pt")
    expected = reference.generate(**inputs, max_new_tokens=6, do_sample=False, num_beams=1, **asked)
    speaker = TextToText(model, _pair(tokenizer, model))
    assert speaker(TEXTS[0], max_new_tokens=6) == tokenizer.batch_decode(expected, skip_special_tokens=True)[0]
