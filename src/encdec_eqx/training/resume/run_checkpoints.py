"""The checkpoints of one run: saved in the background, the last few and the best kept, restored bit for bit.

Of several processes each writes and reads what lies on its devices; the first does what is done once.
"""

import dataclasses
import functools
import json
import logging
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ... import _processes as processes
from ..._quoting import listed, printable
from ..._typing import PRNGKey
from ..metrics import METRICS
from ..reporting.tracking import loss_of
from ..step import TrainState
from . import checkpoint_files as files
from . import state_arrays, stored_arrays
from .checkpoint_files import DamagedCheckpointError, FolderLock, NoUsableCheckpointError, not_written
from .same_run import Fingerprint, differences, fingerprint
from .stored_arrays import StoredArrays

_LOG = logging.getLogger(__name__)
_RECORD, _STATE = "run.json", "state"
_SHOWN = 8


@dataclasses.dataclass(frozen=True)
class Restored:
    """What a checkpoint held.

    Attributes:
        state: The train state, placed as the one it was restored like.
        position: What was given to `save`.
        step: The step it was saved at.
        metrics: What was given to `save`.
        key: The PRNG key given to `save`, if one was.
        notes: What the user should know, such as damaged checkpoints that were passed over.
    """

    state: TrainState
    position: Mapping[str, Any]
    step: int
    metrics: Mapping[str, float] | None = None
    key: jax.Array | None = None
    notes: tuple[str, ...] = ()


class RunCheckpoints:
    """The checkpoints of one run, in a folder of their own; best used in a `with` statement.

    `save` copies the state to the host and returns; a thread writes it. A checkpoint appears whole, by one rename, so
    a crash at any moment leaves only whole ones. Each holds what a step changes: trained arrays, the optimiser's
    state and the step's number. Frozen arrays, the architecture and the settings are not stored but fingerprinted, and
    resuming over others is an error that says what differs.

    One run at a time may hold a folder. Of a run of several processes (`jax.distributed`) all make the object over one
    folder, which they share, and call its methods in the same order.

    Attributes:
        notes: What was stepped over in the folder because it is no checkpoint.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        save_total_limit: int = 3,
        best_metric: str | None = None,
        greater_is_better: bool | None = None,
        run: Mapping[str, Any] | None = None,
    ):
        """Opens the folder, which is made if need be, and removes what a crash has left half written.

        Args:
            folder: Holds the checkpoints, and nothing else.
            save_total_limit: How many of the newest are kept. The best is kept besides.
            best_metric: The name in `metrics` by which one is best; None: none is.
            greater_is_better: Whether more of it is better. Default: as its name in `METRICS` says.
            run: What has to be the same when the run is resumed (settings, data), in values that JSON can hold.

        Raises:
            FolderInUseError: Another run is using the folder.
            ValueError: An option is out of its range, or the folder is a file, or one that this process does not share
                with the first.
            OtherProcessError: Another process failed.
        """
        if save_total_limit < 1:
            raise ValueError(f"save_total_limit must be at least 1, got {save_total_limit}.")
        self._sign = _sign(best_metric, greater_is_better)
        self._limit = save_total_limit
        self._best_metric = best_metric
        self._run = _plain("run", run or {})
        self._printed: tuple[eqx.Module, Fingerprint] | None = None
        self._folder = Path(folder)
        self._lock: FolderLock | None = None
        self.notes: tuple[str, ...] = tuple(processes.on_first("opening the checkpoints", self._open))
        try:
            files.check_shared(self._folder)
        except BaseException:
            self._release()
            raise
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def save(
        self,
        step: int,
        state: TrainState,
        position: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
        *,
        key: PRNGKey | None = None,
        passing: bool = False,
    ) -> None:
        """Copies the state and returns; the copy is written in the background, after the one before is done.

        Args:
            step: The number of steps taken, that is `state.step`.
            state: What to save. Its buffers may be donated as soon as this returns.
            position: Where the data stands, in values that JSON can hold.
            metrics: Of an evaluation of this very state, if there was one.
            key: A PRNG key to be kept beside the state.
            passing: The metrics count only until there is a later checkpoint: the run was evaluated because it ends.

        Raises:
            CheckpointNotWrittenError: The save before this one failed.
            TypeError: `position` or `metrics` is not for JSON.
            ValueError: `step` is not the state's, or `metrics` lack the one that decides which is best.
        """
        if int(state.step) != step:
            raise ValueError(f"step={step}, but the state has taken {int(state.step)} steps: pass int(state.step).")
        if metrics is not None and self._best_metric is not None and self._best_metric not in metrics:
            raise ValueError(f"best_metric is {self._best_metric!r}, but the metrics are {sorted(metrics)}.")
        record = {
            "step": step,
            "state": state_arrays.table(state),
            "position": _plain("position", position),
            "metrics": None if metrics is None else _plain("metrics", {k: float(v) for k, v in metrics.items()}),
            "key": None if key is None else _key_to_json(key),
            "passing": passing,
        }
        self.wait()
        if processes.count() > 1:  # they may need each other for it, which is no thread's to ask for
            self._fingerprint(state.frozen)
        self._writing = self._writer.submit(self._write, record, state_arrays.copy_to_host(state), state.frozen)

    def restore_latest(self, like: TrainState) -> Restored | None:
        """The newest whole checkpoint, bit for bit; None if there is none yet.

        Damaged ones are passed over with a warning, and renamed.

        Args:
            like: The run's state before its first step, which says what fits and where arrays are to be placed.

        Raises:
            NoUsableCheckpointError: There are checkpoints, all of them damaged.
            ValueError: The checkpoint is another run's: of another model, optimiser, selection or setting.
        """
        self.wait()
        return self._restore(self.steps()[::-1], like)

    def restore_best(self, like: TrainState) -> Restored | None:
        """The best whole checkpoint by `best_metric`, as `restore_latest`; None if no checkpoint has that metric."""
        self.wait()
        return self._restore(self._by_merit(), like)

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, ascending. One that is being written is not there yet."""
        return files.steps_in(self._folder)

    def best_step(self) -> int | None:
        """The step whose checkpoint is best; of equals the one of lower "loss", then the later."""
        ranking = self._by_merit()
        return ranking[0] if ranking else None

    def wait(self) -> None:
        """Returns when nothing is being written.

        Raises:
            CheckpointNotWrittenError: The last save failed; said once.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Waits, and lets go of the folder.

        Raises:
            CheckpointNotWrittenError: The last save failed.
        """
        try:
            self.wait()
        finally:
            self._writer.shutdown()
            self._release()

    def __enter__(self) -> "RunCheckpoints":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            self.close()
        except (RuntimeError, OSError) as failure:
            if error is None:
                raise
            _LOG.error("%s", failure)  # beside the error that ended the run, which goes on its way

    def _open(self) -> list[str]:
        """Makes and takes the folder; names what lies in it and is no checkpoint."""
        files.made(self._folder)
        self._lock = FolderLock(self._folder)
        files.sweep(self._folder)
        strays = files.strays(self._folder)
        if not strays:
            return []
        note = f"no checkpoint, and stepped over, in {printable(self._folder)}: {listed(strays, _SHOWN)}."
        _LOG.warning("%s", note)
        return [note]

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def _write(self, record: dict[str, Any], taken: dict[str, np.ndarray], frozen: eqx.Module) -> None:
        step = record["step"]
        own = [f"{_STATE}/{stored_arrays.file_name()}", *([_RECORD] if processes.is_first() else [])]
        try:
            with files.appearing(self._folder, step, own, lambda path: _check_whole(path, record["state"])) as path:
                stored_arrays.write(path / _STATE, taken)
                if processes.is_first():
                    record["fingerprint"] = self._fingerprint(frozen)
                    (path / _RECORD).write_text(json.dumps(record), encoding="utf-8")
        except Exception as error:
            raise not_written(self._folder, step, self.steps(), error) from error
        if processes.is_first():
            self._prune()

    def _prune(self) -> None:
        """Discards all but the newest and the best."""
        kept = {*self.steps()[-self._limit :], *self._by_merit()[:1], *self._by_merit(lasting=True)[:1]}
        for step in self.steps():
            if step not in kept:
                files.discard(self._folder, step)

    def _restore(self, candidates: Sequence[int], like: TrainState) -> Restored | None:
        """The first of the candidates that is whole. What the first process sees counts for all."""
        damaged: dict[int, str] = {}
        for step in processes.on_first("looking for checkpoints", lambda: list(candidates)):
            path = files.place(self._folder, step)
            damage = _damage(path, step)
            if damage is not None:
                damaged[step] = f"the checkpoint of step {step} is damaged ({damage})"
                continue
            self._fingerprint(like.frozen)
            with processes.together("reading a checkpoint"):
                restored = self._read(path, like)
            set_aside = functools.partial(self._passed_over, damaged, step)
            notes = processes.on_first("setting damaged checkpoints aside", set_aside)
            return dataclasses.replace(restored, notes=tuple(notes))
        if damaged:
            raise NoUsableCheckpointError(
                f"no checkpoint in {self._folder} can be used: {'; '.join(damaged.values())}. Nothing has been "
                "changed. Restore the folder from a backup, or start the run again in another one."
            )
        return None

    def _passed_over(self, damaged: Mapping[int, str], used: int) -> tuple[str, ...]:
        """Sets the damaged ones aside, and says so."""
        notes = tuple(
            f"{what}: it is now called {files.set_aside(self._folder, step).name}, and step {used} is used instead."
            for step, what in damaged.items()
        )
        for note in notes:
            _LOG.warning("%s", note)
        return notes

    def _read(self, path: Path, like: TrainState) -> Restored:
        record = json.loads((path / _RECORD).read_text(encoding="utf-8"))
        differing = differences(
            {"state": record["state"], **record["fingerprint"]},
            {"state": state_arrays.table(like), **self._fingerprint(like.frozen)},
        )
        if differing:
            raise ValueError(
                f"{path} is the checkpoint of another run and cannot be resumed by this one:\n  "
                + "\n  ".join(differing)
                + "\nResume with the same model, data and settings, or use a new folder."
            )
        state = state_arrays.put_back(like, StoredArrays(path / _STATE))
        key = None if record["key"] is None else _key_from_json(record["key"])
        return Restored(state, record["position"], record["step"], record["metrics"], key)

    def _fingerprint(self, frozen: eqx.Module) -> Fingerprint:
        """Taken once: frozen arrays do not change."""
        if self._printed is None or self._printed[0] is not frozen:
            self._printed = frozen, fingerprint(frozen, self._run)
        return self._printed[1]

    def _by_merit(self, *, lasting: bool = False) -> list[int]:
        """The steps whose checkpoint has the deciding metric, best first; if asked, those that keep counting."""
        steps = self.steps()
        merits = {step: self._merit(step, passing=step == steps[-1] and not lasting) for step in steps}
        return sorted((step for step, merit in merits.items() if not math.isnan(merit[0])), key=merits.__getitem__)

    def _merit(self, step: int, *, passing: bool) -> tuple[float, float, int]:
        """Less is better: the metric, of equals the loss, then the later; NaN if there is none that counts."""
        try:
            record = json.loads((files.place(self._folder, step) / _RECORD).read_text(encoding="utf-8"))
            if record.get("passing") and not passing:
                return math.nan, math.inf, -step
            return -self._sign * record["metrics"][self._best_metric], loss_of(record["metrics"]), -step
        except (OSError, ValueError, KeyError, TypeError):
            return math.nan, math.inf, -step


def _damage(path: Path, step: int) -> str | None:
    """How a checkpoint's files are not those that were written, as far as any process sees; None: they are."""
    with processes.together("verifying a checkpoint") as told:
        try:
            files.verify(path)
            _check_step(path, step)
        except DamagedCheckpointError as error:
            told.mine = str(error)
    return next((damage for damage in told.all if damage is not None), None)


def _check_whole(path: Path, table: state_arrays.Table) -> None:
    """Looks whether what all processes have written is a whole state."""
    lacking = state_arrays.lacking(table, StoredArrays(path / _STATE))
    if lacking:
        raise ValueError(
            f"{listed(lacking, _SHOWN)} {'is' if len(lacking) == 1 else 'are'} in none of the files that the processes "
            "have written, or only in part: every array must be on a mesh of devices of all processes, or the same in "
            "each."
        )


def _check_step(path: Path, step: int) -> None:
    """Refuses a checkpoint under another step's name, such as a copy."""
    try:
        held = json.loads((path / _RECORD).read_text(encoding="utf-8"))["step"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpointError(f"{_RECORD} is not a record of a step") from error
    if held != step:
        raise DamagedCheckpointError(f"it is a copy of that of step {held}")


def _sign(metric: str | None, greater_is_better: bool | None) -> int:
    """1 if greater is better, -1 if lower is."""
    if greater_is_better is None and metric is not None:
        if metric != "loss" and metric not in METRICS:
            raise ValueError(
                f"whether a greater or a lower {metric!r} is better is not known: pass greater_is_better=True or False."
            )
        greater_is_better = metric != "loss" and METRICS[metric].greater_is_better
    return 1 if greater_is_better else -1


def _plain(name: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """The value as JSON gives it back, which is a copy."""
    try:
        return json.loads(json.dumps(dict(value)))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{name} must be made of dicts, lists, strings, numbers, booleans and None, which JSON can hold: {error}."
        ) from error


def _key_to_json(key: PRNGKey) -> dict[str, Any]:
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    data = jax.random.key_data(key) if typed else key
    return {"impl": str(jax.random.key_impl(key)) if typed else None, "data": np.asarray(data).tolist()}


def _key_from_json(stored: Mapping[str, Any]) -> jax.Array:
    data = jnp.asarray(np.asarray(stored["data"], np.uint32))
    return data if stored["impl"] is None else jax.random.wrap_key_data(data, impl=stored["impl"])
