"""Ctrl-C at moments spread over the whole run of a command: one line, status 130, nothing half written."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from encdec_eqx.cli.main import COMMANDS
from encdec_eqx.text import TextToText
from encdec_eqx.training.resume import checkpoint_files as checkpoints
from models import VOCAB, decoder_config, encoder_config, tiny_pair

LONGEST = 120
JOB = """
[model]
model_name_or_path = "pair"
[data]
train_file = "train.jsonl"
validation_file = "train.jsonl"
[train]
max_steps = 40
eval_steps = 10
logging_steps = 1
max_shapes = 1
"""
HEARING = """
import os, runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
os.write(int(sys.argv.pop(1)), b".")
runpy.run_module("encdec_eqx", run_name="__main__", alter_sys=True)
"""
"""The command, which hears Ctrl-C even if the tests were started in the background, where shells have it ignored.

It says when the interpreter has started: on a busy machine that alone may take as long as a strike waits.
"""
MODEL = {"config.json", "generation_config.json", "model.safetensors"}


@dataclasses.dataclass(frozen=True)
class Command:
    """What is typed, and what may lie in `out` afterwards.

    Attributes:
        words: what stands behind the command's name.
        is_sound: whether a place that the command has written to is as it may be.
    """

    words: tuple[str, ...]
    is_sound: Callable[[Path], bool]


def _of_a_run(output: Path) -> bool:
    """Whole checkpoints, a whole model or none, and nothing that was begun."""
    place = output / "checkpoints"
    for step in checkpoints.steps_in(place) if place.exists() else ():
        checkpoints.verify(checkpoints.place(place, step))
    model = output / "model"
    return (not model.exists() or {path.name for path in model.iterdir()} >= MODEL) and not _begun(output)


def _of_a_demo(output: Path) -> bool:
    return {path.name for path in output.iterdir()} >= {*MODEL, "demo.json"} and not _begun(output)


def _begun(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if path.name != ".lock"]


RUNS = {
    "train": Command(("train", "job.toml", "--resume", "--output-dir", "out"), _of_a_run),
    "doctor": Command(("doctor", "pair", "--data", "train.jsonl"), lambda output: False),
    "generate": Command(("generate", "speller", "hello", "--max-new-tokens", "8"), lambda output: False),
    "demo": Command(("demo", "--steps", "2", "--output", "out"), _of_a_demo),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the commands are given."""
    folder = tmp_path_factory.mktemp("strikes")
    tiny_pair(encoder_config(depth=1), decoder_config(depth=1)).save_pretrained(folder / "pair")
    TextToText.from_pieces("letters", "phonemes", key=jax.random.key(0)).save_pretrained(folder / "speller")
    rows = np.random.default_rng(0).integers(3, VOCAB, (16, 4)).tolist()
    records = [json.dumps({"input_ids": row, "labels": [*row[::-1], 2]}) for row in rows]
    (folder / "train.jsonl").write_text("\n".join(records) + "\n")
    (folder / "job.toml").write_text(JOB)
    (folder / "temporary").mkdir()
    return folder


def _started(command: Command, folder: Path) -> subprocess.Popen:
    """The command's process, once its interpreter has started."""
    cache = jax.config.jax_compilation_cache_dir
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", HEARING, str(writer), *command.words],
        cwd=folder,
        env={**os.environ, "TMPDIR": str(folder / "temporary"), "JAX_COMPILATION_CACHE_DIR": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=(writer,),
    )
    os.close(writer)
    os.read(reader, 1)
    os.close(reader)
    return process


def _strike(command: Command, folder: Path, delay: float) -> bool:
    """Strikes once; whether the command was still at work."""
    before = {path.name for path in folder.iterdir()}
    with _started(command, folder) as process:
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=LONGEST)
    told = f"after {delay:.2f} s: {process.returncode}\n{said}\n{errors}"
    assert process.returncode in (0, 1, signal.SIGINT + 128), told
    assert "Traceback" not in said + errors, told
    assert {path.name for path in folder.iterdir()} <= before | {"out"}, told
    assert not list((folder / "temporary").iterdir()), told
    if (folder / "out").exists():
        assert command.is_sound(folder / "out"), told
    if process.returncode != signal.SIGINT + 128:
        return False
    assert errors.count("encdec-eqx: interrupted") == 1, told
    return True


def _strike_all_over(name: str, folder: Path, strikes: int) -> None:
    """From its first lines of Python to its end, each in its own part of the time that the command takes."""
    command, draw = RUNS[name], random.Random(0)
    with _started(command, folder) as process:
        begun = time.monotonic()
        process.communicate(timeout=LONGEST)
    whole = time.monotonic() - begun
    output = folder / "out"
    if output.exists():
        output.rename(folder / f"undisturbed-{name}-{strikes}")
    at_work = 0
    # before that the first line of the package is not reached
    first = 0.25
    for part in range(strikes):
        at_work += _strike(command, folder, first + (part + draw.random()) * (whole - first) / strikes)
    assert at_work >= strikes // 2


@pytest.mark.parametrize("name", ["train", "generate"])
def test_ctrl_c_is_met_politely_at_any_moment(name: str, folder: Path):
    _strike_all_over(name, folder, strikes=2)


@pytest.mark.parametrize(("name", "strikes"), {"train": 6, "doctor": 5, "generate": 4, "demo": 2}.items())
def test_ctrl_c_is_met_politely_wherever_it_comes(name: str, strikes: int, folder: Path):
    _strike_all_over(name, folder, strikes)


def test_every_command_that_was_struck_is_one():
    assert {command.words[0] for command in RUNS.values()} <= COMMANDS.keys()
