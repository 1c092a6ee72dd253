"""Fine-tuning: one call that does it all (`fit`), and its parts: data, loss, steps, what is trained, metrics.

A name is imported when it is first asked for: the loss, and importing the package, do without optax and orbax.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .loss import seq2seq_loss as seq2seq_loss
from .loss import shift_tokens_right as shift_tokens_right
from .trainable import segmented as segmented
from .trainable import trainable as trainable

if TYPE_CHECKING:
    from .config import TrainConfig as TrainConfig
    from .data import Batches as Batches
    from .data import Example as Example
    from .data import Examples as Examples
    from .data import encode_pairs as encode_pairs
    from .data import pairs_from as pairs_from
    from .data import read_pairs as read_pairs
    from .diagnosis import Diagnosis as Diagnosis
    from .diagnosis import Finding as Finding
    from .diagnosis import check_before_training as check_before_training
    from .diagnosis import diagnose as diagnose
    from .fitting import FitResult as FitResult
    from .fitting import fit as fit
    from .lora import add_lora as add_lora
    from .lora import drop_lora as drop_lora
    from .lora import load_lora as load_lora
    from .lora import merge_lora as merge_lora
    from .lora import save_lora as save_lora
    from .lora import unmerge_lora as unmerge_lora
    from .meter import TrainingDivergedError as TrainingDivergedError
    from .optimizer import Optimizer as Optimizer
    from .optimizer import make_optimizer as make_optimizer
    from .schedules import Schedule as Schedule
    from .schedules import make_schedule as make_schedule
    from .step import TrainState as TrainState
    from .step import TrainStep as TrainStep
    from .step import init_train_state as init_train_state
    from .step import make_train_step as make_train_step
    from .summary import PartSummary as PartSummary
    from .summary import TrainableSummary as TrainableSummary
    from .summary import summarize_trainable as summarize_trainable

_LATER = {
    "TrainConfig": "config",
    "Batches": "data",
    "Example": "data",
    "Examples": "data",
    "encode_pairs": "data",
    "pairs_from": "data",
    "read_pairs": "data",
    "Diagnosis": "diagnosis",
    "Finding": "diagnosis",
    "check_before_training": "diagnosis",
    "diagnose": "diagnosis",
    "FitResult": "fitting",
    "fit": "fitting",
    "add_lora": "lora",
    "drop_lora": "lora",
    "load_lora": "lora",
    "merge_lora": "lora",
    "save_lora": "lora",
    "unmerge_lora": "lora",
    "TrainingDivergedError": "meter",
    "Optimizer": "optimizer",
    "make_optimizer": "optimizer",
    "Schedule": "schedules",
    "make_schedule": "schedules",
    "TrainState": "step",
    "TrainStep": "step",
    "init_train_state": "step",
    "make_train_step": "step",
    "PartSummary": "summary",
    "TrainableSummary": "summary",
    "summarize_trainable": "summary",
}
"""Names to the modules that define them. No module may have the name of what it defines: it would hide it."""


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(f".{_LATER[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
