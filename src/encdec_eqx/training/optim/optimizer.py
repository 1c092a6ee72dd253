"""Optimisers from settings in Hugging Face's words: clipping, the update, weight decay, and learning rates."""

import dataclasses
import difflib
from collections.abc import Callable
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
from .optimizer_config import SCHEDULE, OptimizerConfig
from .schedules import Schedule

_READS: dict[str, tuple[str, ...]] = {
    "adamw": ("adam_beta1", "adam_beta2", "adam_epsilon"),
    "muon": ("adam_beta1", "adam_beta2", "adam_epsilon"),
    "lion": ("adam_beta1", "adam_beta2"),
    "adafactor": (),
    "sgd": (),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """All that decides an optimizer's numbers. Equal settings make equal optimizers.

    Attributes:
        config: How gradients become updates, at a constant rate.
        schedule: The learning rate by step.
    """

    config: OptimizerConfig
    schedule: Schedule


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


def make_optimizer(config: OptimizerConfig | None = None, *, num_training_steps: int, **settings: Any) -> Optimizer:
    """An optimizer, from settings that mean what they mean to Hugging Face's `Trainer`; see `OptimizerConfig`.

    Args:
        config: The settings, or a `TrainConfig`, which holds them; default: all are at their defaults.
        num_training_steps: Length of the run, which most schedules need.
        **settings: Fields of `OptimizerConfig` by name, in place of the config's.

    Raises:
        TypeError: There is no setting of that name.
        ValueError: A value is out of its range, unknown, or would do nothing. Selectors are checked when the model is
            known, by `init_train_state`.
    """
    config = (config or OptimizerConfig()).optimizer_config(**settings)
    schedule = config.schedule(num_training_steps)
    made = OptimizerSettings(config=config.at_constant_rate(), schedule=schedule)
    _check(made.config)
    return Optimizer(_Init(made), _Update(made))


OwnOptimizer = optax.GradientTransformation | Callable[[Schedule], optax.GradientTransformation]
"""An optimizer of the user's own, or a function that makes one from the schedule of the config."""


def own_optimizer(
    optimizer: OwnOptimizer, config: OptimizerConfig, num_training_steps: int
) -> tuple[optax.GradientTransformation, Schedule | None]:
    """An optimizer that takes the place of the config's, and the learning rate by step as far as it is known.

    Raises:
        TypeError: A function returns no transformation.
    """
    if isinstance(optimizer, optax.GradientTransformation):
        return optimizer, optimizer.schedule if isinstance(optimizer, Optimizer) else None
    schedule = config.schedule(num_training_steps)
    made = optimizer(schedule)
    if not isinstance(made, optax.GradientTransformation):
        raise TypeError(f"optimizer(schedule) must return an optax.GradientTransformation, got {type(made).__name__}.")
    return made, schedule


def check_own_optimizer(optimizer: OwnOptimizer, config: OptimizerConfig) -> None:
    """Refuses what is no optimizer, and settings that do nothing beside one.

    Raises:
        TypeError: It is no transformation, and no function that makes one.
        ValueError: The config has settings that it takes the place of.
    """
    made = isinstance(optimizer, optax.GradientTransformation)
    if not made and not callable(optimizer):
        raise TypeError(
            "optimizer must be an optax.GradientTransformation, or a function from the schedule to one, got "
            f"{type(optimizer).__name__}."
        )
    given, usual = config.optimizer_config(), OptimizerConfig()
    names = [field.name for field in dataclasses.fields(usual) if made or field.name not in SCHEDULE]
    useless = [name for name in names if getattr(given, name) != getattr(usual, name)]
    if useless:
        raise ValueError(
            f"{', '.join(useless)} would do nothing: the optimizer that is given takes their place. Leave them out, or "
            "give settings alone."
        )


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
    """The optimizer for parameters of this structure; made while tracing, so it costs nothing at a step."""
    config, known = settings.config, described(params)
    factors = rate_factors(params, config.learning_rate, config.learning_rates, config.layer_wise_lr_decay)
    hidden = jax.tree.unflatten(jax.tree.structure(params), [leaf.is_hidden_matrix for leaf in known])
    stages = [_core(config, hidden)]
    if config.max_grad_norm is not None:
        stages.insert(0, optax.clip_by_global_norm(config.max_grad_norm))
    if config.weight_decay:
        decays = [config.weight_decay if leaf.decays else 0.0 for leaf in known]
        stages.append(_each_leaf(lambda update, param, decay: update + decay * param if decay else update, decays))
    if any(isinstance(factor, np.ndarray) or factor != 1.0 for factor in factors):
        stages.append(_each_leaf(lambda update, param, factor: update * factor, factors))
    return optax.chain(*stages, optax.scale_by_learning_rate(settings.schedule))


def _core(config: OptimizerConfig, hidden: PyTree[bool]) -> optax.GradientTransformation:
    """From gradients to updates of a size that learning rates are made for."""
    adam = optax.scale_by_adam(config.adam_beta1, config.adam_beta2, config.adam_epsilon)
    if config.optim == "muon":
        return _both(hidden, scale_by_muon(), adam)
    if config.optim == "adafactor":
        return scale_by_adafactor()
    if config.optim == "lion":
        return optax.scale_by_lion(config.adam_beta1, config.adam_beta2)
    return adam if config.optim == "adamw" else optax.identity()


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


def _check(config: OptimizerConfig) -> None:
    optim = config.optim
    if optim not in _READS:
        near = difflib.get_close_matches(str(optim), _READS, n=1, cutoff=0.4)
        hint = f"; did you mean {quoted(near[0])}?" if near else "."
        raise ValueError(f"optim is {quoted(optim)}{hint} Known: {', '.join(_READS)}.")
    for name in _READS["adamw"]:
        value = getattr(config, name)
        if value != getattr(OptimizerConfig, name) and name not in _READS[optim]:
            raise ValueError(f"{name}={value} would do nothing: {quoted(optim)} does not read it.")
        if not 0.0 < value < 1.0 and not (value == 0.0 and name != "adam_epsilon"):
            raise ValueError(f"{name} must be between 0 and 1, got {value}.")
    if not config.weight_decay >= 0.0:
        raise ValueError(f"weight_decay must be at least 0, got {config.weight_decay}; 0.01 is usual.")
    if not 0.0 < config.layer_wise_lr_decay <= 1.0:
        raise ValueError(f"layer_wise_lr_decay must be in (0, 1], got {config.layer_wise_lr_decay}; 0.9 is usual.")
    if config.max_grad_norm is not None and not config.max_grad_norm > 0.0:
        raise ValueError(f"max_grad_norm must be above 0, or None for no clipping, got {config.max_grad_norm}.")
    for selector, rate in config.learning_rates.items():
        parse(selector)
        if not rate > 0.0:
            raise ValueError(
                f"learning_rates[{quoted(selector)}] must be above 0, got {rate}; freeze what is not trained."
            )
