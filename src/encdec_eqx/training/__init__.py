"""Fine-tuning: one call that does it all (`fit`), and its parts: data, loss, steps, what is trained, metrics.

A name is imported when it is first asked for: the loss, and importing the package, do without optax.
"""

import importlib
from typing import TYPE_CHECKING, Any

from ..params.trainable import segmented as segmented
from ..params.trainable import trainable as trainable
from .loss import seq2seq_loss as seq2seq_loss
from .loss import seq2seq_loss_from_hidden as seq2seq_loss_from_hidden
from .loss import shift_tokens_right as shift_tokens_right

if TYPE_CHECKING:
    from .._signals import graceful_stop as graceful_stop
    from .._signals import leaving_at_ctrl_c as leaving_at_ctrl_c
    from ..doctor import Diagnosis as Diagnosis
    from ..doctor import Finding as Finding
    from ..doctor import check_before_training as check_before_training
    from ..doctor import diagnose as diagnose
    from ..params.lora import add_lora as add_lora
    from ..params.lora import drop_lora as drop_lora
    from ..params.lora import load_lora as load_lora
    from ..params.lora import merge_lora as merge_lora
    from ..params.lora import save_lora as save_lora
    from ..params.lora import unmerge_lora as unmerge_lora
    from ..params.trainable import PartSummary as PartSummary
    from ..params.trainable import TrainableSummary as TrainableSummary
    from ..params.trainable import summarize_trainable as summarize_trainable
    from .callbacks import Callback as Callback
    from .callbacks import CheckpointEvent as CheckpointEvent
    from .callbacks import EvaluationEvent as EvaluationEvent
    from .callbacks import FitResult as FitResult
    from .callbacks import LogEvent as LogEvent
    from .callbacks import StartEvent as StartEvent
    from .callbacks import StepEvent as StepEvent
    from .data import Batches as Batches
    from .data import Example as Example
    from .data import Examples as Examples
    from .data import encode_pairs as encode_pairs
    from .data import pairs_from as pairs_from
    from .data import read_pairs as read_pairs
    from .data import stream_pairs as stream_pairs
    from .fitting import fit as fit
    from .optim.optimizer import Optimizer as Optimizer
    from .optim.optimizer import make_optimizer as make_optimizer
    from .optim.optimizer_config import OptimizerConfig as OptimizerConfig
    from .optim.schedules import Schedule as Schedule
    from .optim.schedules import make_schedule as make_schedule
    from .reporting.trackers import MLflowCallback as MLflowCallback
    from .reporting.trackers import TensorBoardCallback as TensorBoardCallback
    from .reporting.trackers import WandbCallback as WandbCallback
    from .reporting.tracking import TrainingDivergedError as TrainingDivergedError
    from .step import TrainState as TrainState
    from .step import TrainStep as TrainStep
    from .step import init_train_state as init_train_state
    from .step import make_train_step as make_train_step
    from .train_config import TrainConfig as TrainConfig

_LATER = {
    ".._signals": ("graceful_stop", "leaving_at_ctrl_c"),
    "..doctor": ("Diagnosis", "Finding", "check_before_training", "diagnose"),
    "..params.lora": ("add_lora", "drop_lora", "load_lora", "merge_lora", "save_lora", "unmerge_lora"),
    "..params.trainable": ("PartSummary", "TrainableSummary", "summarize_trainable"),
    ".callbacks": (
        "Callback",
        "CheckpointEvent",
        "EvaluationEvent",
        "FitResult",
        "LogEvent",
        "StartEvent",
        "StepEvent",
    ),
    ".data": ("Batches", "Example", "Examples", "encode_pairs", "pairs_from", "read_pairs", "stream_pairs"),
    ".fitting": ("fit",),
    ".optim.optimizer": ("Optimizer", "make_optimizer"),
    ".optim.optimizer_config": ("OptimizerConfig",),
    ".optim.schedules": ("Schedule", "make_schedule"),
    ".reporting.trackers": ("MLflowCallback", "TensorBoardCallback", "WandbCallback"),
    ".reporting.tracking": ("TrainingDivergedError",),
    ".step": ("TrainState", "TrainStep", "init_train_state", "make_train_step"),
    ".train_config": ("TrainConfig",),
}
"""Modules and the names they define. No module may have the name of what it defines: it would hide it."""

_HOME = {name: module for module, names in _LATER.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
