"""Fine-tuning: the loss, the train state and its step, and which leaves are trained.

`optax` is imported only when a name of `step` is first asked for: the loss, and importing the package, do without.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .loss import seq2seq_loss as seq2seq_loss
from .loss import shift_tokens_right as shift_tokens_right
from .trainable import trainable as trainable

if TYPE_CHECKING:
    from .step import TrainState as TrainState
    from .step import TrainStep as TrainStep
    from .step import init_train_state as init_train_state
    from .step import make_train_step as make_train_step

_FROM_STEP = ("TrainState", "TrainStep", "init_train_state", "make_train_step")


def __getattr__(name: str) -> Any:
    if name in _FROM_STEP:
        return getattr(importlib.import_module(".step", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_FROM_STEP})
