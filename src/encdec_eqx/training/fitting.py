"""The training loop: from a model, examples and settings to a trained model, its log and its checkpoints."""

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import jax
from jax.sharding import Mesh

from .. import _processes as processes
from .._quoting import quoted
from .._signals import StopFlag, graceful_stop
from ..doctor.finding import stop_on_errors
from ..hf.model_card import CardData
from ..text import TokenizerPair
from .callbacks import (
    Callback,
    Callbacks,
    CheckpointEvent,
    Ending,
    EvaluationEvent,
    FitResult,
    LogEvent,
    StartEvent,
    StepEvent,
)
from .cluster.agreement import Vote, check_same
from .evaluation import Generated
from .loss import Loss
from .optim.optimizer import OwnOptimizer
from .reporting.log import RunLog, UnwrittenLog, read_log
from .reporting.progress import Progress, progress
from .reporting.run_folder import Output
from .reporting.trackers import trackers_of
from .reporting.tracking import StepMetrics
from .reporting.training_card import training_card
from .resume import RunCheckpoints
from .resume.same_run import check_schedule
from .step import init_train_state
from .train_config import TrainConfig
from .training_run import TrainingRun, prepare

_LOG = logging.getLogger(__name__)
_SHOWN = 4  # predictions
_WAITED_FOR = 8  # steps after which the first estimate of the time that is left is a good one
_OF_STEPS = ("train", "eval")
_STOPS = ("SIGINT", "SIGTERM", "a callback")


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
    optimizer: OwnOptimizer | None = None,
    loss: Loss | None = None,
    callbacks: Sequence[Callback] = (),
    mesh: Mesh | None = None,
) -> FitResult:
    """Fine-tunes a model, evaluates it along the way, and keeps all that is needed to go on after any interruption.

    While training the model is in the scanned layout, and unrolled whenever it generates; `model` itself is untouched.
    Where the model's generation settings say no length to stop at, the result's say one that its targets fit in.
    `config.output_dir` gets `log.jsonl` (one line per `logging_steps`), `loss.png`, `config.json`, `checkpoints/`, and
    at the end `model/`, which `EncoderDecoder.from_pretrained` reads (with the tokenizers, if there are any).

    A run that was killed at any moment goes on with `resume=True` from its newest whole checkpoint, and ends with the
    very bits that it would have ended with. SIGTERM and a first Ctrl-C save a checkpoint and return. An optimizer and a
    loss of your own are compared by the names of their functions and the plain values they close over; a resumed run
    with others is refused, and says which.

    Args:
        model: An `EncoderDecoder`, in either layout, its arrays in float32.
        data: What to train on: a path or several (JSONL, CSV, TSV, Parquet), an iterable of `(source, target)` texts or
            of mappings with `source` and `target`, or encoded `Examples`. An iterable is read once, before training.
            Files that do not fit in memory: `stream_pairs(files)`.
        config: The settings.
        eval_data: What to evaluate on, in the same forms but for streams; default: there are no evaluations.
        tokenizers: Turn text into ids; not needed for encoded examples.
        on_bad_records: What becomes of records that cannot be used, as in `read_pairs`.
        on_diagnosed_errors: What becomes of errors that `check_before_training` finds in examples from all over
            the data: "report" shows and logs them, as warnings are, "error" ends the run before it begins.
        console: A `rich.console.Console` for the progress; default: one on stderr.
        optimizer: Instead of the config's: an `optax.GradientTransformation`, or a function that makes one from the
            run's `Schedule` (`lambda schedule: optax.adamw(schedule)`), whose rates are then logged and may be
            lengthened. It gets the trained arrays alone, float32, with None in place of all that is frozen, and is to
            clip, decay and scale by the rate itself: the config's settings for that must stay at their defaults, but
            for a function those of the schedule. Its state must be made of jax arrays.
        loss: Instead of `seq2seq_loss`, in training and in the loss of evaluations: `loss(logits, labels) -> (sum,
            weight)`, two sums over the labels that are not -100; the weight may depend on the labels alone. See
            `make_train_step`.
        callbacks: Told of steps, evaluations and checkpoints, and may end the run: see `Callback`.
        mesh: Devices to train on together, as of `make_mesh`: the model is spread over them as by `with_mesh`, every
            batch is split among `data` x `fsdp` of them, evaluations too. The numbers stay those of one device, up to
            the order of sums. The result's model lies on the mesh; `model/` and checkpoints know of none, and a run
            may be resumed on another. Default: the mesh that `model` lies on already, else one device.

    Raises:
        ValueError: Settings, data and model do not fit together, or `output_dir` holds something else.
        DiagnosedError: The diagnosis finds errors, and `on_diagnosed_errors` is "error".
        TypeError: Something is not of the kind it should be.
        TrainingDivergedError: The loss is no finite number any more.
        CheckpointNotWrittenError: The disk is full, or not writable; what was saved before is intact.
    """
    if on_diagnosed_errors not in ("error", "report"):
        raise ValueError(f'on_diagnosed_errors must be "error" or "report", got {quoted(on_diagnosed_errors)}.')
    first = processes.is_first()
    listeners = Callbacks([*callbacks, *(trackers_of(config, callbacks) if first else ())])
    Output.check(config)
    ready = prepare(
        model,
        data,
        config,
        eval_data=eval_data,
        tokenizers=tokenizers,
        on_bad=on_bad_records,
        optimizer=optimizer,
        loss=loss,
        mesh=mesh,
    )
    if processes.count() > 1:
        check_same("settings, data and model", ready.shared)
    if on_diagnosed_errors == "error":
        stop_on_errors(ready.findings)
    output = Output.opened(config)
    with listeners.closing():
        with contextlib.ExitStack() as stack:
            checkpoints = stack.enter_context(
                RunCheckpoints(
                    output.checkpoints,
                    save_total_limit=config.save_total_limit,
                    best_metric=config.best_by if ready.evaluates else None,
                    greater_is_better=ready.best_tracker.greater_is_better if ready.evaluates else None,
                    run=ready.identity,
                )
            )
            stop = stack.enter_context(graceful_stop())
            output.clear()
            run = _Run(ready, output, checkpoints, stop, listeners)
            run.resume()
            output.write_settings(config)
            run.log = stack.enter_context(
                RunLog(output.log, resume_from=run.step if run.resumed else None, without=run.taken_back)
                if first
                else UnwrittenLog()
            )
            with progress(ready.total_steps, start=run.step, console=console, silent=not first) as bar:
                run.introduce(bar)
                ending = run.to_the_end(bar)
            trained = run.finished_model(ending)
            predictions: tuple[Generated, ...] = ()
            if ending != "interrupted":
                card = run.card(data, eval_data)
                output.save_model(trained, tokenizers, has_lora=config.lora is not None, card=card)
                predictions = _predictions(ready, trained)
        with processes.together("ending the run"):
            records = tuple(read_log(output.log))
            output.draw(records)
        result = FitResult(
            model=trained,
            ending=ending,
            step=run.step,
            best=run.best_tracker.best,
            best_step=run.best_tracker.best_step,
            best_values=run.best_tracker.best_values,
            best_by=None if run.best_tracker.best_step is None else config.best_by,
            model_step=run.model_step,
            predictions=predictions,
            output_dir=config.output_dir,
            log=records,
            signal=run.signal,
        )
        listeners.tell("on_end", result)
        return result


def _predictions(ready: TrainingRun, model: Any) -> tuple[Generated, ...]:
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

    def __init__(
        self, ready: TrainingRun, output: Output, checkpoints: RunCheckpoints, stop: StopFlag, callbacks: Callbacks
    ):
        self.ready, self.output, self.checkpoints, self.stop = ready, output, checkpoints, stop
        self.callbacks = callbacks
        self.config = ready.config
        self.state = init_train_state(ready.model, ready.optimizer, trainable=self.config.trained)
        self.step, self.best_tracker, self.step_metrics = 0, ready.best_tracker, StepMetrics()
        self.model_step = 0
        self.saved_at, self.resumed = 0, False
        self.logged = 0
        self.shapes: set[Any] = set()
        self.untimed = _WAITED_FOR
        self.taken_back: tuple[str, ...] = ()
        self.early: dict[str, Any] | None = None
        self.vote = Vote(len(_STOPS))
        self.stopped = False
        self.signal: str | None = None
        self.notes: tuple[str, ...] = ()

    def resume(self) -> None:
        """Takes up the newest checkpoint, if the run is one to be resumed and there is one."""
        found = self.checkpoints.restore_latest(self.state) if self.config.resume else None
        if found is None:
            return
        self.state, self.step = found.state, found.step
        position = self._lengthened(found.position)
        self.best_tracker = self.best_tracker.restored(position["best_tracker"])
        self.step_metrics = StepMetrics(position["meter"])
        self.logged = position["logged"]
        self.callbacks.restore(position["callbacks"])
        self.saved_at, self.resumed = self.step, True
        self.notes = (f"resumed from the checkpoint of step {self.step}", *found.notes, *self.notes)

    def _lengthened(self, position: Mapping[str, Any]) -> Mapping[str, Any]:
        """Where the run stands: as it was saved, or as if it had not ended there, if it is now to be longer."""
        then, now = position["run_schedule"], self.ready.run_schedule
        check_schedule(then, now, step=self.step, output_dir=self.config.output_dir)
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
        total = self.ready.total_steps
        key = jax.random.key(self.config.seed)  # drives dropout: a step folds its number in
        self.callbacks.tell(
            "on_start", StartEvent(step=self.step, total_steps=total, output_dir=self.output.folder, config=self.config)
        )
        self.stopped = self.callbacks.stop_requested
        self.step_metrics.go_on()
        for batch in self._batches(self.step, total):
            if self.best_tracker.exhausted or self.stopped:
                break
            done = self._announced(batch, bar)
            self.state, metrics = self.ready.train_step(self.state, self.ready.rows.put(batch), key)
            self.step += 1
            self.step_metrics.add(metrics, batch, parts=self.ready.rows.own.count)
            if done:
                self.step_metrics.settle()
            if self.callbacks:
                rate = None if self.ready.schedule is None else self.ready.learning_rate
                told = {"metrics": metrics, "batch": batch, "learning_rate_of": rate}
                self.callbacks.tell("on_step", StepEvent(step=self.step, total_steps=total, **told))
            self._afterwards(bar, done)
            self._ask_all()
            if self.signal is not None:
                self._save_unless_saved()  # else it would lose its metrics
                return "interrupted"
        self._save_unless_saved()
        self.checkpoints.wait()
        if self.step == total:
            return "finished"
        return "early stopping" if self.best_tracker.exhausted else "stopped"

    def _ask_all(self) -> None:
        """Whether any process got a signal, or has a callback that ends the run: all stop after the same step."""
        *signals, self.stopped = self.vote(
            *(self.stop.signal == name for name in _STOPS[:-1]), self.callbacks.stop_requested
        )
        self.signal = next((name for name, came in zip(_STOPS, signals, strict=False) if came), None)

    def _save_unless_saved(self) -> None:
        if self.saved_at != self.step:
            self._save()

    def finished_model(self, ending: Ending) -> Any:
        """The model that the run ends with: the best or the last."""
        state, self.model_step = self.state, self.step
        if self.config.load_best_model_at_end and ending != "interrupted" and self.best_tracker.best_step != self.step:
            best = self.checkpoints.restore_best(self.state)
            # there is none if no evaluation gave a number
            if best is not None:
                state, self.model_step = best.state, best.step
        return self.ready.finished(state.model)

    def card(self, data: Any, eval_data: Any) -> CardData:
        """What the run says of the model that it ends with."""
        held_out = self.ready.eval_examples
        lines = (line for line in self.log.records() if line["event"] == "eval" and line["step"] == self.model_step)
        return training_card(
            self.config,
            data=data,
            eval_data=eval_data,
            examples=(len(self.ready.batches.examples), 0 if held_out is None else len(held_out)),
            steps=(self.step, self.model_step),
            own=self.ready.own,
            results=next(lines, None),
            tokenizers=self.ready.tokenizers is not None,
        )

    def _batches(self, first: int, total: int) -> Iterator[dict[str, Any]]:
        """The batches of the steps from `first` on. Their order follows from the step's number alone."""
        batches, per_epoch = self.ready.batches, self.ready.steps_per_epoch
        for epoch in range(first // per_epoch, -(-total // per_epoch)):
            plan = batches.epoch(epoch)
            begin, end = max(first - epoch * per_epoch, 0), min(total - epoch * per_epoch, per_epoch)
            own = self.ready.rows.own
            yield from plan.read(begin, end, process_index=own.index, process_count=own.count)

    def _announced(self, batch: Mapping[str, Any], bar: Progress) -> bool:
        """Says that a batch of a new shape compiles the step. Whether the step is to be waited for, to be timed."""
        shape = tuple(sorted((name, value.shape) for name, value in batch.items()))
        if shape in self.shapes:
            self.untimed -= 1
            return self.untimed >= 0
        self.shapes.add(shape)
        self.step_metrics.settle()
        bar.compiling()
        return True

    def _afterwards(self, bar: Progress, done: bool) -> None:
        """What is due after a step: a line of the log, an evaluation, a checkpoint."""
        last = self.step == self.ready.total_steps
        self.early = self._early() if last else None
        if last or self.ready.line_due(self.step):
            reading = self.step_metrics.read(self.step)
            known = self.ready.schedule is not None
            line = {
                "loss": reading.loss,
                **({"learning_rate": self.ready.learning_rate(self.step - 1)} if known else {}),
                "grad_norm": reading.grad_norm,
                "tokens_per_second": reading.tokens_per_second,
                "epoch": self.step / self.ready.steps_per_epoch,
            }
            self._record("train", **line)
            bar.update(self.step, done=True, **line)
            self.callbacks.tell("on_log", LogEvent(step=self.step, values=line))
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
        self.step_metrics.pause()
        return {
            "events": events,
            "meter": self.step_metrics.state() if line else None,
            "best_tracker": self.best_tracker.state() if evaluation else None,
        }

    def _evaluate(self, bar: Progress) -> None:
        self.step_metrics.pause()
        bar.evaluating()
        model = self.state.model
        values, said = self.ready.evaluate(model)
        self.best_tracker = self.best_tracker.after(self.step, values)
        self._record("eval", **values)
        bar.evaluated(self.step, values)
        is_best = self.best_tracker.best_step == self.step
        self.callbacks.tell(
            "on_evaluation",
            EvaluationEvent(
                step=self.step, values=values, is_best=is_best, model=model, predictions=tuple(said[:_SHOWN])
            ),
        )
        self._save(values)
        self.output.draw(self.log.records())
        self.step_metrics.go_on()

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
        self.step_metrics.pause()
        position = {
            "best_tracker": self.best_tracker.state(),
            "meter": self.step_metrics.state(),
            "logged": self.logged,
            "run_schedule": self.ready.run_schedule,
            "early": self.early,
            "callbacks": self.callbacks.state(),
        }
        self.log.sync()  # a checkpoint that survives a power cut must not be ahead of its log
        passing = self.early is not None and "eval" in self.early["events"]
        self.checkpoints.save(self.step, self.state, position, metrics, passing=passing)
        self.saved_at = self.step
        self.callbacks.tell("on_checkpoint", CheckpointEvent(step=self.step, folder=self.output.checkpoints))
        self.step_metrics.go_on()
