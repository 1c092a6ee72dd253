"""Checkpoints of a run: bit for bit, whole or not there, what is kept, damage of every kind, other runs, full disks."""

import errno
import json
import logging
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

from encdec_eqx import FeedForwardConfig
from encdec_eqx.training import TrainState, init_train_state, make_train_step
from encdec_eqx.training.resume import (
    CheckpointNotWrittenError,
    NoUsableCheckpointError,
    RunCheckpoints,
)
from encdec_eqx.training.resume import checkpoint_files as files
from encdec_eqx.training.resume import stored_arrays as arrays
from models import decoder_config, encoder_config, random_ids, tiny_pair

OPTIMIZER = optax.adamw(1e-2)
POSITION = {"epoch": 1, "batch": 3, "order": [2, 0, 1]}


class _Tiny(eqx.Module):
    """Stands for a model: checkpoints know leaves only."""

    weight: jax.Array
    other: Any = None


def _tiny(step: int, value: float = 0.0, **leaves: Any) -> TrainState:
    """A state of few leaves, all of them told by `value`."""
    params = _Tiny(jnp.full((3, 2), value, jnp.float32), leaves or None)
    return TrainState(params, _Tiny(jnp.ones(4)), {"count": jnp.asarray(step)}, jnp.asarray(step, jnp.int32))


def _value(restored: Any) -> float:
    return float(restored.state.params.weight[0, 0])


def _pair_state(optimizer: Any = OPTIMIZER, trained: str = "decoder", base: int = 0, **decoder: Any) -> TrainState:
    """The state of a pair of which one piece is trained."""
    model = tiny_pair(encoder_config(depth=1), decoder_config(depth=1, **decoder))
    model = eqx.tree_at(lambda m: m.encoder.embeddings.tokens.weight, model, replace_fn=lambda leaf: leaf + base)
    spec = jax.tree.map(lambda _: False, model)
    spec = eqx.tree_at(lambda m: getattr(m, trained), spec, jax.tree.map(lambda _: True, getattr(model, trained)))
    return init_train_state(model, optimizer, trainable=spec)


def _host(tree: Any) -> list[np.ndarray]:
    return [np.array(leaf) for leaf in jax.tree.leaves(tree)]


def _same(one: Any, other: Any) -> bool:
    pairs = zip(_host(one), _host(other), strict=True)
    return all(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in pairs)


def _python(code: str, *arguments: Any) -> str:
    """What a fresh interpreter prints, warnings being errors; it may print nothing else."""
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.strip()


def test_what_was_saved_comes_back_bit_for_bit_and_the_next_step_is_the_same(tmp_path: Path):
    step = make_train_step(OPTIMIZER)
    batch = {"input_ids": random_ids(0, 2, 4), "labels": random_ids(1, 2, 3)}
    state = step(_pair_state(), batch, None)[0]
    before = _host((state.params, state.opt_state, state.step))
    key = jax.random.key(5)
    with RunCheckpoints(tmp_path) as checkpoints:
        assert checkpoints.restore_latest(_pair_state()) is None
        checkpoints.save(1, state, POSITION, {"loss": 2.5}, key=key)
        expected, _ = step(state, batch, None)  # gives the saved state's buffers away while it is being written
        restored = checkpoints.restore_latest(_pair_state())
    assert restored is not None
    assert _same((restored.state.params, restored.state.opt_state, restored.state.step), before)
    assert (restored.step, restored.position, restored.metrics, restored.notes) == (1, POSITION, {"loss": 2.5}, ())
    assert restored.key is not None and restored.key.dtype == key.dtype
    assert _same(jax.random.key_data(restored.key), jax.random.key_data(key))
    again, _ = step(restored.state, batch, None)
    assert _same((again.params, again.opt_state), (expected.params, expected.opt_state))
    assert jax.tree.structure(restored.state) == jax.tree.structure(expected)


def test_a_save_leaves_the_buffers_to_the_next_step(tmp_path: Path):
    """A copy by `np.asarray` would hold on to them, and the step would have to allocate others."""
    bump = jax.jit(lambda leaf: leaf + 1, donate_argnums=0)
    state = _tiny(1)
    with RunCheckpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
        bump(state.params.weight)
    assert state.params.weight.is_deleted()


def test_every_kind_of_leaf_comes_back(tmp_path: Path):
    rng = np.random.default_rng(0)
    leaves: dict[str, Any] = {
        "half": jnp.asarray(rng.standard_normal((2, 3)), ml_dtypes.bfloat16),
        "nothing": jnp.zeros((0, 4)),
        "flag": jnp.asarray([True, False]),
        "key": jax.random.key(3),
        "keys": jax.random.split(jax.random.key(4, impl="rbg"), 2),
        "not finite": jnp.asarray([np.nan, np.inf, -0.0], jnp.float32),
    }
    blank = jax.tree.map(lambda leaf: leaf if "key" in str(leaf.dtype) else jnp.zeros_like(leaf), leaves)
    with RunCheckpoints(tmp_path) as checkpoints:
        checkpoints.save(1, _tiny(1, **leaves), {})
        restored = checkpoints.restore_latest(_tiny(0, **{**blank, "key": jax.random.key(0)}))
    assert restored is not None
    back = restored.state.params.other
    for name, leaf in leaves.items():
        assert back[name].dtype == leaf.dtype
        raw = [jax.random.key_data(x) if name.startswith("key") else x for x in (back[name], leaf)]
        assert _same(*raw), name


def test_arrays_return_to_the_devices_they_are_spread_over(tmp_path: Path):
    code = """
        import sys
        import jax, jax.numpy as jnp, numpy as np, equinox as eqx
        jax.config.update("jax_num_cpu_devices", 2)
        from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
        from encdec_eqx.training import TrainState
        from encdec_eqx.training.resume import RunCheckpoints

        class Model(eqx.Module):
            split: jax.Array
            copied: jax.Array
            free: jax.Array

        mesh = Mesh(np.array(jax.devices()), ("data",))
        def state(value):
            rows = jnp.arange(8.0).reshape(4, 2) + value
            placed = [jax.device_put(rows, NamedSharding(mesh, spec)) for spec in (P("data"), P())]
            return TrainState(Model(*placed, rows), Model(None, None, None), (), jnp.asarray(1, jnp.int32))
        with RunCheckpoints(sys.argv[1]) as checkpoints:
            checkpoints.save(1, state(0.5), {})
            back = checkpoints.restore_latest(state(0.0)).state.params
        expected = state(0.5).params
        for name in ("split", "copied", "free"):
            one, other = getattr(back, name), getattr(expected, name)
            assert np.array_equal(one, other) and one.sharding == other.sharding, name
            assert one.committed == other.committed, name
        print(len(back.split.addressable_shards))
    """
    assert _python(code, tmp_path) == "2"


def test_the_last_few_and_the_best_are_kept(tmp_path: Path):
    losses = {1: 3.0, 2: 1.0, 3: 1.0, 4: float("nan"), 5: 2.0, 6: None, 7: 4.0}
    with RunCheckpoints(tmp_path, save_total_limit=2, best_metric="loss") as checkpoints:
        for step, loss in losses.items():
            checkpoints.save(step, _tiny(step, value=step), {}, None if loss is None else {"loss": loss, "wer": 50})
            checkpoints.wait()
            newest = [s for s in (step - 1, step) if s > 0]
            best = min(step, 3)  # of equals the later
            assert checkpoints.steps() == sorted({*newest, best})
            assert checkpoints.best_step() == best
        latest, best = checkpoints.restore_latest(_tiny(0)), checkpoints.restore_best(_tiny(0))
    assert latest is not None and best is not None
    assert (latest.step, _value(latest), best.step, _value(best)) == (7, 7.0, 3, 3.0)


def test_of_equals_the_lower_loss_is_best(tmp_path: Path):
    losses = {1: 0.5, 2: 0.3, 3: 0.4}
    with RunCheckpoints(tmp_path, best_metric="exact_match") as checkpoints:
        for step, loss in losses.items():
            checkpoints.save(step, _tiny(step, value=step), {}, {"loss": loss, "exact_match": 50.0})
        checkpoints.wait()
        assert checkpoints.best_step() == 2


@pytest.mark.parametrize(
    ("metric", "greater", "best"), [("bleu", None, 2), ("wer", None, 1), ("loss", None, 1), ("mine", True, 2)]
)
def test_whether_greater_is_better_follows_from_the_name_or_is_said(
    tmp_path: Path, metric: str, greater: bool | None, best: int
):
    with RunCheckpoints(tmp_path, best_metric=metric, greater_is_better=greater) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, _tiny(step), {}, {metric: 10.0 * step})
        checkpoints.wait()
        assert checkpoints.best_step() == best


def test_without_a_metric_there_is_no_best(tmp_path: Path):
    with RunCheckpoints(tmp_path) as checkpoints:
        checkpoints.save(1, _tiny(1), {}, {"loss": 1.0})
        assert checkpoints.restore_best(_tiny(0)) is None


def test_a_later_object_goes_on_with_the_folder(tmp_path: Path):
    """What is best is known from the files, not from memory."""
    with RunCheckpoints(tmp_path, save_total_limit=1, best_metric="loss") as checkpoints:
        checkpoints.save(1, _tiny(1), {}, {"loss": 1.0})
    with RunCheckpoints(tmp_path, save_total_limit=1, best_metric="loss") as checkpoints:
        checkpoints.save(2, _tiny(2), {}, {"loss": 2.0})
        checkpoints.save(3, _tiny(3), {}, {"loss": 3.0})
        checkpoints.wait()
        assert checkpoints.steps() == [1, 3]


def test_a_step_saved_again_replaces_the_first(tmp_path: Path):
    with RunCheckpoints(tmp_path) as checkpoints:
        checkpoints.save(1, _tiny(1, value=1.0), {"first": True})
        checkpoints.save(1, _tiny(1, value=2.0), {"first": False})
        restored = checkpoints.restore_latest(_tiny(0))
    assert restored is not None
    assert (_value(restored), restored.position) == (2.0, {"first": False})


def _flip(path: Path, at: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(at * (len(content) - 1))] ^= 0x20
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "emptied": lambda path: path.write_bytes(b""),
    "truncated": lambda path: os.truncate(path, path.stat().st_size * 2 // 3),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\n"),
    "first byte": lambda path: _flip(path, 0.0),
    "middle byte": lambda path: _flip(path, 0.5),
    "last byte": lambda path: _flip(path, 1.0),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_of_any_file_is_noticed(tmp_path: Path, kind: str):
    with RunCheckpoints(tmp_path / "run") as checkpoints:
        checkpoints.save(1, _tiny(1), POSITION)
    whole = files.place(tmp_path / "run", 1)
    files.verify(whole)
    names = [path.relative_to(whole) for path in whole.rglob("*") if path.is_file()]
    assert sorted(map(str, names)) == [files.SUMS, "run.json", f"state/{arrays.ARRAYS}"]
    for number, name in enumerate(names):
        copy = tmp_path / str(number)
        shutil.copytree(whole, copy)
        DAMAGE[kind](copy / name)
        if (kind, name.name) == ("longer", files.SUMS):
            continue  # an empty line more in the list of digests changes nothing that it says
        with pytest.raises(files.DamagedCheckpointError):
            files.verify(copy)


def test_a_file_that_nobody_wrote_is_noticed_unless_it_is_hidden(tmp_path: Path):
    with RunCheckpoints(tmp_path) as checkpoints:
        checkpoints.save(1, _tiny(1), {})
    (files.place(tmp_path, 1) / ".DS_Store").write_text("a desktop's")
    files.verify(files.place(tmp_path, 1))
    (files.place(tmp_path, 1) / "state" / "more").write_text("?")
    with pytest.raises(files.DamagedCheckpointError, match="not listed"):
        files.verify(files.place(tmp_path, 1))


def _empty(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()


@pytest.mark.parametrize(
    "damage",
    [_empty, lambda path: _flip(path / "run.json", 0.5), lambda path: shutil.rmtree(path / "state")],
    ids=["empty", "flipped", "no arrays"],
)
def test_a_damaged_newest_falls_back_to_the_one_before_and_says_so(
    tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
):
    with RunCheckpoints(tmp_path) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, _tiny(step, value=step), {})
        checkpoints.wait()
        damage(files.place(tmp_path, 3))
        restored = checkpoints.restore_latest(_tiny(0))
        assert restored is not None
        assert (restored.step, _value(restored)) == (2, 2.0)
        assert len(restored.notes) == 1
        for words in ("step 3 is damaged", "checkpoint-3.damaged", "step 2 is used"):
            assert words in restored.notes[0]
        assert [record.getMessage() for record in caplog.records] == list(restored.notes)
        assert checkpoints.steps() == [1, 2]
        checkpoints.save(3, _tiny(3, value=3.5), {})
        again = checkpoints.restore_latest(_tiny(0))
    assert again is not None
    assert (_value(again), again.notes) == (3.5, ())


def test_if_all_are_damaged_that_is_an_error_and_nothing_is_changed(tmp_path: Path):
    with RunCheckpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, _tiny(step), {})
        checkpoints.wait()
        for step in (1, 2):
            _flip(files.place(tmp_path, step) / "run.json", 0.5)
        with pytest.raises(NoUsableCheckpointError, match=r"step 2 is damaged .*run\.json.*step 1 is damaged"):
            checkpoints.restore_latest(_tiny(0))
        assert checkpoints.steps() == [1, 2]


def test_a_damaged_best_gives_way_to_the_next_best(tmp_path: Path):
    with RunCheckpoints(tmp_path, best_metric="loss") as checkpoints:
        for step, loss in ((1, 2.0), (2, 1.0), (3, 3.0)):
            checkpoints.save(step, _tiny(step), {}, {"loss": loss})
        checkpoints.wait()
        (files.place(tmp_path, 2) / "state" / arrays.ARRAYS).unlink()
        restored = checkpoints.restore_best(_tiny(0))
    assert restored is not None
    assert (restored.step, len(restored.notes)) == (1, 1)


OTHERS: dict[str, tuple[dict[str, Any], dict[str, Any], list[str]]] = {
    "the base model": ({"base": 1}, {}, ["frozen array encoder.embeddings.tokens.weight: float32[53,16] "]),
    "the architecture": (
        {"feed_forward": FeedForwardConfig(size=20, activation="relu")},
        {},
        ["model's decoder.config.feed_forward.activation: gelu_new in the checkpoint, relu now"],
    ),
    "the optimiser": ({"optimizer": optax.sgd(1e-2)}, {}, ["opt_state.0.mu", "absent now", "... and"]),
    "what is trained": (
        {"trained": "encoder"},
        {},
        ["array params.decoder.", "absent now", "frozen array encoder.", "... and"],
    ),
    "a setting": ({}, {"learning_rate": 0.2}, ["learning_rate: 0.1 in the checkpoint, 0.2 now"]),
}


@pytest.mark.parametrize("what", OTHERS)
def test_another_run_is_an_error_that_says_what_differs(tmp_path: Path, what: str):
    changes, settings, words = OTHERS[what]
    same = {"learning_rate": 0.1, "data": {"files": ["a", "b"]}}
    with RunCheckpoints(tmp_path, run=same) as checkpoints:
        state = _pair_state()
        checkpoints.save(0, state, {})
        checkpoints.wait()
        assert checkpoints.restore_latest(_pair_state()) is not None
    with RunCheckpoints(tmp_path, run={**same, **settings}) as checkpoints:
        with pytest.raises(ValueError, match="of another run") as raised:
            checkpoints.restore_latest(_pair_state(**changes))
        assert checkpoints.steps() == [0]
    for word in words:
        assert word in str(raised.value)
    assert len(str(raised.value).splitlines()) < 40


def test_what_a_crash_left_is_swept_away_and_never_seen(tmp_path: Path):
    with RunCheckpoints(tmp_path) as checkpoints:
        checkpoints.save(1, _tiny(1), {})
    shutil.copytree(files.place(tmp_path, 1), tmp_path / ".unfinished-checkpoint-2")
    shutil.copytree(files.place(tmp_path, 1), tmp_path / ".discarded-checkpoint-3")
    assert files.steps_in(tmp_path) == [1]
    with RunCheckpoints(tmp_path):
        assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "checkpoint-1"]


def test_a_failed_write_is_said_once_at_the_next_call_or_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(folder: Path, _: Any) -> None:
        folder.mkdir()
        (folder / "half").write_bytes(b"x")
        raise OSError(errno.ENOSPC, "No space left on device")

    with RunCheckpoints(tmp_path) as checkpoints:
        checkpoints.save(1, _tiny(1), {})
        checkpoints.wait()
        monkeypatch.setattr(arrays, "write", full)
        checkpoints.save(2, _tiny(2), {})
        with pytest.raises(CheckpointNotWrittenError, match=r"step 2.*no room.*safe: step 1.*--resume.*from step 1"):
            checkpoints.save(3, _tiny(3), {})
        checkpoints.wait()
        assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "checkpoint-1"]
    checkpoints = RunCheckpoints(tmp_path)
    checkpoints.save(2, _tiny(2), {})
    with pytest.raises(CheckpointNotWrittenError):
        checkpoints.close()
    with RunCheckpoints(tmp_path) as checkpoints:  # the folder was let go all the same
        assert checkpoints.steps() == [1]


def test_a_failed_write_does_not_hide_the_error_that_ended_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def fails(*_: Any) -> None:
        raise PermissionError("not yours")

    monkeypatch.setattr(arrays, "write", fails)
    with pytest.raises(KeyError, match="the loop's"), RunCheckpoints(tmp_path) as checkpoints:
        checkpoints.save(1, _tiny(1), {})
        raise KeyError("the loop's")
    assert "PermissionError: not yours" in caplog.text
    assert "There is no earlier checkpoint" in caplog.text


FULL_DISK = """
    import sys
    import jax, jax.numpy as jnp, equinox as eqx
    from encdec_eqx.training import TrainState
    from encdec_eqx.training.resume import CheckpointNotWrittenError, RunCheckpoints

    class Model(eqx.Module):
        leaves: list

    def state(step, size):
        keys = jax.random.split(jax.random.key(step), 8)
        params = Model([jax.random.normal(key, (size,)) for key in keys])
        return TrainState(params, Model([]), (), jnp.asarray(step, jnp.int32))

    if sys.argv[2] == "limit":
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
    with RunCheckpoints(sys.argv[1]) as checkpoints:
        checkpoints.save(1, state(1, 1000), {})
        checkpoints.save(2, state(2, 200_000), {})
        try:
            checkpoints.wait()
        except CheckpointNotWrittenError as error:
            print(error)
        checkpoints.save(3, state(3, 1000), {})  # a smaller one still finds room
        latest = checkpoints.restore_latest(state(3, 1000))
        print(checkpoints.steps(), latest.step)
"""


def _check_full(folder: Path, how: str, words: str) -> None:
    message, last = _python(FULL_DISK, folder, how).splitlines()
    assert f"no room ({words})" in message
    assert "safe: step 1. What was half written has been removed. Free some space, then run again" in message
    assert last == "[1, 3] 3"
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "checkpoint-1", "checkpoint-3"]


def test_where_there_is_no_room_one_message_says_what_is_safe(tmp_path: Path):
    """By a limit on the size of files, which every system has; nothing is printed beside the message."""
    _check_full(tmp_path, "limit", os.strerror(errno.EFBIG))


def test_a_full_disk(tmp_path: Path):
    """The same with a real one, where this process may mount one (else the test above stands for it)."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        assert not os.path.ismount(disk)
        return
    try:
        _check_full(disk / "run", "disk", os.strerror(errno.ENOSPC))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_one_run_at_a_time_holds_a_folder(tmp_path: Path):
    with RunCheckpoints(tmp_path), pytest.raises(RuntimeError, match="in use by another run"):
        RunCheckpoints(tmp_path)
    RunCheckpoints(tmp_path).close()


def test_saving_is_in_the_background_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    may_write, write = threading.Event(), arrays.write
    writing: list[str] = []

    def held(folder: Path, named: dict[str, np.ndarray]) -> None:
        writing.append(threading.current_thread().name)
        may_write.wait(10)
        write(folder, named)

    monkeypatch.setattr(arrays, "write", held)
    with RunCheckpoints(tmp_path) as checkpoints:
        checkpoints.save(1, _tiny(1), {})
        assert checkpoints.steps() == []
        may_write.set()
        checkpoints.save(2, _tiny(2), {})
        assert checkpoints.steps() == [1]
    assert files.steps_in(tmp_path) == [1, 2]
    assert all(name.startswith("checkpoint") for name in writing) and len(writing) == 2


def test_the_digests_are_a_list_that_sha256sum_reads(tmp_path: Path):
    with RunCheckpoints(tmp_path) as checkpoints:
        checkpoints.save(1, _tiny(1), {})
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--quiet", "-c", files.SUMS], cwd=files.place(tmp_path, 1), check=True)
    record = json.loads((files.place(tmp_path, 1) / "run.json").read_text())
    assert record["state"] == {"opt_state.count": "int32[]", "params.weight": "float32[3,2]", "step": "int32[]"}


def test_arguments_are_judged(tmp_path: Path):
    with pytest.raises(ValueError, match="at least 1, got 0"):
        RunCheckpoints(tmp_path, save_total_limit=0)
    with pytest.raises(ValueError, match=r"lower 'mine' is better is not known: pass greater_is_better"):
        RunCheckpoints(tmp_path, best_metric="mine")
    with pytest.raises(TypeError, match="run must be made of"):
        RunCheckpoints(tmp_path, run={"path": tmp_path})
    with RunCheckpoints(tmp_path, best_metric="loss") as checkpoints:
        with pytest.raises(ValueError, match=r"step=3, but the state has taken 2 steps"):
            checkpoints.save(3, _tiny(2), {})
        with pytest.raises(TypeError, match="position must be made of"):
            checkpoints.save(2, _tiny(2), {"array": np.ones(2)})
        with pytest.raises(ValueError, match=r"best_metric is 'loss', but the metrics are \['wer'\]"):
            checkpoints.save(2, _tiny(2), {}, {"wer": 1.0})
        with pytest.raises(TypeError, match=r"must be a jax array, got float at params\.other\.x"):
            checkpoints.save(2, _tiny(2, x=0.5), {})
        assert checkpoints.steps() == []


def _stray(folder: Path) -> dict[str, str]:
    """Entries that are no checkpoints, by name, with what is said of each."""
    (folder / "checkpoint-007").mkdir()
    (folder / "checkpoint-9").write_text("a file")
    (folder / "checkpoint-8").symlink_to(folder / "nowhere")
    (folder / "checkpoint-\u0663").mkdir()  # an Arabic-Indic 3
    (folder / "checkpoint-2\u00b2").mkdir()
    (folder / "checkpoint-1 (copy)").mkdir()
    (folder / "notes\x1b[31m.txt").write_text("mine")
    (folder / "loop").symlink_to(folder / "loop")
    (folder / ".DS_Store").write_text("")
    return {
        "'checkpoint-007'": "", "'checkpoint-9'": " (not a folder)", "'checkpoint-8'": " (a link to nothing)",
        "'checkpoint-\u0663'": "", "'checkpoint-2\u00b2'": "", "'checkpoint-1 (copy)'": "",
        r"'notes\x1b[31m.txt'": "", "'loop'": " (a link to nothing)",
    }  # fmt: skip


def test_what_is_no_checkpoint_is_stepped_over_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with RunCheckpoints(tmp_path) as checkpoints:
        checkpoints.save(2, _tiny(2, value=2.0), {})
        assert checkpoints.notes == ()
    expected = _stray(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    with caplog.at_level(logging.WARNING), RunCheckpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [2]
        latest = checkpoints.restore_latest(_tiny(0))
        (note,) = checkpoints.notes
    assert latest is not None and (latest.step, latest.notes) == (2, ())
    for name, why in expected.items():
        assert f"{name}{why}" in note
    assert ".DS_Store" not in note
    assert note.isprintable()
    assert note in caplog.messages
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_many_strays_are_named_in_one_short_line(tmp_path: Path):
    for number in range(500):
        (tmp_path / f"{number}.tmp").write_text("")
    with RunCheckpoints(tmp_path) as checkpoints:
        (note,) = checkpoints.notes
    assert "and 492 more" in note
    assert len(note) < 400


@pytest.mark.parametrize("kind", ["file", "link to nothing"])
def test_a_stray_in_a_checkpoints_place_makes_room_and_is_kept(tmp_path: Path, kind: str):
    place = tmp_path / "checkpoint-3"
    place.write_text("mine") if kind == "file" else place.symlink_to(tmp_path / "nowhere")
    (tmp_path / "checkpoint-3.stray").write_text("an earlier one")
    (tmp_path / ".unfinished-checkpoint-3").write_text("a file")
    os.mkfifo(tmp_path / ".unfinished-checkpoint-4")  # opened for reading, it would never answer
    with RunCheckpoints(tmp_path) as checkpoints:
        checkpoints.save(3, _tiny(3, value=3.0), {})
        restored = checkpoints.restore_latest(_tiny(0))
    assert restored is not None and restored.step == 3
    moved = tmp_path / "checkpoint-3.stray-2"
    assert moved.is_symlink() if kind != "file" else moved.read_text() == "mine"
    assert (tmp_path / "checkpoint-3.stray").read_text() == "an earlier one"


def test_a_copy_of_a_checkpoint_under_another_step_is_not_taken_for_that_step(tmp_path: Path):
    with RunCheckpoints(tmp_path) as checkpoints:
        checkpoints.save(2, _tiny(2, value=2.0), {})
    shutil.copytree(tmp_path / "checkpoint-2", tmp_path / "checkpoint-5")
    with RunCheckpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore_latest(_tiny(0))
    assert restored is not None and restored.step == 2
    assert "step 5 is damaged (it is a copy of that of step 2)" in restored.notes[0]


def test_a_checkpoint_may_be_a_link_to_a_folder_elsewhere_which_is_left_alone(tmp_path: Path):
    with RunCheckpoints(tmp_path / "run", save_total_limit=1) as checkpoints:
        checkpoints.save(2, _tiny(2, value=2.0), {})
    (tmp_path / "run" / "checkpoint-2").rename(tmp_path / "moved")
    (tmp_path / "run" / "checkpoint-2").symlink_to(tmp_path / "moved")
    with RunCheckpoints(tmp_path / "run", save_total_limit=1) as checkpoints:
        restored = checkpoints.restore_latest(_tiny(0))
        assert restored is not None and _value(restored) == 2.0
        checkpoints.save(3, _tiny(3, value=3.0), {})
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [".lock", "checkpoint-3"]
    files.verify(tmp_path / "moved")


@pytest.mark.parametrize("kind", ["file", "link to nothing", "folder as lock"])
def test_a_folder_that_cannot_hold_checkpoints_is_a_sentence(tmp_path: Path, kind: str):
    folder = tmp_path / "checkpoints"
    if kind == "file":
        folder.write_text("")
    elif kind == "link to nothing":
        folder.symlink_to(tmp_path / "nowhere")
    else:
        (folder / ".lock").mkdir(parents=True)
    with pytest.raises(ValueError, match="move it away"):
        RunCheckpoints(folder)
