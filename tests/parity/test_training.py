"""The loss, every gradient by name, and steps of AdamW against live torch."""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import optax
import pytest
import torch
from hf import VOCAB, random_pair, saved, tiny_bert, tiny_gpt2, tiny_roberta
from safetensors.numpy import load_file

from encdec_eqx import EncoderDecoder, seq2seq_loss, shift_tokens_right
from encdec_eqx.training import init_train_state, make_train_step
from tolerances import PARITY_GRADIENT, PARITY_LOSS, PARITY_WEIGHTS_AFTER_STEPS

STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
GPT2_STILL = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
PAIRS = {
    "bert_gpt2_projected": lambda: (tiny_bert(**STILL), tiny_gpt2(**GPT2_STILL)),
    "bert_bert_untied": lambda: (tiny_bert(**STILL), tiny_bert(tie_word_embeddings=False, **STILL)),
    "roberta_roberta": lambda: (tiny_roberta(**STILL), tiny_roberta(**STILL)),
    "gpt2_bert_relative": lambda: (tiny_gpt2(**GPT2_STILL), tiny_bert(position_embedding_type="relative_key", **STILL)),
}
SMOOTHING = 0.1
ADAMW = {"weight_decay": 0.1, "eps": 1e-4}
"""A larger eps than usual: with 1e-8 the first step is the gradient's sign, also where the gradient is rounding noise
(the biases of keys, which the softmax ignores)."""


def _both(pair: str, folder: Path) -> tuple[Any, EncoderDecoder]:
    encoder, decoder = PAIRS[pair]()
    reference = random_pair(encoder, decoder, pad_token_id=1, decoder_start_token_id=2, eos_token_id=3)
    return reference, EncoderDecoder.from_pretrained(saved(reference, folder))


def _batch(seed: int = 0) -> dict[str, np.ndarray]:
    """With ids equal to the padding id on both sides, inside the masks and outside."""
    rng = np.random.default_rng(seed)
    lengths = np.array([9, 6, 2])
    mask = (np.arange(9) < lengths[:, None]).astype(np.int32)
    labels = rng.integers(0, VOCAB, (3, 7), dtype=np.int32)
    labels[1, 4:] = labels[2, 2] = -100
    return {
        "input_ids": np.where(mask == 1, rng.integers(0, VOCAB, (3, 9), dtype=np.int32), 1),
        "attention_mask": mask,
        "labels": labels,
    }


def _torch_loss(model: Any, batch: dict[str, np.ndarray]) -> torch.Tensor:
    """Not `labels=`, which hides decoder inputs that equal the padding id."""
    ids = np.array(shift_tokens_right(batch["labels"], 1, 2))
    logits = model(
        input_ids=torch.from_numpy(batch["input_ids"]).long(),
        attention_mask=torch.from_numpy(batch["attention_mask"]).long(),
        decoder_input_ids=torch.from_numpy(ids).long(),
        decoder_attention_mask=torch.ones(ids.shape, dtype=torch.long),
        use_cache=False,
    ).logits
    labels = torch.from_numpy(batch["labels"]).long()
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=SMOOTHING)


@eqx.filter_jit
@eqx.filter_value_and_grad
def _loss_and_gradients(model: EncoderDecoder, batch: dict[str, np.ndarray]) -> jax.Array:
    ids = shift_tokens_right(batch["labels"], 1, 2)
    logits = model(batch["input_ids"], ids, attention_mask=batch["attention_mask"]).logits
    total, weight = seq2seq_loss(logits, batch["labels"], label_smoothing=SMOOTHING)
    return total / weight


def _by_torch_names(model: EncoderDecoder, folder: Path) -> dict[str, np.ndarray]:
    """A tree of the model's shape under Hugging Face's names: it is saved as if it were a model."""
    model.with_layout("unrolled").save_pretrained(folder)
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("layout", ["unrolled", "scanned"])
@pytest.mark.parametrize("pair", PAIRS)
def test_loss_and_every_gradient_equal_torch(pair: str, layout: str, tmp_path: Path) -> None:
    reference, model = _both(pair, tmp_path / "model")
    loss, grads = _loss_and_gradients(model.with_layout(layout), _batch())
    expected = _torch_loss(reference, _batch())
    expected.backward()
    np.testing.assert_allclose(loss, expected.item(), rtol=0, atol=PARITY_LOSS)
    ours = _by_torch_names(grads, tmp_path / "grads")
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
    reference, model = _both(pair, tmp_path / "model")
    theirs = torch.optim.AdamW(reference.parameters(), lr=1e-2, **ADAMW)
    optimizer = optax.adamw(1e-2, **ADAMW)
    state = init_train_state(model.with_layout("scanned"), optimizer)
    step = make_train_step(optimizer, label_smoothing=SMOOTHING, accumulate_steps=3)
    for number in range(2):
        theirs.zero_grad()
        expected = _torch_loss(reference, _batch(number))
        expected.backward()
        theirs.step()
        state, metrics = step(state, _batch(number), None)
        np.testing.assert_allclose(metrics["loss"], expected.item(), rtol=0, atol=PARITY_LOSS)
    ours = _by_torch_names(state.model, tmp_path / "after")
    for name, parameter in reference.named_parameters():
        np.testing.assert_allclose(
            ours[name], parameter.detach().numpy(), rtol=0, atol=PARITY_WEIGHTS_AFTER_STEPS, err_msg=name
        )
