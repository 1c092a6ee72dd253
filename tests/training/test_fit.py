"""`fit` on tiny pairs: equal to a loop written by hand, evaluated, stopped, resumed, and from the shell."""

import dataclasses
import io
import json
import os
import signal
import uuid
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest
from rich.console import Console

from encdec_eqx import EncoderDecoder, seq2seq_loss, shift_tokens_right
from encdec_eqx.cli import main
from encdec_eqx.config import PositionsConfig
from encdec_eqx.generation.generation_config import GenerationConfig
from encdec_eqx.params.lora import drop_lora, load_lora, merge_lora
from encdec_eqx.training import TrainConfig, TrainingDivergedError, fit, init_train_state, make_train_step
from encdec_eqx.training.callbacks import summary_lines
from encdec_eqx.training.data import Batches, Example, Examples
from encdec_eqx.training.evaluation import generate_ids, mean_loss, with_length
from encdec_eqx.training.model_examples import digest
from encdec_eqx.training.reporting.log import RunLog, read_log
from encdec_eqx.training.reporting.tracking import BestTracker
from encdec_eqx.training.resume import RunCheckpoints
from encdec_eqx.training.resume import checkpoint_files as files
from encdec_eqx.training.training_run import prepare
from models import VOCAB, decoder_config, encoder_config, tiny_pair
from tolerances import SAME_LOSS_ALONE

END = 2


def reversal(number: int, seed: int = 0) -> list[dict[str, list[int]]]:
    """Records whose target is the source backwards."""
    random = np.random.default_rng(seed)
    sources = [random.integers(3, VOCAB, random.integers(2, 7)).tolist() for _ in range(number)]
    return [{"input_ids": source, "labels": [*source[::-1], END]} for source in sources]


def examples_of(records: list[dict[str, list[int]]]) -> list[Example]:
    """The records as `fit` reads them."""
    arrays = [{name: np.array(ids, np.int32) for name, ids in record.items()} for record in records]
    return [Example(input_ids=one["input_ids"], labels=one["labels"]) for one in arrays]


def pair(**changes: Any) -> EncoderDecoder:
    """One layer a side."""
    return tiny_pair(encoder_config(depth=1), decoder_config(depth=1, **changes))


def config(folder: Path, **changes: Any) -> TrainConfig:
    """Few steps, two shapes."""
    settings: dict[str, Any] = {"max_steps": 6, "max_shapes": 2, "learning_rate": 1e-2, "logging_steps": 2}
    return TrainConfig(output_dir=folder, **{**settings, **changes})


def same(left: Any, right: Any) -> bool:
    """Bit for bit."""
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def test_fit_is_the_loop_that_one_would_write(tmp_path: Path):
    model, records, settings = pair(), reversal(40), config(tmp_path / "run", label_smoothing_factor=0.1, unroll=2)
    result = fit(model, records, settings)
    ready = prepare(model, records, settings)
    assert ready.model.decoder.stack.unroll == ready.model.encoder.stack.unroll == 2
    step = make_train_step(ready.optimizer, label_smoothing=0.1)
    state = init_train_state(model.with_layout("scanned", unroll=2), ready.optimizer)
    examples = examples_of(records)
    batches = Batches(examples, batch_size=8, max_shapes=2, seed=0)
    losses = []
    for number in range(6):
        epoch, index = divmod(number, len(batches))
        state, metrics = step(state, batches.epoch(epoch)[index], jax.random.key(0))
        losses.append((float(metrics["loss"]), float(metrics["tokens"])))
    assert same(result.model, state.model.with_layout("unrolled"))
    logged = [line["loss"] for line in result.log if line["event"] == "train"]
    means = [sum(loss * n for loss, n in two) / sum(n for _, n in two) for two in (losses[:2], losses[2:4], losses[4:])]
    np.testing.assert_allclose(logged, means, rtol=1e-12)  # the same sums in Python's floats
    assert (result.ending, result.step, result.best) == ("finished", 6, None)


def test_the_saved_model_is_the_returned_one_and_the_given_one_is_untouched(tmp_path: Path):
    model = pair()
    before = jax.tree.map(np.array, model)
    result = fit(model, reversal(16), config(tmp_path / "run"))
    assert same(model, before)
    assert not same(result.model, before)
    loaded = EncoderDecoder.from_pretrained(tmp_path / "run" / "model")
    ids = np.array([[5, 6, 7, 8]])
    ours, theirs = (one.generate(ids, max_new_tokens=5).sequences for one in (result.model, loaded))
    np.testing.assert_array_equal(ours, theirs)
    assert (tmp_path / "run" / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["max_steps"] == 6


def test_the_evaluations_loss_is_the_mean_over_labels_however_they_are_batched():
    model = pair()
    examples = examples_of(reversal(11))
    tokens = model.special_tokens

    @eqx.filter_jit
    def alone(ids: jax.Array, mask: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
        inputs = shift_tokens_right(labels, tokens.pad_token_id, tokens.decoder_start_token_id)
        return seq2seq_loss(model(ids, inputs, attention_mask=mask).logits, labels)

    total = weight = 0.0
    for example in examples:
        ids, labels = np.zeros((1, 8), np.int32), np.full((1, 8), -100, np.int32)
        ids[0, : len(example.input_ids)], labels[0, : len(example.labels)] = example.input_ids, example.labels
        arrays: Any = (ids, np.arange(8)[None] < len(example.input_ids), labels)
        loss, number = alone(*arrays)
        total, weight = total + float(loss), weight + float(number)
    for rows, shapes in ((4, 1), (3, 3)):
        batches = Batches(examples, batch_size=rows, max_shapes=shapes, shuffle=False)
        assert mean_loss(model, batches.epoch(0)) == pytest.approx(total / weight, rel=SAME_LOSS_ALONE)


def test_generated_ids_come_in_order_and_as_alone():
    model = pair()
    sources = [np.array(r["input_ids"], np.int32) for r in reversal(7)]
    together = generate_ids(model, sources, batch_size=3, max_new_tokens=6)
    for source, ids in zip(sources, together, strict=True):
        alone = model.generate(source[None], max_new_tokens=6)
        row = alone.sequences[0, 1 : 1 + alone.lengths[0]].tolist()
        assert ids == (row if alone.truncated[0] else row[:-1])


def test_evaluations_come_when_due_and_the_best_is_kept(tmp_path: Path):
    settings = config(
        tmp_path / "run", max_steps=5, eval_steps=2, metrics=["per", "exact_match"], metric_for_best_model="loss",
        load_best_model_at_end=True, learning_rate=1.0, lr_scheduler_type="constant", save_total_limit=1,
    )  # fmt: skip
    held_out = reversal(5, seed=1)
    stream = io.StringIO()
    result = fit(pair(), reversal(16), settings, eval_data=held_out, console=Console(file=stream, width=60))
    told = stream.getvalue()
    assert told.count("compiling the first step") == 1
    assert told.index("compiling") < told.index("step 2/5  eval loss ") < told.index("step 4/5  eval loss ")
    evaluations = [line for line in result.log if line["event"] == "eval"]
    assert [line["step"] for line in evaluations] == [2, 4, 5]
    losses = [line["loss"] for line in evaluations]
    assert result.best == min(losses)
    assert result.best_step == evaluations[int(np.argmin(losses))]["step"]
    # the returned model scores what the best evaluation said
    ready = prepare(pair(), reversal(16), settings, eval_data=held_out)
    values, _ = ready.evaluate(result.model)
    assert values["loss"] == pytest.approx(result.best, rel=SAME_LOSS_ALONE)
    assert set(values) == {"loss", "per", "exact_match"}


def test_the_result_says_which_step_it_is_of_and_what_it_makes_of_examples(tmp_path: Path):
    settings = config(
        tmp_path / "run", max_steps=5, eval_steps=2, learning_rate=1.0, lr_scheduler_type="constant",
        metrics=["exact_match"], generation_max_new_tokens=3,
    )  # fmt: skip
    held_out = reversal(6, seed=1)
    result = fit(pair(), reversal(16), settings, eval_data=held_out)
    evaluations = {line["step"]: line for line in result.log if line["event"] == "eval"}
    assert {line["exact_match"] for line in evaluations.values()} == {0.0}  # so the loss decides
    assert result.best_step == min(evaluations, key=lambda step: evaluations[step]["loss"]) != 5
    assert result.best_by == "exact_match"
    assert result.best_values == {name: evaluations[result.best_step][name] for name in ("loss", "exact_match")}
    assert result.model_step == 5
    ready = prepare(pair(), reversal(16), settings, eval_data=held_out)
    assert result.predictions == tuple(ready.generated(result.model)[:4])
    lines = list(summary_lines(result))
    assert lines[2].startswith("the model is that of step 5, the last; load_best_model_at_end = true keeps the best")
    best = fit(
        pair(),
        reversal(16),
        dataclasses.replace(settings, load_best_model_at_end=True, resume=True),
        eval_data=held_out,
    )  # as the line says
    assert best.model_step == result.best_step
    assert f"the model is that of step {best.best_step}, the best" in summary_lines(best)
    assert not same(best.model, result.model)


def test_without_evaluations_or_generation_the_last_lines_are_few(tmp_path: Path):
    plain = fit(pair(), reversal(8), config(tmp_path / "run", max_steps=1))
    assert [*summary_lines(plain)] == [f"finished after 1 steps; the model is in {tmp_path / 'run' / 'model'}"]
    silent = config(tmp_path / "silent", max_steps=1, predict_with_generate=False)
    result = fit(pair(), reversal(8), silent, eval_data=reversal(3))
    assert (result.predictions, len([*summary_lines(result)])) == ((), 3)


@pytest.mark.parametrize(
    ("targets", "chosen", "own", "expected"),
    [
        ([5, 3], None, {}, {"max_new_tokens": 13}),  # at least 8 more
        ([40], None, {}, {"max_new_tokens": 50}),  # else a quarter
        ([5, 85], None, {}, {"max_new_tokens": 95}),  # of 96 positions
        ([96], None, {}, {"max_new_tokens": 96}),
        ([40], 17, {}, {"max_new_tokens": 17}),
        ([40], None, {"max_length": 12}, {"max_length": 12}),
        ([40], 17, {"max_new_tokens": 12}, {"max_new_tokens": 12}),
        ([40], None, {"num_beams": 2}, {"max_new_tokens": 50, "num_beams": 2}),
    ],
)
def test_a_model_without_a_length_to_stop_at_gets_that_of_its_targets_and_some_more(
    targets: list[int], chosen: int | None, own: dict[str, Any], expected: dict[str, int]
):
    model = pair(positions=PositionsConfig(max_positions=96))
    if own:
        model = dataclasses.replace(model, generation_config=GenerationConfig(**own))
    options = with_length(model, targets, chosen).generation_config
    assert options is not None
    assert options.to_hf() == expected


def test_what_fit_leaves_stops_by_itself_and_a_length_that_cuts_targets_is_said(tmp_path: Path):
    records = reversal(8)
    longest = max(len(record["labels"]) for record in records)
    held_out = [{"input_ids": [5, 6], "labels": [*[7] * longest, END]}]
    settings = config(tmp_path / "run", max_steps=1, predict_with_generate=False)
    result = fit(pair(), records, settings, eval_data=held_out)
    loaded = EncoderDecoder.from_pretrained(tmp_path / "run" / "model")
    for one in (result.model, loaded):
        assert one.generation_config.max_new_tokens == longest + 1 + 8
    ids = np.array([[5, 6, 7, 8]])
    np.testing.assert_array_equal(
        loaded.generate(ids).sequences, result.model.generate(ids, max_new_tokens=longest + 9).sequences
    )
    short = dataclasses.replace(pair(), generation_config=GenerationConfig(max_length=longest))
    cut = fit(short, records, dataclasses.replace(settings, output_dir=tmp_path / "cut"), eval_data=held_out)
    assert cut.model.generation_config.max_length == longest
    (note,) = [line["text"] for line in cut.log if line["event"] == "note"]
    assert f"max_length={longest}, and the longest target has {longest + 1} tokens" in note


def test_patience_ends_a_run_early(tmp_path: Path):
    settings = config(
        tmp_path / "run", max_steps=50, eval_steps=1, early_stopping_patience=2, early_stopping_threshold=100.0
    )
    result = fit(pair(), reversal(8), settings, eval_data=reversal(4, seed=1))
    assert (result.ending, result.step) == ("early stopping", 3)
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


def test_a_signal_saves_and_resuming_ends_as_if_nothing_had_happened(tmp_path: Path, monkeypatch):
    records = reversal(40)
    whole = fit(pair(), records, config(tmp_path / "whole"))

    taken = []

    class Interrupting(Batches):
        def batch(self, shape: Any, indices: Any) -> Any:
            taken.append(1)
            if len(taken) == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().batch(shape, indices)

    monkeypatch.setattr("encdec_eqx.training.prepared.Batches", Interrupting)
    stopped = fit(pair(), records, config(tmp_path / "run"))
    assert (stopped.ending, stopped.step) == ("interrupted", 3)
    assert not (tmp_path / "run" / "model").exists()
    with pytest.raises(ValueError, match="holds a run already: go on with it by resume=True"):
        fit(pair(), records, config(tmp_path / "run"))
    resumed = fit(pair(), records, config(tmp_path / "run", resume=True))
    assert resumed.ending == "finished"
    assert same(resumed.model, whole.model)
    wanted = ("step", "loss", "grad_norm", "learning_rate")
    notes = [line["text"] for line in resumed.log if line["event"] == "note"]
    assert notes == ["resumed from the checkpoint of step 3"]
    lines = [
        [{name: line[name] for name in wanted} for line in result.log if line["event"] == "train"]
        for result in (whole, resumed)
    ]
    assert lines[0] == lines[1]


def test_resuming_over_other_data_or_settings_is_an_error(tmp_path: Path):
    fit(pair(), reversal(16), config(tmp_path / "run"))
    with pytest.raises(ValueError, match="learning_rate"):
        fit(pair(), reversal(16), config(tmp_path / "run", learning_rate=1e-3, resume=True))
    with pytest.raises(ValueError, match=r"examples: 16 examples, .* in the checkpoint, 17 examples, .* now"):
        fit(pair(), reversal(17), config(tmp_path / "run", resume=True))
    again = fit(pair(), reversal(16), config(tmp_path / "run", logging_steps=3, resume=True))
    assert again.step == 6


def test_resuming_over_other_validation_data_is_an_error(tmp_path: Path):
    held_out = reversal(4, seed=1)
    settings = config(tmp_path / "run", max_steps=1)
    fit(pair(), reversal(16), settings, eval_data=held_out)
    resumed = dataclasses.replace(settings, resume=True)
    other = [*held_out[:3], {**held_out[3], "labels": [3, END]}]
    with pytest.raises(
        ValueError, match=r"\n  validation examples: 4 examples, .* in the checkpoint, 4 examples, .* now"
    ):
        fit(pair(), reversal(16), resumed, eval_data=other)
    with pytest.raises(ValueError, match=r"validation examples: 4 examples, .* in the checkpoint, none now"):
        fit(pair(), reversal(16), resumed)
    assert fit(pair(), reversal(16), resumed, eval_data=held_out).step == 1


def test_references_of_the_validation_data_count_too():
    rows = np.array([5, 6], np.int32)
    one, other = (Examples.of([Example(input_ids=rows, labels=rows, targets=(text,))]) for text in ("a", "b"))
    assert digest(one) == digest(other)
    assert digest(one, references=True) != digest(other, references=True)


_EVALUATED = {"eval_steps": 4, "logging_steps": 3, "save_total_limit": 1, "load_best_model_at_end": True}


@pytest.mark.parametrize(
    ("changes", "first", "then"),
    [
        ({"lr_scheduler_type": "constant", **_EVALUATED}, {"max_steps": 5}, {"max_steps": 9}),
        ({"lr_scheduler_type": "constant", "max_steps": None}, {"num_train_epochs": 1.0}, {"num_train_epochs": 2.5}),
        (
            {"max_steps": 9},
            {"lr_scheduler_type": "constant", "max_steps": 5},
            {
                "lr_scheduler_type": "warmup_stable_decay",
                "lr_scheduler_kwargs": {"num_stable_steps": 5, "num_decay_steps": 4},
            },
        ),
    ],
    ids=["constant", "epochs", "decay at the end"],
)
def test_a_lengthened_run_is_the_run_that_was_long_from_the_start(
    tmp_path: Path, changes: dict[str, Any], first: dict[str, Any], then: dict[str, Any]
):
    held_out = reversal(4, seed=1) if "eval_steps" in changes else None
    records, settings = reversal(24), {"max_shapes": 1, **changes}
    short = fit(pair(), records, config(tmp_path / "run", **{**settings, **first}), eval_data=held_out)
    assert short.ending == "finished"
    longer = fit(pair(), records, config(tmp_path / "run", **{**settings, **then}, resume=True), eval_data=held_out)
    whole = fit(pair(), records, config(tmp_path / "whole", **{**settings, **then}), eval_data=held_out)
    assert longer.step == whole.step > short.step
    assert same(longer.model, whole.model)
    assert (longer.best, longer.best_step) == (whole.best, whole.best_step)
    logs = [
        [{**line, "tokens_per_second": 0} for line in result.log if line["event"] in ("train", "eval")]
        for result in (longer, whole)
    ]
    assert logs[0] == logs[1]
    states = [RunCheckpoints(tmp_path / name / "checkpoints", run=None) for name in ("run", "whole")]
    steps = [checkpoints.steps()[-1] for checkpoints in states]
    for checkpoints in states:
        checkpoints.close()
    assert steps == [whole.step] * 2


def test_the_evaluation_at_a_former_end_is_not_the_best_of_the_longer_run(tmp_path: Path, monkeypatch):
    # step 3 ended the first run with a loss that no later evaluation reaches, step 2 is the best of the longer run
    losses = {2: 0.5, 3: 0.1, 4: 0.7, 6: 0.6}
    real = BestTracker.after

    def after(self: BestTracker, at: int, values: dict[str, float]) -> BestTracker:
        return real(self, at, {**values, "loss": losses[at]})

    def save(self: Any, at: int, state: Any, position: Any, metrics: Any = None, **more: Any) -> None:
        real_save(self, at, state, position, metrics and {**metrics, "loss": losses[at]}, **more)

    real_save = RunCheckpoints.save
    monkeypatch.setattr(BestTracker, "after", after)
    monkeypatch.setattr(RunCheckpoints, "save", save)
    settings = config(
        tmp_path / "run", max_steps=3, eval_steps=2, lr_scheduler_type="constant", save_total_limit=1,
        load_best_model_at_end=True,
    )  # fmt: skip
    held_out = reversal(4, seed=1)
    short = fit(pair(), reversal(24), settings, eval_data=held_out)
    assert short.best_step == 3
    longer = dataclasses.replace(settings, max_steps=6, resume=True)
    result = fit(pair(), reversal(24), longer, eval_data=held_out)
    assert (result.best_step, result.best) == (2, 0.5)
    assert files.steps_in(tmp_path / "run" / "checkpoints") == [2, 6]
    two = fit(pair(), reversal(24), config(tmp_path / "two", max_steps=2, lr_scheduler_type="constant"))
    assert same(result.model, two.model)


def test_a_longer_run_that_would_have_had_other_rates_is_refused_with_a_way_out(tmp_path: Path):
    records = reversal(16)
    fit(pair(), records, config(tmp_path / "linear", max_steps=3))
    longer = config(tmp_path / "linear", max_steps=5, resume=True)
    with pytest.raises(ValueError, match="total_steps: 3 in the checkpoint, 5 now") as refused:
        fit(pair(), records, longer)
    assert "the rate of step 2 was 0.00667 and would be 0.008: 'linear' spreads its decay" in str(refused.value)
    model = EncoderDecoder.from_pretrained(tmp_path / "linear" / "model")  # as the message recommends
    assert fit(model, records, config(tmp_path / "further", max_steps=1)).step == 1
    with pytest.raises(ValueError, match=r"has taken 3 steps, and max_steps=2 asks for 2 in all: give more"):
        fit(pair(), records, dataclasses.replace(longer, max_steps=2))
    assert fit(pair(), records, dataclasses.replace(longer, max_steps=3)).ending == "finished"


def test_a_warm_up_that_is_a_share_of_the_run_can_be_lengthened_as_a_number_of_steps(tmp_path: Path):
    records, ratio = reversal(16), {"lr_scheduler_type": "constant_with_warmup", "warmup_ratio": 0.5}
    fit(pair(), records, config(tmp_path / "run", max_steps=4, **ratio))
    with pytest.raises(ValueError, match="Give warmup_steps=2 in place of warmup_ratio"):
        fit(pair(), records, config(tmp_path / "run", max_steps=6, resume=True, **ratio))
    fixed = {"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 2}
    longer = fit(pair(), records, config(tmp_path / "run", max_steps=6, resume=True, **fixed))
    whole = fit(pair(), records, config(tmp_path / "whole", max_steps=6, **fixed))
    assert same(longer.model, whole.model)


def test_what_a_killed_save_left_is_cleared_and_nothing_else(tmp_path: Path):
    settings = config(tmp_path / "run", max_steps=1, lora="cross_attention")
    fit(pair(), reversal(8), settings)
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    ours = [".model", ".lora", ".log.jsonl", ".config.json", "lora/.lora.safetensors", "model/.target_tokenizer.json"]
    left = [tmp_path / "run" / f"{name}.{uuid.uuid4().hex}" for name in ours]
    theirs = [tmp_path / "run" / name for name in (".model.backup", "model/.model.safetensors.old", ".nfs0001")]
    left[0].mkdir()
    (left[0] / "model.safetensors").write_bytes(b"half")
    for path in [*left[1:], *theirs]:
        path.write_bytes(b"half")
    fit(pair(), reversal(8), dataclasses.replace(settings, resume=True))
    after = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    assert after == sorted([*before, *(path.relative_to(tmp_path) for path in theirs)])


def test_the_log_is_on_the_disk_before_a_checkpoint_is_written(tmp_path: Path, monkeypatch):
    events = []
    for kind, name in ((RunLog, "write"), (RunLog, "sync"), (RunCheckpoints, "save")):
        real = getattr(kind, name)

        def told(self: Any, *given: Any, real: Any = real, name: str = name, **more: Any) -> Any:
            events.append(name)
            return real(self, *given, **more)

        monkeypatch.setattr(kind, name, told)
    fit(pair(), reversal(16), config(tmp_path / "run", logging_steps=1, save_steps=2, max_steps=4))
    assert [events[at - 1] for at, event in enumerate(events) if event == "save"] == ["sync", "sync"]


@pytest.mark.parametrize("name", ["model", "checkpoints", "lora", "log.jsonl", "loss.png"])
def test_a_file_where_a_folder_belongs_is_found_before_the_run(tmp_path: Path, name: str):
    settings = config(tmp_path / "run", max_steps=1, resume=True)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    place = tmp_path / "run" / name
    place.mkdir() if "." in name else place.symlink_to("nowhere")
    with pytest.raises(ValueError, match=f"{name} is .*: move it away"):
        fit(pair(), reversal(8), settings)


def test_adapters_are_trained_alone_and_saved_both_ways(tmp_path: Path):
    model = pair()
    result = fit(model, reversal(16), config(tmp_path / "run", lora="self_attention | cross_attention", lora_rank=2))
    assert same(drop_lora(result.model), model)
    adapted = load_lora(model, tmp_path / "run" / "lora")
    assert same(adapted, result.model)
    merged = EncoderDecoder.from_pretrained(tmp_path / "run" / "model")
    assert same(merged, merge_lora(result.model))
    assert not same(merged, model)


def test_a_diverging_run_says_so_and_keeps_what_it_has(tmp_path: Path):
    settings = config(tmp_path / "run", learning_rate=1e30, save_steps=1, optim="sgd", max_grad_norm=None)
    with pytest.raises(TrainingDivergedError, match="Lower learning_rate"):
        fit(pair(), reversal(16), settings)
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.parametrize(
    ("changes", "eval_data", "message"),
    [
        ({"metrics": ["per"]}, None, "metrics would do nothing"),
        ({"early_stopping_patience": 1, "eval_steps": 2}, None, "eval_steps, early_stopping_patience would do nothing"),
        ({"optim": "adam"}, None, "optim is 'adam'; did you mean 'adamw'"),
        ({"lr_scheduler_type": "cosin"}, None, "cosine"),
        ({"lr_scheduler_kwargs": {"num_cycles": 2.0}}, None, "num_cycles"),
        ({"generation_max_new_tokens": 10**6}, "some", "the decoder has 24 positions: give 24 or fewer"),
        ({"generation_num_beams": 10**6}, "some", "num_beams"),
        ({"metrics": ["pre"]}, "some", "there is no metric 'pre'. Did you mean 'per'"),
    ],
)
def test_useless_settings_are_errors(tmp_path: Path, changes: dict, eval_data: str | None, message: str):
    with pytest.raises(ValueError, match=message):
        settings = config(tmp_path / "run", **changes)
        fit(pair(), reversal(8), settings, eval_data=eval_data and reversal(3))
    assert not (tmp_path / "run").exists()


def test_a_folder_of_something_else_is_refused(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match=r"holds thesis\.tex, which no run wrote"):
        fit(pair(), reversal(8), config(tmp_path))
    with pytest.raises(ValueError, match="is a file; give a folder"):
        fit(pair(), reversal(8), config(tmp_path / "thesis.tex"))


def test_only_a_pair_can_be_trained(tmp_path: Path):
    with pytest.raises(TypeError, match="must be an EncoderDecoder, got Decoder"):
        fit(pair().decoder, reversal(8), config(tmp_path / "run"))


class _Unsavable(eqx.Module):
    """An encoder of the user's own that does not say how it is saved."""

    hidden_size: int = eqx.field(static=True)


def test_a_model_that_cannot_be_saved_is_refused_before_the_run(tmp_path: Path):
    plain = pair()
    model = dataclasses.replace(plain, encoder=_Unsavable(plain.decoder.config.hidden_size))
    with pytest.raises(TypeError, match="does not say how it is saved"):
        fit(model, reversal(8), config(tmp_path / "run"))


@pytest.fixture
def job(tmp_path: Path, monkeypatch) -> Path:
    """A TOML file with everything that it names beside it."""
    monkeypatch.chdir(tmp_path)
    pair().save_pretrained("pair")
    for name, number in (("train", 12), ("dev", 4)):
        Path(f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in reversal(number)))
    Path("job.toml").write_text(
        '[model]\nmodel_name_or_path = "pair"\n[data]\ntrain_file = "train.jsonl"\nvalidation_file = "dev.jsonl"\n'
        '[train]\noutput_dir = "run"\nmax_steps = 2\nlearning_rate = 1e-2\nmetrics = ["per"]\n'
    )
    return tmp_path


def test_the_command_trains_as_its_file_says_and_options_win(job: Path, capsys):
    assert main(["train", "job.toml", "--max-steps", "3", "--per-device-train-batch-size", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "finished after 3 steps; the model is in run/model"
    assert lines[1].startswith("best by per: step 3 of 3  loss ") and "  per " in lines[1]
    assert lines[2:4] == ["the model is that of step 3, the best", "what it makes of the first validation examples:"]
    records = reversal(4)
    for at, record in enumerate(records):
        source, prediction, reference = lines[4 + 3 * at : 7 + 3 * at]
        assert source == f"  source      {' '.join(map(str, record['input_ids']))}"
        assert prediction.startswith("  prediction  ")
        assert reference == f"  reference   {' '.join(map(str, record['labels'][:-1]))}"
    assert len(lines) == 4 + 3 * 4
    assert [line["step"] for line in read_log("run/log.jsonl") if line["event"] == "eval"] == [3]
    EncoderDecoder.from_pretrained("run/model")


def test_steps_given_to_the_command_win_over_the_files_epochs_and_the_other_way_round(job: Path, capsys):
    text = Path("job.toml").read_text()
    Path("epochs.toml").write_text(text.replace("max_steps = 2", "num_train_epochs = 9"))
    assert main(["train", "epochs.toml", "--max-steps=3", "--output-dir", "a"]) == 0
    assert main(["train", "job.toml", "--num-train-epochs", "0.5", "--output-dir", "b"]) == 0
    assert [read_log(f"{name}/log.jsonl")[-1]["step"] for name in "ab"] == [3, 1]
    assert json.loads(Path("a/config.json").read_text()).get("num_train_epochs") is None
    with pytest.raises(SystemExit):
        main(["train", "epochs.toml", "--max-steps", "3", "--num-train-epochs", "1", "--output-dir", "c"])
    told = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert "--num-train-epochs 1.0 and --max-steps 3 are both given: leave one out" in told


def test_the_command_needs_no_file(job: Path):
    words = ["--model-name-or-path", "pair", "--train-file", "train.jsonl", "--validation-file", "dev.jsonl"]
    assert main(["train", *words, "--max-steps", "1", "--output-dir", "other"]) == 0
    assert [line["event"] for line in read_log("other/log.jsonl")] == ["train", "eval"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.toml"], "nowhere.toml"),
        (["--train-file", "train.jsonl"], "no model is named"),
        (["job.toml", "--train-file", "nothing.jsonl"], "there is no file 'nothing.jsonl'"),
    ],
)
def test_a_wrong_command_is_one_line(job: Path, capsys, words: list[str], message: str):
    assert main(["train", *words]) == 1
    error = capsys.readouterr().err.strip()
    assert message in error
    assert error.startswith("encdec-eqx: ")


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--lerning-rate", "1"], "--learning-rate"), (["--learning-rate", "-1"], "--learning-rate must be greater")],
)
def test_a_wrong_option_is_refused_with_a_hint(job: Path, capsys, words: list[str], message: str):
    with pytest.raises(SystemExit) as exit_:
        main(["train", "job.toml", *words])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err
