"""The diagnosis, on faults that are seeded into models which really learned something, and on runs that are good.

A tiny pair is trained to write its source down backwards, in an alphabet of its own. Every fault names the code that
must be found; no good run may have a finding worse than an info.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from encdec_eqx import (
    Decoder,
    Encoder,
    EncoderDecoder,
    FeedForwardConfig,
    SpecialTokens,
    StackConfig,
)
from encdec_eqx.doctor import diagnose, forward
from encdec_eqx.doctor.forward import run
from encdec_eqx.generation.result import counted
from encdec_eqx.training import make_optimizer, seq2seq_loss, trainable
from models import decoder_config, encoder_config

ROWS, WIDTH = 16, 7
SOURCE_VOCAB, TARGET_VOCAB = 26, 20
PAD, START, END = 0, 1, 2
FIRST_SOURCE, FIRST_TARGET, LETTERS = 10, 4, 16
"""Ids of the letters. Those of the source do not all fit into the target's vocabulary."""

ADAM = optax.adamw(3e-3)
Batch = dict[str, np.ndarray]
Case = tuple[Any, Batch, dict[str, Any]]


# --- what is diagnosed


def _pair(encoder: StackConfig, decoder: StackConfig, seed: int = 0) -> EncoderDecoder:
    keys = jax.random.split(jax.random.key(seed), 3)
    pieces = Encoder.init(encoder, key=keys[0]), Decoder.init(decoder, key=keys[1])
    return EncoderDecoder.from_pieces(*pieces, key=keys[2]).with_layout("scanned")


def _small_pair() -> EncoderDecoder:
    """A BERT and a GPT-2 of two layers, fresh."""
    small: dict[str, Any] = {"feed_forward": FeedForwardConfig(size=48), "initializer_range": 0.05}
    return _pair(
        encoder_config(32, vocab_size=SOURCE_VOCAB, **small), decoder_config(24, 2, vocab_size=TARGET_VOCAB, **small)
    )


def _batch(seed: int, *, longest: int = WIDTH - 1) -> Batch:
    """Sources of three letters and more, and the same letters backwards, ended, in the target's alphabet.

    Each letter is one of the four behind the one before it, so that there is something to learn without a source.
    """
    random = np.random.default_rng(seed)
    letters = (
        np.cumsum(random.integers((0, *[1] * (WIDTH - 1)), (LETTERS, *[5] * (WIDTH - 1)), (ROWS, WIDTH)), 1) % LETTERS
    )
    lengths = random.integers(3, longest + 1, ROWS)
    real = np.arange(WIDTH) < lengths[:, None]
    labels = np.full((ROWS, WIDTH), -100)
    for row, length in enumerate(lengths):
        labels[row, : length + 1] = [*(letters[row, :length][::-1] + FIRST_TARGET), END]
    return {
        "input_ids": np.where(real, letters + FIRST_SOURCE, PAD).astype(np.int32),
        "attention_mask": real,
        "labels": labels.astype(np.int32),
    }


def _of_other_rows(batch: Batch) -> Batch:
    return {**batch, **{name: np.roll(batch[name], 1, axis=0) for name in ("input_ids", "attention_mask")}}


def _trained(model: EncoderDecoder, steps: int, change: Callable[[Batch], Batch] = lambda batch: batch) -> Any:
    """The model after some steps of Adam, by the programs that the diagnosis itself compiles."""
    bare = dataclasses.replace(model, special_tokens=SpecialTokens())
    params, rest = eqx.partition(bare, trainable(bare))
    state, one = ADAM.init(params), jnp.ones(())
    seen: Any = None
    for step in range(steps):
        batch = change(_batch(1000 + step))
        start = model.special_tokens.decoder_start_token_id
        assert start is not None
        inputs = {**batch, "decoder_input_ids": _shifted(batch["labels"], start)}
        seen, gradient = run(params, rest, {name: jnp.asarray(value) for name, value in inputs.items()})
        params, state = forward._stepped(params, gradient, state, ADAM, one)
    return dataclasses.replace(eqx.combine(params, rest), special_tokens=model.special_tokens), float(seen.loss)


def _shifted(labels: np.ndarray, start: int = START) -> np.ndarray:
    shifted = np.concatenate([np.full((len(labels), 1), start), labels[:, :-1]], axis=1)
    return np.where(shifted == -100, PAD, shifted).astype(np.int32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """The models: as drawn, after a few steps, after enough, without the right sources, and with pad = end = start."""

    fresh: Any
    early: Any
    trained: Any
    ignoring: Any
    one_token: Any
    batch: Batch = dataclasses.field(default_factory=lambda: _batch(1))


@pytest.fixture(scope="module")
def world() -> World:
    fresh = _small_pair()
    early, _ = _trained(fresh, 30)
    trained, loss = _trained(fresh, 250)
    assert loss < 0.3, "the fixture's model has not learned its task"
    ignoring, _ = _trained(fresh, 120, _of_other_rows)
    one_token, _ = _trained(fresh.with_special_tokens(pad_token_id=END, decoder_start_token_id=END), 30)
    return World(fresh=fresh, early=early, trained=trained, ignoring=ignoring, one_token=one_token)


def _block(model: Any, number: int = 0) -> Any:
    return model.decoder.stack.segments[0].groups[number]


def _changed(model: Any, where: Callable[[Any], Any], change: Callable[[Any], Any]) -> Any:
    return eqx.tree_at(where, model, replace_fn=change)


def _labels(batch: Batch, labels: np.ndarray) -> Batch:
    return {**batch, "labels": labels.astype(np.int32)}


def _padded(batch: Batch, token: int) -> Batch:
    return _labels(batch, np.where(batch["labels"] == -100, token, batch["labels"]))


def _permuted(batch: Batch) -> Batch:
    """Sources encoded by a tokenizer with the same letters in another order."""
    order = np.random.default_rng(5).permutation(LETTERS) + FIRST_SOURCE
    ids = batch["input_ids"]
    return {**batch, "input_ids": np.where(ids >= FIRST_SOURCE, order[ids - FIRST_SOURCE], ids).astype(np.int32)}


def _without_mask(batch: Batch) -> Batch:
    return {name: value for name, value in batch.items() if name != "attention_mask"}


def _with_nan(model: Any) -> Any:
    """In the second of the decoder's layers."""
    return _changed(model, lambda m: _block(m).feed_forward.up.weight, lambda w: w.at[1, 0, 0].set(jnp.nan))


def _overflowing(model: Any) -> Any:
    """All weights are finite; what the encoder's second layer computes is not."""
    feed_forward = model.encoder.stack.segments[0].groups[0].feed_forward
    large = eqx.tree_at(
        lambda f: (f.up.weight, f.down.weight), feed_forward, replace_fn=lambda w: w.at[1].multiply(1e20)
    )
    return eqx.tree_at(lambda m: m.encoder.stack.segments[0].groups[0].feed_forward, model, large)


# --- faults


FAULTS: dict[str, tuple[Callable[[World], Case], str]] = {
    # labels
    "labels shifted before": (
        lambda w: (w.trained, _labels(w.batch, _shifted(w.batch["labels"])), {}),
        "labels_shifted",
    ),
    "no end in the labels": (
        lambda w: (w.trained, _labels(w.batch, np.where(w.batch["labels"] == END, -100, w.batch["labels"])), {}),
        "labels_without_eos",
    ),
    "pad in place of -100": (lambda w: (w.trained, _padded(w.batch, PAD), {}), "labels_hold_padding"),
    "the end in place of -100": (lambda w: (w.trained, _padded(w.batch, END), {}), "labels_hold_padding"),
    "all labels -100": (lambda w: (w.trained, _labels(w.batch, np.full((ROWS, WIDTH), -100)), {}), "no_labels"),
    "inputs not shifted": (
        lambda w: (w.trained, {**w.batch, "decoder_input_ids": np.maximum(w.batch["labels"], 0)}, {}),
        "inputs_not_shifted",
    ),
    "one target for all": (
        lambda w: (w.trained, _labels(w.batch, np.repeat(w.batch["labels"][:1], ROWS, axis=0)), {}),
        "constant_targets",
    ),
    # special tokens
    "a letter as start token": (
        lambda w: (w.trained.with_special_tokens(decoder_start_token_id=7), w.batch, {}),
        "wrong_start_token",
    ),
    "the end as start token": (
        lambda w: (w.trained.with_special_tokens(decoder_start_token_id=END), w.batch, {}),
        "wrong_start_token",
    ),
    "inputs that begin otherwise": (
        lambda w: (w.trained, {**w.batch, "decoder_input_ids": _shifted(w.batch["labels"], 3)}, {}),
        "start_token_differs",
    ),
    "an end beyond the vocabulary": (
        lambda w: (w.trained.with_special_tokens(eos_token_id=TARGET_VOCAB), w.batch, {}),
        "special_token_out_of_range",
    ),
    # the source, its ids and its mask
    "no mask": (lambda w: (w.trained, _without_mask(w.batch), {}), "attention_mask_missing"),
    "a mask of ones": (
        lambda w: (w.trained, {**w.batch, "attention_mask": np.ones((ROWS, WIDTH), bool)}, {}),
        "attention_mask_missing",
    ),
    "an inverted mask": (
        lambda w: (w.trained, {**w.batch, "attention_mask": ~w.batch["attention_mask"]}, {}),
        "attention_mask_inverted",
    ),
    "a mask of zeros": (
        lambda w: (w.trained, {**w.batch, "attention_mask": np.zeros((ROWS, WIDTH), bool)}, {}),
        "nothing_to_attend",
    ),
    "another tokenizer's padding": (
        lambda w: (
            w.trained,
            {**w.batch, "input_ids": np.where(w.batch["attention_mask"], w.batch["input_ids"], 3)},
            {},
        ),
        "padding_of_another_tokenizer",
    ),
    "another tokenizer's ids, all in range": (lambda w: (w.trained, _permuted(w.batch), {}), "source_does_not_fit"),
    "sources of other rows": (lambda w: (w.trained, _of_other_rows(w.batch), {}), "source_does_not_fit"),
    "ids beyond the vocabulary": (
        lambda w: (w.trained, {**w.batch, "input_ids": w.batch["input_ids"] + SOURCE_VOCAB}, {}),
        "ids_out_of_range",
    ),
    "source and target swapped": (
        lambda w: (w.trained, {"input_ids": np.maximum(w.batch["labels"], 0), "labels": w.batch["input_ids"]}, {}),
        "roles_swapped",
    ),
    "a target longer than the positions": (
        lambda w: (w.trained, _labels(w.batch, np.pad(w.batch["labels"], ((0, 0), (0, 30)), constant_values=-100)), {}),
        "sequence_too_long",
    ),
    # the model
    "a dead output projection": (
        lambda w: (_changed(w.trained, lambda m: _block(m).cross_attention.out.weight, jnp.zeros_like), w.batch, {}),
        "dead_cross_attention",
    ),
    "one dead layer": (
        lambda w: (
            _changed(w.trained, lambda m: _block(m).cross_attention.out.weight, lambda x: x.at[1].mul(1e-6)),
            w.batch,
            {},
        ),
        "dead_cross_attention",
    ),
    "dead queries": (
        lambda w: (
            _changed(w.trained, lambda m: _block(m).cross_attention.q, lambda q: jax.tree.map(jnp.zeros_like, q)),
            w.batch,
            {},
        ),
        "cross_attention_uniform",
    ),
    "a constant encoder": (
        lambda w: (
            _changed(
                w.trained,
                lambda m: m.encoder.stack.segments[0].groups[0].feed_forward_norm.weight,
                lambda x: x.at[1].set(0),
            ),
            w.batch,
            {},
        ),
        "encoder_constant",
    ),
    "trained on the sources of other rows": (lambda w: (w.ignoring, w.batch, {}), "encoder_ignored"),
    "NaN in a weight": (lambda w: (_with_nan(w.trained), w.batch, {}), "non_finite_weights"),
    "NaN in what is computed": (lambda w: (_with_nan(w.trained), w.batch, {}), "non_finite_activations"),
    "an overflow": (lambda w: (_overflowing(w.trained), w.batch, {}), "non_finite_activations"),
    "the decoder's embeddings times 100": (
        lambda w: (_changed(w.trained, lambda m: m.decoder.embeddings.tokens.weight, lambda x: 100 * x), w.batch, {}),
        "loss_above_uniform",
    ),
    "fresh embeddings times 100": (
        lambda w: (_changed(w.fresh, lambda m: m.decoder.embeddings.tokens.weight, lambda x: 100 * x), w.batch, {}),
        "embedding_scale",
    ),
    "the encoder's embeddings times 100": (
        lambda w: (_changed(w.trained, lambda m: m.encoder.embeddings.tokens.weight, lambda x: 100 * x), w.batch, {}),
        "embedding_scale",
    ),
    "half precision": (lambda w: (w.trained.astype(jnp.float16), w.batch, {}), "half_precision_weights"),
    # training
    "a rate a thousand times too high": (
        lambda w: (w.fresh, w.batch, {"learning_rate": 3.0}),
        "learning_rate_too_high",
    ),
    "a rate too high for what was learned": (
        lambda w: (w.trained, w.batch, {"learning_rate": 1.0}),
        "learning_rate_too_high",
    ),
    "new parts frozen": (
        lambda w: (w.fresh, w.batch, {"trainable": "!cross_attention | !enc_to_dec_proj"}),
        "new_parts_frozen",
    ),
    "all frozen": (
        lambda w: (w.fresh, w.batch, {"trainable": jax.tree.map(lambda _: False, w.fresh)}),
        "nothing_trained",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_seeded_fault_is_found(world: World, name: str):
    make, code = FAULTS[name]
    model, batch, options = make(world)
    found = diagnose(model, batch, **options)
    assert code in {finding.code for finding in found.findings if finding.severity != "info"}, str(found)
    assert not found.ok
    assert all(finding.fix and finding.message for finding in found.findings)


def test_at_least_eleven_of_twelve_is_what_was_promised_and_all_is_what_is_asked():
    assert len(FAULTS) >= 12
    assert len({code for _, code in FAULTS.values()}) >= 20


# --- good runs


def _short(batch: Batch) -> Batch:
    """Mostly padding, and rightly so."""
    return {**_batch(2, longest=3)}


def _with_fillers(batch: Batch) -> Batch:
    """As `Batches` fills up its last batch: rows of padding with one position shown and no labels."""
    fill = {
        "input_ids": np.zeros((4, WIDTH), np.int32),
        "attention_mask": np.eye(1, WIDTH, dtype=bool).repeat(4, axis=0),
        "labels": np.full((4, WIDTH), -100, np.int32),
    }
    return {name: np.concatenate([value, fill[name]]) for name, value in batch.items()}


GOOD: dict[str, Callable[[World], Case]] = {
    "fresh": lambda w: (w.fresh, w.batch, {"learning_rate": 3e-3}),
    "after thirty steps": lambda w: (w.early, w.batch, {"learning_rate": 3e-3}),
    "trained": lambda w: (w.trained, w.batch, {"learning_rate": 3e-3}),
    "trained, on other words": lambda w: (w.trained, _batch(77), {}),
    "trained, the encoder frozen on purpose": lambda w: (w.trained, w.batch, {"trainable": "!encoder"}),
    "fresh, the encoder frozen on purpose": lambda w: (w.fresh, w.batch, {"trainable": "decoder | enc_to_dec_proj"}),
    "mostly padding": lambda w: (w.trained, _short(w.batch), {}),
    "rows that fill up": lambda w: (w.trained, _with_fillers(w.batch), {}),
    "the inputs given": lambda w: (w.trained, {**w.batch, "decoder_input_ids": _shifted(w.batch["labels"])}, {}),
    "pad, end and start are one": lambda w: (w.one_token, w.batch, {}),
    "several ends": lambda w: (w.trained.with_special_tokens(eos_token_id=[END, 3]), w.batch, {}),
    "unrolled": lambda w: (w.trained.with_layout("unrolled"), w.batch, {}),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_run_gives_no_alarm(world: World, name: str):
    model, batch, options = GOOD[name](world)
    found = diagnose(model, batch, **options)
    assert found.ok, str(found)
    assert "non_finite" not in str(found)


# --- what a finding says


def test_the_first_bad_place_is_named_in_both_layouts(world: World):
    broken = _with_nan(world.trained)
    for model in (broken, broken.with_layout("unrolled")):
        found = {finding.code: finding for finding in diagnose(model, world.batch).findings}
        assert found["non_finite_weights"].evidence["first"] == "decoder.layers.1.feed_forward.up.weight"
        assert found["non_finite_activations"].evidence["first"] == "decoder.layers.1.feed_forward.up"
    embeddings = _changed(
        world.trained, lambda m: m.decoder.embeddings.positions.weight, lambda x: x.at[1].set(jnp.inf)
    )
    assert diagnose(embeddings, world.batch).findings[1].evidence["first"] == "decoder.embeddings"
    overflow = diagnose(_overflowing(world.trained), world.batch).findings[0]
    assert overflow.evidence["first"] == "encoder.layers.1.feed_forward.down"


def test_a_lower_rate_is_advised_and_it_works(world: World):
    (finding,) = diagnose(world.fresh, world.batch, learning_rate=3.0).of("error")
    rate = float(finding.fix.split("learning_rate=")[1].split(",")[0])
    assert 1e-3 <= rate <= 0.1
    assert diagnose(world.fresh, world.batch, learning_rate=rate).ok


def test_an_optimiser_of_the_library_is_tried_at_its_highest_rate(world: World):
    """Its first steps are a warm-up, which no rate is too high for."""
    settings: dict[str, Any] = {"learning_rate": 3.0, "warmup_steps": 50, "num_training_steps": 100}
    found = diagnose(world.fresh, world.batch, optimizer=make_optimizer(**settings))
    assert found.codes[0] == "learning_rate_too_high"


def test_the_runs_of_all_diagnoses_share_their_programs(world: World):
    """Other special tokens, another mask, frozen parts, another rate: nothing of it compiles anything."""
    diagnose(world.trained, world.batch, learning_rate=3e-3)
    with counted() as compilations:
        diagnose(world.trained.with_special_tokens(decoder_start_token_id=5), _without_mask(world.batch))
        diagnose(world.fresh, _batch(8), learning_rate=1e-3)
    assert compilations.programs == 0


def test_the_report_can_be_read(world: World):
    report = diagnose(world.trained, _padded(world.batch, PAD))
    text = str(report)
    assert text.startswith("diagnosis: 1 error")
    assert "[labels_hold_padding]" in text
    assert "fix: put -100 behind each row's end" in text
    assert "measured: loss" in text
    assert "not looked at: the learning rate" in text
    assert all(len(line) <= 100 for line in text.splitlines())
    assert report.measured["source_gain"] > 1


def test_the_numbers_are_what_their_names_say(world: World):
    measured = diagnose(world.trained, world.batch).measured
    batch = {name: jnp.asarray(value) for name, value in world.batch.items()}
    labels = batch.pop("labels")
    total, weight = seq2seq_loss(
        world.trained(**batch, decoder_input_ids=_shifted(world.batch["labels"])).logits, labels
    )
    np.testing.assert_allclose(measured["loss"], total / weight, rtol=1e-4)
    assert measured["ln_vocab"] == np.log(TARGET_VOCAB)
