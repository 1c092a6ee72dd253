"""A run before its first step: model, data and settings brought together, and checked against each other."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from ..doctor import Finding, check_before_training
from ..encoder_decoder import EncoderDecoder, own_encoder
from ..generation.generation_config import GenerationConfig
from ..hf.report import LoadReport
from ..inputs.tokens import longest
from ..layers.sharded import check_ambient_mesh
from ..params.lora import add_lora
from ..params.sharding import checked_mesh, mesh_of, relaid, shardings, with_mesh
from ..params.trainable import TrainableSummary, summarize_trainable
from ..targets import TargetForm
from ..text import TokenizerPair
from ..text.texts import source_pad
from .data import Batches, Example, Examples, OnBad, PairStream, StreamedBatches
from .data.batches import sample
from .data.streams import check_not_streamed
from .evaluation import Generated, generate_ids, mean_loss, too_short, with_length
from .loss import Loss
from .metrics import metric, score
from .model_examples import digest, examples_for, streamed_examples_for
from .optim.optimizer import OwnOptimizer, check_own_optimizer, make_optimizer, own_optimizer
from .optim.schedules import Schedule
from .reporting.tracking import BestTracker
from .resume.same_run import RUN_SCHEDULE, in_words, schedule_of
from .resume.state_arrays import described
from .rows_on_mesh import RowsOnMesh
from .step import TrainStep, make_train_step
from .train_config import DEFAULT_RANK, TrainConfig

# Settings that a resumed run may change: they do not decide what is computed, or are compared by their effect.
_FREE = (
    "output_dir", "resume", "logging_steps", "report_to", "save_steps", "save_total_limit", "load_best_model_at_end",
)  # fmt: skip
_MANY_STEPS = 1_000_000
_LOOKED_AT = 64
"""Examples that are looked at before the first step."""
_PIECES = ("encoder", "decoder")
_ADAPTERS = 1
"""Folded into the run's key for drawing adapters, so that dropout draws with another."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TrainingRun:
    """All that a run is made of.

    Attributes:
        config: The settings.
        model: The model in the layout of training; its trained arrays are copied into the state.
        optimizer: What the step updates with.
        schedule: The learning rate by step, counted from 0; None with an optimizer of the user's own that has another.
        loss: The user's own loss, if there is one.
        train_step: The step.
        batches: The training examples in batches.
        total_steps: Steps of the whole run.
        eval_batches: The examples of the evaluations in batches, if there are any.
        tokenizers: Turn ids into text for the metrics.
        own: What the user gave in place of the config's optimizer and loss, in words that a resumed run must share.
        rows: How batches lie on the devices that the model is spread over.
    """

    config: TrainConfig
    model: Any
    optimizer: optax.GradientTransformation
    schedule: Schedule | None
    loss: Loss | None
    train_step: TrainStep
    batches: Batches | StreamedBatches
    total_steps: int
    eval_batches: Batches | None
    tokenizers: TokenizerPair | None
    own: Mapping[str, str]
    rows: RowsOnMesh

    @property
    def steps_per_epoch(self) -> int:
        """Batches in a pass over the data."""
        return len(self.batches)

    @property
    def eval_examples(self) -> Examples | None:
        """The examples of the evaluations, if there are any."""
        return None if self.eval_batches is None else self.eval_batches.examples

    @property
    def evaluates(self) -> bool:
        """Whether there is something to evaluate on."""
        return self.eval_batches is not None

    @property
    def best_tracker(self) -> BestTracker:
        """The tracker before the first evaluation."""
        name = self.config.best_by
        return BestTracker(
            metric=name,
            greater_is_better=name != "loss" and metric(name).greater_is_better,
            threshold=self.config.early_stopping_threshold,
            patience=self.config.early_stopping_patience,
        )

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides the run's numbers, beside the model: what a resumed run must share."""
        decisive = {name: value for name, value in self.config.to_dict().items() if name not in (*_FREE, *RUN_SCHEDULE)}
        held_out = self.eval_examples
        return {
            **decisive,
            **self.own,
            **self.rows.decisive(self.config),
            "examples": digest(self.batches.examples),
            "validation examples": "none" if held_out is None else digest(held_out, references=True),
        }

    @property
    def shared(self) -> dict[str, Any]:
        """What processes that train it together must have in common: all settings, the data, the model's arrays."""
        own = self.config.to_dict()
        del own["output_dir"]  # each sees it from its own machine; that it is one folder is tried
        arrays = [described(leaf) for leaf in jax.tree.leaves(self.model) if isinstance(leaf, jax.Array)]
        mesh = {} if self.rows.mesh is None else {"mesh": dict(self.rows.mesh.shape)}
        return {**self.identity, **own, **mesh, "total_steps": self.total_steps, "the model's arrays": arrays}

    @property
    def run_schedule(self) -> dict[str, Any]:
        """Its length and schedule, in values that JSON can hold."""
        return schedule_of(self.config, self.total_steps, scheduled=self.schedule is not None)

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """What looks wrong in some examples from all over the data, without a run of the model."""
        few, batch = sample(self.batches.examples, _LOOKED_AT, source_pad(self.model))
        targets = None if self.tokenizers is None else [one.targets[0] for one in few if one.targets]
        found = check_before_training(self.model, batch, tokenizers=self.tokenizers, targets=targets)
        return tuple(finding for finding in found if finding.severity != "info")

    def learning_rate(self, step: int) -> float:
        """The learning rate of the step with this number, counted from 0."""
        assert self.schedule is not None
        return float(self.schedule(step))

    @property
    def summary(self) -> TrainableSummary:
        """What is trained, and what it takes in bytes."""
        return summarize_trainable(self.model, self.config.trained, optimizer=self.optimizer)

    def line_due(self, step: int) -> bool:
        """Whether the log gets a line after this many steps, wherever the run ends."""
        return step % self.config.logging_steps == 0

    def evaluation_due(self, step: int) -> bool:
        """Whether the model is evaluated after this many steps, wherever the run ends: every `eval_steps`."""
        return self.evaluates and step % (self.config.eval_steps or self.steps_per_epoch) == 0

    def checkpoint_due(self, step: int) -> bool:
        """Whether a checkpoint is written after this many steps, beside those that come with evaluations."""
        every = self.config.save_steps or (None if self.evaluates else self.steps_per_epoch)
        return every is not None and step % every == 0

    def evaluate(self, model: Any) -> tuple[dict[str, float], list[Generated]]:
        """The loss on the examples of the evaluation and the metrics of what the model generates, and what that is."""
        assert self.eval_batches is not None
        dtype = _compute_dtype(self.config)
        own = self.rows.own
        batches = self.eval_batches.epoch(0).read(process_index=own.index, process_count=own.count)
        values = {"loss": mean_loss(model, batches, compute_dtype=dtype, loss=self.loss, rows=self.rows)}
        said: list[Generated] = []
        if self.config.generates:
            said = self.generated(model)
            values |= score(self.config.metrics, [one.text for one in said], [one.references for one in said])
        return values, said

    def generated(self, model: Any, *, first: int | None = None) -> list[Generated]:
        """What the model generates for the examples of the evaluation, or for the first so many."""
        assert self.eval_examples is not None
        examples = self.eval_examples if first is None else self.eval_examples[:first]
        config = self.config
        ids = generate_ids(
            relaid(model.with_layout("unrolled")),
            [example.input_ids for example in examples],
            batch_size=config.per_device_eval_batch_size,
            max_new_tokens=config.generation_max_new_tokens or self.batches.examples.longest_target,
            num_beams=config.generation_num_beams,
            fields=[example.source_fields for example in examples],
            rows=self.rows,
        )
        return [
            Generated(
                # a source without a text is shown as its ids
                source=" ".join(map(str, example.input_ids.tolist())) if example.source is None else example.source,
                text=text,
                references=references,
            )
            for example, text, references in zip(examples, self._texts(ids), self._references(examples), strict=True)
        ]

    def finished(self, model: Any) -> Any:
        """A trained model in the form that is saved and returned."""
        unrolled = relaid(model.with_layout("unrolled"))
        model = with_length(unrolled, self._target_lengths(), self.config.generation_max_new_tokens)
        # a compiled step returns the reports of the model that it was traced with, as all reports are equal
        pieces = {
            name: _with_report_of(getattr(model, name), getattr(self.model, name)) for name in ("encoder", "decoder")
        }
        return dataclasses.replace(model, load_report=self.model.load_report, **pieces)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know before the run."""
        notes = (self.rows.note, too_short(self.model, self._target_lengths()))
        return tuple(note for note in notes if note is not None)

    def _target_lengths(self) -> list[int]:
        seen = [self.batches] if self.eval_batches is None else [self.batches, self.eval_batches]
        return [batches.examples.longest_target for batches in seen]

    def _texts(self, rows: Sequence[Sequence[int] | np.ndarray]) -> list[str]:
        """Rows of ids as text; without tokenizers, as their numbers."""
        if self.tokenizers is not None:
            return self.tokenizers.decode_target([np.asarray(row, np.int32) for row in rows])
        form = TargetForm.of(self.model)
        return [" ".join(map(str, form.content(np.asarray(row, np.int32)).tolist())) for row in rows]

    def _references(self, examples: Sequence[Example]) -> list[tuple[str, ...]]:
        """Of every example the accepted texts, as the tokenizer writes them: so the model's own are written too."""
        of_labels = self._texts([example.labels for example in examples])
        if self.tokenizers is None:
            return [(text,) for text in of_labels]
        written = iter(self.tokenizers.round_trip([text for example in examples for text in example.targets]))
        return [
            tuple(next(written) for _ in example.targets) or (text,)
            for example, text in zip(examples, of_labels, strict=True)
        ]


def prepare(
    model: Any,
    data: Any,
    config: TrainConfig,
    *,
    eval_data: Any = None,
    tokenizers: TokenizerPair | None = None,
    on_bad: OnBad = "error",
    optimizer: OwnOptimizer | None = None,
    loss: Loss | None = None,
    mesh: Mesh | None = None,
) -> TrainingRun:
    """Brings model, data and settings together; see `fit` for the arguments.

    Raises:
        ValueError: They do not fit together.
        TypeError: Something is not of the kind it should be.
    """
    if not isinstance(model, EncoderDecoder):
        raise TypeError(f"model must be an EncoderDecoder, got {type(model).__name__}; from_pieces makes one.")
    own_encoder(model)  # whether it can be saved at the end
    mesh = mesh_of(model) if mesh is None else checked_mesh(mesh)
    if mesh is not None:
        check_ambient_mesh()
    rows = RowsOnMesh(mesh)
    check_settings(config, evaluates=eval_data is not None, mesh=mesh)
    if mesh is not None and mesh != mesh_of(model):
        shardings(model, mesh)  # whether it divides
    _check_loss(config, loss)
    if optimizer is not None:
        check_own_optimizer(optimizer, config)
    _check_generation(model, config)
    check_not_streamed(eval_data, "eval_data")
    tokenizers = None if tokenizers is None else tokenizers.for_model(model)
    batches = _training_batches(model, data, config, tokenizers, on_bad, rows)
    held_out = None if eval_data is None else examples_for(model, eval_data, config, tokenizers, on_bad)
    if held_out is not None and config.max_eval_samples is not None:
        held_out = Examples.of(held_out[: config.max_eval_samples])
    eval_batches = None
    if held_out is not None:
        how = _padding(model, config)
        at_once = rows.filled(config.per_device_eval_batch_size)
        eval_batches = Batches(held_out, batch_size=at_once, shuffle=False, **how)
    steps = config.total_steps(len(batches))
    transformation, schedule = _optimizer(optimizer, config, steps)
    if config.lora is not None:
        key = jax.random.fold_in(jax.random.key(config.seed), _ADAPTERS)
        rank = config.lora_rank or DEFAULT_RANK
        model = add_lora(model, config.lora, rank=rank, alpha=config.lora_alpha, key=key)
    if mesh is not None and mesh != mesh_of(model):
        model = with_mesh(model, mesh)
    return TrainingRun(
        config=config,
        model=relaid(model.with_layout("scanned", remat=config.remat, unroll=config.unroll)),
        optimizer=transformation,
        schedule=schedule,
        loss=loss,
        train_step=make_train_step(
            transformation,
            loss=loss,
            label_smoothing=config.label_smoothing_factor,
            z_loss=config.z_loss,
            accumulate_steps=config.gradient_accumulation_steps,
            compute_dtype=_compute_dtype(config),
        ),
        batches=batches,
        total_steps=steps,
        eval_batches=eval_batches,
        tokenizers=tokenizers,
        own=_own(optimizer, loss, config),
        rows=rows,
    )


def check_settings(config: TrainConfig, *, evaluates: bool, mesh: Mesh | None = None) -> None:
    """Looks at what needs neither model nor data: a wrong word should not wait until they are read.

    Raises:
        ValueError: A setting asks for evaluations that there is no data for, the optimiser has no such word, or a batch
            cannot be split over the mesh.
    """
    make_optimizer(config, num_training_steps=config.max_steps or _MANY_STEPS)
    RowsOnMesh(mesh).check(config)
    if evaluates:
        return
    of_evaluations = (
        "eval_steps", "metrics", "predict_with_generate", "max_eval_samples", "metric_for_best_model",
        "load_best_model_at_end", "early_stopping_patience",
    )  # fmt: skip
    useless = [name for name in of_evaluations if getattr(config, name) not in (None, False, ())]
    if useless:
        raise ValueError(
            f"{', '.join(useless)} would do nothing, because there is nothing to evaluate on: pass eval_data= "
            "(validation_file in a config file), or leave it out."
        )


def _optimizer(
    own: OwnOptimizer | None, config: TrainConfig, steps: int
) -> tuple[optax.GradientTransformation, Schedule | None]:
    if own is not None:
        return own_optimizer(own, config, steps)
    made = make_optimizer(config, num_training_steps=steps)
    return made, made.schedule


def _check_loss(config: TrainConfig, loss: Loss | None) -> None:
    if loss is None:
        return
    if not callable(loss):
        raise TypeError(f"loss must be a function, loss(logits, labels) -> (sum, weight), got {type(loss).__name__}.")
    useless = [name for name in ("label_smoothing_factor", "z_loss") if getattr(config, name)]
    if useless:
        raise ValueError(f"{', '.join(useless)} would do nothing: the loss that is given takes their place.")


def _with_report_of(module: Any, other: Any) -> Any:
    report = getattr(other, "load_report", None)
    return dataclasses.replace(module, load_report=report) if isinstance(report, LoadReport) else module


def _own(optimizer: OwnOptimizer | None, loss: Loss | None, config: TrainConfig) -> dict[str, str]:
    """What the user gave instead of settings, in words."""
    own: dict[str, Any] = {} if loss is None else {"loss": loss}
    if optimizer is not None:  # at a constant rate: the run may become longer
        own["optimizer"], _ = own_optimizer(optimizer, config.at_constant_rate(), 1)
    return {name: in_words(value) for name, value in own.items()}


def _check_generation(model: EncoderDecoder, config: TrainConfig) -> None:
    """Raises ValueError for what would end the run at its first evaluation."""
    asked, most = config.generation_max_new_tokens, longest(model.decoder.config, None)
    if asked is not None and asked > most:
        raise ValueError(
            f"generation_max_new_tokens={asked}, but the decoder has {most} positions: give {most} or fewer."
        )
    GenerationConfig(num_beams=config.generation_num_beams)


def _training_batches(
    model: EncoderDecoder,
    data: Any,
    config: TrainConfig,
    tokenizers: TokenizerPair | None,
    on_bad: OnBad,
    rows: RowsOnMesh,
) -> Batches | StreamedBatches:
    how = {
        "batch_size": config.batch_size,
        "tokens_per_batch": config.tokens_per_batch,
        "rows_multiple_of": rows.parts * config.gradient_accumulation_steps,
        "seed": config.seed,
        **_padding(model, config),
    }
    if isinstance(data, PairStream):
        return StreamedBatches(streamed_examples_for(model, data, config, tokenizers, on_bad), **how)
    return Batches(examples_for(model, data, config, tokenizers, on_bad), **how)


def _padding(model: EncoderDecoder, config: TrainConfig) -> dict[str, Any]:
    """To how many shapes batches are padded, and with what."""
    return {
        "max_shapes": config.max_shapes,
        "pad_token_id": source_pad(model),
        "decoder_pad_token_id": model.special_tokens.pad_token_id or 0,
    }


def _compute_dtype(config: TrainConfig) -> Any:
    """What the model computes in; None: its own dtype."""
    return jnp.bfloat16 if config.bf16 else None
