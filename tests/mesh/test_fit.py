"""Whole runs on eight virtual devices: losses and metrics of one device, exact resumption, and what is told before."""

from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from encdec_eqx import AttentionConfig, EncoderDecoder, FeedForwardConfig, make_mesh, with_mesh
from encdec_eqx.params.sharding import mesh_of
from encdec_eqx.training import TrainConfig, fit
from models import decoder_config, encoder_config, tiny_pair
from tolerances import ON_A_MESH

MESHES = [(2, 2, 2), (8, 1, 1), (1, 8, 1)]


def unequal_pairs(number, seed=0):
    """Encoded pairs of very unequal lengths."""
    random = np.random.default_rng(seed)

    def ids(most):
        return random.integers(4, 40, random.integers(1, most)).tolist()

    return [{"input_ids": [*ids(9), 1], "labels": [*ids(5 if at % 3 else 12), 2]} for at in range(number)]


PAIRS, HELD_OUT = unequal_pairs(21), unequal_pairs(11, seed=1)


@pytest.fixture(scope="module")
def pair():
    attention = AttentionConfig(num_heads=8, head_dim=4, dropout=0.1)
    wide = FeedForwardConfig(size=64)
    encoder = encoder_config(32, attention=attention, feed_forward=wide)
    return tiny_pair(encoder, decoder_config(32, depth=2, attention=attention, feed_forward=wide)).with_special_tokens(
        decoder_start_token_id=3, eos_token_id=2, pad_token_id=0
    )


def settings(folder: Path, **changes) -> TrainConfig:
    given = {
        "output_dir": folder, "max_steps": 4, "logging_steps": 1, "eval_steps": 2, "save_steps": 1, "max_shapes": 1,
        "per_device_train_batch_size": 16, "gradient_accumulation_steps": 2, "per_device_eval_batch_size": 6,
        "metrics": ["cer"], "generation_max_new_tokens": 4, "lr_scheduler_type": "constant",
        "learning_rate": 0.1,
    }  # fmt: skip
    return TrainConfig(**{**given, **changes})


def run(pair, folder: Path, mesh=None, **changes):
    kept = {} if changes.get("tokens_per_batch") is None else {"per_device_train_batch_size": None}
    config = settings(folder, **{**kept, **changes})
    return fit(pair, PAIRS, config, eval_data=HELD_OUT, optimizer=optax.sgd, mesh=mesh)


@pytest.fixture(scope="module")
def on_one_device(pair, tmp_path_factory):
    return run(pair, tmp_path_factory.mktemp("one"))


def lines(result, event):
    return [line for line in result.log if line["event"] == event]


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_a_run_is_that_of_one_device(pair, on_one_device, tmp_path, sizes):
    mesh = make_mesh(*sizes)
    result = run(pair, tmp_path, mesh)
    assert len(lines(result, "train")) == 4
    assert len(lines(result, "eval")) == 2
    for event in ("train", "eval"):
        for mine, theirs in zip(lines(result, event), lines(on_one_device, event), strict=True):
            for name in ("loss", "grad_norm", "cer"):
                if name in theirs:
                    np.testing.assert_allclose(mine[name], theirs[name], rtol=ON_A_MESH)
    assert [one.text for one in result.predictions] == [one.text for one in on_one_device.predictions]
    assert mesh_of(result.model) == mesh_of(with_mesh(pair, mesh))
    told = next(line for line in result.log if line["event"] == "note")["text"]
    data, fsdp, tensor = sizes
    assert told.startswith(f"on a mesh of data={data} x fsdp={fsdp} x tensor={tensor}: 8 devices")
    saved = EncoderDecoder.from_pretrained(tmp_path / "model")
    for mine, theirs in zip(jax.tree.leaves(saved), jax.tree.leaves(on_one_device.model), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=ON_A_MESH, rtol=0)
