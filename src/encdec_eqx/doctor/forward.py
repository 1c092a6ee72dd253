"""Runs of the model: on a batch with loss and gradients, watched to locate NaN, and a few trial steps of an optimiser.

Every run of a diagnosis (the batch itself, its sources swapped, other first tokens, trial steps) has the same shapes,
so that they share one compilation. The watched run takes one operation after another, which compiles no whole program.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Bool, Float, Float32, Int32, PyTree

from .._inputs import IGNORED
from .._typing import Array
from ..layers.linear import AbstractLinear
from ..params.param_names import places, slots
from ..training.optim.optimizer import Optimizer, make_optimizer
from ..training.optim.optimizer_config import OptimizerConfig
from .catalogue import found
from .finding import Finding

Inputs = dict[str, Any]
"""What a run reads: `input_ids`, `decoder_input_ids`, `labels`, and masks, types and positions by their names."""


_OF_DECODER = ("decoder_attention_mask", "decoder_position_ids")


class RunOutput(eqx.Module):
    """What one run showed.

    Attributes:
        loss: mean cross-entropy over the labels that count.
        token_loss: the cross-entropy at each position, 0 where there is no label.
        logits: of each position.
        states: the encoder's last hidden states.
        finite: whether a row's states and logits are finite; what is not finite anywhere inside reaches one of them.
    """

    loss: Float32[Array, ""]
    token_loss: Float32[Array, "batch target"]
    logits: Float32[Array, "batch target vocab"]
    states: Float[Array, "batch source encoder_hidden"]
    finite: Bool[Array, " batch"]


@eqx.filter_jit
def run(trained: PyTree, rest: PyTree, inputs: Inputs) -> tuple[RunOutput, PyTree]:
    """Runs the model on a batch, without dropout: what was seen, and the gradient of the loss.

    The model comes in two parts, each with None for the other's leaves: those that need a gradient, and the rest.
    """
    (_, seen), grads = jax.value_and_grad(_loss, has_aux=True)(trained, rest, inputs)
    return seen, grads


def _loss(trained: PyTree, rest: PyTree, inputs: Inputs) -> tuple[Array, RunOutput]:
    model: Any = eqx.combine(trained, rest)
    given = dict(inputs)
    labels, ids, mask = given.pop("labels"), given.pop("decoder_input_ids"), given.pop("attention_mask", None)
    of_decoder = {name: given.pop(name) for name in _OF_DECODER if name in given}
    encoded = model.encode(given.pop("input_ids"), attention_mask=mask, **given)
    out = model.decode(ids, encoded, encoder_attention_mask=mask, **of_decoder)
    states = jnp.asarray(encoded.last_hidden_state)
    token_loss = _token_loss(out.logits, labels)
    loss = jnp.sum(token_loss) / jnp.maximum(jnp.sum(labels != IGNORED), 1).astype(jnp.float32)
    return loss, RunOutput(
        loss=loss, token_loss=token_loss, logits=out.logits, states=states, finite=_finite(states) & _finite(out.logits)
    )


def _token_loss(logits: Float[Array, "batch target vocab"], labels: Int32[Array, "batch target"]) -> Array:
    counted = labels != IGNORED
    index = jnp.where(counted, labels, 0)[..., None]
    own = jnp.take_along_axis(logits, index, axis=-1)[..., 0]
    return jnp.where(counted, jax.nn.logsumexp(logits, axis=-1) - own, 0.0)


def _finite(x: Float[Array, "batch length size"]) -> Bool[Array, " batch"]:
    return jnp.all(jnp.isfinite(x), axis=(1, 2))


@eqx.filter_jit
def divergence(
    logits: Float32[Array, "batch target vocab"],
    others: Float32[Array, "batch target vocab"],
    labels: Int32[Array, "batch target"],
) -> Float32[Array, "batch target"]:
    """Kullback-Leibler divergence of the second from the first, in nats, by position; 0 where there is no label."""
    p, q = jax.nn.log_softmax(logits), jax.nn.log_softmax(others)
    return jnp.where(labels != IGNORED, jnp.sum(jnp.exp(p) * (p - q), axis=-1), 0.0)


def rows(inputs: Inputs, index: np.ndarray) -> Inputs:
    """Some rows of a batch, or the same rows in another order."""
    return {name: value[index] for name, value in inputs.items()}


class Watched(AbstractLinear):
    """A linear map that records whether its input and its output are finite.

    Attributes:
        inner: the map.
        name: its name.
        records: in the order of the calls: name, whether the input was finite, whether the output was.
    """

    inner: AbstractLinear
    name: str = eqx.field(static=True)
    records: list[tuple[str, bool, bool]] = eqx.field(static=True)

    def __call__(self, x: Array) -> Array:
        """The map's own output."""
        y = self.inner(x)
        self.records.append((self.name, _is_finite(x), _is_finite(y)))
        return y


def locate_nonfinite(model: Any, inputs: Inputs) -> str:
    """Where the first NaN or infinity comes up in a batch, best of a single row: in words."""
    records: list[tuple[str, bool, bool]] = []
    watched = _watch_linear_maps(model, records)
    given = {name: value for name, value in inputs.items() if name != "labels"}
    ids, decoder_ids = given.pop("input_ids"), given.pop("decoder_input_ids")
    out = watched(ids, decoder_ids, **given)
    before = None
    for name, reads, makes in records:
        if not reads:
            return _where(name, before)
        if not makes:
            return name
        before = name
    return "the logits" if not _is_finite(out.logits) else "nowhere in this row"


def are_not_finite(where: str, bad_rows: int, rows: int) -> Iterator[Finding]:
    """NaN or infinity in what the model computes from this batch."""
    yield found("non_finite_activations", also={"of": rows}, first=where, rows=bad_rows)


def _watch_linear_maps(model: Any, records: list[tuple[str, bool, bool]]) -> Any:
    """The model, unrolled, with every linear map inside a `Watched`."""
    unrolled = model.with_layout("unrolled")
    names = {found.leaf: found.names[0] for found in places(unrolled)}

    def is_linear(node: Any) -> bool:
        return isinstance(node, AbstractLinear)

    def watch(node: Any, slot: Any) -> Any:
        if not is_linear(node):
            return node
        own = [names[leaf.leaf] for leaf in jax.tree.leaves(slot)]
        name = _common_prefix(own)
        return Watched(node, name, records)

    return jax.tree.map(watch, unrolled, slots(unrolled), is_leaf=is_linear)


def _common_prefix(names: list[str]) -> str:
    """The part that holds all these arrays."""
    parts = [name.split(".")[:-1] for name in names]
    levels = itertools.takewhile(lambda level: len(set(level)) == 1, zip(*parts, strict=False))
    return ".".join(level[0] for level in levels)


def _where(name: str, before: str | None) -> str:
    """Where something went wrong that a map reads; `before` is the map that was called before it."""
    piece, _, rest = name.partition(".")
    if rest == "layers.0.self_attention.qkv":
        return f"{piece}.embeddings"
    return "the inputs or the encoder" if before is None else f"between {before} and {name}"


def _is_finite(x: Array) -> bool:
    return bool(np.isfinite(np.asarray(x, dtype=jnp.float32)).all())


STEPS = 8
"""Enough for Adam to get past its first steps, which are of equal size in all directions."""

_FACTORS = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003)


@dataclasses.dataclass(frozen=True)
class Trial:
    """The losses of a few steps on one batch: before the first, and after each."""

    losses: tuple[float, ...]

    @property
    def ends(self) -> float:
        """The mean of the last two losses: single steps may go up."""
        return sum(self.losses[-2:]) / 2

    def rises(self, uniform: float) -> bool:
        """Whether it ends above its beginning, by more than a tenth of ln V, or not as a number.

        An optimiser that begins anew on a trained model loses some of what was learned before it finds its scale. At
        the rate that a pair had learned with, at any stage from newly initialised to perfect, that came to 0.003 ln V;
        at three times that rate to 0.04 to 0.18, at thirty times to 0.5 and more.
        """
        return not math.isfinite(self.ends) or self.ends > self.losses[0] + 0.1 * uniform


def run_trial(
    loss_and_gradient: Callable[[PyTree], tuple[Array, PyTree]],
    params: PyTree,
    optimizer: optax.GradientTransformation,
    factor: float,
) -> Trial:
    """Takes `STEPS` steps, or fewer if the loss is no number any more or beyond hope.

    The trained arrays are left as they are, and the optimizer's updates multiplied by the factor.
    """
    with jax.numpy_dtype_promotion("standard"):
        state = jax.tree.map(lambda x: jnp.asarray(x, x.dtype) if eqx.is_array(x) else x, optimizer.init(params))
    losses = []
    for step in range(STEPS + 1):
        loss, gradient = loss_and_gradient(params)
        losses.append(float(loss))
        if step == STEPS or not losses[-1] < 3 * losses[0] + 10:  # which no number is not, either
            break
        params, state = _stepped(params, gradient, state, optimizer, jnp.asarray(factor, jnp.float32))
    return Trial(tuple(losses))


@eqx.filter_jit
def _stepped(
    params: PyTree, gradient: PyTree, state: PyTree, optimizer: optax.GradientTransformation, factor: Float32[Array, ""]
) -> tuple[PyTree, PyTree]:
    with jax.numpy_dtype_promotion("standard"):
        updates, state = optimizer.update(gradient, state, params)
        updates = jax.tree.map(lambda update: update * factor, updates)
        return optax.apply_updates(params, updates), state


def is_too_high(trial: Callable[[float], Trial], *, learning_rate: float | None, uniform: float) -> Iterator[Finding]:
    """The loss of one batch rises when steps are taken on that very batch: they are too long.

    `trial` takes the steps, with updates multiplied by a factor; `uniform` is ln V.
    """
    first = trial(1.0)
    evidence = {"before": first.losses[0], "after": first.ends, "steps": len(first.losses) - 1}
    if len(set(first.losses)) == 1:
        yield found("no_update", **evidence)
    elif first.rises(uniform):
        better = next((factor for factor in _FACTORS if trial(factor).losses[0] > trial(factor).ends), None)
        words: dict[str, Any] = {"at": "" if learning_rate is None else f" {learning_rate:g}"}
        words["ended"] = f"{first.ends:.3g}" if math.isfinite(first.ends) else "no number"
        if better is None:
            yield found("learning_rate_too_high/at_any_rate", also={**words, "least": _FACTORS[-1]}, **evidence)
        elif learning_rate is None:
            words["times"] = 3 / better
            yield found("learning_rate_too_high/of_unknown_rate", also=words, **evidence, factor=better)
        else:
            words["lower"] = learning_rate * better / 3
            yield found("learning_rate_too_high", also=words, **evidence, factor=better)


@dataclasses.dataclass(frozen=True)
class TrialSettings:
    """What the steps are taken with.

    Attributes:
        optimizer: makes them.
        factor: what its updates are multiplied by.
        learning_rate: the rate that comes to, where it is known.
    """

    optimizer: optax.GradientTransformation
    factor: float = 1.0
    learning_rate: float | None = None

    @classmethod
    def of(cls, optimizer: Any, learning_rate: float | None) -> "TrialSettings | None":
        """From what was given to `diagnose`; None for nothing.

        A rate alone means AdamW with clipping, as `fit` uses by default. An `Optimizer` of this library is tried at
        the highest rate of its schedule. Both are made with a rate of 1, so that all rates share a compilation.
        """
        if learning_rate is not None:
            return cls(_constant(OptimizerConfig()), learning_rate, learning_rate)
        if not isinstance(optimizer, Optimizer):
            return None if optimizer is None else cls(optimizer)
        config = optimizer.settings.config
        highest = config.learning_rate
        rates = {part: rate / highest for part, rate in config.learning_rates.items()}
        return cls(_constant(config, learning_rates=rates), highest, highest)


def _constant(config: OptimizerConfig, **changes: Any) -> Optimizer:
    return make_optimizer(config.at_constant_rate(learning_rate=1.0, **changes), num_training_steps=STEPS)
