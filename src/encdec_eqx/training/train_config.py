"""The settings of a training run: one frozen object, checked when it is made."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from .._quoting import quoted
from ..stack import Remat
from .metrics import metric
from .optim.optimizer_config import OptimizerConfig
from .toml import in_the_callers_words

TRACKERS = ("tensorboard", "wandb", "mlflow")
"""Names for `report_to`."""
DEFAULT_EPOCHS = 3.0
DEFAULT_RANK = 8
DEFAULT_OUTPUT = Path("encdec-eqx-run")
ALTERNATIVES = (
    ("num_train_epochs", "max_steps"),
    ("per_device_train_batch_size", "tokens_per_batch"),
    ("warmup_ratio", "warmup_steps"),
)
"""Settings that say the same thing in two ways: one of them at most may be given."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig(OptimizerConfig):
    """All that decides a run of `fit`, in the words of Hugging Face's `Seq2SeqTrainingArguments` where it has one.

    The optimizer's settings are those of `OptimizerConfig`, given here by the same names.

    Attributes:
        output_dir: Folder of the run: the log, the curve, checkpoints, and the finished model in `model/`. Must be
            new or empty, or hold this run if `resume` is set.
        resume: Go on from the newest checkpoint in `output_dir` (from the start, if there is none yet).
        num_train_epochs: Passes over the data; may be a fraction. Default 3, unless `max_steps` is given.
        max_steps: Optimiser steps, instead of `num_train_epochs`.
        per_device_train_batch_size: Examples per step, before they are split by `gradient_accumulation_steps` and among
            the devices of a mesh. Default 8, unless `tokens_per_batch` is given.
        tokens_per_batch: Budget of a step in tokens, source and target with their padding, instead of a fixed number
            of examples: batches of short examples then hold more of them.
        gradient_accumulation_steps: Parts that every batch is split into, run one after another to save memory; the
            gradient is that of the whole batch.
        max_shapes: Most shapes of training batches; each is compiled once. More shapes pad less.
        max_source_length: Longest source, in tokens; longer ones are cut, and counted. Default: the encoder's limit.
        max_target_length: Longest target, EOS included. Default: the decoder's limit.
        label_smoothing_factor: As `label_smoothing` of `seq2seq_loss`.
        z_loss: As in `seq2seq_loss`.
        bf16: Compute in bfloat16 over float32 weights. For accelerators: slow on CPUs.
        trainable: Selectors of what is trained, as in `trainable`; default: all that the model reads, or with `lora`
            the adapters alone.
        lora: Selectors of the linear layers that get a low-rank adapter, as in `add_lora`, such as "self_attention |
            cross_attention"; default: none. `model/` then holds the model with the adapters merged, `lora/` the
            adapters alone.
        lora_rank: Rank of the adapters; default 8.
        lora_alpha: Their scale is `lora_alpha / lora_rank`; default: the rank.
        remat: What the backward pass recomputes, as in `with_layout("scanned", remat=...)`.
        unroll: Layers in an iteration of the loop over layers, as in `with_layout("scanned", unroll=...)`: for GPUs.
        eval_steps: Steps between two evaluations; default: one at the end of each epoch.
        per_device_eval_batch_size: Examples per batch of an evaluation; on a mesh rounded up to what it divides.
        max_eval_samples: Evaluate on the first so many examples; default all.
        predict_with_generate: Whether an evaluation generates, which the metrics of text need; its loss is always
            taken. Default: if `metrics` are given.
        metrics: Metrics of generated text, kept as a tuple: "bleu", "chrf", "rouge1", "rouge2", "rougeL",
            "exact_match", "wer", "cer", "per".
        generation_num_beams: Beams of an evaluation.
        generation_max_new_tokens: Tokens that an evaluation may generate; default: the longest target that training
            may hold.
        metric_for_best_model: "loss" or one of `metrics`: what `load_best_model_at_end` and early stopping look at.
            Default: the first of `metrics`, else "loss".
        load_best_model_at_end: Finish with the best evaluated parameters, not the last.
        early_stopping_patience: Evaluations without improvement after which the run ends; None: never.
        early_stopping_threshold: Least improvement that counts.
        logging_steps: Steps between two lines of the log.
        report_to: Where the log goes besides, kept as a tuple: "tensorboard", "wandb" or "mlflow", each with its extra.
        save_steps: Steps between two checkpoints; default: with every evaluation.
        save_total_limit: Newest checkpoints that are kept; the best is kept besides.
        seed: Of the order of the examples and of dropout.

    Raises:
        TypeError: A value is of the wrong type.
        ValueError: A value is out of its range, or two contradict each other.
    """

    output_dir: Path = DEFAULT_OUTPUT
    resume: bool = False
    # how long
    num_train_epochs: float | None = None
    max_steps: int | None = None
    # batches
    per_device_train_batch_size: int | None = None
    tokens_per_batch: int | None = None
    gradient_accumulation_steps: int = 1
    max_shapes: int = 4
    max_source_length: int | None = None
    max_target_length: int | None = None
    # the loss, and what it trains
    label_smoothing_factor: float = 0.0
    z_loss: float = 0.0
    bf16: bool = False
    trainable: str | None = None
    lora: str | None = None
    lora_rank: int | None = None
    lora_alpha: float | None = None
    remat: Remat | bool = False
    unroll: int = 1
    # evaluation
    eval_steps: int | None = None
    per_device_eval_batch_size: int = 32
    max_eval_samples: int | None = None
    predict_with_generate: bool | None = None
    metrics: Sequence[str] = ()
    generation_num_beams: int = 1
    generation_max_new_tokens: int | None = None
    metric_for_best_model: str | None = None
    load_best_model_at_end: bool = False
    early_stopping_patience: int | None = None
    early_stopping_threshold: float = 0.0
    # records
    logging_steps: int = 10
    report_to: Sequence[str] = ()
    save_steps: int | None = None
    save_total_limit: int = 2
    seed: int = 0

    @in_the_callers_words
    def __post_init__(self):
        """Makes paths, tuples and mappings of what was given, and checks every value."""
        set_field = object.__setattr__
        if not isinstance(self.output_dir, str | Path):
            raise TypeError(f"output_dir must be a path, got {self.output_dir!r}.")
        set_field(self, "output_dir", Path(self.output_dir))
        set_field(self, "metrics", _names("metrics", self.metrics, "['rouge1', 'rougeL']"))
        one = isinstance(self.report_to, str)
        set_field(self, "report_to", _names("report_to", [self.report_to] if one else self.report_to, "['wandb']"))
        super().__post_init__()
        self._check_numbers()
        self._check_pairs()
        self._check_remat()
        self._check_lora()
        self._check_evaluation()

    @property
    def epochs(self) -> float | None:
        """Passes over the data, if no number of steps is given."""
        if self.max_steps is not None:
            return None
        return DEFAULT_EPOCHS if self.num_train_epochs is None else self.num_train_epochs

    def total_steps(self, steps_per_epoch: int) -> int:
        """Steps of a run: as many as asked for, or what the epochs amount to, at least one.

        Args:
            steps_per_epoch: Batches of one pass over the data.
        """
        return self.max_steps or max(1, math.ceil((self.epochs or 0.0) * steps_per_epoch - 1e-9))

    @property
    def batch_size(self) -> int | None:
        """Examples a batch, if no budget of tokens is given."""
        if self.tokens_per_batch is not None:
            return None
        return 8 if self.per_device_train_batch_size is None else self.per_device_train_batch_size

    @property
    def trained(self) -> str | None:
        """Selectors of what is trained."""
        return "lora" if self.lora is not None and self.trainable is None else self.trainable

    @property
    def generates(self) -> bool:
        """Whether evaluations generate."""
        return bool(self.metrics) if self.predict_with_generate is None else self.predict_with_generate

    @property
    def best_by(self) -> str:
        """The name of the metric that says which evaluation is best."""
        return self.metric_for_best_model or (self.metrics[0] if self.metrics else "loss")

    def to_dict(self) -> dict[str, Any]:
        """Plain values by name, without those that are None: what TOML and JSON can hold."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: _plain(value) for name, value in values.items() if value is not None}

    def _check_numbers(self) -> None:
        for name, (kind, least, most) in _RANGES.items():
            _check_number(name, getattr(self, name), kind, least, most)
        for selector, rate in self.learning_rates.items():
            _check_number(f"learning_rates[{selector!r}]", rate, float, _ABOVE_ZERO, _HUGE)
        for name in ("resume", "bf16", "load_best_model_at_end"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, got {getattr(self, name)!r}.")

    def _check_pairs(self) -> None:
        for one, other in ALTERNATIVES:
            # of the warm-up 0 is as good as leaving it out
            if all(getattr(self, name) not in (None, 0) for name in (one, other)):
                raise ValueError(
                    f"{one}={getattr(self, one)} and {other}={getattr(self, other)} are both given: leave one out."
                )
        if self.batch_size is not None and self.batch_size % self.gradient_accumulation_steps:
            raise ValueError(
                f"per_device_train_batch_size={self.batch_size} cannot be split into "
                f"gradient_accumulation_steps={self.gradient_accumulation_steps} equal parts: make it a multiple."
            )

    def _check_remat(self) -> None:
        if not isinstance(self.remat, bool) and self.remat not in get_args(Remat):
            raise ValueError(
                f"remat must be one of {', '.join(get_args(Remat))}, or True or False, got {self.remat!r}."
            )

    def _check_lora(self) -> None:
        useless = [name for name in ("lora_rank", "lora_alpha") if getattr(self, name) is not None]
        if useless and self.lora is None:
            raise ValueError(f"{', '.join(useless)} would do nothing: set lora, the layers that get an adapter.")

    def _check_evaluation(self) -> None:
        for name in self.report_to:
            if name not in TRACKERS:
                raise ValueError(f"report_to holds {quoted(name)}; expected some of {', '.join(TRACKERS)}.")
        for name in self.metrics:
            metric(name)
        if self.metrics and not self.generates:
            raise ValueError(
                f"metrics={list(self.metrics)} need generated text, and predict_with_generate is False: leave one out."
            )
        if self.best_by != "loss" and self.best_by not in self.metrics:
            raise ValueError(
                f"metric_for_best_model={self.best_by!r} is not taken: expected 'loss' or one of the metrics "
                f"{list(self.metrics)}; add it to metrics."
            )


_ABOVE_ZERO, _HUGE = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
_BELOW_ONE = float(np.nextafter(np.float32(1.0), np.float32(0.0)))
"""Numbers become float32: 0 if smaller than these, infinite if larger, and 1 if closer to 1."""
_MOST = 2**31 - 1
"""Steps and sizes are counted as int32."""
_MOST_ROWS, _MOST_TOKENS = 2**20, 2**26
"""Of a batch, which is padded to its size however few examples there are: more than any machine's memory holds."""

_LIMITS = (_HUGE, _MOST, _MOST_ROWS, _MOST_TOKENS)

_COUNTS = (
    "max_steps", "gradient_accumulation_steps", "max_shapes", "max_source_length", "max_target_length", "lora_rank",
    "eval_steps", "max_eval_samples", "generation_num_beams", "generation_max_new_tokens", "early_stopping_patience",
    "logging_steps", "unroll", "save_steps", "save_total_limit",
)  # fmt: skip

_RANGES: dict[str, tuple[type, float, float]] = {
    **dict.fromkeys(_COUNTS, (int, 1, _MOST)),
    **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size"), (int, 1, _MOST_ROWS)),
    "tokens_per_batch": (int, 1, _MOST_TOKENS),
    "warmup_steps": (int, 0, _MOST),
    "seed": (int, 0, 2**32 - 1),
    **dict.fromkeys(("num_train_epochs", "learning_rate", "adam_epsilon", "lora_alpha"), (float, _ABOVE_ZERO, _HUGE)),
    **dict.fromkeys(("weight_decay", "z_loss", "early_stopping_threshold"), (float, 0.0, _HUGE)),
    **dict.fromkeys(("adam_beta1", "adam_beta2", "label_smoothing_factor"), (float, 0.0, _BELOW_ONE)),
    "layer_wise_lr_decay": (float, _ABOVE_ZERO, 1.0),
    "warmup_ratio": (float, 0.0, 1.0),
    "max_grad_norm": (float, _ABOVE_ZERO, math.inf),
}
"""The kind of each number and its closed range; None is let through where it is a field's default."""

_MAY_BE_NONE = {
    field.name for field in dataclasses.fields(TrainConfig) if field.default is None or field.name == "max_grad_norm"
}


def check_learning_rate(value: Any) -> None:
    """Raises unless the value is one that `learning_rate` may have."""
    _check_number("learning_rate", value, *_RANGES["learning_rate"])


def _check_number(name: str, value: Any, kind: type, least: float, most: float) -> None:
    if value is None and name in _MAY_BE_NONE:
        return
    allowed = (int,) if kind is int else (int, float)
    if isinstance(value, bool) or not isinstance(value, allowed):
        expected = "a whole number" if kind is int else "a number"
        raise TypeError(f"{name} must be {expected}, got {quoted(value)}.")
    if not least <= value <= most:
        raise ValueError(f"{name} must be {_described(value, least, most)}, got {quoted(value)}.")


def _described(value: float, least: float, most: float) -> str:
    """The range, or that bound of it which the value passes for the sake of its representation."""
    if value > most and most in _LIMITS:
        return f"at most {most:.3g}, the largest float32" if most == _HUGE else f"at most {most}"
    if least == _ABOVE_ZERO and 0 < value < least:
        return f"at least {least:.3g}: float32 has nothing between 0 and that"
    low = "greater than 0" if least == _ABOVE_ZERO else f"at least {least:g}"
    if most in (*_LIMITS, math.inf):
        return low
    return f"{low} and {'less than 1' if most == _BELOW_ONE else f'at most {most:g}'}"


def _names(name: str, value: Any, example: str) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable) or not all(isinstance(one, str) for one in value):
        raise TypeError(f"{name} must be a sequence of names such as {example}, got {value!r}.")
    return tuple(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value
