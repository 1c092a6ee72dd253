"""Whole runs on eight virtual devices: losses and metrics of one device, exact resumption, and what is told before."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from encdec_eqx import AttentionConfig, EncoderDecoder, FeedForwardConfig, make_mesh, with_mesh
from encdec_eqx.params.sharding import RULES, mesh_of
from encdec_eqx.training import TrainConfig, fit
from encdec_eqx.training.job import read_job
from encdec_eqx.training.run_job import run_job
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


def test_it_goes_on_to_the_very_bits_on_the_same_mesh_and_closely_on_another(pair, on_one_device, tmp_path):
    mesh = make_mesh(2, 4)
    whole = run(pair, tmp_path / "whole", mesh)
    run(pair, tmp_path / "parts", mesh, max_steps=2)
    assert run(pair, tmp_path / "other", max_steps=3).step == 3
    resumed = run(pair, tmp_path / "parts", mesh, resume=True)
    assert (resumed.step, resumed.ending) == (4, "finished")
    for mine, theirs in zip(jax.tree.leaves(resumed.model), jax.tree.leaves(whole.model), strict=True):
        assert np.array_equal(mine, theirs)
    assert [line["loss"] for line in lines(resumed, "train")] == [line["loss"] for line in lines(whole, "train")]
    elsewhere = run(pair, tmp_path / "other", mesh, resume=True)
    for mine, theirs in zip(lines(elsewhere, "train"), lines(on_one_device, "train"), strict=True):
        np.testing.assert_allclose(mine["loss"], theirs["loss"], rtol=ON_A_MESH)


def test_adapters_are_those_of_one_device(pair, tmp_path):
    chosen = {"lora": "self_attention | feed_forward", "max_steps": 2, "eval_steps": None}
    # a model that lies on a mesh already stays there, by rules of its own
    spread = with_mesh(pair, make_mesh(4, 1, 2), rules={**RULES, "heads": (), "kv_heads": ()})
    mine, theirs = run(spread, tmp_path / "mine", **chosen), run(pair, tmp_path / "theirs", **chosen)
    for one, other in zip(lines(mine, "train"), lines(theirs, "train"), strict=True):
        np.testing.assert_allclose(one["loss"], other["loss"], rtol=ON_A_MESH)
    for folder in ("model", "lora"):
        names = [sorted(path.name for path in (tmp_path / one / folder).iterdir()) for one in ("mine", "theirs")]
        assert names[0] == names[1]
    qkv = mine.model.decoder.stack.blocks[0].self_attention.qkv.base.weight
    assert qkv.sharding.is_fully_replicated
    assert mine.model.decoder.stack.blocks[0].feed_forward.up.base.weight.sharding.spec == jax.P(None, "tensor")


def test_a_budget_of_tokens_takes_rows_that_divide_and_is_not_mixed_with_another(pair, tmp_path):
    changes = {"tokens_per_batch": 256, "gradient_accumulation_steps": 1, "max_steps": 2}
    result = run(pair, tmp_path, make_mesh(8), **changes)
    assert result.step == 2
    with pytest.raises(ValueError, match="rows of a batch are a multiple of: 8 in the checkpoint, absent now"):
        run(pair, tmp_path, **{**changes, "max_steps": 3}, resume=True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"per_device_train_batch_size": 12, "gradient_accumulation_steps": 1},
            r"per_device_train_batch_size=12 is the whole .* data=2 x fsdp=4: make it a multiple of 8, or give",
        ),
        (
            {"per_device_train_batch_size": None},
            r"=8, the default, .* data=2 x fsdp=4 and gradient_accumulation_steps=2: make it a multiple of 16",
        ),
    ],
)
def test_rows_that_do_not_divide_are_told_before_anything_is_read(pair, tmp_path, changes, words):
    config = settings(tmp_path / "run", **{**changes, "metrics": (), "eval_steps": None})
    with pytest.raises(ValueError, match=words):
        fit(pair, "no such file", config, mesh=make_mesh(2, 4))
    assert not (tmp_path / "run").exists()


def test_a_model_that_does_not_divide_and_what_is_no_mesh_are_told_before_anything_is_read(tmp_path):
    config = settings(tmp_path / "run", metrics=(), eval_steps=None)
    with pytest.raises(ValueError, match="has 3 'heads', which tensor=2 does not divide"):
        fit(tiny_pair(), "no such file", config, mesh=make_mesh(4, 1, 2))
    with pytest.raises(TypeError, match=r"must be a jax\.sharding\.Mesh, got tuple; encdec_eqx\.make_mesh"):
        fit(tiny_pair(), "no such file", config, mesh=(4, 2))  # pyright: ignore[reportArgumentType]
    mesh = jax.make_mesh((8,), ("data",))
    with jax.set_mesh(mesh), pytest.raises(ValueError, match=r"set the mesh of encdec_eqx\.make_mesh instead"):
        fit(tiny_pair(), "no such file", config, mesh=mesh)


JOB = """
[model]
encoder_name_or_path = "letters"
decoder_name_or_path = "phonemes"
[data]
train_file = "train.jsonl"
[train]
output_dir = "run"
max_steps = 1
max_shapes = 1
[mesh]
data = 4
fsdp = 2
"""


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("fsdp = 0", r"job.toml: \[mesh\]: fsdp must be at least 1, got 0"),
        ("fsdp = '2'", r"job.toml: \[mesh\] fsdp must be a whole number, got '2'"),
        ("fdsp = 2", r"job.toml: \[mesh\] holds 'fdsp', .* Did you mean 'fsdp'\? Known names: data, fsdp, tensor"),
    ],
)
def test_what_a_file_says_wrong_of_its_mesh_is_told_in_its_words(tmp_path, line, words):
    (tmp_path / "job.toml").write_text(JOB.replace("fsdp = 2", line))
    with pytest.raises((ValueError, TypeError), match=words):
        read_job(tmp_path / "job.toml")


def test_rows_are_told_in_the_words_of_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.jsonl").write_text("{}")
    (tmp_path / "job.toml").write_text(JOB.replace("max_steps = 1", "per_device_train_batch_size = 12"))
    with pytest.raises(ValueError, match=r"^\[train\] per_device_train_batch_size = 12 is the whole batch of a step"):
        run_job(read_job(tmp_path / "job.toml"))


def command(folder: Path, *words: str, devices: int) -> subprocess.CompletedProcess:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    words = (sys.executable, "-m", "encdec_eqx", "train", "job.toml", *words)
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_command_trains_on_the_mesh_of_its_file(tmp_path):
    (tmp_path / "job.toml").write_text(JOB)
    pairs = [{"input_ids": [6, 4, 23, 1], "labels": [20, 5, 29, 2]}, {"input_ids": [6, 1], "labels": [20, 2]}]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    few = command(tmp_path, devices=1)
    assert few.returncode == 1
    assert few.stderr == (
        "encdec-eqx: a mesh of data=4 x fsdp=2 x tensor=1 takes 8 devices, and there is 1 (to try it out on CPUs: "
        "JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=8 in the environment): change a size in [mesh].\n"
    )
    done = command(tmp_path, devices=8)
    assert done.returncode == 0, done.stderr
    assert "on a mesh of data=4 x fsdp=2 x tensor=1: 8 devices (cpu), every batch is split among 8" in done.stderr
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
