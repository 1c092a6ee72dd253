"""The loss, every gradient by name, and steps of AdamW against live torch."""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import optax
import pytest
import torch
from training_pairs import PAIRS, SMOOTHING, batch, both, by_torch_names, torch_loss

from encdec_eqx import EncoderDecoder, seq2seq_loss, shift_tokens_right
from encdec_eqx.training import init_train_state, make_train_step
from tolerances import PARITY_GRADIENT, PARITY_LOSS, PARITY_WEIGHTS_AFTER_STEPS

ADAMW: dict[str, Any] = {"weight_decay": 0.1, "eps": 1e-4}
"""A larger eps than usual: with 1e-8 the first step is the gradient's sign, also where the gradient is rounding noise
(the biases of keys, which the softmax ignores)."""


@eqx.filter_jit
@eqx.filter_value_and_grad
def _loss_and_gradients(model: EncoderDecoder, given: dict[str, np.ndarray]) -> jax.Array:
    ids = shift_tokens_right(given["labels"], 1, 2)
    logits = model(given["input_ids"], ids, attention_mask=given["attention_mask"]).logits
    total, weight = seq2seq_loss(logits, given["labels"], label_smoothing=SMOOTHING)
    return total / weight


@pytest.mark.parametrize("layout", ["unrolled", "scanned"])
@pytest.mark.parametrize("pair", PAIRS)
def test_loss_and_every_gradient_equal_torch(pair: str, layout: Any, tmp_path: Path) -> None:
    reference, model = both(pair, tmp_path / "model")
    loss, grads = _loss_and_gradients(model.with_layout(layout), batch())
    expected = torch_loss(reference, batch())
    expected.backward()
    np.testing.assert_allclose(loss, expected.item(), rtol=0, atol=PARITY_LOSS)
    ours = by_torch_names(grads, tmp_path / "grads")
    compared = 0
    for name, parameter in reference.named_parameters():
        if parameter.grad is None:
            assert "pooler" in name or "position_embeddings" in name
            assert not ours[name].any()
            continue
        np.testing.assert_allclose(ours[name], parameter.grad.numpy(), rtol=0, atol=PARITY_GRADIENT, err_msg=name)
        compared += 1
    assert compared == len({name for name in ours if reference.get_parameter(name).grad is not None})


@pytest.mark.parametrize("pair", ["bert_gpt2_projected", "gpt2_bert_relative"])
def test_steps_of_adamw_equal_torch(pair: str, tmp_path: Path) -> None:
    """Two steps, so that both moments and their bias corrections count, in micro-batches of one row."""
    reference, model = both(pair, tmp_path / "model")
    theirs = torch.optim.AdamW(reference.parameters(), lr=1e-2, **ADAMW)
    optimizer = optax.adamw(1e-2, **ADAMW)
    state = init_train_state(model.with_layout("scanned"), optimizer)
    step = make_train_step(optimizer, label_smoothing=SMOOTHING, accumulate_steps=3)
    for number in range(2):
        theirs.zero_grad()
        expected = torch_loss(reference, batch(number))
        expected.backward()
        theirs.step()
        state, metrics = step(state, batch(number), None)
        np.testing.assert_allclose(metrics["loss"], expected.item(), rtol=0, atol=PARITY_LOSS)
    ours = by_torch_names(state.model, tmp_path / "after")
    for name, parameter in reference.named_parameters():
        np.testing.assert_allclose(
            ours[name], parameter.detach().numpy(), rtol=0, atol=PARITY_WEIGHTS_AFTER_STEPS, err_msg=name
        )
