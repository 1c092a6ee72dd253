"""What `fit` hands to its user: events for callbacks along the way, and the result at the end."""

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from .._quoting import printable
from .evaluation import Generated
from .train_config import TrainConfig

_LONGEST = 300


@dataclasses.dataclass(frozen=True, kw_only=True)
class StartEvent:
    """A session of a run begins.

    Attributes:
        step: Steps taken by earlier sessions; 0 in the first.
        total_steps: Steps of the whole run.
        output_dir: Folder of the run.
        config: The settings of the run.
    """

    step: int
    total_steps: int
    output_dir: Path
    config: TrainConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepEvent:
    """A step was dispatched; it may still be computing.

    Attributes:
        step: Steps taken, this one included.
        total_steps: Steps of the whole run.
        metrics: `loss`, `tokens` and `grad_norm`, as `make_train_step` has them, on the device: `float(...)` of one
            waits for the step, which costs speed where steps are short.
        batch: What the step was given.
        learning_rate_of: From a step's number, counted from 0, to its learning rate; None where `fit` does not know it.
    """

    step: int
    total_steps: int
    metrics: Mapping[str, Any]
    batch: Mapping[str, Any]
    learning_rate_of: Callable[[int], float] | None

    @property
    def learning_rate(self) -> float | None:
        """The learning rate of this step, if `fit` knows it."""
        return None if self.learning_rate_of is None else self.learning_rate_of(self.step - 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogEvent:
    """A line of the log: every `logging_steps` steps, which are done by now.

    Attributes:
        step: Steps taken.
        values: `loss` (the mean since the last line), `learning_rate` (where it is known), `grad_norm`,
            `tokens_per_second` and `epoch`.
    """

    step: int
    values: Mapping[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationEvent:
    """The model was evaluated.

    Attributes:
        step: Steps taken.
        values: The loss, and the metrics of the config, by name.
        is_best: Whether it is the best evaluation so far.
        model: The model as trained so far, to be used before the callback returns: the next step takes its arrays.
        predictions: What it generated for the first examples; empty where evaluations do not generate.
    """

    step: int
    values: Mapping[str, float]
    is_best: bool
    model: Any
    predictions: tuple[Generated, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointEvent:
    """A checkpoint is being written, in the background.

    Attributes:
        step: Steps taken.
        folder: Holds `checkpoint-<step>` as soon as it is whole.
    """

    step: int
    folder: Path


class Callback:
    """Told of a run of `fit`; override what is of interest. All calls come from the thread that called `fit`.

    A method that returns True asks the run to end: a checkpoint and `model/` are written as after the last step, and
    the result's `ending` is "stopped". An exception ends the run as any other does, with a note that names the
    callback; earlier checkpoints stay.

    A run that was killed takes the steps since its newest checkpoint again, and its callbacks are told of them again.
    One that keeps count implements `state` and `restore`: what it had counted is then rewound with the run, so that in
    the end it has seen every step once. Callbacks decide nothing else, and another session may have others.
    """

    def on_start(self, event: StartEvent) -> bool | None:
        """Before the first step of a session."""

    def on_step(self, event: StepEvent) -> bool | None:
        """After every step."""

    def on_log(self, event: LogEvent) -> bool | None:
        """After every line of the log."""

    def on_evaluation(self, event: EvaluationEvent) -> bool | None:
        """After every evaluation."""

    def on_checkpoint(self, event: CheckpointEvent) -> bool | None:
        """After every checkpoint."""

    def on_end(self, result: "FitResult") -> None:
        """With the `FitResult`, after everything is written; not after an exception."""

    def on_close(self, error: BaseException | None) -> None:
        """Last of all, whatever happened: to close what was opened. `error` is the exception, if one ended the run."""

    def state(self) -> Any:
        """What a resumed run is to give to `restore`, in values that JSON can hold; None: nothing."""

    def restore(self, state: Any) -> None:
        """Takes up what `state` gave when the checkpoint was written that the run is resumed from."""


class Callbacks:
    """Calls several callbacks in turn, and remembers whether one asked the run to end."""

    def __init__(self, callbacks: Sequence[Callback]):
        """Checks what was given to `fit`.

        Raises:
            TypeError: One is no `Callback`.
        """
        self._callbacks = tuple(callbacks)
        self.stop_requested = False
        for callback in self._callbacks:
            if not isinstance(callback, Callback):
                raise TypeError(f"callbacks must be instances of Callback, got {type(callback).__name__}.")

    def __bool__(self) -> bool:
        return bool(self._callbacks)

    def tell(self, method: str, event: Any) -> None:
        """Calls the method of each callback."""
        for callback in self._callbacks:
            answer = _called(callback, method, event)
            if answer is not None and not isinstance(answer, bool):
                raise TypeError(
                    f"{type(callback).__name__}.{method} must return True (end the run), False or None, got "
                    f"{type(answer).__name__}."
                )
            self.stop_requested |= bool(answer)

    @contextlib.contextmanager
    def closing(self) -> Iterator[None]:
        """Tells every callback when the block is left."""
        error: BaseException | None = None
        try:
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            with contextlib.ExitStack() as stack:  # one that raises does not keep the others from closing
                for callback in self._callbacks:
                    stack.callback(_called, callback, "on_close", error)

    def state(self) -> dict[str, Any]:
        """The states of the callbacks that have one, by name."""
        states = {name: _called(callback, "state") for name, callback in self._named()}
        return {name: state for name, state in states.items() if state is not None}

    def restore(self, states: Mapping[str, Any]) -> None:
        """Gives each callback the state that its namesake had."""
        for name, callback in self._named():
            if name in states:
                _called(callback, "restore", states[name])

    def _named(self) -> Iterator[tuple[str, Callback]]:
        """Each with its class's name, and a number from the second of a class on."""
        seen: Counter[str] = Counter()
        for callback in self._callbacks:
            name = type(callback).__qualname__
            seen[name] += 1
            yield name if seen[name] == 1 else f"{name} {seen[name]}", callback


def _called(callback: Callback, method: str, *arguments: Any) -> Any:
    try:
        return getattr(callback, method)(*arguments)
    except Exception as error:
        error.add_note(f"raised by the callback {type(callback).__qualname__} in {method}")
        raise


Ending = Literal["finished", "early stopping", "stopped", "interrupted"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitResult:
    """What a run came to.

    Attributes:
        model: The trained model, in the unrolled layout, which generates fastest; with `config.lora`, its adapters not
            merged (`merge_lora`). After an interruption: as far as it came.
        ending: "finished", "early stopping", "stopped" (by a callback), or "interrupted" (by SIGTERM or Ctrl-C; go on
            with `resume=True`).
        signal: Which of the two interrupted it: "SIGTERM" or "SIGINT".
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
    signal: str | None = None


def summary_lines(result: FitResult) -> Iterator[str]:
    """The lines, without line ends."""
    yield f"{result.ending} after {result.step} steps; the model is in {printable(result.output_dir / 'model')}"
    if result.best_step is not None:
        scores = "  ".join(f"{name} {value:.4g}" for name, value in (result.best_values or {}).items())
        yield f"best by {result.best_by}: step {result.best_step} of {result.step}  {scores}"
        which = f"the model is that of step {result.model_step}"
        if result.model_step == result.best_step:
            yield f"{which}, the best"
        else:
            yield (
                f"{which}, the last; load_best_model_at_end = true keeps the best (with --resume, it is taken from its "
                "checkpoint)"
            )
    if result.predictions:
        yield "what it makes of the first validation examples:"
    for one in result.predictions:
        yield f"  source      {printable(one.source, _LONGEST)}"
        yield f"  prediction  {printable(one.text, _LONGEST)}"
        yield f"  reference   {' | '.join(printable(text, _LONGEST) for text in one.references)}"
