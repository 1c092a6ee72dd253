"""Fine-tuning: one call that does it all (`fit`), and its parts: data, loss, steps, what is trained, metrics.

A name is imported when it is first asked for: the loss, and importing the package, do without optax.
"""

import importlib
from typing import TYPE_CHECKING, Any

from ..params.trainable import segmented as segmented
from ..params.trainable import trainable as trainable
from .loss import seq2seq_loss as seq2seq_loss
from .loss import shift_tokens_right as shift_tokens_right

if TYPE_CHECKING:
    from .._signals import graceful_stop as graceful_stop
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
    from .callbacks import StartEvent as StartEvent
    from .callbacks import StepEvent as StepEvent
    from .data import Batches as Batches
    from .data import Example as Example
    from .data import Examples as Examples
    from .data import encode_pairs as encode_pairs
    from .data import pairs_from as pairs_from
    from .data import read_pairs as read_pairs
    from .fitting import fit as fit
    from .optim.optimizer import Optimizer as Optimizer
    from .optim.optimizer import make_optimizer as make_optimizer
    from .optim.optimizer_config import OptimizerConfig as OptimizerConfig
    from .optim.schedules import Schedule as Schedule
    from .optim.schedules import make_schedule as make_schedule
    from .reporting.tracking import TrainingDivergedError as TrainingDivergedError
    from .step import TrainState as TrainState
    from .step import TrainStep as TrainStep
    from .step import init_train_state as init_train_state
    from .step import make_train_step as make_train_step
    from .train_config import TrainConfig as TrainConfig

_LATER = {
    "graceful_stop": ".._signals",
    "TrainConfig": ".train_config",
    "Callback": ".callbacks",
    "CheckpointEvent": ".callbacks",
    "EvaluationEvent": ".callbacks",
    "StartEvent": ".callbacks",
    "StepEvent": ".callbacks",
    "Batches": ".data",
    "Example": ".data",
    "Examples": ".data",
    "encode_pairs": ".data",
    "pairs_from": ".data",
    "read_pairs": ".data",
    "Diagnosis": "..doctor",
    "Finding": "..doctor",
    "check_before_training": "..doctor",
    "diagnose": "..doctor",
    "FitResult": ".callbacks",
    "fit": ".fitting",
    "add_lora": "..params.lora",
    "drop_lora": "..params.lora",
    "load_lora": "..params.lora",
    "merge_lora": "..params.lora",
    "save_lora": "..params.lora",
    "unmerge_lora": "..params.lora",
    "TrainingDivergedError": ".reporting.tracking",
    "Optimizer": ".optim.optimizer",
    "make_optimizer": ".optim.optimizer",
    "OptimizerConfig": ".optim.optimizer_config",
    "Schedule": ".optim.schedules",
    "make_schedule": ".optim.schedules",
    "TrainState": ".step",
    "TrainStep": ".step",
    "init_train_state": ".step",
    "make_train_step": ".step",
    "PartSummary": "..params.trainable",
    "TrainableSummary": "..params.trainable",
    "summarize_trainable": "..params.trainable",
}
"""Names to the modules that define them. No module may have the name of what it defines: it would hide it."""


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
