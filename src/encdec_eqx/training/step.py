"""One optimisation step: the train state, and the compiled function from a state and a batch to the next state."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Float32, Int32, PyTree

from .._trees import astype
from .._typing import Array, ArrayLike, PRNGKey
from ..layers.linear import Dropout
from ..layers.sharded import check_ambient_mesh
from ..params.selectors import Selectors
from ..params.trainable import cut_and_trained
from .batch import checked_batch, completed_batch, loss_of_batch, why_whole_logits
from .loss import IGNORED, Loss, check_loss_options, seq2seq_loss, total_weight

Model = TypeVar("Model", bound=eqx.Module)
Metrics = dict[str, Float32[Array, ""]]


class TrainState(eqx.Module, Generic[Model]):
    """All that changes from step to step. Passing it to a step gives its buffers away: keep the returned one.

    Attributes:
        params: The model with None in place of every leaf that is not trained.
        frozen: The model with None in place of every leaf that is trained. Never copied, never donated.
        opt_state: The optimiser's state, for the trained leaves only.
        step: Steps taken so far.
    """

    params: Model
    frozen: Model
    opt_state: PyTree
    step: Int32[Array, ""]

    @property
    def model(self) -> Model:
        """The whole model as trained so far, sharing this state's buffers: use or save it before the next step."""
        return eqx.combine(self.params, self.frozen)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Options:
    label_smoothing: float
    z_loss: float
    loss: Loss | None
    accumulate_steps: int
    compute_dtype: np.dtype | None


def init_train_state(
    model: Model, optimizer: optax.GradientTransformation, *, trainable: PyTree[bool] | Selectors | None = None
) -> TrainState[Model]:
    """The state before the first step. Trained arrays are copied once, so `model` itself stays usable.

    Frozen arrays get no gradient and no optimiser state. If selectors pick some of the layers that are stacked in one
    array, the stack is cut there; see `segmented`.

    Args:
        model: An `EncoderDecoder`, best in the scanned layout (`model.with_layout("scanned", remat=True)`): it compiles
            faster and steps faster.
        optimizer: For example `optax.adamw(3e-5)`.
        trainable: Selectors, as in `trainable(model, selectors)`, or a tree like the model with a bool for each leaf;
            default: every floating-point array that the model reads.

    Raises:
        TypeError: A trained leaf is not float32 (or float64).
        ValueError: Nothing is trained, a selector is wrong, or `jax.set_mesh` has set a mesh of `Explicit` axes for a
            model on a mesh.
    """
    check_ambient_mesh(model)
    model, trained = cut_and_trained(model, trainable)
    params, frozen = eqx.partition(model, trained)
    _check_masters(params)
    params = jax.tree.map(lambda leaf: jnp.array(leaf, dtype=leaf.dtype, copy=True), params)
    with jax.numpy_dtype_promotion("standard"):
        opt_state = jax.tree.map(_strongly_typed, optimizer.init(params))
    opt_state, step = _beside(params, (opt_state, jnp.zeros((), jnp.int32)))
    return TrainState(params, frozen, opt_state, step)


@dataclasses.dataclass(frozen=True)
class TrainStep:
    """`step(state, batch, key) -> (state, metrics)`; made by `make_train_step`."""

    optimizer: optax.GradientTransformation
    options: _Options

    def __call__(
        self, state: TrainState[Model], batch: Mapping[str, ArrayLike], key: PRNGKey | None
    ) -> tuple[TrainState[Model], Metrics]:
        """Takes one step; see `make_train_step`.

        Args:
            state: From `init_train_state`, or of the step before. It is donated: do not use it again.
            batch: "input_ids", "labels", and what else `make_train_step` says, each with the batch first.
            key: Turns dropout on; None is deterministic. One key serves all steps: each folds its number in.
        """
        carried, metrics = _update(*self._arguments(state, batch, key))
        params, opt_state, step = carried
        return TrainState(params, state.frozen, opt_state, step), metrics

    def lower(self, state: TrainState, batch: Mapping[str, ArrayLike], key: PRNGKey | None) -> Any:
        """The step lowered, not run: `.compile().compiled` has `memory_analysis()` and `cost_analysis()`.

        Args:
            state: As for the call.
            batch: As for the call.
            key: As for the call.
        """
        return _update.lower(*self._arguments(state, batch, key))  # pyright: ignore[reportFunctionMemberAccess]

    def why_whole_logits(self, state: TrainState) -> str | None:
        """Why steps from this state make whole logits; None where they take the loss from hidden states in chunks.

        See `seq2seq_loss_from_hidden`. It is so for every model of the class `EncoderDecoder`, unless the loss is your
        own.

        Args:
            state: As for the call.
        """
        return why_whole_logits(state.frozen, self.options.loss)

    def _arguments(self, state: TrainState, batch: Mapping[str, ArrayLike], key: PRNGKey | None) -> tuple:
        if not isinstance(state, TrainState):
            raise TypeError(f"state must come from init_train_state(model, optimizer), got {type(state).__name__}.")
        check_ambient_mesh(state.params)
        given = checked_batch(batch, state.frozen)
        rows = given["labels"].shape[0]
        if rows % self.options.accumulate_steps:
            raise ValueError(
                f"a batch of {rows} rows cannot be split into accumulate_steps={self.options.accumulate_steps} equal "
                "parts; pad it with rows whose labels are all -100 (they weigh nothing)."
            )
        if key is None:
            _check_no_dropout(state.frozen)
        carried = (state.params, state.opt_state, state.step)
        kept = (state.frozen, given, key, self.optimizer, self.options, _places(carried))
        return kept, carried


def make_train_step(
    optimizer: optax.GradientTransformation,
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    loss: Loss | None = None,
    accumulate_steps: int = 1,
    compute_dtype: Any = None,
) -> TrainStep:
    """A compiled step `step(state, batch, key) -> (state, metrics)`.

    `batch` maps Hugging Face's words to jax or NumPy arrays: `input_ids` and `labels` (-100 where there is none), and
    optionally `attention_mask`, `token_type_ids`, `position_ids`, `decoder_input_ids`, `decoder_attention_mask`,
    `decoder_position_ids`. Without `decoder_input_ids` they are `shift_tokens_right(labels, …)` with the model's
    special tokens. Masks are never guessed from ids: without `attention_mask` the encoder reads padding too.

    The gradient is that of the mean loss over all labels of the batch that are not -100, however the batch is split
    into `accumulate_steps`. A batch without any label has loss 0 and gradient 0 (the optimiser still takes its step).

    `key` drives dropout. The step's number is folded into it, so the same key may be given at every step, and each
    micro-batch draws its own masks. `key=None` is an error if the model has a dropout rate above 0.

    The state's buffers are donated: use the returned state, not the one passed in. Equal shapes compile once for each
    optimizer and set of options.

    `metrics` are float32 scalars: `loss` (mean per label, smoothing and z-loss included), `tokens` (labels counted) and
    `grad_norm` (before any clipping in the optimizer); with a `loss` of your own also `weight`, what its mean is over.

    Args:
        optimizer: The one given to `init_train_state`.
        label_smoothing: As in `seq2seq_loss`.
        z_loss: As in `seq2seq_loss`.
        loss: Instead of `seq2seq_loss`: a function of its form, `loss(logits, labels) -> (sum, weight)`, both float32
            scalars and sums over the batch's labels; what is minimized is the sum over the weight. The weight must
            depend on the labels alone, which is what makes the mean exact however the batch is split. Labels of -100
            are padding, and must weigh nothing. Write it once, at module level: another function is another program.
        accumulate_steps: Parts that the batch is split into, run one after another to save memory.
        compute_dtype: `jnp.bfloat16` runs the model on a bfloat16 copy of its arrays; weights, gradients and the
            optimiser stay float32. Default None: the arrays' own dtype. On CPU bfloat16 is much slower than float32.

    Raises:
        ValueError: An option is out of its range.
        NotImplementedError: `compute_dtype` is float16, which needs loss scaling.
    """
    check_loss_options(label_smoothing, z_loss)
    loss = None if loss is seq2seq_loss else loss
    if loss is not None and (label_smoothing or z_loss):
        raise ValueError("label_smoothing and z_loss are options of seq2seq_loss: a loss of your own has its own.")
    if accumulate_steps < 1:
        raise ValueError(f"accumulate_steps must be at least 1, got {accumulate_steps}.")
    dtype = None if compute_dtype is None else np.dtype(compute_dtype)
    if dtype == np.float16:
        raise NotImplementedError("float16 training needs loss scaling, which is not built: use jnp.bfloat16.")
    if dtype is not None and not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"compute_dtype must be a floating-point dtype such as jnp.bfloat16, got {dtype}.")
    options = _Options(
        label_smoothing=label_smoothing,
        z_loss=z_loss,
        loss=loss,
        accumulate_steps=accumulate_steps,
        compute_dtype=dtype,
    )
    return TrainStep(optimizer, options)


@eqx.filter_jit(donate="all-except-first")
def _update(kept: tuple, carried: tuple) -> tuple[tuple, Metrics]:
    """The step itself; `carried` is donated. At module level, so that two equal `TrainStep`s share a compilation."""
    frozen, batch, key, optimizer, options, places = kept
    params, opt_state, step = carried
    batch = completed_batch(batch, frozen)
    tokens = jnp.sum(batch["labels"] != IGNORED, dtype=jnp.float32)
    key = None if key is None else jax.random.fold_in(key, step)
    # The number of labels is known before the forward pass, so each part's loss is divided by the whole batch's number:
    # gradients of the parts then simply add up to that of the mean.
    weight = tokens if options.loss is None else total_weight(options.loss, batch["labels"], frozen)
    loss_of = jax.value_and_grad(_Loss(frozen, _divisor(weight, options), options))
    loss, grads = _accumulate(loss_of, params, batch, key, options.accumulate_steps)
    metrics = {"loss": loss, "tokens": tokens, "grad_norm": _norm(grads)}
    if options.loss is not None:
        metrics["weight"] = weight
    # Optimisers mix dtypes (integer counts, Python scalars); our own code does not.
    with jax.numpy_dtype_promotion("standard"), jax.named_scope("optimizer"):
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
    return _put(places, (params, opt_state, step + 1)), metrics


def _beside(params: Any, tree: Any) -> Any:
    """The tree with what is on one device, such as counts, repeated on the mesh that the parameters are spread over."""
    spread = [place for place in _places(params) if place is not None]
    if not spread:
        return tree
    whole = NamedSharding(spread[0].mesh, PartitionSpec())
    return jax.tree.map(lambda x: x if len(x.sharding.device_set) > 1 else jax.device_put(x, whole), tree)


def _places(carried: Any) -> tuple[NamedSharding | None, ...]:
    """Where the arrays of a state lie, for those that are spread over a mesh or repeated on it."""
    return tuple(
        x.sharding if isinstance(x.sharding, NamedSharding) and x.sharding.num_devices > 1 else None
        for x in jax.tree.leaves(carried)
    )


def _put(places: tuple[NamedSharding | None, ...], carried: Any) -> Any:
    """The new state where the old one lay: its buffers are reused, and the next step finds what it is compiled for."""
    leaves, structure = jax.tree.flatten(carried)
    placed = [
        leaf if place is None else jax.lax.with_sharding_constraint(leaf, place)
        for leaf, place in zip(leaves, places, strict=True)
    ]
    return jax.tree.unflatten(structure, placed)


def _divisor(weight: Array, options: _Options) -> Array:
    """What sums are divided by; a batch without labels has loss 0."""
    return jnp.maximum(weight, 1.0 if options.loss is None else jnp.finfo(jnp.float32).tiny)


@dataclasses.dataclass(frozen=True)
class _Loss:
    frozen: eqx.Module
    total: Array
    options: _Options

    def __call__(self, params: eqx.Module, batch: dict[str, Array], key: PRNGKey | None) -> Array:
        model: Any = eqx.combine(params, self.frozen)
        if self.options.compute_dtype is not None:
            model = astype(model, self.options.compute_dtype)
        options = self.options
        smoothing, z_loss = options.label_smoothing, options.z_loss
        return loss_of_batch(
            model, batch, options.loss, key, divisor=self.total, label_smoothing=smoothing, z_loss=z_loss
        )[0]


def _accumulate(loss_of, params, batch, key, parts: int) -> tuple[Array, Any]:
    """Loss and gradient of the batch, summed over its parts."""
    if parts == 1:
        return loss_of(params, batch, key)

    def body(sums, part):
        return jax.tree.map(jnp.add, sums, loss_of(params, *part)), None

    nothing = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
    keys = None if key is None else jax.random.split(key, parts)
    return jax.lax.scan(body, nothing, (jax.tree.map(lambda x: _split(x, parts), batch), keys))[0]


def _split(x: Array, parts: int) -> Array:
    """(rows, …) as (parts, rows / parts, …), every part taking each `parts`-th row.

    So a batch whose rows lie on several devices is split without moving a row to another device.
    """
    return jnp.swapaxes(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 0, 1)


def _norm(grads: Any) -> Array:
    return jnp.sqrt(sum((jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(grads)), jnp.zeros(())))


def _strongly_typed(leaf: Any) -> Any:
    """Without a weak type, which a step would turn into a strong one: the second step would compile again."""
    return jnp.asarray(leaf, dtype=leaf.dtype) if eqx.is_array(leaf) else leaf


def _check_masters(params: eqx.Module) -> None:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not leaves:
        raise ValueError("nothing is trained: `trainable` is False for every floating-point array of the model.")
    for path, leaf in leaves:
        if leaf.dtype not in (jnp.float32, jnp.float64):
            raise TypeError(
                f"trained arrays must be float32, got {leaf.dtype} at {jax.tree_util.keystr(path)}: small updates are "
                "lost in half precision. Load with dtype=jnp.float32 and pass "
                "make_train_step(..., compute_dtype=jnp.bfloat16) to compute in bfloat16."
            )


def _check_no_dropout(model: eqx.Module) -> None:
    kinds = (Dropout, eqx.nn.Dropout)
    nodes = jax.tree.leaves(model, is_leaf=lambda node: isinstance(node, kinds))
    rates = [node.rate if isinstance(node, Dropout) else node.p for node in nodes if isinstance(node, kinds)]
    if any(rates):
        raise ValueError(
            f"key=None, but the model has dropout of rate {max(rates)}, which would not be applied. Pass "
            "key=jax.random.key(0) (the same at every step is fine: the step's number is folded in), or load the "
            "pieces with their dropout rates at 0."
        )
