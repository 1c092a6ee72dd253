"""Damaged folders of a run: the newest checkpoint that is as it was written comes back bit for bit, or a refusal.

Which checkpoints are as they were written is told by comparing bytes with a copy. Knows no model.
"""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from judging import attempt
from mutations import any_value, change_bytes, change_json, encoded, written

from encdec_eqx.training import TrainState
from encdec_eqx.training.reporting.log import RunLog
from encdec_eqx.training.resume import NoUsableCheckpointError, RunCheckpoints

Tell = Callable[[str], None]
STEPS = (3, 7, 12)


class _Weights(eqx.Module):
    weight: jax.Array


def _state(step: int) -> TrainState:
    """A state of which every number tells the step."""
    weight = jnp.arange(6, dtype=jnp.float32) + 100 * step
    count = {"count": jnp.asarray(step, jnp.int32)}
    return TrainState(_Weights(weight), _Weights(jnp.ones(2)), count, jnp.asarray(step, jnp.int32))


class Runs:
    """The folder of checkpoints."""

    def __init__(self, folder: Path):
        self.folder, self.whole = folder, folder / "whole"
        with RunCheckpoints(self.whole, save_total_limit=9) as checkpoints:
            for step in STEPS:
                checkpoints.save(step, _state(step), {"batch": step})
        self.content = {step: _content(self.whole / f"checkpoint-{step}") for step in STEPS}

    def __call__(self, rng: random.Random, tell: Tell) -> tuple[str, list[str]]:
        """One mutation."""
        place = self.folder / "run"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self.whole, place, ignore=lambda _, names: [name for name in names if name.startswith(".")])
        for step in rng.sample(STEPS, rng.choice([0, 1, 2, 2])):
            shutil.rmtree(place / f"checkpoint-{step}")
        told = "; ".join(_change_folder(rng, place) for _ in range(rng.choice([1, 1, 2, 3])))
        tell(told)
        whole = [step for step in STEPS if _content(place / f"checkpoint-{step}") == self.content[step]]

        def restore() -> Any:
            with RunCheckpoints(place, save_total_limit=9) as checkpoints:
                return checkpoints.restore_latest(_state(0))

        result = attempt(restore, names=[str(place)], also=(NoUsableCheckpointError,))
        restored, faults = result.value, result.faults
        if restored is None:
            if whole:
                faults.append(f"did not resume although step {whole[-1]} is as it was written: {result.error}")
            elif result.error is None and any((place / f"checkpoint-{step}").is_dir() for step in STEPS):
                faults.append("said that there is no checkpoint")
            return "refused", faults
        expected = _state(restored.step)
        same = jax.tree.map(lambda a, b: np.asarray(a).tobytes() == np.asarray(b).tobytes(), restored.state, expected)
        if (
            restored.step not in STEPS
            or not all(jax.tree.leaves(same))
            or restored.position != {"batch": restored.step}
        ):
            faults.append(f"resumed at {restored.step} with other bits than those that were saved")
        if whole and restored.step < whole[-1]:
            faults.append(f"resumed at {restored.step} although {whole[-1]} is as it was written")
        if rng.random() < 0.7:
            return "resumed", faults
        again = attempt(restore, names=[str(place)], also=(NoUsableCheckpointError,))
        if again.value is None or again.value.step != restored.step:
            faults.append(f"did not resume a second time: {again.error}")
        return "resumed", faults


def _content(folder: Path) -> dict[str, bytes]:
    """The visible files of a folder."""
    if not folder.is_dir():
        return {}
    files = [path for path in sorted(folder.rglob("*")) if not path.name.startswith(".") and path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def _change_folder(rng: random.Random, place: Path) -> str:
    """Spoil a file of a checkpoint, or leave something among the checkpoints."""
    existing = [place / f"checkpoint-{step}" for step in STEPS if (place / f"checkpoint-{step}").is_dir()]
    if not existing or rng.random() < 0.5:
        return _stray(rng, place)
    chosen = rng.choice([*existing, existing[-1]])
    files = [path for path in sorted(chosen.rglob("*")) if path.is_file() and not path.is_symlink()]
    what = rng.choice(["bytes", "bytes", "json", "drop", "add", "rename", "link", "empty", "folder", "copy"])
    if not files:
        what = "rename"
    file = rng.choice(files) if files else chosen
    told = f"{what} {file.relative_to(place)}"
    if what == "bytes":
        data, more = change_bytes(rng, file.read_bytes())
        file.write_bytes(data)
        told += f": {more}"
    elif what == "json" and (chosen / "run.json").is_file():
        data, more = change_json(rng, (chosen / "run.json").read_text(errors="replace") or "{}")
        (chosen / "run.json").write_bytes(data)
        told += f": {more:.100}"
    elif what == "drop":
        file.unlink()
    elif what == "add":
        (file.parent / rng.choice(["more", ".hidden", "SHA256SUMS.txt", "a b", "é"])).write_bytes(b"more")
    elif what == "rename":
        names = [
            "checkpoint-99",
            "checkpoint-007",
            "checkpoint-12.damaged",
            "checkpoint--1",
            "checkpoint-",
            "x",
            ".unfinished-x",
        ]
        target = place / rng.choice([*names, f"checkpoint-{10**30}", "checkpoint-٣", "Checkpoint-12"])
        if not os.path.lexists(target):
            chosen.rename(target)
        told += f" to {target.name!r}"
    elif what == "link":
        file.unlink()
        file.symlink_to(rng.choice(["nowhere", file.name, "/dev/null", "/"]))
    elif what == "folder":
        file.unlink()
        file.mkdir()
    elif what == "copy" and not os.path.lexists(place / "checkpoint-20"):
        shutil.copytree(chosen, place / "checkpoint-20", symlinks=True)
    else:
        file.write_bytes(b"")
    return told


def _stray(rng: random.Random, place: Path) -> str:
    """Something among the checkpoints that is none."""
    names = [
        "checkpoint-007",
        "checkpoint-20",
        "checkpoint-٢",
        "checkpoint-1e3",
        "checkpoint-5.damaged",
        "checkpoint-2 (copy)",
    ]
    names += [
        ".unfinished-checkpoint-4",
        ".discarded-checkpoint-4",
        ".DS_Store",
        "notes.txt",
        "checkpoint",
        "best",
        "0",
    ]
    names += ["\x1b[31m", "a\nb", f"checkpoint-{'9' * 200}", "é" * 100, "checkpoint-99999999999999999999"]
    path = place / rng.choice(names)
    what = rng.choice(["file", "folder", "link", "loop", "fifo", "full folder"])
    if os.path.lexists(path):
        return f"{path.name!r} is there"
    match what:
        case "file":
            path.write_bytes(rng.randbytes(9))
        case "folder":
            path.mkdir()
        case "link":
            path.symlink_to(rng.choice(["nowhere", "/dev/null", "checkpoint-3", "."]))
        case "loop":
            path.symlink_to(path.name)
        case "fifo":
            os.mkfifo(path)
        case "full folder":
            path.mkdir()
            (path / "SHA256SUMS").write_text("0" * 64 + "  run.json\n")
            (path / "run.json").write_text('{"step": 4}')
    return f"a {what} {path.name!r}"


class Logs:
    """`log.jsonl`: what can be read up to the step that is gone on from, and not a line more."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __call__(self, rng: random.Random, tell: Tell) -> tuple[str, list[str]]:
        """One mutation."""
        steps = sorted(rng.choices(range(20), k=rng.choice([1, 5, 12])))
        lines = [
            json.dumps({"event": "step", "step": step, "loss": step / 2, "text": rng.choice(["a", "é", ""])})
            for step in steps
        ]
        data = b"".join(line.encode() + b"\n" for line in lines)
        if rng.random() < 0.3:
            lines.insert(rng.randrange(len(lines) + 1), written(any_value(rng)))
            data, what = b"".join(encoded(line) + b"\n" for line in lines), "a foreign line"
        elif rng.random() < 0.3:
            data, what = data + b"\0" * rng.choice([1, 4_096]), "zeros behind"
        else:
            data, what = change_bytes(rng, data)
        start = rng.randrange(20)
        tell(f"{what}, from step {start}")
        path = self.folder / "log.jsonl"
        path.write_bytes(data)

        def reopen() -> tuple[bytes, tuple[str, ...]]:
            with RunLog(path, resume_from=start) as log:
                log.write("step", step=start + 1)
                return path.read_bytes(), log.notes

        result = attempt(reopen, names=[str(path)])
        if result.value is None:
            return "refused", [*result.faults, f"a log was refused: {result.error}"]
        content, notes = result.value
        expected, cut = _naive_log(data, start)
        faults = result.faults
        if not content.startswith(expected) or content.count(b"\n") != expected.count(b"\n") + 1:
            faults.append(f"kept {content[:300]!r} of {data[:300]!r}; expected {expected[:300]!r}")
        if bool(notes) != cut:
            faults.append(f"said {notes} of a log that {'was' if cut else 'was not'} cut: {data[-200:]!r}")
        return ("refused" if cut else "kept"), faults


def _naive_log(data: bytes, start: int) -> tuple[bytes, bool]:
    """The lines up to a step, as far as they can be read, and whether the rest was cut."""
    kept, lines = b"", data.split(b"\n")
    for line in lines[:-1]:
        try:
            record = json.loads(line.decode())
        except (ValueError, RecursionError):
            return kept, True
        if not isinstance(record, dict) or not isinstance(record.get("event"), str) or b"\0" in line:
            return kept, True
        if type(step := record.get("step", -1)) is not int:
            return kept, True
        if step <= start:
            kept += line + b"\n"
    return kept, bool(lines[-1])


KINDS = {"runs": Runs, "logs": Logs}
