"""Masks as lengths: what they are, that every entrance takes them, and where masks become lengths by themselves."""

from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays

from encdec_eqx import EncoderDecoder, RightPadding, init_train_state, make_train_step
from encdec_eqx._inputs import as_mask
from encdec_eqx._padding import right_padding
from encdec_eqx.layers.attention_backend import AttentionCall, FusedAttention
from encdec_eqx.training.batch import checked_batch
from models import random_ids, right_mask, tiny_pair
from tolerances import SAME_MODEL

SOURCE, TARGET = random_ids(0, 2, 6), random_ids(1, 2, 4)
MASK, TARGET_MASK = right_mask([6, 4], 6), right_mask([3, 4], 4)


@given(mask=arrays(bool, (3, 5)))
def test_lengths_are_found_where_a_mask_is_right_padded_and_nowhere_else(mask: np.ndarray) -> None:
    prefixes = all("01" not in "".join(map(str, row.astype(int))) for row in mask)
    found = right_padding(mask)
    assert (found is not None) == prefixes
    if found is None:
        with pytest.raises(ValueError, match=r"row \d has|row \d of the mask has a real token after padding"):
            RightPadding.of(mask)
    else:
        np.testing.assert_array_equal(found.dense(), mask)
        np.testing.assert_array_equal(RightPadding.of(jnp.asarray(mask)).dense(), mask)


def test_of_says_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="row 1 of the mask has a real token after padding"):
        RightPadding.of(np.asarray([[1, 1, 0], [0, 1, 1]]))
    with pytest.raises(TypeError, match=r"shape \(batch, width\), got \(3,\)"):
        RightPadding.of(np.ones(3, bool))
    with pytest.raises(ValueError, match="outside jit, and pass what it returns"):
        jax.jit(lambda mask: RightPadding.of(mask).dense())(MASK)


def test_every_entrance_takes_lengths() -> None:
    model = tiny_pair()
    lengths, target_lengths = RightPadding.of(MASK), RightPadding.of(TARGET_MASK)

    def outputs(mask: Any, target_mask: Any) -> list[Any]:
        whole = model(SOURCE, TARGET, attention_mask=mask, decoder_attention_mask=target_mask)
        encoded = model.encode(SOURCE, attention_mask=mask)
        cache = model.init_cache(encoded, 4, encoder_attention_mask=mask)
        first = model.decode(TARGET[:, :2], cache=cache, decoder_attention_mask=None)
        return [
            whole.logits,
            encoded.last_hidden_state,
            model.decode(TARGET, encoded, encoder_attention_mask=mask).logits,
            first.logits,
            model.decode(TARGET[:, 2:], cache=first.cache).logits,
        ]

    for ours, theirs in zip(outputs(lengths, target_lengths), outputs(MASK, TARGET_MASK), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=SAME_MODEL)
    compiled = eqx.filter_jit(model)
    ours = compiled(SOURCE, TARGET, attention_mask=lengths, decoder_attention_mask=target_lengths).logits
    theirs = compiled(SOURCE, TARGET, attention_mask=MASK, decoder_attention_mask=TARGET_MASK).logits
    np.testing.assert_allclose(ours, theirs, atol=SAME_MODEL)


def test_lengths_of_another_shape_are_refused() -> None:
    model, wrong = tiny_pair(), RightPadding.of(MASK[:, :5])
    with pytest.raises(TypeError, match=r"`attention_mask` is a RightPadding of shape \(2, 5\).* \(2, 6\)"):
        model.encode(SOURCE, attention_mask=wrong)
    encoded = model.encode(SOURCE)
    with pytest.raises(TypeError, match="`encoder_attention_mask` is a RightPadding"):
        model.decode(TARGET, encoded, encoder_attention_mask=wrong)
    with pytest.raises(TypeError, match="`attention_mask` is a RightPadding"):
        model.decode(TARGET, encoded, decoder_attention_mask=wrong)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """As on a GPU, where a kernel takes lengths; what it is told, though computed by what runs here."""
    monkeypatch.setattr("encdec_eqx._inputs.platform", lambda: "gpu")
    told: list[Any] = []
    compute = FusedAttention.__call__

    def noted(self: FusedAttention, call: AttentionCall) -> jax.Array:
        told.append(sorted(call.features()))
        return compute(self, call)

    monkeypatch.setattr(FusedAttention, "__call__", noted)
    yield told


def _with_kernel(model: EncoderDecoder) -> EncoderDecoder:
    return model.with_attention_backends(FusedAttention(implementation="xla", fewest=1))


def test_a_mask_becomes_lengths_where_kernels_take_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("encdec_eqx._inputs.platform", lambda: "cpu")
    assert isinstance(as_mask("mask", MASK), jax.Array)
    monkeypatch.setattr("encdec_eqx._inputs.platform", lambda: "gpu")
    known = as_mask("mask", MASK)
    assert isinstance(known, RightPadding)
    np.testing.assert_array_equal(known.lengths, [6, 4])
    assert isinstance(as_mask("mask", MASK[:, ::-1]), jax.Array), "left padding"
    assert jax.jit(lambda mask: isinstance(as_mask("mask", mask), RightPadding))(MASK) == False  # noqa: E712
    with pytest.raises(ValueError, match="`mask` holds 2"):
        as_mask("mask", 2 * MASK)


def _batch(**changes: Any) -> dict[str, Any]:
    return {"input_ids": SOURCE, "attention_mask": MASK, "labels": TARGET, **changes}


@pytest.mark.parametrize("accumulate_steps", [1, 2])
def test_a_training_step_takes_lengths_and_learns_the_same(kernel: list[Any], accumulate_steps: int) -> None:
    model, optimizer = tiny_pair(), optax.sgd(0.1)
    step = make_train_step(optimizer, accumulate_steps=accumulate_steps)
    ours, loss = step(init_train_state(_with_kernel(model), optimizer), _batch(), None)
    assert kernel.count(["lengths"]) == 5 and kernel.count(["causal"]) == 3 and len(kernel) == 8
    theirs, expected = step(init_train_state(model.with_attention_backends(), optimizer), _batch(), None)
    np.testing.assert_allclose(loss["loss"], expected["loss"], atol=SAME_MODEL)
    for one, other in zip(jax.tree.leaves(ours.params), jax.tree.leaves(theirs.params), strict=True):
        np.testing.assert_allclose(one, other, atol=SAME_MODEL)


def test_a_training_step_on_left_padding_is_the_reference_s(kernel: list[Any]) -> None:
    model, optimizer = tiny_pair(), optax.sgd(0.1)
    state, left = init_train_state(_with_kernel(model), optimizer), MASK[:, ::-1]
    _, metrics = make_train_step(optimizer)(state, _batch(attention_mask=left), None)
    assert kernel == [["causal"]] * 3, "the decoder has no padding"
    given = checked_batch(_batch(attention_mask=left), model)
    assert isinstance(given["attention_mask"], jax.Array)
    plain = init_train_state(model, optimizer)
    _, expected = make_train_step(optimizer)(plain, _batch(attention_mask=left), None)
    np.testing.assert_allclose(metrics["loss"], expected["loss"], atol=SAME_MODEL)


@pytest.mark.parametrize("num_beams", [1, 2])
def test_generate_takes_lengths_and_writes_the_same(kernel: list[Any], num_beams: int) -> None:
    model, options = tiny_pair(), {"attention_mask": MASK, "max_new_tokens": 4, "num_beams": num_beams}
    ours = _with_kernel(model).generate(SOURCE, **options).sequences
    assert len(kernel) >= 3, "cross-attention of a decoding step, and the encoder if it is not compiled yet"
    assert kernel == [["lengths"]] * len(kernel)
    np.testing.assert_array_equal(ours, model.with_attention_backends().generate(SOURCE, **options).sequences)
    options["attention_mask"] = RightPadding.of(MASK)
    np.testing.assert_array_equal(ours, _with_kernel(model).generate(SOURCE, **options).sequences)
    del kernel[:]
    options["attention_mask"] = MASK[:, ::-1]
    holed = _with_kernel(model).generate(SOURCE, **options).sequences
    assert kernel == []
    np.testing.assert_array_equal(holed, model.with_attention_backends().generate(SOURCE, **options).sequences)


class _Foreign(eqx.Module):
    """An encoder from elsewhere, which knows masks of arrays alone."""

    inner: Any

    @property
    def hidden_size(self) -> int:
        return self.inner.hidden_size

    def __call__(self, inputs: Any, /, *, attention_mask: Any, position_ids: Any, key: Any) -> Any:
        assert attention_mask.dtype == bool
        return self.inner(inputs, attention_mask=attention_mask.astype(jnp.int32), position_ids=position_ids, key=key)


def test_an_encoder_from_elsewhere_gets_arrays(kernel: list[Any]) -> None:
    pair = tiny_pair()
    model: EncoderDecoder = eqx.tree_at(lambda m: m.encoder, pair, _Foreign(pair.encoder))
    out = model(SOURCE, TARGET, attention_mask=RightPadding.of(MASK)).logits
    np.testing.assert_allclose(out, pair(SOURCE, TARGET, attention_mask=MASK).logits, atol=SAME_MODEL)
    optimizer = optax.sgd(0.1)
    make_train_step(optimizer)(init_train_state(_with_kernel(model), optimizer), _batch(), None)
    assert kernel.count(["lengths"]) == 3, "cross-attention knows lengths all the same"
