"""Runs that report to Weights & Biases, offline, and to MLflow, into files: what was reported is read back."""

import json
import struct
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from wandb.proto import wandb_internal_pb2

from reported_runs import SAVED, STEPS, broken, losses, run

# wandb leaves folders to the interpreter's end
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")


def test_a_run_that_breaks_off_and_goes_on_is_in_mlflow_once(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    broken(tmp_path / "run", ["mlflow"])
    result = run(tmp_path / "run", ["mlflow"], resume=True)
    client = MlflowClient((tmp_path / "run" / "mlruns").as_uri())
    [experiment] = [one for one in client.search_experiments() if one.name == "encdec-eqx"]
    [found] = client.search_runs([experiment.experiment_id])
    assert (found.info.status, found.info.run_name) == ("FINISHED", "run")
    assert found.data.params["learning_rate"] == "0.01"
    for event, wanted in (("train", range(1, STEPS + 1)), ("eval", (SAVED, STEPS))):
        history = client.get_metric_history(found.info.run_id, f"{event}/loss")
        assert [one.step for one in history] == list(wanted)
        assert {one.step: one.value for one in history} == losses(result, event)
    assert {"train/learning_rate", "eval/exact_match"} <= found.data.metrics.keys()
    samples = sorted((tmp_path / "run" / "mlruns").rglob("samples/step-*.md"))
    assert [path.name for path in samples] == [f"step-{step}.md" for step in (SAVED, STEPS)]
    assert samples[-1].read_text().startswith("| source | prediction | reference |")


proto: Any = wandb_internal_pb2  # its names are made as it is imported
_HEADER, _BLOCK = 7, 2**15


def _records(path: Path) -> list[Any]:
    """LevelDB's log format: blocks of parts, each with a sum, a length and whether it is whole, first or last."""
    content, at, found, parts = path.read_bytes(), _HEADER, [], b""
    while at + _HEADER <= len(content):
        if _BLOCK - at % _BLOCK < _HEADER:
            at += _BLOCK - at % _BLOCK
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)
        parts += content[at + _HEADER : at + _HEADER + length]
        at += _HEADER + length
        if kind in (1, 4):
            found.append(proto.Record.FromString(parts))
            parts = b""
    return found


def test_sessions_of_a_run_have_one_id_in_wandb_and_all_of_its_steps(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    broken(tmp_path / "run", ["wandb"])
    time.sleep(1.1)  # wandb names a session's folder by the second
    result = run(tmp_path / "run", ["wandb"], resume=True)
    files = sorted(
        (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime
    )
    records = [_records(path) for path in files]
    runs = [record.run for session in records for record in session if record.WhichOneof("record_type") == "run"]
    assert len({run.run_id for run in runs}) == 1
    assert runs[0].project == "encdec-eqx"
    assert "learning_rate" in {item.key for item in runs[0].config.update}
    exits = [record.exit.exit_code for session in records for record in session if record.HasField("exit")]
    assert exits == [1, 0]
    found: dict[str, dict[int, float]] = {"train": {}, "eval": {}}
    tables = 0
    for record in (record for session in records for record in session if record.HasField("history")):
        values = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
        step = int(values["_step"])
        for event, losses_of in found.items():
            if f"{event}/loss" in values:
                losses_of[step] = json.loads(values[f"{event}/loss"])
        tables += any(key.startswith("eval/samples") for key in values)
    assert found == {event: losses(result, event) for event in found}
    assert tables >= 2
