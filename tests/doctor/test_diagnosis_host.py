"""What the diagnosis finds without running a model, its command, and a pair whose pieces are really pretrained."""

import dataclasses
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest
from rich.console import Console
from tokenizers import Tokenizer

from encdec_eqx import (
    Decoder,
    EmbeddingsConfig,
    Encoder,
    EncoderDecoder,
    FeedForwardConfig,
    HeadConfig,
    LayerSpec,
    NormConfig,
)
from encdec_eqx.config import CrossAttention
from encdec_eqx.demo.lexicon import encode_pronunciation
from encdec_eqx.demo.pieces import IGNORED_LABEL, encode_words, join, load_pieces, padded
from encdec_eqx.doctor.checks import _without_explained
from encdec_eqx.doctor.command import run_doctor
from encdec_eqx.doctor.losses import (
    Reading,
    encoder_is_ignored,
    source_does_not_fit,
)
from encdec_eqx.text import TokenizerPair
from encdec_eqx.training import Finding, check_before_training, diagnose
from models import VOCAB, decoder_config, encoder_config, tiny_pair
from tokenizers_of import BYTE_PAIRS, WORD_PIECES, byte_pairs, word_pieces

Batch = dict[str, np.ndarray]

# --- ids and masks


def _model() -> EncoderDecoder:
    return tiny_pair(encoder_config(depth=1), decoder_config(depth=1))


def _batch(rows: int = 8) -> Batch:
    """Right: pad 0 behind sources and hidden, the end 2 behind targets, -100 behind that."""
    random, width = np.random.default_rng(0), 7
    lengths = np.arange(rows) % 4 + 3
    columns = np.arange(width)
    real = columns < lengths[:, None]
    labels = np.where(columns < lengths[:, None] - 1, random.integers(10, VOCAB, (rows, width)), -100)
    labels[np.arange(rows), lengths - 1] = 2
    return {
        "input_ids": np.where(real, random.integers(10, VOCAB, (rows, width)), 0),
        "attention_mask": real.astype(np.int32),
        "labels": labels,
    }


def _codes(findings: tuple[Finding, ...], *severities: str) -> set[str]:
    return {one.code for one in findings if not severities or one.severity in severities}


def test_a_right_batch_has_no_finding_in_milliseconds():
    model, batch = _model(), _batch()
    assert check_before_training(model, batch) == ()
    start = time.perf_counter()
    check_before_training(
        model,
        {name: np.tile(x, (32, 20)) for name, x in batch.items() if name != "labels"}
        | {"labels": np.tile(batch["labels"], (32, 1))},
    )
    assert time.perf_counter() - start < 1.0


def _cut(batch: Batch, rows: int) -> Batch:
    """Some rows fill the whole width and lack their end."""
    labels = batch["labels"].copy()
    labels[:rows] = 11
    return {**batch, "labels": labels}


WRONG: dict[str, tuple[Callable[[Batch], Batch], str, str]] = {
    "a target in four cut": (lambda b: _cut(b, 2), "truncated_targets", "warning"),
    "a start token in front": (
        lambda b: {**b, "labels": np.concatenate([np.ones((8, 1), int), b["labels"]], axis=1)},
        "labels_shifted",
        "warning",
    ),
    "inputs of other labels": (
        lambda b: {**b, "decoder_input_ids": np.concatenate([np.ones((8, 1), int), b["input_ids"][:, 1:]], axis=1)},
        "inputs_not_shifted",
        "warning",
    ),
    "labels beyond the vocabulary": (lambda b: {**b, "labels": b["labels"] + VOCAB}, "ids_out_of_range", "error"),
    "-1 for -100": (
        lambda b: {**b, "labels": np.where(b["labels"] == -100, -1, b["labels"])},
        "ids_out_of_range",
        "error",
    ),
    "an additive mask": (
        lambda b: {**b, "attention_mask": np.where(b["attention_mask"] == 1, 0, -10000)},
        "mask_values",
        "error",
    ),
    "a source too long": (
        lambda b: {**b, **{name: np.tile(b[name], (1, 5)) for name in ("input_ids", "attention_mask")}},
        "sequence_too_long",
        "error",
    ),
    "some tokens hidden": (
        lambda b: {**b, "attention_mask": b["attention_mask"] * (np.arange(7) > 2)},
        "mask_hides_tokens",
        "info",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_batch_is_found_without_a_run(name: str):
    change, code, severity = WRONG[name]
    assert code in _codes(check_before_training(_model(), change(_batch())), severity)


def test_few_cut_targets_are_worth_an_info_only():
    assert _codes(check_before_training(_model(), _cut(_batch(32), 1))) == {"truncated_targets"}
    assert not _codes(check_before_training(_model(), _cut(_batch(32), 1)), "warning", "error")


def test_padding_that_no_config_names_is_seen_by_its_repetition():
    model = tiny_pair(
        encoder_config(depth=1, pad_token_id=None, embeddings=EmbeddingsConfig(token_type_size=2, norm=True)),
        decoder_config(depth=1),
    )
    batch = _batch()
    assert check_before_training(model, batch) == ()
    without = {name: x for name, x in batch.items() if name != "attention_mask"}
    assert _codes(check_before_training(model, without), "warning") == {"attention_mask_missing"}
    inverted = {**batch, "attention_mask": 1 - batch["attention_mask"]}
    assert "attention_mask_inverted" in _codes(check_before_training(model, inverted), "error")


def test_tokens_that_are_missing_are_errors_where_they_are_needed():
    bare = tiny_pair(decoder=decoder_config(depth=1, bos_token_id=None, eos_token_id=None, pad_token_id=None))
    batch = _batch()
    found = [one for one in check_before_training(bare, batch) if one.code == "special_token_missing"]
    assert {(one.evidence["name"], one.severity) for one in found} == {
        ("decoder_start_token_id", "error"),
        ("pad_token_id", "error"),
        ("eos_token_id", "warning"),
    }
    inputs = {**batch, "decoder_input_ids": np.roll(np.maximum(batch["labels"], 0), 1, axis=1)}
    assert not _codes(check_before_training(bare, inputs), "error")
    assert diagnose(bare, batch).skipped == ("what the model makes of the batch: mend special_token_missing first.",)


def test_errors_that_are_the_caller_s():
    with pytest.raises(TypeError, match="must be an EncoderDecoder"):
        check_before_training(_model().decoder, _batch())
    with pytest.raises(ValueError, match="did you mean 'labels'"):
        check_before_training(_model(), {"input_ids": np.ones((1, 2), int), "label": np.ones((1, 2), int)})
    with pytest.raises(ValueError, match="leave one out"):
        diagnose(_model(), _batch(), optimizer=object(), learning_rate=1.0)


def test_arrays_alone_can_be_looked_at():
    model = _model()
    blown = eqx.tree_at(lambda m: m.encoder.embeddings.tokens.weight, model, replace_fn=lambda x: 100 * x)
    assert diagnose(model, None).ok
    assert diagnose(blown, None).codes == ("embedding_scale",)


def test_pieces_in_each_other_s_place_are_suspicious():
    def loaded(piece: Any) -> Any:
        return dataclasses.replace(piece, load_report=dataclasses.replace(piece.load_report, loaded=("a",)))

    key = jax.random.key(0)
    encoder = eqx.filter_eval_shape(Encoder.init, encoder_config(depth=1, model_type="gpt2", causal=True), key=key)
    decoder = eqx.filter_eval_shape(Decoder.init, decoder_config(depth=1, model_type="bert"), key=key)
    model = eqx.filter_eval_shape(EncoderDecoder.from_pieces, loaded(encoder), loaded(decoder))
    assert _codes(check_before_training(model, _batch()), "warning") == {"roles_swapped"}


# --- what a reading means

READS = Reading(
    divergence=2.0, gain=2.1, moved=True, states=0.8, loss=0.5, unigram_entropy=4.0, labels=100, new=False, moved_by=0.5
)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, None),
        ({"divergence": 1e-4, "gain": 1e-4, "loss": 2.0}, "encoder_ignored"),
        ({"divergence": 1e-4, "gain": 1e-4, "loss": 2.0, "moved_by": 0.01}, None),  # just begun
        ({"divergence": 1e-4, "gain": 1e-4, "loss": 4.0}, None),  # knows no more than frequencies
        ({"divergence": 1e-6, "gain": 1e-3, "loss": 2.0}, None),  # ten times what chance gives
        ({"divergence": 1e-4, "gain": 1e-4, "loss": 2.0, "new": True}, "cross_attention_new"),
        ({"divergence": 0.0, "gain": 0.0, "moved": False, "new": True}, "encoder_ignored"),
        ({"gain": 0.1}, "source_does_not_fit"),
        ({"gain": 1.0}, None),  # trained too long, read on other data
        ({"divergence": 0.1, "gain": 0.0}, None),
    ],
)
def test_what_a_reading_means(changes: dict[str, Any], code: str | None):
    reading = dataclasses.replace(READS, **changes)
    assert [one.code for check in (encoder_is_ignored, source_does_not_fit) for one in check(reading)] == (
        [] if code is None else [code]
    )


# --- tokenizers

TEXTS = [("the cat sat on the mat", "hello world"), ("who said hello", "the dog and the cat"), ("the dog", "on")] * 4


def _of_texts() -> tuple[EncoderDecoder, TokenizerPair, Batch]:
    model = tiny_pair(
        encoder_config(depth=1, vocab_size=WORD_PIECES),
        decoder_config(depth=1, vocab_size=BYTE_PAIRS, bos_token_id=0, eos_token_id=0, pad_token_id=0),
    )
    pair = TokenizerPair(word_pieces(), byte_pairs()).for_model(model)
    return model, pair, _encoded(pair)


def _encoded(pair: TokenizerPair, texts: list[tuple[str, str]] = TEXTS) -> Batch:
    sources = pair.encode_source([source for source, _ in texts])
    targets = pair.encode_target([target for _, target in texts])
    ids = padded([row.tolist() for row in sources], 20, 0)
    return {
        "input_ids": ids,
        "attention_mask": ids != 0,
        "labels": padded([row.tolist() for row in targets], 20, IGNORED_LABEL),
    }


def test_texts_encoded_by_their_own_tokenizers_are_right():
    model, pair, batch = _of_texts()
    assert not _codes(check_before_training(model, batch, tokenizers=pair), "error", "warning")


def test_a_text_that_a_tokenizer_does_not_know_is_found():
    model, pair, _ = _of_texts()
    batch = _encoded(pair, [("ночь и день и ночь", "on")] * 8)
    assert "unknown_tokens" in _codes(check_before_training(model, batch, tokenizers=pair), "error")


def _in_another_order() -> Tokenizer:
    """The same pieces under other ids."""
    content = json.loads(byte_pairs().to_str())
    vocabulary = content["model"]["vocab"]
    content["model"]["vocab"] = {token: i if i == 0 else BYTE_PAIRS - i for token, i in vocabulary.items()}
    return Tokenizer.from_str(json.dumps(content))


def test_ids_of_the_other_side_s_tokenizer_are_found():
    model = tiny_pair(
        encoder_config(depth=1, vocab_size=BYTE_PAIRS, pad_token_id=0),
        decoder_config(depth=1, vocab_size=BYTE_PAIRS, bos_token_id=0, eos_token_id=0, pad_token_id=0),
    )
    pair = TokenizerPair(byte_pairs(), _in_another_order()).for_model(model)
    swapped = TokenizerPair(pair.target, pair.source, pair.special_tokens)
    right, wrong = _encoded(pair), _encoded(swapped)
    assert "wrong_tokenizer" not in _codes(check_before_training(model, right, tokenizers=pair))
    found = check_before_training(model, {**right, "input_ids": wrong["input_ids"]}, tokenizers=pair)
    assert "wrong_tokenizer" in _codes(found, "error")


def test_tokenizers_of_another_model_are_found():
    model, _, batch = _of_texts()
    other = TokenizerPair(word_pieces(more=5), byte_pairs())
    assert "tokenizers_do_not_fit" in _codes(check_before_training(model, batch, tokenizers=other), "error")


# --- real pieces, fresh pairs of other families

WORDS = {
    "seek": "S IY K", "cat": "K AE T", "stone": "S T OW N", "light": "L AY T", "people": "P IY P AH L",
    "garden": "G AA R D AH N", "winter": "W IH N T ER", "river": "R IH V ER", "music": "M Y UW Z IH K",
    "table": "T EY B AH L", "green": "G R IY N", "school": "S K UW L", "paper": "P EY P ER", "bread": "B R EH D",
    "window": "W IH N D OW", "answer": "AE N S ER",
}  # fmt: skip


def _words() -> Batch:
    targets = [encode_pronunciation(phonemes.split()) for phonemes in WORDS.values()]
    return {**encode_words(list(WORDS), width=8), "labels": padded(targets, 8, IGNORED_LABEL)}


@pytest.fixture(scope="module")
def warm() -> EncoderDecoder:
    return join(*load_pieces())


def test_a_warm_start_is_a_good_run(warm: EncoderDecoder):
    found = diagnose(warm, _words())
    assert found.codes == ("cross_attention_new",)
    assert found.measured["loss"] < found.measured["unigram_entropy"] < found.measured["loss_of_scrambled_labels"]


def test_labels_of_another_vocabulary_are_found(warm: EncoderDecoder):
    order = np.concatenate([[0, 1, 2], np.random.default_rng(0).permutation(39) + 3])
    batch = _words()
    labels = np.where(batch["labels"] < 0, -100, order[np.maximum(batch["labels"], 0)]).astype(np.int32)
    assert diagnose(warm, {**batch, "labels": labels}).codes[0] == "labels_of_another_vocabulary"


def test_a_fresh_pair_of_other_kinds_is_a_good_run():
    """A causal encoder without padding of its own, and a BERT that decodes, with a transform in its head."""
    small: dict[str, Any] = {"initializer_range": 0.05, "feed_forward": FeedForwardConfig(size=16)}
    encoder = encoder_config(
        16,
        1,
        model_type="gpt2",
        causal=True,
        pooler=False,
        pad_token_id=None,
        norm=NormConfig(placement="pre", final=True),
        embeddings=EmbeddingsConfig(token_types_from_tokens=True),
        **small,
    )
    decoder = decoder_config(
        16,
        1,
        model_type="bert",
        norm=NormConfig(),
        embeddings=EmbeddingsConfig(token_type_size=2, norm=True, padding_idx=0),
        head=HeadConfig(bias=True, transform=True),
        **small,
    )
    keys = jax.random.split(jax.random.key(0), 2)
    model = EncoderDecoder.from_pieces(Encoder.init(encoder, key=keys[0]), Decoder.init(decoder, key=keys[1]))
    assert diagnose(model, _batch()).codes == ("cross_attention_new",)


# --- the command


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pair with its tokenizers, texts, and texts that were encoded without their ends."""
    folder = tmp_path_factory.mktemp("doctor")
    model, pair, batch = _of_texts()
    model.save_pretrained(folder / "model")
    pair.save(folder / "model")
    texts = [{"source": source, "target": target} for source, target in TEXTS]
    ids = [
        {"input_ids": row[row != 0].tolist(), "labels": labels[labels > 0].tolist()}
        for row, labels in zip(batch["input_ids"], batch["labels"], strict=True)
    ]
    for name, records in {"texts": texts, "ids": ids}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    settings = '[model]\nmodel_name_or_path = "{0}/model"\n[data]\ntrain_file = "{0}/ids.jsonl"\n[train]\n'
    (folder / "run.toml").write_text(settings.format(folder) + "learning_rate = 0.001\n")
    return folder


def _doctor(*arguments: Any, **options: Any) -> tuple[int, str]:
    console = Console(file=io.StringIO(), width=160)
    status = run_doctor(*arguments, **options, console=console)
    assert isinstance(console.file, io.StringIO)
    return status, console.file.getvalue()


def test_the_command_looks_at_a_folder_and_a_file(saved: Path):
    _, text = _doctor(saved / "model", data=saved / "texts.jsonl")
    assert "labels_without_eos" not in text
    assert "source_divergence" in text
    worse, text = _doctor(saved / "model", data=saved / "ids.jsonl")
    assert "labels_without_eos" in text
    assert "end every row" in text
    assert worse == 1


def test_the_command_looks_at_a_folder_alone(saved: Path):
    status, text = _doctor(saved / "model")
    assert status == 0
    assert "nothing wrong was found" in text
    assert "none was given" in text


def test_the_command_reads_a_described_run(saved: Path):
    status, text = _doctor(saved / "run.toml")
    assert status == 1
    assert "labels_without_eos" in text
    assert "the learning rate: neither" not in text


def test_the_command_refuses_a_rate_without_data(saved: Path):
    with pytest.raises(ValueError, match="tried on data"):
        run_doctor(saved / "model", learning_rate=1e-3)


def test_closed_gates_are_no_fault_unless_they_stay_closed():
    config = decoder_config(depth=2, layers=(LayerSpec(),) * 2)
    decoder = Decoder.init(config, key=jax.random.key(0))
    decoder = decoder.with_cross_attention(CrossAttention(init="zero_gate"), key=jax.random.key(1))
    pair = EncoderDecoder.from_pieces(Encoder.init(encoder_config(depth=1), key=jax.random.key(2)), decoder)

    def found(pair: EncoderDecoder, **options: Any) -> list[tuple[str, str]]:
        return [(one.code, one.severity) for one in diagnose(pair, None, **options).findings]

    assert found(pair) == [("gates_closed", "info")]
    assert ("gates_closed", "error") in found(pair, trainable="!cross_attention.gate")
    ajar = eqx.tree_at(lambda m: m.decoder.stack.blocks[0].cross_gate, pair, replace_fn=lambda gate: gate + 0.1)
    assert found(ajar) == []
    left = [Finding(code=code, severity="error", message="", fix="") for code in ("gates_closed", "encoder_ignored")]
    assert [one.code for one in _without_explained(left)] == ["gates_closed"]
