"""What the diagnosis says of tokenizers: right ones of every kind are let be, ids that do not fit are found.

Also what of a target text a tokenizer keeps, which references are compared after.
"""

import itertools
from typing import Any

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from encdec_eqx import EncoderDecoder
from encdec_eqx.demo.lexicon import LETTER_TOKENS, PHONEME_TOKENS
from encdec_eqx.demo.pieces import IGNORED_LABEL, padded
from encdec_eqx.text import TokenizerPair
from encdec_eqx.training import Finding, check_before_training, diagnose
from models import decoder_config, encoder_config, tiny_pair
from tokenizers_of import byte_pairs, word_pieces

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
TEXTS = ["The cat SAT", "on the mat", "a Dog said", "hello World", "Who?", "the dog, too", "down and Out", "Ça va"]
DATES = [f"20{year:02d}-{month:02d}-03" for year, month in itertools.product(range(4), range(1, 4))]
DIGITS = [*"0123456789-", *(f"##{sign}" for sign in "0123456789")]


def characters(letters: str = "abcdefghijklmnopqrstuvwxyz ,.?", **parts: Any) -> Tokenizer:
    """A vocabulary of one's own, a token for each character, without a decoder unless one is given."""
    tokenizer = Tokenizer(models.WordLevel({token: at for at, token in enumerate([*SPECIAL, *letters])}, "<unk>"))
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    return tokenizer


def of_docs() -> tuple[Tokenizer, Tokenizer]:
    """Letters and phonemes, as `docs/text.md` makes them."""
    letters = Tokenizer(models.WordLevel({token: at for at, token in enumerate(LETTER_TOKENS)}, unk_token="[UNUSED]"))
    letters.add_special_tokens(["[PAD]", "[END]"])
    letters.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    letters.post_processor = processors.TemplateProcessing(single="$A [END]", special_tokens=[("[END]", 1)])
    phonemes = Tokenizer(models.WordLevel({token: at for at, token in enumerate(PHONEME_TOKENS)}, unk_token="[PAD]"))
    phonemes.add_special_tokens(["[PAD]", "[START]", "[END]"])
    phonemes.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return letters, phonemes


def words() -> Tokenizer:
    tokens = [*SPECIAL, *sorted({word for text in TEXTS for word in text.lower().split()})]
    tokenizer = Tokenizer(models.WordLevel({token: at for at, token in enumerate(tokens)}, "<unk>"))
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def dates() -> Tokenizer:
    """BERT's kind, with digits: its decoder separates what its pre-tokenizer takes apart."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *DIGITS]
    tokenizer = Tokenizer(models.WordPiece({token: at for at, token in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(tokens[:4])
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def _undecoded(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.decoder = None
    return tokenizer


def _model(target: Tokenizer) -> EncoderDecoder:
    specials = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    if target.token_to_id("[CLS]") is not None:
        specials = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    if target.token_to_id("<|endoftext|>") is not None:
        specials = dict.fromkeys(specials, 0)
    return tiny_pair(encoder_config(depth=1, vocab_size=310), decoder_config(depth=1, vocab_size=310, **specials))


def _encoded(pair: TokenizerPair, sources: list[str], targets: list[str]) -> dict[str, np.ndarray]:
    ids = padded([row.tolist() for row in pair.encode_source(sources)], 24, 0)
    labels = padded([row.tolist() for row in pair.encode_target(targets)], 24, IGNORED_LABEL)
    return {"input_ids": ids, "attention_mask": ids != 0, "labels": labels}


def _codes(findings: tuple[Finding, ...]) -> dict[str, str]:
    return {one.code: one.severity for one in findings}


OWN = {
    "characters": characters,
    "lower-cased": lambda: characters(normalizer=normalizers.Lowercase()),
    "accents stripped": lambda: characters(
        normalizer=normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()])
    ),
    "few characters known": lambda: characters("abcdeht "),
    "characters, fused": lambda: characters(decoder=decoders.Fuse()),
    "words": words,
    "word pieces": word_pieces,
    "word pieces without a decoder": lambda: _undecoded(word_pieces()),
    "byte pairs": byte_pairs,
    "byte pairs without a decoder": lambda: _undecoded(byte_pairs()),
    "a normaliser that says things twice": lambda: characters(normalizer=normalizers.Replace("a", "aa")),
}


@pytest.mark.parametrize("name", OWN)
def test_right_tokenizers_of_every_kind_are_let_be(name: str):
    for source, target in ((OWN[name](), characters()), (characters(), OWN[name]()), (word_pieces(), OWN[name]())):
        model = _model(target)
        pair = TokenizerPair(source, target).for_model(model)
        batch = _encoded(pair, TEXTS, TEXTS[::-1])
        assert "wrong_tokenizer" not in _codes(check_before_training(model, batch, tokenizers=pair))


def test_the_tokenizers_of_the_docs_are_let_be():
    letters, phonemes = of_docs()
    model = _model(phonemes)
    pair = TokenizerPair(letters, phonemes).for_model(model)
    rows = [("cab", "K AE B"), ("bee", "B IY"), ("a", "AH"), ("seek", "S IY K"), ("cat", "K AE T")] * 3
    batch = _encoded(pair, [word for word, _ in rows], [sound for _, sound in rows])
    assert not [one for one in check_before_training(model, batch, tokenizers=pair) if one.severity != "info"]


def test_ids_that_a_tokenizer_does_not_have_are_an_error():
    pair = TokenizerPair(characters(), characters())
    model = _model(pair.target)
    batch = _encoded(pair.for_model(model), TEXTS, TEXTS)
    batch["input_ids"] = np.where(batch["input_ids"] > 8, batch["input_ids"] + 250, batch["input_ids"])
    found = [one for one in check_before_training(model, batch, tokenizers=pair) if one.code == "wrong_tokenizer"]
    assert [(one.severity, one.evidence["side"]) for one in found] == [("error", "source")]
    assert "an id that its tokenizer does not have" in found[0].message


def test_ids_that_decode_to_garbage_are_found_with_one_tokenizer_too():
    pair = TokenizerPair(byte_pairs(), byte_pairs())
    model = _model(pair.target)
    batch = _encoded(pair.for_model(model), TEXTS, TEXTS)
    order = np.concatenate([[0], np.random.default_rng(3).permutation(299) + 1])
    wrong = {**batch, "input_ids": order[batch["input_ids"]]}
    assert "wrong_tokenizer" not in _codes(check_before_training(model, batch, tokenizers=pair))
    assert _codes(check_before_training(model, wrong, tokenizers=pair))["wrong_tokenizer"] == "warning"


# --- what of a target comes back


def _pair(target: Tokenizer) -> TokenizerPair:
    return TokenizerPair(target, target).for_model(_model(target))


def test_references_are_written_as_the_tokenizer_writes():
    pair = _pair(dates())
    assert pair.round_trip(DATES[:2]) == ["2000 - 01 - 03", "2000 - 02 - 03"]
    assert pair.round_trip(["2001-é-01"]) == ["2001-é-01"]  # lost: no model can say it
    assert _pair(word_pieces()).round_trip(["The cat, Sat"]) == ["the cat, sat"]
    assert _pair(byte_pairs()).round_trip(TEXTS) == TEXTS
    silent = Tokenizer(models.BPE({token: at for at, token in enumerate([*SPECIAL, *"abc"])}, []))
    silent.add_special_tokens(SPECIAL)
    silent.decoder = decoders.Fuse()
    assert _pair(silent).round_trip(["abc", "abxc"]) == ["abc", "abxc"]  # which loses its x in silence


@pytest.mark.parametrize(
    ("tokenizer", "texts", "severity", "shown"),
    [
        (dates, DATES, "warning", "'2000-01-03' as '2000 - 01 - 03'. The model can only learn to write them so."),
        (
            dates,
            [*DATES, "2000-é"],
            "warning",
            "'2000-é' as '2000 -'. The model can only learn to write them so, and of",
        ),
        (byte_pairs, TEXTS, None, ""),
        (lambda: characters(decoder=decoders.Fuse()), ["the  cat"], None, ""),
        (word_pieces, ["the cat"] * 20 + ["THE"], "info", "1 of 21 targets"),
    ],
)
def test_targets_that_do_not_survive_are_named(tokenizer: Any, texts: list[str], severity: str | None, shown: str):
    pair = _pair(tokenizer())
    model = _model(pair.target)
    batch = _encoded(pair, texts, texts)
    found = {one.code: one for one in check_before_training(model, batch, tokenizers=pair, targets=texts)}.get(
        "targets_do_not_survive"
    )
    assert (found.severity if found else None) == severity
    assert found is None or shown in found.message
    assert "targets_do_not_survive" not in _codes(check_before_training(model, batch, tokenizers=pair))


def test_texts_need_their_tokenizers():
    pair = _pair(byte_pairs())
    model = _model(pair.target)
    batch = _encoded(pair, TEXTS, TEXTS)
    for look in (check_before_training, diagnose):
        with pytest.raises(ValueError, match="targets are looked at with their tokenizers"):
            look(model, batch, targets=TEXTS)
