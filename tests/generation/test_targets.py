"""What a target begins and ends with: labels, decoder inputs, decoding and generation must mean the same thing.

On the stored whole checkpoints of BART and mBART, and on forms made by hand.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from encdec_eqx import EncoderDecoder, GenerationConfig, shift_tokens_right
from encdec_eqx.targets import TargetForm
from encdec_eqx.text import TextToText, TokenizerPair
from encdec_eqx.training import TrainConfig, check_before_training, fit
from encdec_eqx.training.batch import completed_batch
from encdec_eqx.training.data import encode_pairs, pairs_from

GOLDENS = Path(__file__).parent.parent / "goldens" / "families"
BOS, PAD, END, UNKNOWN = 0, 1, 2, 3
LETTERS = "abcdefgh"
RO, DE = 12, 13
"""Codes of languages."""


def letters() -> Tokenizer:
    """`<s> a b c </s>`, as BART's; with two languages' codes that are registered as special."""
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *LETTERS, "ro_RO", "de_DE"]
    tokenizer = Tokenizer(models.WordLevel({token: at for at, token in enumerate(tokens)}, unk_token="<unk>"))
    tokenizer.add_special_tokens([*tokens[:4], *tokens[-2:]])
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", BOS), ("</s>", END)]
    )
    return tokenizer


def model(family: str = "bart", **tokens: Any) -> EncoderDecoder:
    return EncoderDecoder.from_pretrained(GOLDENS / family).with_special_tokens(**tokens)


def pair_for(one: EncoderDecoder) -> TokenizerPair:
    return TokenizerPair(letters(), letters()).for_model(one)


def labels_of(one: EncoderDecoder, text: str = "a b c", **options: Any) -> list[int]:
    return pair_for(one).encode_target([text], **options)[0].tolist()


# --- labels and what is decoded


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ({}, [4, 5, 6, END]),  # nothing is forced: as ever
        ({"forced_bos_token_id": BOS}, [BOS, 4, 5, 6, END]),  # BART
        ({"forced_bos_token_id": RO}, [RO, 4, 5, 6, END]),  # mBART-50
        ({"decoder_start_token_id": RO}, [4, 5, 6, END]),  # mBART-25
        ({"decoder_start_token_id": PAD}, [4, 5, 6, END]),  # Marian, Pegasus
        ({"eos_token_id": [DE, END], "forced_eos_token_id": END}, [4, 5, 6, END]),
        ({"eos_token_id": (), "forced_bos_token_id": BOS}, [BOS, 4, 5, 6]),
    ],
)
def test_labels_are_what_generation_writes(tokens: dict[str, Any], expected: list[int]):
    one = model(**tokens)
    assert labels_of(one) == expected
    start = one.special_tokens.decoder_start_token_id
    for row in (expected, [start, *expected], [start, *expected, PAD, PAD], [*expected, -100]):
        assert pair_for(one).decode_target([row]) == ["a b c"]


def test_what_a_text_brings_along_is_not_doubled_and_lengths_count_it():
    one = model(forced_bos_token_id=BOS)
    assert labels_of(one, "<s> a b c </s>") == labels_of(one, "a b c") == [BOS, 4, 5, 6, END]
    assert labels_of(one, max_length=4) == [BOS, 4, 5, END]
    with pytest.raises(ValueError, match="2 special tokens leave no room"):
        labels_of(one, max_length=2)


def test_a_forced_word_is_text_and_a_code_that_nobody_registered_is_none():
    one = model(forced_bos_token_id=4)
    assert labels_of(one, "b c") == [4, 5, 6, END]
    assert pair_for(one).decode_target([[END, 4, 5, 6, END]]) == ["a b c"]
    plain = letters()
    tokens = {token: at for token, at in plain.get_vocab().items() if at < RO} | {"ro_RO": RO}
    unregistered = Tokenizer(models.WordLevel(tokens, unk_token="<unk>"))
    unregistered.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    unregistered.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    pair = TokenizerPair(unregistered, unregistered).for_model(model(forced_bos_token_id=RO))
    assert pair.decode_target(pair.encode_target(["a b c"])) == ["a b c"]


def test_forced_tokens_are_the_model_s_for_good(tmp_path: Path):
    one = model(forced_bos_token_id=BOS, forced_eos_token_id=END)
    one.save_pretrained(tmp_path)
    again = EncoderDecoder.from_pretrained(tmp_path)
    assert TargetForm.of(again) == TargetForm.of(one)
    assert TargetForm.of(again).begin == (BOS,)
    assert TargetForm.of(again.with_special_tokens(forced_bos_token_id=None)).begin == ()
    with pytest.raises(ValueError, match="forced_bos_token_id=61 is not an id of the decoder's vocabulary of 61"):
        one.with_special_tokens(forced_bos_token_id=61)
    beyond = dataclasses.replace(one, generation_config=GenerationConfig(forced_bos_token_id=61))
    assert TargetForm.of(beyond).begin == ()  # as `generate` drops it


def test_a_call_s_own_rules_count_where_its_text_is_read():
    speaker = TextToText(model(), TokenizerPair(letters(), letters()))
    result = speaker.model.generate(speaker.tokenizers.encode_source(["a b"])[0][None], max_new_tokens=4)
    said = speaker.generate(["a b"], max_new_tokens=4, forced_bos_token_id=4)
    assert said.texts[0][0].startswith("a")
    form = TargetForm.of(speaker.model, {"forced_bos_token_id": RO, "eos_token_id": [5], "forced_eos_token_id": [6]})
    assert (form.first, form.ends, form.forced_ends, form.start) == (RO, (5,), (6,), END)
    passed = GenerationConfig(forced_bos_token_id=DE, decoder_start_token_id=PAD)
    assert TargetForm.of(speaker.model, {"generation_config": passed}).first == DE
    assert TargetForm.of(speaker.model, {"generation_config": passed}).start == PAD
    assert form.content(np.array([END, RO, 4, 7, 6])).tolist() == [4, 7]
    assert result.sequences[0, 0] == END


def test_a_call_s_ids_may_be_lists_and_arrays():
    one = model()
    for ends in ([7, END], np.array([7, END])):
        assert TargetForm.of(one, {"eos_token_id": ends}).ends == (7, END)
    start = one.special_tokens.decoder_start_token_id
    for starts in ([RO], np.array([RO])):  # a row's own: the model's stands for the others
        assert TargetForm.of(one, {"decoder_start_token_id": starts}).start == start
    speaker = TextToText(one, pair_for(one))
    streamed = list(speaker.stream("a b", max_new_tokens=3, decoder_start_token_id=[RO]))
    assert streamed[-1] == speaker(["a b"], max_new_tokens=3, decoder_start_token_id=[RO])[0]


def test_records_of_ids_are_taken_as_they_are():
    one = model(forced_bos_token_id=BOS)
    records = [{"input_ids": [4, END], "labels": [4, END]}, ("a", ["a b", "b"])]
    examples = encode_pairs(pairs_from(records), pair_for(one), every_target=True)
    assert [example.labels.tolist() for example in examples] == [[4, END], [BOS, 4, 5, END], [BOS, 5, END]]


# --- decoder inputs

MBART_LABELS = np.array([[4, 5, END, RO, -100], [6, END, DE, -100, -100], [RO, 4, END, -100, -100], [4, 5, 6, 7, END]])


def test_a_code_behind_the_end_starts_its_row_in_mbart_and_plbart_alone():
    for family, starts in (("mbart", [RO, DE, END, END]), ("plbart", [RO, DE, END, END]), ("bart", [END] * 4)):
        one = model(family)
        batch = {"input_ids": jnp.ones((4, 2), jnp.int32), "labels": jnp.asarray(MBART_LABELS)}
        inputs = np.asarray(completed_batch(batch, one)["decoder_input_ids"])
        assert inputs[:, 0].tolist() == starts
        np.testing.assert_array_equal(inputs[:, 1:], np.where(MBART_LABELS < 0, PAD, MBART_LABELS)[:, :-1])
        np.testing.assert_array_equal(TargetForm.of(one).starts(MBART_LABELS), END if family == "bart" else starts)


def test_start_tokens_may_differ_from_row_to_row():
    shifted = shift_tokens_right(MBART_LABELS, PAD, np.array([RO, DE, 0, 1]))
    assert shifted[:, 0].tolist() == [RO, DE, 0, 1]
    with pytest.raises(ValueError, match="must hold ids of the vocabulary, got -1"):
        shift_tokens_right(MBART_LABELS, PAD, np.array([RO, -1, 0, 1]))


# --- trained and generated


def test_three_letters_are_copied_whole(tmp_path: Path):
    """Without the forced first token among its labels a model learns to say `b c` for `a b c`, at a loss of nothing."""
    one = model(forced_bos_token_id=BOS, forced_eos_token_id=END)
    words = [f"{a} {b} {c}" for a in LETTERS for b in LETTERS for c in LETTERS]
    order = np.random.default_rng(0).permutation(len(words))
    train, held_out = ([words[at] for at in some] for some in (order[:320], order[320:330]))
    config = TrainConfig(
        output_dir=tmp_path / "run",
        max_steps=100,
        learning_rate=1e-2,
        per_device_train_batch_size=64,
        metrics=("exact_match",),
        eval_steps=100,
    )
    tokenizers = TokenizerPair(letters(), letters())
    result = fit(
        one, [(word, word) for word in train], config, eval_data=[(w, w) for w in held_out], tokenizers=tokenizers
    )
    assert result.best == 100.0
    assert not [line for line in result.log if line["event"] == "finding"]
    assert TextToText(result.model, tokenizers)(held_out, max_new_tokens=8) == held_out


# --- batches made elsewhere


def _found(one: EncoderDecoder, labels: list[list[int]], **options: Any) -> dict[str, str]:
    width = max(map(len, labels))
    rows = np.array([[*row, *[-100] * (width - len(row))] for row in labels])
    sources = np.arange(2 * len(rows)).reshape(len(rows), 2) % 6 + 4
    batch = {"input_ids": sources, "attention_mask": np.ones_like(sources), "labels": rows}
    return {finding.code: finding.severity for finding in check_before_training(one, batch, **options)}


WORDS = [[4, 5, 6, END], [7, 8, 4, END], [6, 4, 9, END], [5, 7, 6, END], [9, 10, 5, 8, END]]
MISSING = "labels_without_forced_bos"


@pytest.mark.parametrize(
    ("tokens", "labels", "code", "severity"),
    [
        ({"forced_bos_token_id": BOS}, WORDS, MISSING, "error"),
        ({"forced_bos_token_id": BOS}, [[BOS, *row] for row in WORDS], MISSING, None),
        ({"forced_bos_token_id": BOS}, [[BOS, *row] for row in WORDS[1:]] + WORDS[:1], MISSING, "warning"),
        ({"forced_bos_token_id": RO}, [[DE, *row] for row in WORDS], MISSING, "warning"),
        ({"forced_bos_token_id": RO}, [[(RO, DE)[at % 2], *row] for at, row in enumerate(WORDS)], MISSING, "info"),
        ({"forced_bos_token_id": None}, WORDS, MISSING, None),
        ({"forced_eos_token_id": DE}, WORDS, "forced_eos_differs", "warning"),
        ({"forced_eos_token_id": END}, WORDS, "forced_eos_differs", None),
        ({"forced_bos_token_id": BOS}, [[BOS, *row[:-1]] for row in WORDS], "labels_without_eos", "error"),
    ],
)
def test_labels_that_generation_would_not_write_are_found(
    tokens: dict[str, Any], labels: list[list[int]], code: str, severity: str | None
):
    one = model(**tokens)
    assert _found(one, labels).get(code) == severity
    assert _found(one, labels, tokenizers=pair_for(one)).get(code) == severity


@pytest.mark.parametrize(
    ("codes", "severity"), [([RO] * 5, None), ([DE] * 5, "warning"), ([RO, DE, RO, DE, RO], "info")]
)
def test_another_language_behind_mbart_s_end_is_found(codes: list[int], severity: str | None):
    one = model("mbart", decoder_start_token_id=RO)
    found = _found(one, [[*row, code] for row, code in zip(WORDS, codes, strict=True)])
    assert found.get("start_token_differs") == severity
    assert "labels_without_eos" not in found


@pytest.mark.parametrize(
    ("options", "is_found"),
    [
        ({"min_length": 56}, True),
        ({"min_new_tokens": 4}, True),
        ({"min_new_tokens": 3}, False),
        ({"suppress_tokens": [8]}, True),
        ({"begin_suppress_tokens": [4, 5]}, True),
        ({"begin_suppress_tokens": [END]}, False),
        ({"no_repeat_ngram_size": 3}, False),
    ],
)
def test_targets_that_the_model_s_own_options_forbid_are_found(options: dict[str, Any], is_found: bool):
    one = dataclasses.replace(model(), generation_config=GenerationConfig(**options))
    assert ("targets_cannot_be_generated" in _found(one, WORDS)) == is_found
    repeating = dataclasses.replace(model(), generation_config=GenerationConfig(no_repeat_ngram_size=1))
    assert "targets_cannot_be_generated" in _found(repeating, [[4, 4, END]] * 2)
