"""Runs that report their log: to TensorBoard, whose files are read back, and to a service that fails."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboardX import SummaryWriter
from tensorboardX.proto import event_pb2

from encdec_eqx.training import TensorBoardCallback, TrainConfig, WandbCallback
from encdec_eqx.training.reporting import trackers
from reported_runs import SAVED, STEPS, broken, losses, run

proto: Any = event_pb2  # its names are made as it is imported


def _events(folder: Path) -> list[Any]:
    """All events in the order in which they were written: records are a length, its sum, the event, its sum."""
    found = []
    for path in sorted(folder.glob("events.*"), key=lambda path: path.stat().st_mtime_ns):
        content, at = path.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            found.append(proto.Event.FromString(content[at + 12 : at + 12 + length]))
            at += 16 + length
    return found


def _shown(events: list[Any]) -> Iterator[tuple[str, int, Any]]:
    """What TensorBoard shows: a session that begins at a step takes the place of what there was from it on."""
    kept: list[Any] = []
    for event in events:
        if event.session_log.status == proto.SessionLog.START:
            kept = [one for one in kept if one.step < event.step]
        kept.append(event)
    for event in kept:
        for value in event.summary.value:
            yield value.tag, event.step, value


def test_a_run_that_breaks_off_and_goes_on_is_in_tensorboard_once(tmp_path):
    broken(tmp_path / "run", ["tensorboard"])
    result = run(tmp_path / "run", ["tensorboard"], resume=True)
    events = _events(tmp_path / "run" / "tensorboard")
    shown = list(_shown(events))
    for event, wanted in (("train", range(1, STEPS + 1)), ("eval", (SAVED, STEPS))):
        steps = [step for tag, step, _ in shown if tag == f"{event}/loss"]
        assert steps == list(wanted)
        values = {step: value.simple_value for tag, step, value in shown if tag == f"{event}/loss"}
        assert values == pytest.approx(losses(result, event))
    tags = {tag for tag, _, _ in shown}
    assert {"train/learning_rate", "train/grad_norm", "train/tokens_per_second", "eval/exact_match"} <= tags
    texts = {
        (tag.split("/")[0], step): value.tensor.string_val[0].decode() for tag, step, value in shown if "text" in tag
    }
    assert '"learning_rate": 0.01' in texts["settings", 0]
    samples = texts["eval", STEPS].splitlines()
    assert samples[0] == "| source | prediction | reference |"
    assert len(samples) == 2 + 4
    first = result.predictions[0]
    assert samples[2] == f"| {first.source} | {first.text} | {first.references[0]} |"


class Failing(TensorBoardCallback):
    """TensorBoard on a disk that fills up, or that is not there."""

    def __init__(self, at: int):
        super().__init__()
        self.at, self.closed = at, 0

    def _open(self, event, known):
        if self.at == 0:
            raise OSError("no such disk")
        super()._open(event, known)

    def _numbers(self, step, values):
        if step >= self.at:
            raise OSError("the disk is full")
        super()._numbers(step, values)

    def _close(self, ending):
        self.closed += 1
        super()._close(ending)


def test_a_service_that_fails_on_the_way_is_given_up_aloud_and_the_run_goes_on(tmp_path, caplog):
    failing = Failing(at=4)
    result = run(tmp_path / "run", [], callbacks=[failing])
    assert (result.ending, result.step) == ("finished", STEPS)
    told = [one.getMessage() for one in caplog.records if "given up" in one.getMessage()]
    assert told == [
        "tensorboard failed and is given up; the run goes on, and log.jsonl has all of it: OSError: the disk is full"
    ]
    steps = {step for tag, step, _ in _shown(_events(tmp_path / "run" / "tensorboard")) if tag == "train/loss"}
    assert steps == {1, 2, 3}


def test_a_service_that_cannot_be_reached_ends_the_run_before_its_first_step(tmp_path):
    with pytest.raises(trackers.TrackerError, match=r"tensorboard cannot be reported to \(no such disk\).* leave"):
        run(tmp_path / "run", [], callbacks=[Failing(at=0)])
    log = (tmp_path / "run" / "log.jsonl").read_text()
    assert '"event": "train"' not in log


def test_what_is_asked_for_is_checked_first(tmp_path, monkeypatch):
    assert TrainConfig(report_to="tensorboard").report_to == ("tensorboard",)
    with pytest.raises(ValueError, match=r"report_to holds 'tensorbord'; expected some of tensorboard, wandb, mlflow"):
        TrainConfig(report_to=["tensorbord"])
    with pytest.raises(TypeError, match="report_to must be a sequence of names"):
        TrainConfig(report_to=3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="report_to and callbacks both hold 'tensorboard'"):
        run(tmp_path / "run", ["tensorboard"], callbacks=[TensorBoardCallback()])
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"logdir .* is a file; give a folder"):
        TensorBoardCallback(tmp_path / "file")
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"wandb needs wandb, which is not installed: .*\[wandb\]"):
        WandbCallback()
    assert not (tmp_path / "run").exists()


def test_events_are_read_back_as_they_were_written(tmp_path):
    writer = SummaryWriter(str(tmp_path))
    writer.add_scalar("a", 2.0, 7)
    writer.close()
    assert [(tag, step, value.simple_value) for tag, step, value in _shown(_events(tmp_path))] == [("a", 7, 2.0)]
