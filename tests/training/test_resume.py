"""`encdec-eqx train` killed again and again ends with the very bits of a run that nobody disturbed.

Every run here is a process of its own, ended by real signals at moments drawn from a seed: SIGKILL before the first
checkpoint, between two and in the middle of writing one; SIGTERM; and a newest checkpoint that was damaged meanwhile.
"""

import contextlib
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from encdec_eqx.training.reporting.log import read_log
from encdec_eqx.training.resume import checkpoint_files as files
from encdec_eqx.training.resume.stored_arrays import StoredArrays
from models import VOCAB, decoder_config, encoder_config, tiny_pair

STEPS = 24
INTERRUPTED = 3

JOB = f"""
[model]
model_name_or_path = "pair"
[data]
train_file = "train.jsonl"
validation_file = "dev.jsonl"
[train]
max_steps = {STEPS}
save_steps = 3
eval_steps = 12
logging_steps = 1
learning_rate = 1e-2
max_shapes = 1
save_total_limit = 2
"""

STREAMED_JOB = JOB.replace('train_file = "train.jsonl"', 'train_file = ["shard-*.jsonl"]\nstreaming = true')

# Imports everything once, and gives each run a process of its own by forking, before jax has started anything.
NURSERY = """
import os, signal, sys
import jax
jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
import matplotlib.backends.backend_agg, optax, tyro
import encdec_eqx.training.fitting
from encdec_eqx.hf import save
from encdec_eqx.cli import main

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        os.dup2(2, 1)  # what it prints goes where its messages go
        if line.startswith("killed-while-saving "):
            save._move_into_place = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        status = main(line.removeprefix("killed-while-saving ").split())
        sys.stdout.flush()
        os._exit(status)
    print(child, flush=True)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


@dataclasses.dataclass
class _Runs:
    """Starts runs, one at a time, in a folder that holds a job."""

    nursery: subprocess.Popen
    folder: Path

    @contextlib.contextmanager
    def running(self, output: Path, how: str = "", job: str = "job.toml") -> Iterator["_Run"]:
        assert self.nursery.stdin is not None
        self.nursery.stdin.write(f"{how}train {job} --resume --output-dir {output}\n")
        self.nursery.stdin.flush()
        run = _Run(output, int(self._answer()), None)
        yield run
        run.status = int(self._answer())

    def to_the_end(self, output: Path, job: str = "job.toml") -> None:
        with self.running(output, job=job) as run:
            pass
        assert run.status == 0, self.messages()

    def messages(self) -> str:
        return (self.folder / "messages").read_text()

    def _answer(self) -> str:
        assert self.nursery.stdout is not None
        answer = self.nursery.stdout.readline()
        assert answer, self.messages()
        return answer


@dataclasses.dataclass
class _Run:
    """One process."""

    output: Path
    process: int
    status: int | None

    @property
    def logged(self) -> int:
        """The last step in the log."""
        path = self.output / "log.jsonl"
        return max((line["step"] for line in read_log(path)), default=0) if path.exists() else 0

    def saving(self) -> list[int]:
        """The steps of checkpoints that are being written."""
        return [int(path.name.rsplit("-", 1)[1]) for path in (self.output / "checkpoints").glob(".unfinished-*")]

    def strike(self, number: signal.Signals, when: Callable[["_Run"], bool], delay: float = 0.0) -> None:
        """Sends the signal as soon as the time has come."""
        last = time.monotonic() + 120
        while not when(self):
            os.kill(self.process, 0)  # raises if it has ended before
            assert time.monotonic() < last
            time.sleep(0.0005)
        time.sleep(delay)
        os.kill(self.process, number)


def _records(number: int, seed: int) -> str:
    """Targets are their sources backwards."""
    rng = np.random.default_rng(seed)
    sources = [rng.integers(3, VOCAB, rng.integers(2, 7)).tolist() for _ in range(number)]
    return "".join(json.dumps({"input_ids": ids, "labels": [*ids[::-1], 2]}) + "\n" for ids in sources)


def _dropping(config: Any) -> Any:
    """With dropout, so that the PRNG key matters."""
    embeddings = dataclasses.replace(config.embeddings, dropout=0.1)
    attention = dataclasses.replace(config.attention, dropout=0.1)
    return config.replace(embeddings=embeddings, attention=attention, dropout=0.1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Runs]:
    folder = tmp_path_factory.mktemp("job")
    model = tiny_pair(_dropping(encoder_config(depth=1)), _dropping(decoder_config(depth=1)))
    model.save_pretrained(folder / "pair")
    (folder / "train.jsonl").write_text(_records(40, seed=0))
    (folder / "dev.jsonl").write_text(_records(4, seed=1))
    (folder / "job.toml").write_text(JOB)
    for at in range(2):
        (folder / f"shard-{at}.jsonl").write_text(_records(40, seed=at))
    (folder / "streamed.toml").write_text(STREAMED_JOB)
    with (folder / "messages").open("w") as messages:
        nursery = subprocess.Popen(
            [sys.executable, "-c", NURSERY, str(jax.config.jax_compilation_cache_dir)],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=messages,
            text=True,
        )
        with nursery:
            yield _Runs(nursery, folder)


@pytest.fixture(scope="module")
def undisturbed(runs: _Runs) -> Path:
    """The folder of a run that nobody interrupted."""
    output = runs.folder / "undisturbed"
    runs.to_the_end(output)
    return output


def _log(output: Path) -> list[dict[str, Any]]:
    """The log without what depends on the clock, and without the notes that tell of the interruptions."""
    lines = [line for line in read_log(output / "log.jsonl") if line["event"] != "note"]
    return [{name: value for name, value in line.items() if name != "tokens_per_second"} for line in lines]


def _last_state(output: Path) -> Mapping[str, np.ndarray]:
    path = files.place(output / "checkpoints", STEPS)
    files.verify(path)
    return StoredArrays(path / "state")


def _record(output: Path) -> dict[str, Any]:
    """What the last checkpoint holds beside arrays: position, metrics, what the run stands on."""
    return json.loads((files.place(output / "checkpoints", STEPS) / "run.json").read_text())


def _check_same(output: Path, undisturbed: Path) -> None:
    """Log, parameters, optimiser's state, everything else that was saved, and the finished model: bit for bit."""
    assert _log(output) == _log(undisturbed)
    assert [line["step"] for line in _log(output) if line["event"] == "train"] == list(range(1, STEPS + 1))
    ours, theirs = _last_state(output), _last_state(undisturbed)
    assert sorted(ours) == sorted(theirs)
    assert sum(name.startswith("opt_state") for name in ours) > sum(name.startswith("params") for name in ours) > 10
    for name, array in ours.items():
        assert array.dtype == theirs[name].dtype
        assert array.tobytes() == theirs[name].tobytes(), name
    records = [
        json.loads((files.place(o / "checkpoints", STEPS) / "run.json").read_text()) for o in (output, undisturbed)
    ]
    assert records[0] == records[1]
    names = sorted(path.name for path in (undisturbed / "model").iterdir())
    assert "model.safetensors" in names
    assert sorted(path.name for path in (output / "model").iterdir()) == names
    for name in names:
        assert (output / "model" / name).read_bytes() == (undisturbed / "model" / name).read_bytes(), name


def test_killed_at_any_moment_and_resumed_a_run_ends_with_the_same_bits(runs: _Runs, undisturbed: Path):
    output = runs.folder / "killed"
    moments = random.Random(0)
    at = [moments.randrange(low, low + 5) for low in (4, 10, 15)]
    strikes: list[tuple[Callable[[_Run], bool], float]] = [
        (lambda run: (output / "config.json").exists(), moments.uniform(0, 1.0)),
        # a save of this small model takes milliseconds: one strike comes at once, so that it falls into the middle
        (lambda run: any(step >= at[0] for step in run.saving()), 0.0),
        (lambda run: run.logged >= at[1], moments.uniform(0, 0.03)),
        (lambda run: any(step >= at[2] for step in run.saving()), moments.uniform(0, 0.003)),
    ]
    in_the_middle_of_a_save, reached = 0, []
    for when, delay in strikes:
        with runs.running(output) as run:
            run.strike(signal.SIGKILL, when, delay)
        assert run.status == -signal.SIGKILL, runs.messages()
        in_the_middle_of_a_save += bool(run.saving())
        checkpoints = output / "checkpoints"
        steps = files.steps_in(checkpoints) if checkpoints.exists() else []
        for step in steps:  # whatever can be seen is whole
            files.verify(files.place(checkpoints, step))
        reached.append(max(steps, default=0))
    assert in_the_middle_of_a_save >= 1
    assert reached == sorted(reached)
    assert reached[1] > 0
    assert not (output / "model").exists()
    runs.to_the_end(output)
    _check_same(output, undisturbed)


def test_killed_in_the_middle_of_a_streamed_epoch_it_ends_with_the_same_bits(runs: _Runs):
    undisturbed, output = runs.folder / "streamed", runs.folder / "streamed-and-killed"
    runs.to_the_end(undisturbed, "streamed.toml")
    with runs.running(output, job="streamed.toml") as run:
        run.strike(signal.SIGKILL, lambda run: run.logged >= 14)  # of 10 steps an epoch
    assert run.status == -signal.SIGKILL, runs.messages()
    runs.to_the_end(output, "streamed.toml")
    _check_same(output, undisturbed)


def test_sigterm_saves_and_a_damaged_newest_gives_way_to_the_one_before(runs: _Runs, undisturbed: Path):
    output = runs.folder / "stopped"
    with runs.running(output) as run:
        run.strike(signal.SIGTERM, lambda run: run.logged >= 7)
    assert run.status == INTERRUPTED, runs.messages()
    steps = files.steps_in(output / "checkpoints")
    assert steps[-1] == run.logged >= 7
    assert f"interrupted; step {steps[-1]} is saved, and --resume goes on" in runs.messages()
    assert not (output / "model").exists()
    saved = files.place(output / "checkpoints", steps[-1])
    largest = max((path for path in saved.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    runs.to_the_end(output)
    assert f"the checkpoint of step {steps[-1]} is damaged" in runs.messages()
    assert f"step {steps[-2]} is used instead" in runs.messages()
    _check_same(output, undisturbed)


def test_killed_in_the_final_save_it_leaves_nothing_behind_once_it_is_resumed(runs: _Runs, undisturbed: Path):
    output = runs.folder / "unsaved"
    for _ in range(2):
        with runs.running(output, "killed-while-saving ") as run:
            pass
        assert run.status == -signal.SIGKILL, runs.messages()
        (left,) = [path.name for path in output.iterdir() if path.name.startswith(".")]
        assert left.startswith(".model.")
    runs.to_the_end(output)
    _check_same(output, undisturbed)
    assert sorted(path.name for path in output.iterdir()) == sorted(path.name for path in undisturbed.iterdir())


def test_a_spoiled_log_and_stray_entries_are_named_and_do_not_stop_a_resumed_run(runs: _Runs, undisturbed: Path):
    output = runs.folder / "spoiled"
    with runs.running(output) as run:
        run.strike(signal.SIGKILL, lambda run: run.logged >= 9)
    step = files.steps_in(output / "checkpoints")[-1]
    content = (output / "log.jsonl").read_bytes()
    lines = content.splitlines(keepends=True)
    (output / "log.jsonl").write_bytes(b"".join(lines[:1]) + b"\0" * (len(content) - sum(map(len, lines[:1]))))
    (output / "checkpoints" / "checkpoint-007").mkdir()
    (output / "checkpoints" / "checkpoint-24").symlink_to("nowhere")  # where the last one belongs
    runs.to_the_end(output)
    assert "line 2 of log.jsonl holds NUL bytes: it is removed, and the run goes on." in runs.messages()
    assert f"the log lacks {step - 1} of its {step} lines of the steps up to {step}" in runs.messages()
    assert "'checkpoint-007', 'checkpoint-24' (a link to nothing)" in runs.messages()
    notes = [line["text"] for line in read_log(output / "log.jsonl") if line["event"] == "note"]
    assert len(notes) == 4  # and the one that it was resumed
    steps = [line["step"] for line in _log(output) if line["event"] == "train"]
    assert steps == [1, *range(step + 1, STEPS + 1)]
    ours, theirs = _last_state(output), _last_state(undisturbed)
    assert all(array.tobytes() == theirs[name].tobytes() for name, array in ours.items())
    assert (output / "checkpoints" / "checkpoint-24.stray").is_symlink()
