"""The settings of an optimizer and its schedule: declared once, for Python, TOML files and the command line."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from .schedules import Schedule, make_schedule

SCHEDULE = ("learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_ratio", "warmup_steps")
"""The settings that the schedule is made of."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimizer, in settings that mean what they mean to Hugging Face's `Trainer`.

    Gradients are clipped by their global norm, then turned into updates; weight decay is added, and everything is
    multiplied by the learning rate.

    Attributes:
        optim: "adamw"; "adafactor" (a small state: one number per row and one per column); "lion" (one moment; wants a
            rate a few times smaller and betas such as 0.9 and 0.99); "muon" (orthogonalized momentum for the matrices
            inside the model at the rates of AdamW, and AdamW for all else); or "sgd" (no state).
        learning_rate: Peak of the schedule.
        learning_rates: Other peaks for some of the parameters: selectors (as in `trainable`) to rates, such as
            `{"enc_to_dec_proj | cross_attention": 1e-3}`; they follow the same schedule.
        layer_wise_lr_decay: Factor on the rate for each layer further down in a stack (0.9 is usual; Clark et al.
            2020): layer i of n gets its power n - i, the embeddings n + 1, what stands above the stack and what has a
            rate of its own in `learning_rates` none. 1 is none.
        lr_scheduler_type: "linear", "cosine", "constant", "constant_with_warmup", "inverse_sqrt", ...
        lr_scheduler_kwargs: What else the schedule takes, such as `{"num_cycles": 2}`; see `make_schedule`.
        warmup_ratio: Fraction of the steps in which the rate rises from 0.
        warmup_steps: Steps in which the rate rises from 0, instead of `warmup_ratio`.
        weight_decay: Decoupled; applied to matrices and embeddings, not to biases, norms, or other arrays of one axis.
        adam_beta1: Decay of Adam's mean of gradients.
        adam_beta2: Decay of Adam's mean of squares.
        adam_epsilon: Added to the root in Adam's quotient.
        max_grad_norm: Gradients are scaled down to this global norm; None: never.
    """

    optim: str = "adamw"
    learning_rate: float = 5e-5
    learning_rates: Mapping[str, float] = dataclasses.field(default_factory=dict)
    layer_wise_lr_decay: float = 1.0
    lr_scheduler_type: str = "linear"
    lr_scheduler_kwargs: Mapping[str, float] = dataclasses.field(default_factory=dict)
    warmup_ratio: float = 0.0
    warmup_steps: int = 0
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float | None = 1.0

    def __post_init__(self):
        """Makes the mappings read-only."""
        for name in ("learning_rates", "lr_scheduler_kwargs"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name) or {})))

    def __hash__(self) -> int:
        values = (getattr(self, field.name) for field in dataclasses.fields(self))
        return hash(tuple(tuple(value.items()) if isinstance(value, Mapping) else value for value in values))

    def optimizer_config(self, **changes: Any) -> "OptimizerConfig":
        """The optimizer's settings alone, even of a config that holds more, with some of them changed.

        Args:
            **changes: Fields by name.
        """
        settings = {field.name: getattr(self, field.name) for field in dataclasses.fields(OptimizerConfig)}
        return OptimizerConfig(**{**settings, **changes})

    def at_constant_rate(self, **changes: Any) -> "OptimizerConfig":
        """The same optimizer at its highest rate throughout.

        Args:
            **changes: Other fields by name.
        """
        defaults = {"lr_scheduler_type": "constant", "lr_scheduler_kwargs": {}, "warmup_ratio": 0.0, "warmup_steps": 0}
        return self.optimizer_config(**{**defaults, **changes})

    def schedule(self, num_training_steps: int) -> Schedule:
        """The learning rate by step, of a run of this length.

        Args:
            num_training_steps: Optimiser steps of the run.
        """
        return make_schedule(**{name: getattr(self, name) for name in SCHEDULE}, num_training_steps=num_training_steps)
