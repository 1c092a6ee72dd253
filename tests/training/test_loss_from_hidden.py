"""The loss taken from hidden states in chunks: against whole logits, a formula in float64, and its own program."""

import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from encdec_eqx import Decoder, EncoderDecoder, HeadConfig, seq2seq_loss, shift_tokens_right
from encdec_eqx.training import (
    add_lora,
    init_train_state,
    loss,
    make_train_step,
    seq2seq_loss_from_hidden,
    trainable,
)
from encdec_eqx.training.evaluation import mean_loss
from models import VOCAB, decoder_config, encoder_config, random_ids, randomised, right_mask, tiny_pair
from tolerances import BF16_CHUNKED_GRADIENT, BF16_LOSS, CHUNKED_GRADIENT, CHUNKED_LOSS, SAME_STEP

KEY = jax.random.key(0)
SGD = optax.sgd(0.5)
OPTIONS: dict[str, Any] = {"label_smoothing": 0.1, "z_loss": 1e-2}
HEADS = {
    "tied": HeadConfig(),
    "tied, with a bias, scaled": HeadConfig(bias=True, scale=0.5),
    "tied, behind a transform, with a constant bias": HeadConfig(bias=True, fixed_bias=True, transform=True),
    "untied": HeadConfig(tied=False),
    "untied, with a bias, capped": HeadConfig(tied=False, bias=True, logit_cap=2.0),
}


def _labels(rows: int = 4, target: int = 5) -> np.ndarray:
    labels = np.where(right_mask([target - row for row in range(rows)], target) == 1, random_ids(1, rows, target), -100)
    labels[0, 1] = -100
    return labels


def _batch() -> dict[str, np.ndarray]:
    mask = right_mask([6, 5, 4, 3], 6)
    return {"input_ids": random_ids(0, 4, 6), "attention_mask": mask, "labels": _labels()}


def _decoder(head: HeadConfig) -> Any:
    return randomised(Decoder.init(decoder_config(depth=1, head=head), key=KEY))


def _hidden(dtype: Any = jnp.float32) -> jax.Array:
    return jax.random.normal(jax.random.key(3), (4, 5, 12)).astype(dtype)


@eqx.filter_jit
@eqx.filter_value_and_grad
def _whole(read: tuple[Any, jax.Array], labels: Any) -> jax.Array:
    decoder, hidden = read
    return seq2seq_loss(decoder.logits(hidden), labels, **OPTIONS)[0]


@eqx.filter_jit
@eqx.filter_value_and_grad
def _chunked(read: tuple[Any, jax.Array], labels: Any, chunk_size: int | None) -> jax.Array:
    decoder, hidden = read
    return seq2seq_loss_from_hidden(decoder, hidden, labels, chunk_size=chunk_size, **OPTIONS)[0]


def _largest(one: Any, other: Any) -> float:
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return max(float(jnp.max(jnp.abs(a.astype(jnp.float32) - b.astype(jnp.float32)))) for a, b in pairs)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("chunk_size", [None, 1, 7, 10, 20, 99])
def test_sum_and_gradients_are_those_of_whole_logits(head: str, chunk_size: int | None) -> None:
    """20 labels: one by one, with a remainder, in halves, and all at once."""
    read = _decoder(HEADS[head]), _hidden()
    total, grads = _whole(read, _labels())
    got, got_grads = _chunked(read, _labels(), chunk_size)
    np.testing.assert_allclose(got, total, rtol=CHUNKED_LOSS)
    assert _largest(got_grads, grads) < CHUNKED_GRADIENT
    assert bool(got_grads[1].any())
    assert not got_grads[1][0, 1].any(), "an ignored label moves nothing"


@pytest.mark.parametrize("chunk_size", [3, None])
def test_loss_and_gradients_are_the_formula_in_float64(chunk_size: int | None) -> None:
    decoder, labels = _decoder(HeadConfig(bias=True)), _labels()
    hidden, table, bias = (
        np.asarray(x, np.float64) for x in (_hidden(), decoder.embeddings.tokens.weight, decoder.head.bias)
    )
    logits = hidden @ table.T + bias
    log_z = np.log(np.exp(logits).sum(-1))
    counted = labels != -100
    target = 0.9 * np.eye(VOCAB)[np.where(counted, labels, 0)] + 0.1 / VOCAB
    total = (((log_z - (target * logits).sum(-1)) + 1e-2 * log_z**2) * counted).sum()
    share = np.exp(logits - log_z[..., None])
    slope = (share * (1 + 2e-2 * log_z)[..., None] - target) * counted[..., None]
    got, (grads, of_hidden) = _chunked((decoder, _hidden()), labels, chunk_size)
    np.testing.assert_allclose(got, total, rtol=CHUNKED_LOSS)
    of_table = grads.embeddings.tokens.weight
    np.testing.assert_allclose(of_hidden, slope @ table, atol=CHUNKED_GRADIENT)
    np.testing.assert_allclose(of_table, np.einsum("btv,btd->vd", slope, hidden), atol=CHUNKED_GRADIENT)
    np.testing.assert_allclose(grads.head.bias, slope.sum((0, 1)), atol=CHUNKED_GRADIENT)


@pytest.mark.parametrize("head", ["tied", "untied"])
def test_bfloat16_sums_in_float32_over_chunks(head: str) -> None:
    """Against float32 of the same rounded numbers; one label at a time, so that all rounding adds up."""
    read = _decoder(HEADS[head]).astype(jnp.bfloat16), _hidden(jnp.bfloat16)
    exact = jax.tree.map(lambda x: x.astype(jnp.float32), read)
    total, grads = _whole(exact, _labels())
    got, got_grads = _chunked(read, _labels(), 1)
    np.testing.assert_allclose(got, total, rtol=BF16_LOSS)
    assert {leaf.dtype for leaf in jax.tree.leaves(got_grads)} == {np.dtype(jnp.bfloat16)}
    assert _largest(got_grads, grads) < BF16_CHUNKED_GRADIENT


def test_a_head_with_adapters_is_called_like_any_other() -> None:
    plain = tiny_pair(encoder_config(depth=1), decoder_config(depth=1, head=HEADS["untied"]))
    adapted: Any = randomised(add_lora(plain, "lm_head", rank=2, key=KEY))
    assert type(adapted.decoder.head.projection) is not type(plain.decoder.head.projection)
    read = adapted.decoder, _hidden()
    total, grads = _whole(read, _labels())
    got, got_grads = _chunked(read, _labels(), 7)
    np.testing.assert_allclose(got, total, rtol=CHUNKED_LOSS)
    assert _largest(got_grads, grads) < CHUNKED_GRADIENT


@pytest.mark.parametrize("label", [VOCAB, -1, -99])
def test_a_label_outside_the_vocabulary_is_an_error_or_nan(label: int) -> None:
    decoder, labels = _decoder(HeadConfig()), _labels()
    labels[1, 2] = label
    with pytest.raises(ValueError, match=rf"{label} at row 1, position 2"):
        seq2seq_loss_from_hidden(decoder, _hidden(), labels)
    assert np.isnan(_chunked((decoder, _hidden()), jnp.asarray(labels), 7)[0])


def test_nothing_but_ignored_labels_is_zero_with_zero_gradients() -> None:
    total, grads = _chunked((_decoder(HeadConfig()), _hidden()), np.full((4, 5), -100), 3)
    assert total == 0
    assert not any(leaf.any() for leaf in jax.tree.leaves(grads))


def test_options_out_of_range_are_errors() -> None:
    decoder = _decoder(HeadConfig())
    for name, value in {"chunk_size": 0, "label_smoothing": 1.0, "z_loss": -1.0}.items():
        with pytest.raises(ValueError, match=name):
            seq2seq_loss_from_hidden(decoder, _hidden(), _labels(), **{name: value})
    with pytest.raises(TypeError, match="labels"):
        seq2seq_loss_from_hidden(decoder, _hidden()[:, :4], _labels())


def test_the_head_makes_logits_of_the_last_hidden_state() -> None:
    model, batch = tiny_pair(), _batch()
    ids = shift_tokens_right(batch["labels"], 0, 1)
    given: dict[str, Any] = {"attention_mask": batch["attention_mask"], "decoder_position_ids": ids % 7}
    hidden = model.last_hidden_state(batch["input_ids"], ids, **given)
    assert np.array_equal(model.decoder.logits(hidden), model(batch["input_ids"], ids, **given).logits)
    alone = model.decoder.last_hidden_state(ids)
    assert np.array_equal(model.decoder.logits(alone), model.decoder(ids).logits)
    with pytest.raises(TypeError, match=r"batch 3.*batch 4"):
        model.last_hidden_state(batch["input_ids"], ids[:3])


LARGE = (16, 8, 4001)
"""Rows, target and vocabulary: logits are the largest array by far."""


def _large(head: HeadConfig, **changes: Any) -> EncoderDecoder:
    return tiny_pair(encoder_config(depth=1), decoder_config(depth=1, vocab_size=LARGE[2], head=head, **changes))


def _step_of(model: EncoderDecoder, **options: Any) -> Any:
    rows, target, _ = LARGE
    batch = {"input_ids": random_ids(0, rows, 6), "labels": random_ids(1, rows, target)}
    return make_train_step(SGD, **options).lower(init_train_state(model, SGD), batch, None)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "usual_chunk_size", lambda vocab: LARGE[0])
    jax.clear_caches()


@pytest.mark.parametrize("head", ["tied", "untied, with a bias, capped"])
def test_whole_logits_exist_nowhere_in_a_step(head: str, small_chunks: None) -> None:
    rows, target, vocab = LARGE
    chunked = _step_of(_large(HEADS[head])).compile().compiled
    whole = _step_of(_large(HEADS[head]), loss=seq2seq_like).compile().compiled
    wide = re.compile(rf"f32\[(?:{rows},{target}|{rows * target}),{vocab}\]|f32\[{vocab},{rows * target}\]")
    assert wide.search(whole.as_text()), "the pattern must find logits where there are some"
    assert not wide.search(chunked.as_text())
    logits_bytes = 4 * rows * target * vocab
    assert chunked.memory_analysis().temp_size_in_bytes < 0.7 * logits_bytes
    assert whole.memory_analysis().temp_size_in_bytes > logits_bytes


def seq2seq_like(logits: Any, labels: Any) -> tuple[Any, Any]:
    """A loss of the user's own."""
    return seq2seq_loss(logits, labels)


def test_a_step_in_bfloat16_multiplies_no_float32_with_the_vocabulary(small_chunks: None) -> None:
    text = _step_of(_large(HEADS["tied"]), compute_dtype=jnp.bfloat16).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line and f"{LARGE[2]}" in line]
    operands = [re.search(r": \((tensor<\S+>), (tensor<\S+>)\)", line) for line in products]
    assert len(operands) == 3
    assert all(found and "bf16" in found[1] and "bf16" in found[2] for found in operands)


@pytest.mark.parametrize(("selector", "products"), [("encoder", 2), ("decoder.embeddings", 3)])
def test_a_frozen_head_costs_no_product(selector: str, products: int, small_chunks: None) -> None:
    model = _large(HEADS["tied"])
    state = init_train_state(model, SGD, trainable=selector)
    batch = {"input_ids": random_ids(0, 16, 6), "labels": random_ids(1, *LARGE[:2])}
    text = make_train_step(SGD).lower(state, batch, None).as_text()
    assert sum("dot_general" in line and f"{LARGE[2]}" in line for line in text.splitlines()) == products


@pytest.mark.parametrize("chosen", ["decoder.embeddings", "encoder", "decoder.layers"])
def test_steps_with_a_filter_equal_those_of_whole_logits(chosen: str, small_chunks: None) -> None:
    model, batch = tiny_pair(encoder_config(depth=1), decoder_config(depth=1)), _batch()
    after = []
    own: dict[str, Any] = {"loss": seq2seq_like}
    for options in ({}, own):
        state = init_train_state(model, SGD, trainable=trainable(model, chosen))
        after.append(make_train_step(SGD, accumulate_steps=2, **options)(state, batch, None))
    (one, metrics), (other, others) = after
    assert _largest(one.params, other.params) < SAME_STEP
    np.testing.assert_allclose(metrics["loss"], others["loss"], rtol=SAME_STEP)


class _Doubled(EncoderDecoder):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        out = super().__call__(*args, **kwargs)
        return eqx.tree_at(lambda it: it.logits, out, 2.0 * out.logits)


def test_why_a_step_makes_whole_logits() -> None:
    model, batch = tiny_pair(encoder_config(depth=1), decoder_config(depth=1)), _batch()
    step, state = make_train_step(SGD), init_train_state(model, SGD)
    assert step.why_whole_logits(state) is None
    assert make_train_step(SGD, loss=seq2seq_loss).why_whole_logits(state) is None
    assert "loss" in str(make_train_step(SGD, loss=seq2seq_like).why_whole_logits(state))
    fields = {name: getattr(model, name) for name in model.__dataclass_fields__}
    doubled = init_train_state(_Doubled(**fields), SGD)
    assert "__call__" in str(step.why_whole_logits(doubled))
    ids = shift_tokens_right(batch["labels"], 0, 1)
    logits = 2.0 * model(batch["input_ids"], ids, attention_mask=batch["attention_mask"]).logits
    total, weight = seq2seq_loss(logits, batch["labels"])
    np.testing.assert_allclose(step(doubled, batch, None)[1]["loss"], total / weight, rtol=SAME_STEP)


def test_evaluations_take_it_from_hidden_states_too() -> None:
    model = tiny_pair(encoder_config(depth=1), decoder_config(depth=1))
    got, expected = mean_loss(model, [_batch()]), mean_loss(model, [_batch()], loss=seq2seq_like)
    np.testing.assert_allclose(got, expected, rtol=CHUNKED_LOSS)
