"""Pairs of families run from end to end: forward, gradient, three generated tokens, save, load. Needs no torch.

It stands here because it takes minutes. Live comparisons of other pairs are in `test_family_models`.
"""

import functools
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest
from quick import quick_jit

from compositions import RUN, stored_config
from encdec_eqx import Decoder, Encoder, EncoderDecoder, StackConfig, seq2seq_loss
from encdec_eqx.training import trainable
from models import randomised

TOKENS = {"decoder_start_token_id": 5, "pad_token_id": 1, "eos_token_id": 60}


@functools.cache
def _config(role: str, family: str) -> StackConfig:
    """The stored tiny config of a family."""
    return StackConfig.from_hf(stored_config(role, family))


def _model(encoder: str, decoder: str) -> EncoderDecoder:
    def join() -> EncoderDecoder:
        key = jax.random.key(0)
        pieces = (
            Encoder.init(_config("encoder", encoder), key=key),
            Decoder.init(_config("decoder", decoder), key=key),
        )
        return EncoderDecoder.from_pieces(*pieces, key=key)

    return randomised(eqx.filter_eval_shape(join)).with_special_tokens(**TOKENS)


@quick_jit
@eqx.filter_value_and_grad
def _loss(model: EncoderDecoder, source: np.ndarray, target: np.ndarray) -> jax.Array:
    total, weight = seq2seq_loss(model(source, target).logits, target)
    return total / weight


@pytest.mark.parametrize(("encoder", "decoder"), RUN, ids=["-".join(pair) for pair in RUN])
def test_a_pair_runs_from_end_to_end(encoder: str, decoder: str, tmp_path: Path) -> None:
    model = _model(encoder, decoder)
    rng = np.random.default_rng(0)
    source, target = rng.integers(4, 60, (2, 6), dtype=np.int32), rng.integers(4, 60, (2, 4), dtype=np.int32)
    loss, gradients = _loss(model, source, target)
    assert np.isfinite(loss)
    for path, gradient in _arrays(eqx.filter(gradients, trainable(model))).items():
        assert np.isfinite(gradient).all(), path
        assert gradient.any(), path
    made = model.generate(source, max_new_tokens=3, min_new_tokens=3)
    assert made.sequences.shape == (2, 4)
    model.save_pretrained(tmp_path)
    again = EncoderDecoder.from_pretrained(tmp_path)
    before, after = _arrays(model), _arrays(again)
    assert before.keys() == after.keys()
    for path, array in before.items():
        np.testing.assert_array_equal(after[path], array, err_msg=path)
    assert (again.encoder.config, again.decoder.config) == (model.encoder.config, model.decoder.config)
    np.testing.assert_array_equal(again.generate(source, max_new_tokens=3, min_new_tokens=3).sequences, made.sequences)


def _arrays(module: Any) -> dict[str, np.ndarray]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(eqx.filter(module, eqx.is_array))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
