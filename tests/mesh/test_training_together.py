"""Two processes train one model by `encdec-eqx train --coordinator`, as one would, whoever is killed on the way."""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from encdec_eqx import EncoderDecoder, make_mesh
from encdec_eqx.training import fit
from encdec_eqx.training.job import read_job
from encdec_eqx.training.reporting.log import read_log
from models import VOCAB, decoder_config, encoder_config, tiny_pair
from tolerances import ON_A_MESH
from two_processes import free_port

JOB = """
[model]
model_name_or_path = "{folder}/pair"
[data]
train_file = "{folder}/train.jsonl"
validation_file = "{folder}/dev.jsonl"
[train]
output_dir = "{folder}/run"
max_steps = 60
per_device_train_batch_size = 8
max_shapes = 1
learning_rate = 1e-3
lr_scheduler_type = "constant"
adam_epsilon = 1e-3
logging_steps = 1
eval_steps = 20
save_steps = 5
save_total_limit = 20
metrics = ["exact_match"]
generation_max_new_tokens = 4
[mesh]
data = 2
"""
_PROGRAMS = Path(__file__).parent.parent.parent / ".pytest_cache" / "programs"
_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "JAX_NUM_CPU_DEVICES": "1",
    "JAX_COMPILATION_CACHE_DIR": str(_PROGRAMS),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    "JAX_DEFAULT_MATMUL_PRECISION": "highest",
}
WAITED = 200
"""Seconds; much less on a machine with nothing else to do."""


@dataclasses.dataclass
class Pair:
    """Two processes of the command."""

    folder: Path
    started: list[subprocess.Popen]

    def wait(self, number: int, seconds: float = WAITED) -> int:
        return self.started[number].wait(seconds)

    def said(self, number: int) -> str:
        return (self.folder / f"{number}.messages").read_text()

    def strike(self, number: int, with_signal: signal.Signals, at_step: int) -> None:
        """Sends one of them a signal as soon as a checkpoint of this step or a later one is there."""
        last = time.monotonic() + WAITED
        checkpoints = self.folder / "run" / "checkpoints"
        while not any(int(path.name.split("-")[1]) >= at_step for path in checkpoints.glob("checkpoint-*")):
            assert self.started[number].poll() is None, self.said(number)
            assert time.monotonic() < last, self.said(number)
            time.sleep(0.001)
        self.started[number].send_signal(with_signal)


@contextlib.contextmanager
def two(folder: Path, *options: str, second: tuple[str, ...] = ()) -> Iterator[Pair]:
    """The command in two processes, of which the second one gets more options."""
    command = [sys.executable, "-m", "encdec_eqx", "train", str(folder / "job.toml"), *options, "--num-processes", "2"]
    command += ["--coordinator", f"127.0.0.1:{free_port()}"]
    started = []
    try:
        for number, more in enumerate([(), second]):
            with (folder / f"{number}.messages").open("w") as messages:
                words = [*command, "--process-id", str(number), *more]
                started.append(
                    subprocess.Popen(words, stdout=messages, stderr=messages, env={**os.environ, **_ENVIRONMENT})
                )
        yield Pair(folder, started)
    finally:
        for process in started:
            process.kill()
            process.wait()


def records(number: int, seed: int) -> str:
    draw = np.random.default_rng(seed)
    sources = [draw.integers(3, VOCAB, draw.integers(3, 6)).tolist() for _ in range(number)]
    return "".join(json.dumps({"input_ids": ids, "labels": [*ids[1::-1], 2]}) + "\n" for ids in sources)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("together")
    encoder = encoder_config(depth=1)
    embeddings = dataclasses.replace(encoder.embeddings, dropout=0.1)
    attention = dataclasses.replace(encoder.attention, dropout=0.1)
    encoder = encoder.replace(embeddings=embeddings, attention=attention, dropout=0.1)
    tiny_pair(encoder, decoder_config(depth=1)).save_pretrained(folder / "pair")
    (folder / "train.jsonl").write_text(records(20, seed=0))
    (folder / "dev.jsonl").write_text(records(5, seed=1))
    (folder / "job.toml").write_text(JOB.format(folder=folder))
    return folder


def one_process(folder: Path, output: str, mesh: Any, **settings: Any) -> Path:
    """The same run in this process."""
    job = read_job(folder / "job.toml")
    config = dataclasses.replace(job.train, output_dir=folder / output, **settings)
    model = EncoderDecoder.from_pretrained(folder / "pair")
    fit(model, job.data.train_file, config, eval_data=job.data.validation_file, mesh=mesh)
    return folder / output


@pytest.fixture(scope="module")
def mesh() -> jax.sharding.Mesh:
    return make_mesh(2, devices=jax.devices()[:2])


@pytest.fixture(scope="module")
def alone(folder: Path, mesh: jax.sharding.Mesh) -> Path:
    return one_process(folder, "alone", mesh)


@pytest.fixture(scope="module")
def killed(folder: Path) -> tuple[Path, list[str]]:
    """A run of two processes, the second of which was killed in the middle, and what the first one said then."""
    with two(folder) as pair:
        pair.strike(1, signal.SIGKILL, at_step=5)
        struck = time.monotonic()
        assert pair.wait(0) == 4, pair.said(0)
        assert time.monotonic() - struck < 60
        said = pair.said(0).splitlines()
    shutil.copytree(folder / "run", folder / "copy")
    return folder / "copy", said


@pytest.fixture(scope="module")
def together(folder: Path, killed: tuple[Path, list[str]]) -> Path:
    """The same run, gone on with by two, stopped by a signal to one of them, and gone on with to its end."""
    with two(folder, "--resume") as pair:
        pair.strike(1, signal.SIGTERM, at_step=max(checkpoints(folder / "run")) + 5)
        assert [pair.wait(number) for number in (0, 1)] == [3, 3], pair.said(0)
        stopped = [re.search(r"interrupted; step (\d+) is saved", pair.said(number)) for number in (0, 1)]
    assert stopped[0] is not None
    assert stopped[1] is not None
    assert stopped[0][1] == stopped[1][1]
    assert int(stopped[0][1]) == max(checkpoints(folder / "run"))
    with two(folder, "--resume") as pair:
        assert [pair.wait(number) for number in (0, 1)] == [0, 0], pair.said(0)
        assert "finished after 60 steps" in pair.said(0)
        assert "finished after" not in pair.said(1)  # the first one speaks
    return folder / "run"


def checkpoints(run: Path) -> list[int]:
    return [int(path.name.split("-")[1]) for path in (run / "checkpoints").glob("checkpoint-*")]


def check_same(one: Path, other: Path, atol: float) -> None:
    """Two runs with the same finished models and logs."""
    mine, theirs = (load_file(run / "model" / "model.safetensors") for run in (one, other))
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        np.testing.assert_allclose(value, theirs[name], atol=atol, rtol=0, err_msg=name)
    lines = [
        [line for line in read_log(run / "log.jsonl") if line["event"] in ("train", "eval")] for run in (one, other)
    ]
    assert [line["step"] for line in lines[0]] == [line["step"] for line in lines[1]]
    for here, there in zip(*lines, strict=True):
        assert here["loss"] == pytest.approx(there["loss"], abs=atol)
        assert here.get("exact_match") == there.get("exact_match")


def test_who_is_killed_is_told_by_the_other_at_once(killed: tuple[Path, list[str]]):
    _, said = killed
    assert any(line.startswith("encdec-eqx: process 1 of 2 was killed") and "--resume" in line for line in said), said


def test_two_processes_write_what_one_would_bit_for_bit(together: Path, alone: Path):
    check_same(together, alone, atol=0)


def test_a_run_that_two_began_is_ended_by_one(folder: Path, killed: tuple[Path, list[str]], alone: Path, mesh: Any):
    copy, _ = killed
    check_same(one_process(folder, copy.name, mesh, resume=True), alone, atol=0)


def test_no_mesh_gives_the_same(folder: Path, alone: Path):
    check_same(one_process(folder, "no mesh", None), alone, atol=ON_A_MESH)


def test_processes_with_other_settings_are_told_before_the_first_step(folder: Path):
    with two(folder, "--output-dir", str(folder / "other"), second=("--learning-rate", "0.5", "--seed", "3")) as pair:
        statuses = [pair.wait(number) for number in (0, 1)]
        said = [pair.said(number) for number in (0, 1)]
    # each tells it itself, unless the other was quicker to
    assert set(statuses) <= {1, 4}
    for text in said:
        assert re.search(
            r"learning.rate: 0.001 in process 0, 0.5 in process 1, (--)?seed: 0 in process 0, 3 in", text
        ), text
    assert not (folder / "other" / "log.jsonl").exists()
