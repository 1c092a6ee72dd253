"""The training loop: from a model, examples and settings to a trained model, its log and its checkpoints."""

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from .._quoting import printable, quoted
from ..doctor.finding import stop_on_errors
from ..text import TokenizerPair
from .evaluation import Generated
from .interrupts import StopFlag, graceful_stop
from .reporting.log import RunLog, read_log
from .reporting.progress import Progress, progress
from .reporting.run_folder import Output
from .reporting.tracking import Meter
from .resume import RunCheckpoints
from .resume.same_run import check_course
from .step import TrainState
from .train_config import TrainConfig
from .training_run import Prepared, prepared

_LOG = logging.getLogger(__name__)
_SHOWN = 4  # predictions
_WAITED_FOR = 8  # steps after which the first estimate of the time that is left is a good one
_OF_STEPS = ("train", "eval")

Ending = Literal["finished", "early stopping", "interrupted"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitResult:
    """What a run came to.

    Attributes:
        model: The trained model, in the unrolled layout, which generates fastest; with `config.lora`, its adapters not
            merged (`merge_lora`). After an interruption: as far as it came.
        ending: "finished", "early stopping", or "interrupted" (by SIGTERM or Ctrl-C; go on with `resume=True`).
        step: Steps taken, over all sessions of the run.
        best: Best evaluated value of `config.best_by`, if there was an evaluation.
        best_step: Its step; of equal values that of the lower loss, then the later one.
        best_values: Everything that was evaluated at that step, by name.
        best_by: What decides which is best, if there was an evaluation.
        model_step: The step whose parameters `model` has.
        predictions: What `model` generates for the first examples of the evaluation, beside the references; empty
            without such examples, after an interruption, and with `predict_with_generate=False`.
        output_dir: Folder of the run.
        log: The lines of `log.jsonl`, as mappings.
    """

    model: Any
    ending: Ending
    step: int
    best: float | None
    best_step: int | None
    best_values: Mapping[str, float] | None
    best_by: str | None
    model_step: int
    predictions: tuple[Generated, ...]
    output_dir: Path
    log: tuple[dict[str, Any], ...]


def fit(
    model: Any,
    data: Any,
    config: TrainConfig,
    *,
    eval_data: Any = None,
    tokenizers: TokenizerPair | None = None,
    on_bad_records: Literal["error", "report"] = "error",
    on_diagnosed_errors: Literal["error", "report"] = "report",
    console: Any = None,
) -> FitResult:
    """Fine-tunes a model, evaluates it along the way, and keeps all that is needed to go on after any interruption.

    While training the model is in the scanned layout, and unrolled whenever it generates; `model` itself is untouched.
    Where the model's generation settings say no length to stop at, the result's say one that its targets fit in.
    `config.output_dir` gets `log.jsonl` (a line every `logging_steps`), `loss.png`, `config.json`, `checkpoints/`, and
    at the end `model/`, which `EncoderDecoder.from_pretrained` reads (with the tokenizers, if there are any).

    A run that was killed at any moment goes on with `resume=True` from its newest whole checkpoint, and ends with the
    very bits that it would have ended with. SIGTERM and a first Ctrl-C save a checkpoint and return.

    Args:
        model: An `EncoderDecoder`, in either layout, its arrays in float32.
        data: What to train on: a path or several (JSONL, CSV, TSV, Parquet), an iterable of `(source, target)` texts or
            of mappings with `source` and `target`, or encoded `Examples`. An iterable is read once, before training.
        config: The settings.
        eval_data: What to evaluate on, in the same forms; default: there are no evaluations.
        tokenizers: Turn text into ids; not needed for encoded examples.
        on_bad_records: What becomes of records that cannot be used, as in `read_pairs`.
        on_diagnosed_errors: What becomes of errors that `check_before_training` finds in examples from all over
            the data: "report" shows and logs them, as warnings are, "error" ends the run before it begins.
        console: A `rich.console.Console` for the progress; default: one on stderr.

    Raises:
        ValueError: Settings, data and model do not fit together, or `output_dir` holds something else.
        DiagnosedError: The diagnosis finds errors, and `on_diagnosed_errors` is "error".
        TypeError: Something is not of the kind it should be.
        TrainingDivergedError: The loss is no finite number any more.
        CheckpointNotWrittenError: The disk is full, or not writable; what was saved before is intact.
    """
    if on_diagnosed_errors not in ("error", "report"):
        raise ValueError(f'on_diagnosed_errors must be "error" or "report", got {quoted(on_diagnosed_errors)}.')
    Output.check(config)
    ready = prepared(model, data, config, eval_data=eval_data, tokenizers=tokenizers, on_bad=on_bad_records)
    if on_diagnosed_errors == "error":
        stop_on_errors(ready.findings)
    output = Output.opened(config)
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(
            RunCheckpoints(
                output.checkpoints,
                save_total_limit=config.save_total_limit,
                best_metric=config.best_by if ready.evaluates else None,
                greater_is_better=ready.standing.greater_is_better if ready.evaluates else None,
                run=ready.identity,
            )
        )
        stop = stack.enter_context(graceful_stop())
        output.clear()
        run = _Run(ready, output, checkpoints, stop)
        run.resume()
        output.write_settings(config)
        run.log = stack.enter_context(
            RunLog(output.log, resume_from=run.step if run.resumed else None, without=run.taken_back)
        )
        with progress(ready.total_steps, start=run.step, console=console) as bar:
            run.introduce(bar)
            ending = run.to_the_end(bar)
        trained = run.finished_model(ending)
        predictions: tuple[Generated, ...] = ()
        if ending != "interrupted":
            output.save_model(trained, tokenizers, has_lora=config.lora is not None)
            predictions = _predictions(ready, trained)
    records = tuple(read_log(output.log))
    output.draw(records)
    return FitResult(
        model=trained,
        ending=ending,
        step=run.step,
        best=run.standing.best,
        best_step=run.standing.best_step,
        best_values=run.standing.best_values,
        best_by=None if run.standing.best_step is None else config.best_by,
        model_step=run.model_step,
        predictions=predictions,
        output_dir=config.output_dir,
        log=records,
    )


def _predictions(ready: Prepared, model: Any) -> tuple[Generated, ...]:
    """What the model makes of some examples. It is saved by now: an error would hide that."""
    if ready.config.predict_with_generate is False or not ready.evaluates:
        return ()
    try:
        return tuple(ready.generated(model, first=_SHOWN))
    except (ValueError, TypeError, NotImplementedError) as error:
        _LOG.warning("the model is saved, but it cannot generate: %s", error)
        return ()


class _Run:
    """A run in progress: its state, and where it stands. Mutable, and gone when `fit` returns."""

    log: RunLog

    def __init__(self, ready: Prepared, output: Output, checkpoints: RunCheckpoints, stop: StopFlag):
        self.ready, self.output, self.checkpoints, self.stop = ready, output, checkpoints, stop
        self.config = ready.config
        self.state: TrainState = ready.initial_state()
        self.step, self.standing, self.meter = 0, ready.standing, Meter()
        self.model_step = 0
        self.saved_at, self.resumed = 0, False
        self.logged = 0
        self.shapes: set[Any] = set()
        self.untimed = _WAITED_FOR
        self.taken_back: tuple[str, ...] = ()
        self.early: dict[str, Any] | None = None
        self.notes: tuple[str, ...] = ()

    def resume(self) -> None:
        """Takes up the newest checkpoint, if the run is one to be resumed and there is one."""
        found = self.checkpoints.restore_latest(self.state) if self.config.resume else None
        if found is None:
            return
        self.state, self.step = found.state, found.step
        position = self._lengthened(found.position)
        self.standing = self.standing.restored(position["standing"])
        self.meter = Meter(position["meter"])
        self.logged = position["logged"]
        self.saved_at, self.resumed = self.step, True
        self.notes = (f"resumed from the checkpoint of step {self.step}", *found.notes, *self.notes)

    def _lengthened(self, position: Mapping[str, Any]) -> Mapping[str, Any]:
        """Where the run stands: as it was saved, or as if it had not ended there, if it is now to be longer."""
        then, now = position["course"], self.ready.course
        check_course(then, now, step=self.step, output_dir=self.config.output_dir)
        early = position["early"]
        if then["total_steps"] == now["total_steps"] or early is None:
            return position
        self.taken_back = tuple(early["events"])
        self.notes = (
            f"the run was to end at step {then['total_steps']} and goes on to step {now['total_steps']}; what its end "
            "had added to the log is taken back",
        )
        stood = {name: value for name, value in early.items() if value is not None}
        return {**position, **stood, "logged": position["logged"] - len(self.taken_back)}

    def introduce(self, bar: Progress) -> None:
        """Says what is trained, on which batches, and what looks wrong before anything is computed."""
        bar.note(f"{self.ready.summary}\n{self.ready.batches.describe()}")
        for note in (*self.notes, *self.ready.notes, *self.checkpoints.notes, *self.log.notes, *self._lost_lines()):
            bar.note(note)
            self.log.write("note", step=self.step, text=note)
        for finding in self.ready.findings:
            bar.note(str(finding))
            if not self.resumed:
                self.log.write("finding", code=finding.code, severity=finding.severity, message=finding.message)

    def to_the_end(self, bar: Progress) -> Ending:
        """Takes steps until there are no more, patience has run out, or a signal came."""
        total, key = self.ready.total_steps, self.ready.key
        self.meter.go_on()
        for batch in self._batches(self.step, total):
            if self.standing.exhausted:
                break
            done = self._announced(batch, bar)
            self.state, metrics = self.ready.train_step(self.state, batch, key)
            self.step += 1
            self.meter.add(metrics, batch)
            if done:
                self.meter.settle()
            self._afterwards(bar, done)
            if self.stop.requested:
                if self.saved_at != self.step:  # else it would lose its metrics
                    self._save()
                return "interrupted"
        if self.saved_at != self.step:
            self._save()
        self.checkpoints.wait()
        return "finished" if self.step == total else "early stopping"

    def finished_model(self, ending: Ending) -> Any:
        """The model that the run ends with: the best or the last."""
        state, self.model_step = self.state, self.step
        if self.config.load_best_model_at_end and ending != "interrupted" and self.standing.best_step != self.step:
            best = self.checkpoints.restore_best(self.state)
            # there is none if no evaluation gave a number
            if best is not None:
                state, self.model_step = best.state, best.step
        return self.ready.finished(state.model)

    def _batches(self, first: int, total: int) -> Iterator[dict[str, Any]]:
        """The batches of the steps from `first` on. Their order follows from the step's number alone."""
        batches, per_epoch = self.ready.batches, self.ready.steps_per_epoch
        for epoch in range(first // per_epoch, -(-total // per_epoch)):
            plan = batches.epoch(epoch)
            begin, end = max(first - epoch * per_epoch, 0), min(total - epoch * per_epoch, per_epoch)
            for index in range(begin, end):
                yield plan[index]

    def _announced(self, batch: Mapping[str, Any], bar: Progress) -> bool:
        """Says that a batch of a new shape compiles the step. Whether the step is to be waited for, to be timed."""
        shape = tuple(sorted((name, value.shape) for name, value in batch.items()))
        if shape in self.shapes:
            self.untimed -= 1
            return self.untimed >= 0
        self.shapes.add(shape)
        self.meter.settle()
        bar.compiling()
        return True

    def _afterwards(self, bar: Progress, done: bool) -> None:
        """What is due after a step: a line of the log, an evaluation, a checkpoint."""
        last = self.step == self.ready.total_steps
        self.early = self._early() if last else None
        if last or self.ready.line_due(self.step):
            reading = self.meter.read(self.step)
            line = {
                "loss": reading.loss,
                "learning_rate": self.ready.learning_rate(self.step - 1),
                "grad_norm": reading.grad_norm,
                "tokens_per_second": reading.tokens_per_second,
                "epoch": self.step / self.ready.steps_per_epoch,
            }
            self._record("train", **line)
            bar.update(self.step, done=True, **line)
        else:
            bar.update(self.step, done=done)
        if self.ready.evaluation_due(self.step) or (last and self.ready.evaluates):
            self._evaluate(bar)
        elif self.ready.checkpoint_due(self.step):
            self._save()

    def _early(self) -> dict[str, Any] | None:
        """What comes at this step only because it is the last, and how the run stands without it; None: nothing does.

        A run that is lengthened later takes it back, and so becomes what it would have been.
        """
        line = not self.ready.line_due(self.step)
        evaluation = self.ready.evaluates and not self.ready.evaluation_due(self.step)
        events = [name for name, comes in (("train", line), ("eval", evaluation)) if comes]
        if not events:
            return None
        self.meter.pause()
        return {
            "events": events,
            "meter": self.meter.state() if line else None,
            "standing": self.standing.state() if evaluation else None,
        }

    def _evaluate(self, bar: Progress) -> None:
        self.meter.pause()
        bar.evaluating()
        values = self.ready.evaluate(self.state.model)
        self.standing = self.standing.after(self.step, values)
        self._record("eval", **values)
        bar.evaluated(self.step, values)
        self._save(values)
        self.output.draw(self.log.records())
        self.meter.go_on()

    def _record(self, event: str, **numbers: float) -> None:
        """Writes a line of the log that belongs to this step."""
        self.log.write(event, step=self.step, **numbers)
        self.logged += 1

    def _lost_lines(self) -> tuple[str, ...]:
        """What the log lacks of the steps before the checkpoint: a power cut may take what was not on the disk yet."""
        there = sum(line["event"] in _OF_STEPS for line in self.log.records())
        if there >= self.logged:
            return ()
        return (f"the log lacks {self.logged - there} of its {self.logged} lines of the steps up to {self.step}.",)

    def _save(self, metrics: dict[str, float] | None = None) -> None:
        self.meter.pause()
        position = {
            "standing": self.standing.state(),
            "meter": self.meter.state(),
            "logged": self.logged,
            "course": self.ready.course,
            "early": self.early,
        }
        self.log.sync()  # a checkpoint that survives a power cut must not be ahead of its log
        passing = self.early is not None and "eval" in self.early["events"]
        self.checkpoints.save(self.step, self.state, position, metrics, passing=passing)
        self.saved_at = self.step
        self.meter.go_on()


_LONGEST = 300


def closing_lines(result: FitResult) -> Iterator[str]:
    """The lines, without line ends."""
    yield f"{result.ending} after {result.step} steps; the model is in {printable(result.output_dir / 'model')}"
    if result.best_step is not None:
        scores = "  ".join(f"{name} {value:.4g}" for name, value in (result.best_values or {}).items())
        yield f"best by {result.best_by}: step {result.best_step} of {result.step}  {scores}"
        yield _which(result)
    if result.predictions:
        yield "what it makes of the first validation examples:"
    for one in result.predictions:
        yield f"  source      {_shown(one.source)}"
        yield f"  prediction  {_shown(one.text)}"
        yield f"  reference   {' | '.join(map(_shown, one.references))}"


def _which(result: FitResult) -> str:
    """Which step's parameters the model has, and how to get the best ones if it has others."""
    if result.model_step == result.best_step:
        return f"the model is that of step {result.model_step}, the best"
    return (
        f"the model is that of step {result.model_step}, the last; load_best_model_at_end = true keeps the best "
        "(with --resume, it is taken from its checkpoint)"
    )


def _shown(text: str) -> str:
    return printable(text, _LONGEST)
