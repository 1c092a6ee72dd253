"""`fit` with an optimizer, a loss and callbacks of the user's own: equal to settings, resumed exactly."""

import functools
import os
import signal
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from encdec_eqx import seq2seq_loss
from encdec_eqx.training import (
    Callback,
    CheckpointEvent,
    EvaluationEvent,
    FitResult,
    Schedule,
    StartEvent,
    StepEvent,
    TrainConfig,
    fit,
    init_train_state,
    make_optimizer,
    make_train_step,
)
from encdec_eqx.training.resume.same_run import in_words
from models import random_ids
from tolerances import SAME_LOSS_ALONE, SAME_STEP
from training.test_fit import config as several_shapes
from training.test_fit import pair, reversal, same

RECORDS = reversal(24)


def config(folder: Path, **changes: Any) -> TrainConfig:
    """Few steps, one shape."""
    return several_shapes(folder, **{"max_shapes": 1, **changes})


def adamw(schedule: Schedule, b1: float = 0.9) -> optax.GradientTransformation:
    """What `fit` makes of its default settings."""
    return optax.chain(
        optax.clip_by_global_norm(1.0), optax.scale_by_adam(b1, 0.999, 1e-8), optax.scale_by_learning_rate(schedule)
    )


def _train_lines(result: FitResult, *without: str) -> list[dict[str, Any]]:
    left_out = {"tokens_per_second", *without}
    lines = [line for line in result.log if line["event"] == "train"]
    return [{name: value for name, value in line.items() if name not in left_out} for line in lines]


@pytest.mark.parametrize("trained", [{}, {"lora": "self_attention", "lora_rank": 2}, {"trainable": "decoder"}], ids=str)
def test_an_optimizer_by_hand_is_that_of_the_settings(tmp_path: Path, trained: dict[str, Any]):
    by_config = fit(pair(), RECORDS, config(tmp_path / "config", **trained))
    by_hand = fit(pair(), RECORDS, config(tmp_path / "hand", **trained), optimizer=adamw)
    assert same(by_config.model, by_hand.model)
    assert _train_lines(by_config) == _train_lines(by_hand)


def test_a_transformation_has_rates_of_its_own_which_are_not_logged_unless_known(tmp_path: Path):
    settings = config(tmp_path / "config", lr_scheduler_type="constant", max_grad_norm=None, learning_rate=1e-2)
    by_config = fit(pair(), RECORDS, settings)
    plain = config(tmp_path / "hand", learning_rate=5e-5)
    by_hand = fit(pair(), RECORDS, plain, optimizer=optax.adam(1e-2))
    # two programs, of a schedule and of a constant: what XLA fuses differs, and with it a gradient's last bit, of which
    # Adam makes a whole step where the gradient is nothing else (biases of keys)
    rounded = ("loss", "grad_norm")
    assert _train_lines(by_config, "learning_rate", *rounded) == _train_lines(by_hand, *rounded)
    for one, other in zip(_train_lines(by_config), _train_lines(by_hand), strict=True):
        assert [one[name] for name in rounded] == pytest.approx([other[name] for name in rounded], rel=SAME_STEP)
    ours = make_optimizer(num_training_steps=6, learning_rate=1e-2, lr_scheduler_type="constant", max_grad_norm=None)
    known = fit(pair(), RECORDS, config(tmp_path / "ours", learning_rate=5e-5), optimizer=ours)
    assert _train_lines(known) == _train_lines(by_config)


def restated(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`seq2seq_loss` by its definition."""
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
    counted = labels != -100
    taken = jnp.take_along_axis(log_probs, jnp.where(counted, labels, 0)[..., None], axis=-1)[..., 0]
    return -jnp.sum(jnp.where(counted, taken, 0.0)), jnp.sum(counted, dtype=jnp.float32)


@pytest.mark.parametrize("parts", [1, 2])
def test_a_loss_that_restates_the_default_gives_the_same_run(tmp_path: Path, parts: int):
    settings = {"gradient_accumulation_steps": parts, "eval_steps": 3}
    held_out = reversal(5, seed=1)
    default = fit(pair(), RECORDS, config(tmp_path / "default", **settings), eval_data=held_out)
    given = fit(pair(), RECORDS, config(tmp_path / "given", **settings), eval_data=held_out, loss=seq2seq_loss)
    assert same(default.model, given.model)
    assert _train_lines(default) == _train_lines(given)
    assert default.best_values == given.best_values
    sgd = {**settings, "optim": "sgd", "learning_rate": 0.1}  # which does not magnify rounding
    default, by_hand = (
        fit(pair(), RECORDS, config(tmp_path / str(loss is None), **sgd), eval_data=held_out, loss=loss)
        for loss in (None, restated)
    )
    for ours, theirs in zip(jax.tree.leaves(default.model), jax.tree.leaves(by_hand.model), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=SAME_STEP)
    assert default.best == pytest.approx(by_hand.best, rel=SAME_LOSS_ALONE)


def heavy_ends(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The EOS token weighs three times as much as others."""
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
    weights = jnp.where(labels == -100, 0.0, jnp.where(labels == 2, 3.0, 1.0))
    taken = jnp.take_along_axis(log_probs, jnp.maximum(labels, 0)[..., None], axis=-1)[..., 0]
    return -jnp.sum(weights * taken), jnp.sum(weights)


def test_the_mean_of_a_weighted_loss_is_the_same_however_the_batch_is_split():
    model, optimizer = pair(), optax.sgd(1.0)
    labels = np.array(random_ids(1, 4, 5))
    labels[0, 2:], labels[1, 1], labels[3, :4] = -100, 2, 2
    batch = {"input_ids": random_ids(0, 4, 6), "labels": labels}
    results = []
    for parts in (1, 2, 4):
        step = make_train_step(optimizer, loss=heavy_ends, accumulate_steps=parts)
        results.append(step(init_train_state(model, optimizer), batch, None))
    for state, metrics in results:
        assert float(metrics["weight"]) == np.where(labels == -100, 0, np.where(labels == 2, 3, 1)).sum()
        assert int(metrics["tokens"]) == (labels != -100).sum()
        np.testing.assert_allclose(metrics["loss"], results[0][1]["loss"], rtol=1e-5)
        for one, other in zip(jax.tree.leaves(state.params), jax.tree.leaves(results[0][0].params), strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=SAME_STEP)


class Recorder(Callback):
    """Keeps what it is told, and a count that is rewound with the run."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.steps: list[int] = []

    def on_start(self, event: StartEvent) -> None:
        self.events.append(event)

    def on_step(self, event: StepEvent) -> None:
        self.events.append(event)
        self.steps.append(event.step)
        assert np.isfinite(float(event.metrics["loss"]))
        assert event.batch["labels"].ndim == 2

    def on_evaluation(self, event: EvaluationEvent) -> None:
        assert all(
            np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(eqx.filter(event.model, eqx.is_array))
        )
        self.events.append(event)

    def on_checkpoint(self, event: CheckpointEvent) -> None:
        self.events.append(event)

    def on_end(self, result: FitResult) -> None:
        self.events.append(result)

    def state(self) -> Any:
        return self.steps

    def restore(self, state: Any) -> None:
        self.steps = list(state)


def test_callbacks_are_told_of_everything_once(tmp_path: Path):
    recorder = Recorder()
    settings = config(tmp_path / "run", eval_steps=2)
    result = fit(pair(), RECORDS, settings, eval_data=reversal(4, seed=1), callbacks=[recorder, Callback()])
    told = [type(event).__name__ for event in recorder.events]
    two = ["StepEvent", "StepEvent", "EvaluationEvent", "CheckpointEvent"]
    assert told == ["StartEvent", *two * 3, "FitResult"]
    rates = [event.learning_rate for event in recorder.events if isinstance(event, StepEvent)]
    logged = [line["learning_rate"] for line in result.log if line["event"] == "train"]
    assert rates[1::2] == logged
    evaluations = [event for event in recorder.events if isinstance(event, EvaluationEvent)]
    assert [event.values["loss"] for event in evaluations] == [
        line["loss"] for line in result.log if line["event"] == "eval"
    ]
    assert [event.step for event in evaluations if event.is_best][-1] == result.best_step
    assert recorder.events[-1] is result
    assert same(
        result.model,
        fit(pair(), RECORDS, config(tmp_path / "alone", eval_steps=2), eval_data=reversal(4, seed=1)).model,
    )


class Killing(Callback):
    """Ends the process's part in a run, as a crash would, or politely."""

    def __init__(self, at: int, how: str):
        self.at, self.how = at, how

    def on_step(self, event: StepEvent) -> None:
        if event.step == self.at and self.how == "SIGTERM":
            os.kill(os.getpid(), signal.SIGTERM)
        elif event.step == self.at:
            raise RuntimeError("the machine is gone")


@pytest.mark.parametrize("how", ["SIGTERM", "crash"])
def test_a_resumed_run_goes_on_with_what_was_given_and_counts_every_step_once(tmp_path: Path, how: str):
    given: dict[str, Any] = {"optimizer": adamw, "loss": heavy_ends}
    whole = fit(pair(), RECORDS, config(tmp_path / "whole", save_steps=2), **given)
    first, second = Recorder(), Recorder()
    settings = config(tmp_path / "run", save_steps=2)
    try:
        fit(pair(), RECORDS, settings, callbacks=[first, Killing(5, how)], **given)
    except RuntimeError as error:
        assert how == "crash"
        assert error.__notes__ == ["raised by the callback Killing in on_step"]
    resumed = config(tmp_path / "run", save_steps=2, resume=True)
    result = fit(pair(), RECORDS, resumed, callbacks=[second], **given)
    assert same(result.model, whole.model)
    assert _train_lines(result) == _train_lines(whole)
    assert first.steps == [1, 2, 3, 4, 5]
    assert second.steps == [1, 2, 3, 4, 5, 6]
    start = second.events[0]
    assert isinstance(start, StartEvent)
    assert start.step == (5 if how == "SIGTERM" else 4)


def test_another_optimizer_or_loss_is_refused_by_name(tmp_path: Path):
    settings = config(tmp_path / "run")
    fit(pair(), RECORDS, settings, optimizer=adamw, loss=heavy_ends)
    again = config(tmp_path / "run", resume=True)
    other = functools.partial(adamw, b1=0.8)
    with pytest.raises(ValueError, match=r"optimizer: .*b1=0\.9.* in the checkpoint, .*b1=0\.8.* now"):
        fit(pair(), RECORDS, again, optimizer=other, loss=heavy_ends)
    with pytest.raises(ValueError, match=r"loss: heavy_ends.* in the checkpoint, restated.* now"):
        fit(pair(), RECORDS, again, optimizer=adamw, loss=restated)
    with pytest.raises(ValueError, match=r"optimizer: .* in the checkpoint, absent now"):
        fit(pair(), RECORDS, again, loss=heavy_ends)


def test_a_run_with_an_optimizer_of_ones_own_can_be_lengthened(tmp_path: Path):
    given: dict[str, Any] = {"optimizer": optax.adam(1e-2)}
    whole = fit(pair(), RECORDS, config(tmp_path / "whole", learning_rate=5e-5), **given)
    fit(pair(), RECORDS, config(tmp_path / "run", learning_rate=5e-5, max_steps=3), **given)
    longer = fit(pair(), RECORDS, config(tmp_path / "run", learning_rate=5e-5, resume=True), **given)
    assert same(longer.model, whole.model)


class StopAt(Callback):
    """Asks for the end after a step."""

    def __init__(self, step: int):
        self.step = step

    def on_step(self, event: StepEvent) -> bool:
        return event.step >= self.step


def test_a_callback_may_end_the_run_which_may_go_on_later(tmp_path: Path):
    whole = fit(pair(), RECORDS, config(tmp_path / "whole"))
    stopped = fit(pair(), RECORDS, config(tmp_path / "run"), callbacks=[StopAt(3)])
    assert (stopped.ending, stopped.step, stopped.model_step) == ("stopped", 3, 3)
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
    result = fit(pair(), RECORDS, config(tmp_path / "run", resume=True))
    assert (result.ending, result.step) == ("finished", 6)
    assert same(result.model, whole.model)


def _no_sums(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.mean(logits)


@pytest.mark.parametrize(
    ("given", "settings", "kind", "message"),
    [
        ({"optimizer": "adamw"}, {}, TypeError, "optimizer must be an optax.GradientTransformation, or a function"),
        ({"optimizer": lambda schedule: 3}, {}, TypeError, r"must return an optax.GradientTransformation, got int"),
        (
            {"optimizer": optax.adam(1e-3)},
            {},
            ValueError,
            "learning_rate would do nothing: the optimizer",
        ),
        ({"optimizer": adamw}, {"weight_decay": 0.1}, ValueError, "weight_decay would do nothing"),
        ({"loss": 3}, {}, TypeError, r"loss must be a function, loss\(logits, labels\)"),
        ({"loss": heavy_ends}, {"z_loss": 0.1}, ValueError, "z_loss would do nothing: the loss that is given"),
        ({"loss": _no_sums}, {}, TypeError, r"must return \(sum, weight\), two scalars"),
        ({"callbacks": [print]}, {}, TypeError, "callbacks must be instances of Callback, got builtin_function"),
    ],
)
def test_what_does_not_fit_is_said(tmp_path: Path, given: dict, settings: dict, kind: type, message: str):
    with pytest.raises(kind, match=message):
        fit(pair(), RECORDS, config(tmp_path / "run", **settings), **given)


def test_a_wrong_answer_of_a_callback_is_an_error(tmp_path: Path):
    class Wrong(Callback):
        def on_step(self, event: StepEvent) -> Any:
            return "yes"

    with pytest.raises(TypeError, match=r"Wrong\.on_step must return True \(end the run\), False or None, got str"):
        fit(pair(), RECORDS, config(tmp_path / "run"), callbacks=[Wrong()])


def test_an_optimizer_in_words_says_its_settings_and_nothing_of_this_process():
    said = in_words(optax.adamw(1e-3, b1=0.8))
    assert "b1=0.8" in said
    assert " at 0x" not in said
    assert said == in_words(optax.adamw(1e-3, b1=0.8)) != in_words(optax.adamw(1e-3))
