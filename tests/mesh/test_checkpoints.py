"""Checkpoints of states spread over devices and processes: the same bits on any other mesh, whole or not there."""

import shutil
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from encdec_eqx import AttentionConfig, FeedForwardConfig, make_mesh, with_mesh
from encdec_eqx.training import TrainState, init_train_state
from encdec_eqx.training.resume import RunCheckpoints
from encdec_eqx.training.resume import checkpoint_files as files
from encdec_eqx.training.resume.stored_arrays import ARRAYS, StoredArrays
from models import decoder_config, encoder_config, tiny_pair
from two_processes import Said, run_two

AXES = ("data", "fsdp", "tensor")
MESHES = {"8 devices": (2, 2, 2), "fsdp": (1, 8, 1), "4 devices": (1, 2, 2), "data": (2, 1, 1)}
SPECS = {"matrix": P("fsdp", "tensor"), "stacked": P(None, ("fsdp", "data"), "tensor"), "vector": P()}


class Net(eqx.Module):
    """Stands for a model: arrays that lie in several ways, and one in half precision."""

    matrix: jax.Array
    stacked: jax.Array
    vector: jax.Array
    base: jax.Array | None = None


def net(seed: int, base: bool = False) -> Net:
    """Random numbers, NumPy's, so that every process draws the same."""
    rng = np.random.default_rng(seed)
    draw = [rng.standard_normal(shape).astype(np.float32) for shape in ((16, 8), (2, 16, 8), (8,))]
    half = rng.standard_normal((16, 8)).astype(ml_dtypes.bfloat16) if base else None
    matrix, stacked, vector = (jnp.asarray(each) for each in draw)
    return Net(matrix, stacked, vector, None if half is None else jnp.asarray(half))


def state(seed: int, step: int = 3) -> TrainState:
    """A state on one device, without a mesh; its frozen model is always the same."""
    moments = {"mu": net(seed + 1), "nu": net(seed + 2), "count": jnp.asarray(seed, jnp.int32)}
    frozen = eqx.tree_at(lambda n: (n.matrix, n.stacked, n.vector), net(99, base=True), (None, None, None))
    return TrainState(net(seed), frozen, moments, jnp.asarray(step, jnp.int32))


def on(mesh: Mesh, tree: Any) -> Any:
    """The same over a mesh, optimiser state as parameters, and the key data of a PRNG key."""

    def placed(path: Any, leaf: Any) -> Any:
        name = str(path[-1]).lstrip(".")
        return jax.device_put(leaf, NamedSharding(mesh, SPECS.get(name, SPECS["matrix"] if name == "base" else P())))

    return jax.tree_util.tree_map_with_path(placed, tree)


def mesh_of(sizes: tuple[int, int, int]) -> Mesh:
    """A mesh of the first devices."""
    devices = np.asarray(jax.devices()[: int(np.prod(sizes))])
    return Mesh(devices.reshape(sizes), AXES)


def check_same(ours: Any, theirs: Any) -> None:
    """Dtypes, shapes and bits."""
    pairs = list(zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True))
    assert len(pairs) > 10
    for one, other in pairs:
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def saved(folder: Path, value: TrainState) -> Path:
    """The folder of a checkpoint of it."""
    with RunCheckpoints(folder) as checkpoints:
        checkpoints.save(3, value, {"epoch": 1}, {"loss": 2.0}, key=jax.random.key(3))
    return files.place(folder, 3)


def restored(folder: Path, like: TrainState) -> TrainState:
    """What the newest checkpoint holds, placed as `like`."""
    with RunCheckpoints(folder) as checkpoints:
        found = checkpoints.restore_latest(like)
    assert found is not None and found.position == {"epoch": 1} and found.notes == ()
    return found.state


@pytest.mark.parametrize("to", [*MESHES, "no mesh"])
def test_what_one_mesh_saved_another_restores_bit_for_bit(tmp_path: Path, to: str):
    saved(tmp_path, on(mesh_of(MESHES["8 devices"]), state(5)))
    like = state(0) if to == "no mesh" else on(mesh_of(MESHES[to]), state(0))
    back = restored(tmp_path, like)
    check_same(back, state(5))
    for one, other in zip(jax.tree.leaves(back), jax.tree.leaves(like), strict=True):
        assert one.sharding == other.sharding
        assert one.committed == other.committed
    if to == "fsdp":
        assert {shard.data.shape for shard in back.params.matrix.addressable_shards} == {(2, 8)}


def test_one_process_writes_the_same_bytes_whatever_the_mesh(tmp_path: Path):
    plain = saved(tmp_path / "plain", state(5))
    for name, sizes in MESHES.items():
        spread = saved(tmp_path / name, on(mesh_of(sizes), state(5)))
        for file in ("run.json", f"state/{ARRAYS}", files.SUMS):
            assert (spread / file).read_bytes() == (plain / file).read_bytes(), (name, file)


def test_a_restored_state_gives_its_buffers_to_the_next_step(tmp_path: Path):
    """They are copies: what aliases a mapped file could not be given away."""
    mesh = mesh_of(MESHES["8 devices"])
    saved(tmp_path, on(mesh, state(5)))
    back = restored(tmp_path, on(mesh, state(0)))
    addresses = [shard.data.unsafe_buffer_pointer() for shard in back.params.stacked.addressable_shards]
    after = jax.jit(lambda leaf: leaf + 1, donate_argnums=0)(back.params.stacked)
    assert back.params.stacked.is_deleted()
    assert [shard.data.unsafe_buffer_pointer() for shard in after.addressable_shards] == addresses


@pytest.mark.parametrize("layout", ["unrolled", "scanned"])
def test_a_pair_without_a_mesh_and_one_on_it_have_one_checkpoint(tmp_path: Path, layout: Any):
    """Names, shapes, fingerprints and bytes, whatever kinds its layers are of; a part of it is frozen."""
    parts = {"attention": AttentionConfig(num_heads=8, head_dim=4), "feed_forward": FeedForwardConfig(size=64)}
    pair = tiny_pair(encoder_config(32, **parts), decoder_config(32, depth=2, **parts))
    pair, optimizer = pair.with_layout(layout), optax.adamw(1e-2)

    def begun(model: Any, count: float) -> TrainState:
        begun = init_train_state(model, optimizer, trainable=["decoder"])
        return jax.tree.map(lambda leaf: leaf + jnp.asarray(count, leaf.dtype), begun)

    saved(tmp_path / "mesh", counted_to_3(begun(with_mesh(pair, make_mesh(2, 2, 2)), 0.5)))
    plain = saved(tmp_path / "plain", counted_to_3(begun(pair, 0.5)))
    for file in ("run.json", f"state/{ARRAYS}"):
        assert (tmp_path / "mesh" / "checkpoint-3" / file).read_bytes() == (plain / file).read_bytes()
    spread = with_mesh(pair, make_mesh(fsdp=4, tensor=2))
    back = restored(tmp_path / "mesh", counted_to_3(begun(spread, 0.5)))
    check_same(back, counted_to_3(begun(pair, 0.5)))
    moments = jax.tree.leaves(back.opt_state)  # they lie as their parameters do
    assert sum(leaf.addressable_shards[0].data.nbytes for leaf in moments) < sum(leaf.nbytes for leaf in moments) / 4


def counted_to_3(value: TrainState) -> TrainState:
    """The state, as if it had taken three steps."""
    return eqx.tree_at(lambda each: each.step, value, jnp.asarray(3, jnp.int32))


def test_devices_parts_are_read_one_by_one_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    saved(tmp_path, state(5))
    read: list[tuple[str, int]] = []
    part = StoredArrays.part

    def counted(stored: StoredArrays, name: str, box: Any) -> np.ndarray:
        found = part(stored, name, box)
        read.append((name, found.nbytes))
        return found

    monkeypatch.setattr(StoredArrays, "part", counted)
    restored(tmp_path, on(mesh_of((2, 2, 2)), state(0)))
    # (fsdp, tensor) for the matrix, whose copies along data are read once; rows of stacked are over (fsdp, data)
    expected = {"matrix": [16 * 8] * 4, "stacked": [2 * 16 * 8 // 2] * 8, "vector": [8 * 4]}
    for name, sizes in expected.items():
        assert [size for of, size in read if of == f"params.{name}"] == sizes


TWO_SAVE = """
    from pathlib import Path
    import test_checkpoints as these
    import numpy as np
    from encdec_eqx.training.resume import state_arrays

    state_arrays._PIECE_BYTES = 40  # so that the frozen array, of which both hold a part, comes in many pieces
    folder = Path(sys.argv[1])
    mesh = these.mesh_of((1, 2, 2))
    value = these.on(mesh, these.state(5))
    assert not value.params.matrix.is_fully_addressable
    these.saved(folder / "mesh", value)
    free = these.state(5)  # every process has it whole, on a device of its own
    these.saved(folder / "free", free)
    mesh = these.mesh_of((4, 1, 1))
    back = these.restored(folder / "mesh", these.on(mesh, these.state(0)))
    for one, other in zip(jax.tree.leaves(back), jax.tree.leaves(these.on(mesh, these.state(5))), strict=True):
        assert one.sharding == other.sharding
        for ours, theirs in zip(one.addressable_shards, other.addressable_shards, strict=True):
            assert np.asarray(ours.data).tobytes() == np.asarray(theirs.data).tobytes()
    print("the same")
"""

TWO_RESTORE = """
    from pathlib import Path
    import test_checkpoints as these
    import numpy as np

    mesh = these.mesh_of((1, 4, 1))
    back = these.restored(Path(sys.argv[1]), these.on(mesh, these.state(0)))
    for one, other in zip(jax.tree.leaves(back), jax.tree.leaves(these.on(mesh, these.state(5))), strict=True):
        for ours, theirs in zip(one.addressable_shards, other.addressable_shards, strict=True):
            assert np.asarray(ours.data).tobytes() == np.asarray(theirs.data).tobytes()
    print("the same")
"""


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes wrote: `mesh` with arrays spread over both, `free` with arrays that each has whole."""
    folder = tmp_path_factory.mktemp("two")
    check_went_well(run_two(TWO_SAVE, folder))
    return folder


def check_went_well(said: tuple[Said, Said]) -> None:
    """Both printed that they found the same."""
    for one in said:
        assert (one.status, one.lines) == (0, ["the same"]), one.errors


PARTS = ["arrays-00001-of-00002.safetensors", "arrays-00002-of-00002.safetensors"]


@pytest.mark.parametrize("how", ["mesh", "free"])
def test_a_checkpoint_of_two_processes_is_the_single_ones(tmp_path: Path, of_two: Path, how: str):
    two, one = of_two / how / "checkpoint-3", saved(tmp_path, state(5))
    assert sorted(path.name for path in two.parent.iterdir()) == [".lock", "checkpoint-3"]
    assert sorted(path.name for path in (two / "state").iterdir()) == PARTS
    assert (two / "run.json").read_bytes() == (one / "run.json").read_bytes()  # digests of frozen arrays as well
    ours, theirs = StoredArrays(two / "state"), StoredArrays(one / "state")
    assert set(ours) == set(theirs)
    for name, array in theirs.items():
        assert ours.dtype(name) == array.dtype
        assert ours[name].tobytes() == array.tobytes()
    if how == "mesh":  # each wrote a half of what is split, the first what all have
        sizes = [(two / "state" / part).stat().st_size for part in PARTS]
        assert 0.4 < sizes[1] / sum(sizes) < 0.6


@pytest.mark.parametrize("to", ["8 devices", "no mesh"])
def test_one_process_restores_what_two_saved(tmp_path: Path, of_two: Path, to: str):
    shutil.copytree(of_two / "mesh", tmp_path / "run")
    like = state(0) if to == "no mesh" else on(mesh_of(MESHES[to]), state(0))
    check_same(restored(tmp_path / "run", like), state(5))


def test_two_processes_restore_what_one_saved(tmp_path: Path):
    saved(tmp_path, on(mesh_of(MESHES["8 devices"]), state(5)))
    check_went_well(run_two(TWO_RESTORE, tmp_path))


def test_a_missing_or_damaged_part_is_told_and_the_one_before_is_used(tmp_path: Path, of_two: Path):
    for kind in ("missing", "damaged"):
        folder = tmp_path / kind
        shutil.copytree(of_two / "mesh", folder)
        with RunCheckpoints(folder) as checkpoints:
            checkpoints.save(1, state(7, step=1), {})
        part = folder / "checkpoint-3" / "state" / PARTS[1]
        if kind == "missing":
            part.unlink()
        else:
            content = bytearray(part.read_bytes())
            content[-1] ^= 1
            part.write_bytes(content)
        with RunCheckpoints(folder) as checkpoints:
            found = checkpoints.restore_latest(state(0))
        assert found is not None and found.step == 1
        check_same(found.state, state(7, step=1))
        words = "is missing" if kind == "missing" else "is not what was written"
        assert f"step 3 is damaged (state/{PARTS[1]} {words}" in found.notes[0]


TWO_FAIL = """
    import errno, os
    from pathlib import Path
    import test_checkpoints as these
    from encdec_eqx import _processes as processes
    from encdec_eqx.training.resume import CheckpointNotWrittenError, RunCheckpoints, stored_arrays

    folder, how = Path(sys.argv[1]), sys.argv[2]
    mesh = these.mesh_of((1, 2, 1))
    checkpoints = RunCheckpoints(folder)
    checkpoints.save(3, these.on(mesh, these.state(5)), {"epoch": 1})
    checkpoints.wait()
    write = stored_arrays.write

    def fails(*arguments):
        write(*arguments)
        if processes.number() == 1 and how == "killed":
            os.kill(os.getpid(), 9)
        if processes.number() == 1:
            raise OSError(errno.ENOSPC, "No space left on device")

    stored_arrays.write = fails
    checkpoints.save(4, these.on(mesh, these.state(6, step=4)), {"epoch": 1})
    try:
        checkpoints.wait()
    except CheckpointNotWrittenError as error:
        print(error)
        print(checkpoints.steps())
"""


def test_where_one_process_cannot_write_all_say_so_and_the_one_before_is_safe(tmp_path: Path):
    first, second = run_two(TWO_FAIL, tmp_path, "full", devices_each=1)
    assert (first.status, second.status) == (0, 0), first.errors + second.errors
    safe = "Checkpoints that are safe: step 3. What was half written has been removed."
    assert "another process failed while writing a checkpoint: process 1: OSError" in first.lines[0]
    assert "no room (No space left on device)" in second.lines[0]
    for one in (first, second):
        assert safe in one.lines[0]
        assert one.lines[1] == "[3]"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "checkpoint-3"]


def test_a_kill_between_two_parts_leaves_the_one_before(tmp_path: Path):
    first, second = run_two(TWO_FAIL, tmp_path, "killed", devices_each=1)
    assert second.status == -9
    assert first.status != 0 or "a process has died" in first.lines[0]
    check_same(restored(tmp_path, on(mesh_of(MESHES["fsdp"]), state(0))), state(5))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "checkpoint-3"]


TWO_FOLDERS = """
    from encdec_eqx import _processes as processes
    from encdec_eqx.training.resume import RunCheckpoints, checkpoint_files

    checkpoint_files._SEEN_WITHIN = 0.1
    try:
        RunCheckpoints(f"{sys.argv[1]}/{processes.number()}")
    except (ValueError, processes.OtherProcessError) as error:
        print(type(error).__name__, error)
    checkpoints = RunCheckpoints(f"{sys.argv[1]}/0")
    print(checkpoints.restore_latest(None))
"""


def test_processes_that_do_not_share_the_folder_say_so(tmp_path: Path):
    first, second = run_two(TWO_FOLDERS, tmp_path, devices_each=1)
    told = f"process 1 does not see in {tmp_path}/1 what process 0 has written there: the processes of a run need a "
    assert second.lines[0].startswith(f"ValueError {told}")
    assert first.lines[0].startswith("OtherProcessError another process failed while") and "process 1" in first.lines[0]
    for one in (first, second):  # and the first one lets the folder go
        assert (one.status, one.lines[1]) == (0, "None"), one.errors
    assert sorted(path.name for path in (tmp_path / "0").iterdir()) == [".lock"]
