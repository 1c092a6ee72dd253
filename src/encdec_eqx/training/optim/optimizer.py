"""Optimisers from settings in Hugging Face's words: clipping, the update, weight decay, and learning rates.

Knows optax and the names of a model's arrays; must not know the loss, nor the loop that takes the steps.
"""

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import numpy as np
import optax
from jaxtyping import PyTree

from ..._quoting import quoted
from ...params.selectors import parse
from .by_array import described, rate_factors
from .muon_adafactor import scale_by_adafactor, scale_by_muon
from .schedules import Schedule, make_schedule

_READS: dict[str, set[str]] = {
    "adamw": {"adam_beta1", "adam_beta2", "adam_epsilon"},
    "muon": {"adam_beta1", "adam_beta2", "adam_epsilon"},
    "lion": {"adam_beta1", "adam_beta2"},
    "adafactor": set(),
    "sgd": set(),
}
_ADAM_DEFAULTS = {"adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8}


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """All that decides an optimiser's numbers; see `make_optimizer`. Equal settings make equal optimisers."""

    optim: str
    schedule: Schedule
    learning_rates: tuple[tuple[str, float], ...]
    layer_wise_lr_decay: float
    weight_decay: float
    adam_beta1: float
    adam_beta2: float
    adam_epsilon: float
    max_grad_norm: float | None


class Optimizer(optax.GradientTransformation):
    """An `optax.GradientTransformation` that is equal to any other with the same settings.

    So a train step made from equal settings is compiled once.
    """

    __slots__ = ()

    @property
    def settings(self) -> OptimizerSettings:
        """What it was made of."""
        assert isinstance(self.init, _Init)
        return self.init.settings

    @property
    def schedule(self) -> Schedule:
        """The learning rate by step, counted from 0: `float(optimizer.schedule(step))`."""
        return self.settings.schedule


def make_optimizer(
    *,
    num_training_steps: int,
    optim: str = "adamw",
    learning_rate: float = 5e-5,
    learning_rates: Mapping[str, float] | None = None,
    layer_wise_lr_decay: float = 1.0,
    lr_scheduler_type: str = "linear",
    lr_scheduler_kwargs: Mapping[str, Any] | None = None,
    warmup_steps: int = 0,
    warmup_ratio: float = 0.0,
    weight_decay: float = 0.0,
    adam_beta1: float = 0.9,
    adam_beta2: float = 0.999,
    adam_epsilon: float = 1e-8,
    max_grad_norm: float | None = 1.0,
) -> Optimizer:
    """An optimiser, from settings that mean what they mean to Hugging Face's `Trainer`.

    Gradients are clipped by their global norm, then turned into updates; weight decay is added, and everything is
    multiplied by the learning rate.

    Args:
        num_training_steps: length of the run, which most schedules need.
        optim: "adamw"; "adafactor" (a small state: one number a row and one a column); "lion" (one moment; wants a
            rate a few times smaller and betas such as 0.9 and 0.99); "muon" (orthogonalised momentum for the matrices
            inside the model at the rates of AdamW, and AdamW for all else); "sgd" (no state).
        learning_rate: the highest rate.
        learning_rates: selectors, as in `trainable`, to rates of their own, such as
            `{"enc_to_dec_proj | cross_attention": 1e-3}`; they follow the same schedule.
        layer_wise_lr_decay: factor on the rate for each layer further down in a stack (0.9 is usual; Clark et al.
            2020): layer i of n gets its power n - i, the embeddings n + 1, what stands above the stack and what has a
            rate of its own in `learning_rates` none. 1 is none.
        lr_scheduler_type: the schedule, see `make_schedule`.
        lr_scheduler_kwargs: what else the schedule takes.
        warmup_steps: steps in which the rate rises from 0.
        warmup_ratio: their share of the run, instead.
        weight_decay: decoupled; applied to matrices and tables, not to biases, norms, or other arrays of one axis.
        adam_beta1: decay of the mean of gradients.
        adam_beta2: decay of the mean of squares.
        adam_epsilon: added to the root in Adam's quotient.
        max_grad_norm: the largest global norm of the gradients; None: they are not clipped.

    Raises:
        ValueError: a value is out of its range, unknown, or would do nothing. Selectors are checked when the model is
            known, by `init_train_state`.
    """
    schedule = make_schedule(
        learning_rate=learning_rate,
        lr_scheduler_type=lr_scheduler_type,
        num_training_steps=num_training_steps,
        warmup_steps=warmup_steps,
        warmup_ratio=warmup_ratio,
        lr_scheduler_kwargs=lr_scheduler_kwargs,
    )
    settings = OptimizerSettings(
        optim=optim,
        schedule=schedule,
        learning_rates=tuple((learning_rates or {}).items()),
        layer_wise_lr_decay=layer_wise_lr_decay,
        weight_decay=weight_decay,
        adam_beta1=adam_beta1,
        adam_beta2=adam_beta2,
        adam_epsilon=adam_epsilon,
        max_grad_norm=max_grad_norm,
    )
    _check(settings)
    return Optimizer(_Init(settings), _Update(settings))


@dataclasses.dataclass(frozen=True)
class _Init:
    settings: OptimizerSettings

    def __call__(self, params: PyTree) -> Any:
        return _transformation(self.settings, params).init(params)


@dataclasses.dataclass(frozen=True)
class _Update:
    settings: OptimizerSettings

    def __call__(self, updates: PyTree, state: Any, params: PyTree | None = None) -> tuple[PyTree, Any]:
        if params is None:
            raise ValueError("this optimiser needs the parameters: optimizer.update(grads, state, params).")
        return _transformation(self.settings, params).update(updates, state, params)


def _transformation(settings: OptimizerSettings, params: PyTree) -> optax.GradientTransformation:
    """The optimiser for parameters of this structure; made while tracing, so it costs nothing at a step."""
    known = described(params)
    factors = rate_factors(
        params, settings.schedule.learning_rate, dict(settings.learning_rates), settings.layer_wise_lr_decay
    )
    hidden = jax.tree.unflatten(jax.tree.structure(params), [leaf.is_hidden_matrix for leaf in known])
    stages = [_core(settings, hidden)]
    if settings.max_grad_norm is not None:
        stages.insert(0, optax.clip_by_global_norm(settings.max_grad_norm))
    if settings.weight_decay:
        decays = [settings.weight_decay if leaf.decays else 0.0 for leaf in known]
        stages.append(_each_leaf(lambda update, param, decay: update + decay * param if decay else update, decays))
    if any(isinstance(factor, np.ndarray) or factor != 1.0 for factor in factors):
        stages.append(_each_leaf(lambda update, param, factor: update * factor, factors))
    return optax.chain(*stages, optax.scale_by_learning_rate(settings.schedule))


def _core(settings: OptimizerSettings, hidden: PyTree[bool]) -> optax.GradientTransformation:
    """From gradients to updates of a size that learning rates are made for."""
    adam = optax.scale_by_adam(settings.adam_beta1, settings.adam_beta2, settings.adam_epsilon)
    if settings.optim == "muon":
        return _both(hidden, scale_by_muon(), adam)
    if settings.optim == "adafactor":
        return scale_by_adafactor()
    if settings.optim == "lion":
        return optax.scale_by_lion(settings.adam_beta1, settings.adam_beta2)
    return adam if settings.optim == "adamw" else optax.identity()


def _both(
    mask: PyTree[bool], one: optax.GradientTransformation, other: optax.GradientTransformation
) -> optax.GradientTransformation:
    """One transformation for the leaves of the mask, another for all else."""

    def halves(tree: Any) -> tuple[Any, Any]:
        return eqx.partition(tree, mask)

    def init(params: Any) -> Any:
        here, there = halves(params)
        return one.init(here), other.init(there)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        (here, there), (here_params, there_params) = halves(updates), halves(params)
        here, here_state = one.update(here, state[0], here_params)
        there, there_state = other.update(there, state[1], there_params)
        return eqx.combine(here, there), (here_state, there_state)

    return optax.GradientTransformation(init, update)


def _each_leaf(function: Callable[[Any, Any, Any], Any], values: list[Any]) -> optax.GradientTransformation:
    """From an update, its parameter and its value in a list to another update."""

    def update(updates: Any, params: Any) -> Any:
        leaves, structure = jax.tree.flatten(updates)
        changed = [function(*each) for each in zip(leaves, jax.tree.leaves(params), values, strict=True)]
        return jax.tree.unflatten(structure, changed)

    return optax.stateless(update)


def _check(settings: OptimizerSettings) -> None:
    optim = settings.optim
    if optim not in _READS:
        near = difflib.get_close_matches(str(optim), _READS, n=1, cutoff=0.4)
        hint = f"; did you mean {quoted(near[0])}?" if near else "."
        raise ValueError(f"optim is {quoted(optim)}{hint} Known: {', '.join(_READS)}.")
    for name, usual in _ADAM_DEFAULTS.items():
        value = getattr(settings, name)
        if value != usual and name not in _READS[optim]:
            raise ValueError(f"{name}={value} would do nothing: {quoted(optim)} does not read it.")
        if not 0.0 < value < 1.0 and not (value == 0.0 and name != "adam_epsilon"):
            raise ValueError(f"{name} must be between 0 and 1, got {value}.")
    if not settings.weight_decay >= 0.0:
        raise ValueError(f"weight_decay must be at least 0, got {settings.weight_decay}; 0.01 is usual.")
    if not 0.0 < settings.layer_wise_lr_decay <= 1.0:
        raise ValueError(f"layer_wise_lr_decay must be in (0, 1], got {settings.layer_wise_lr_decay}; 0.9 is usual.")
    if settings.max_grad_norm is not None and not settings.max_grad_norm > 0.0:
        raise ValueError(f"max_grad_norm must be above 0, or None for no clipping, got {settings.max_grad_norm}.")
    for selector, rate in settings.learning_rates:
        parse(selector)
        if not rate > 0.0:
            raise ValueError(
                f"learning_rates[{quoted(selector)}] must be above 0, got {rate}; freeze what is not trained."
            )
