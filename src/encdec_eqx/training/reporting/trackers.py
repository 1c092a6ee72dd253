"""The log of a run sent on to TensorBoard, Weights & Biases or MLflow while it is written: callbacks of `fit`.

`TrainConfig(report_to=["tensorboard"])` makes them; one that is made by hand goes into `callbacks=` and takes options.
They get the numbers of each line of the log (`train/loss`, `train/learning_rate`, …), those of each evaluation
(`eval/loss`, …) with what was generated for its first examples, and the settings. A run that is resumed goes on in the
same place, and no step is there twice. A service that fails on the way is given up with a warning, and the run goes on.
"""

import abc
import contextlib
import importlib
import importlib.util
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from ..._installing import install
from ..._quoting import printable
from ..._writing import check_writable, write_whole
from ..callbacks import Callback, EvaluationEvent, FitResult, LogEvent, StartEvent
from ..evaluation import Generated
from ..train_config import TrainConfig

_LOG = logging.getLogger(__name__)
_RUNS = "report_to.json"
_LONGEST = 300
_COLUMNS = ("source", "prediction", "reference")


class TrackerError(RuntimeError):
    """A service that a run was to report to cannot be reached."""


class _Tracker(Callback, abc.ABC):
    """What all have in common: what is told, when, and what becomes of failures."""

    name: ClassVar[str]
    package: ClassVar[str]
    advice: ClassVar[str]

    def __init__(self):
        """Checks that the package is there.

        Raises:
            ImportError: It is not installed.
        """
        if importlib.util.find_spec(self.package) is None:
            raise ImportError(f"{self.name} needs {self.package}, which is not installed: {install(self.name)}")
        self._is_open, self._ending = False, "failed"
        self._last = {"train": 0, "eval": 0}

    @abc.abstractmethod
    def _open(self, event: StartEvent, known: str | None) -> str | None:
        """Begins, or goes on with the run of the service that an earlier session `known` it by; how it is known."""

    @abc.abstractmethod
    def _numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Sends numbers by name."""

    @abc.abstractmethod
    def _samples(self, step: int, rows: Sequence[Sequence[str]]) -> None:
        """Sends rows of source, prediction and reference."""

    @abc.abstractmethod
    def _close(self, ending: str) -> None:
        """The run is over: "finished", "interrupted", "failed", ..."""

    def on_start(self, event: StartEvent) -> None:
        """Opens the service's run.

        Raises:
            TrackerError: That does not succeed.
        """
        runs = _known_runs(event.output_dir)
        try:
            known = self._open(event, runs.get(self.name))
        except Exception as error:
            said = printable(str(error) or type(error).__name__, _LONGEST)
            raise TrackerError(
                f"{self.name} cannot be reported to ({said}). {self.advice}, or leave {self.name!r} out of report_to."
            ) from error
        self._is_open = True
        if known is not None and runs.get(self.name) != known:
            write_whole(event.output_dir / _RUNS, json.dumps({**runs, self.name: known}).encode())

    def on_log(self, event: LogEvent) -> None:
        self._send("train", event.step, event.values)

    def on_evaluation(self, event: EvaluationEvent) -> None:
        if self._send("eval", event.step, event.values) and event.predictions:
            with self._surviving():
                self._samples(event.step, [_row(one) for one in event.predictions])

    def on_end(self, result: FitResult) -> None:
        self._ending = result.ending

    def on_close(self, error: BaseException | None) -> None:
        if self._is_open:
            with self._surviving():
                self._close("failed" if error is not None else self._ending)
        self._is_open = False

    def _send(self, kind: str, step: int, values: Mapping[str, float]) -> bool:
        """Sends the numbers of a step, unless the service is given up or has them from an earlier session."""
        if not self._is_open or step <= self._last[kind]:
            return False
        with self._surviving():
            self._numbers(step, {f"{kind}/{name}": float(value) for name, value in values.items()})
        return self._is_open

    @contextlib.contextmanager
    def _surviving(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever it is, hours of training are worth more
            self._is_open = False
            _LOG.warning(
                "%s failed and is given up; the run goes on, and log.jsonl has all of it: %s: %s",
                self.name,
                type(error).__name__,
                printable(str(error), _LONGEST),
            )


class TensorBoardCallback(_Tracker):
    """Writes event files, which `tensorboard --logdir FOLDER` shows."""

    name, package, advice = "tensorboard", "tensorboardX", "Its event files go below the run's output_dir"

    def __init__(self, logdir: str | os.PathLike | None = None):
        """Where to.

        Args:
            logdir: Folder of the event files; default: `tensorboard` in the run's folder.

        Raises:
            ImportError: tensorboardX is not installed.
            ValueError: The folder cannot be written to.
        """
        super().__init__()
        if logdir is not None:
            check_writable(logdir, "logdir")
        self._logdir = logdir
        self._writer: Any = None

    def _open(self, event: StartEvent, known: str | None) -> None:
        folder = event.output_dir / "tensorboard" if self._logdir is None else Path(self._logdir)
        # what a killed session wrote of later steps is not shown: they come again
        again = event.step + 1 if any(folder.glob("events.*")) else None
        self._writer = importlib.import_module("tensorboardX").SummaryWriter(str(folder), purge_step=again)
        if again is None:
            self._writer.add_text("settings", f"```json\n{json.dumps(event.config.to_dict(), indent=2)}\n```", 0)
            self._writer.flush()

    def _numbers(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def _samples(self, step: int, rows: Sequence[Sequence[str]]) -> None:
        self._writer.add_text("eval/samples", _markdown(rows), step)
        self._writer.flush()

    def _close(self, ending: str) -> None:
        self._writer.close()


class WandbCallback(_Tracker):
    """Reports to Weights & Biases: https://docs.wandb.ai. `WANDB_MODE=offline` keeps all on this machine."""

    name, package = "wandb", "wandb"
    advice = "Log in with `wandb login`, or set WANDB_MODE=offline"

    def __init__(self, **options: Any):
        """Where to.

        Args:
            **options: As for `wandb.init`; default: the project of `WANDB_PROJECT` or "encdec-eqx", and the name of the
                run's folder.

        Raises:
            ImportError: wandb is not installed.
        """
        super().__init__()
        self._options = options
        self._run: Any = None

    def _open(self, event: StartEvent, known: str | None) -> str:
        defaults = {
            "project": os.environ.get("WANDB_PROJECT", "encdec-eqx"),
            "name": event.output_dir.name,
            "dir": str(event.output_dir),
            "config": event.config.to_dict(),
            "id": known,
            "resume": "allow",
        }
        self._run = importlib.import_module("wandb").init(**{**defaults, **self._options})
        if known is not None and self._run.step:  # its number of the next one
            self._last = dict.fromkeys(self._last, self._run.step - 1)
        return self._run.id

    def _numbers(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def _samples(self, step: int, rows: Sequence[Sequence[str]]) -> None:
        table = importlib.import_module("wandb").Table(columns=list(_COLUMNS), data=[list(row) for row in rows])
        self._run.log({"eval/samples": table}, step=step)

    def _close(self, ending: str) -> None:
        self._run.finish(exit_code=int(ending in ("failed", "interrupted")))


class MLflowCallback(_Tracker):
    """Reports to MLflow: https://mlflow.org. Without a server, into the folder `mlruns` of the run."""

    name, package = "mlflow", "mlflow"
    advice = "Set MLFLOW_TRACKING_URI to a server or a folder that can be written to"

    def __init__(self, *, tracking_uri: str | None = None, experiment: str | None = None):
        """Where to.

        Args:
            tracking_uri: A server or a folder; default: `MLFLOW_TRACKING_URI`, else `mlruns` in the run's folder.
            experiment: Its name; default: `MLFLOW_EXPERIMENT_NAME`, else "encdec-eqx".

        Raises:
            ImportError: mlflow is not installed.
        """
        super().__init__()
        self._uri, self._experiment = tracking_uri, experiment
        self._client: Any = None
        self._run = ""

    def _open(self, event: StartEvent, known: str | None) -> str:
        uri = self._uri or os.environ.get("MLFLOW_TRACKING_URI")
        if uri is None:
            # mlflow would rather have a database, which its light package cannot write
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            uri = (event.output_dir / "mlruns").absolute().as_uri()
        self._client = importlib.import_module("mlflow").MlflowClient(uri)
        if known is not None:
            self._run = known
            self._client.update_run(known, status="RUNNING")
            there = self._client.get_run(known).data.metrics
            for kind in self._last:
                history = self._client.get_metric_history(known, f"{kind}/loss") if f"{kind}/loss" in there else ()
                self._last[kind] = max((one.step for one in history), default=0)
            return known
        name = self._experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME", "encdec-eqx")
        found = self._client.get_experiment_by_name(name)
        experiment = self._client.create_experiment(name) if found is None else found.experiment_id
        self._run = self._client.create_run(experiment, run_name=event.output_dir.name).info.run_id
        for setting, value in event.config.to_dict().items():
            self._client.log_param(self._run, setting, value)
        return self._run

    def _numbers(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._client.log_metric(self._run, name, value, step=step)

    def _samples(self, step: int, rows: Sequence[Sequence[str]]) -> None:
        self._client.log_text(self._run, _markdown(rows), f"samples/step-{step}.md")

    def _close(self, ending: str) -> None:
        status = {"failed": "FAILED", "interrupted": "KILLED"}.get(ending, "FINISHED")
        self._client.set_terminated(self._run, status)


_KINDS: dict[str, type[_Tracker]] = {kind.name: kind for kind in (TensorBoardCallback, WandbCallback, MLflowCallback)}
PACKAGES = {name: kind.package for name, kind in _KINDS.items()}
"""The package of each name of `report_to`."""


def trackers_of(config: TrainConfig, callbacks: Sequence[Callback] = ()) -> list[Callback]:
    """The callbacks that `config.report_to` names.

    Raises:
        ImportError: A package is not installed.
        ValueError: One of the callbacks reports to the same.
    """
    for name in config.report_to:
        if any(isinstance(callback, _KINDS[name]) for callback in callbacks):
            raise ValueError(f"report_to and callbacks both hold {name!r}: leave it out of one.")
    return [_KINDS[name]() for name in config.report_to]


def _known_runs(folder: Path) -> dict[str, str]:
    """By service, how it knows the run in a folder; nothing of a file that cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((folder / _RUNS).read_bytes())
        if isinstance(found, dict):
            return {name: known for name, known in found.items() if isinstance(known, str)}
    return {}


def _row(one: Generated) -> tuple[str, str, str]:
    return one.source, one.text, " | ".join(one.references)


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = [_COLUMNS, ("---",) * len(_COLUMNS), *rows]
    return "\n".join(f"| {' | '.join(_cell(text) for text in line)} |" for line in lines)


def _cell(text: str) -> str:
    return printable(text, _LONGEST).replace("|", "\\|")
