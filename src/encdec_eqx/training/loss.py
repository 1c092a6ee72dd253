"""The teacher-forcing inputs and the loss of a sequence-to-sequence model: of logits, or of what they are made of."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Float, Float32, Int32, Integer

from .._inputs import IGNORED as IGNORED
from .._inputs import platform
from .._typing import Array, ArrayLike, TargetIds, checked
from ..layers.sharded import placement_of

Loss = Callable[[Any, Any], tuple[Any, Any]]
"""`loss(logits, labels) -> (sum, weight)`, as `seq2seq_loss`: see `make_train_step` for what is asked of one."""


@checked
def shift_tokens_right(
    labels: TargetIds,
    pad_token_id: int | np.integer | None,
    decoder_start_token_id: int | np.integer | Integer[ArrayLike, " batch"] | None,
) -> Int32[Array, "batch target"]:
    """The decoder's inputs for these labels: moved one step to the right behind the start token.

    Position `t` of the result is what the decoder reads when it must say `labels[:, t]`. Labels of -100 become
    `pad_token_id`, so that every result is an id that can be embedded. Shift once: give the model's labels as they
    are, never labels that were shifted before.

    Args:
        labels: Integer ids, "batch target"; -100 where there is no label.
        pad_token_id: Stands where a label is -100.
        decoder_start_token_id: The first input of every row; or of each its own, as an array (languages).

    Returns:
        int32 ids of the labels' shape.

    Raises:
        TypeError: `labels` are not integers, or not "batch target".
        ValueError: An id is None or negative.
    """
    pad = _token_id("pad_token_id", pad_token_id, "the eos_token_id is the usual stand-in")
    labels = jnp.asarray(labels).astype(jnp.int32)
    first = _starts(decoder_start_token_id, labels.shape[0])[:, None]
    shifted = jnp.concatenate([first, labels[:, :-1]], axis=1)[:, : labels.shape[1]]
    return jnp.where(shifted == IGNORED, pad, shifted)


@checked
def seq2seq_loss(
    logits: Float[ArrayLike, "batch target vocab"],
    labels: TargetIds,
    *,
    label_smoothing: float | int = 0.0,
    z_loss: float | int = 0.0,
) -> tuple[Float32[Array, ""], Float32[Array, ""]]:
    """Cross-entropy summed over the labels that are not -100, and their number.

    Sum and number are returned apart because they are what adds up over micro-batches and devices: the mean is the
    sum of the sums over the sum of the numbers, never a mean of means. Logits are not shifted here.

    With `label_smoothing` e the target is (1 - e) on the label and e spread evenly over the whole vocabulary, as in
    PyTorch's `CrossEntropyLoss`. `z_loss` adds `z_loss * logsumexp(logits)**2` per label, which keeps the
    softmax's normaliser near 1 (PaLM, Chowdhery et al. 2022, used 1e-4).

    Args:
        logits: "batch target vocab", any float dtype; the loss is computed in float32.
        labels: Integer ids, "batch target"; -100 is ignored.
        label_smoothing: In [0, 1); default 0.
        z_loss: At least 0; default 0.

    Returns:
        `(sum, weight)`, two float32 scalars, which are (0, 0) with zero gradients if every label is -100.

    Raises:
        TypeError: Shapes or dtypes do not fit.
        ValueError: A label is neither -100 nor an id of the vocabulary (under `jit`, where values cannot be seen, such
            a label makes the sum NaN), or an option is out of its range.
    """
    check_loss_options(label_smoothing, z_loss)
    check_label_range(labels, logits.shape[-1])
    logits, labels = jnp.asarray(logits).astype(jnp.float32), jnp.asarray(labels).astype(jnp.int32)
    total, _ = summed_cross_entropy(logits, labels, label_smoothing, z_loss)
    return total, jnp.sum(labels != IGNORED, dtype=jnp.float32)


@checked
def seq2seq_loss_from_hidden(
    model: Any,
    hidden: Float[Array, "batch target hidden"],
    labels: TargetIds,
    *,
    label_smoothing: float | int = 0.0,
    z_loss: float | int = 0.0,
    chunk_size: int | None = None,
) -> tuple[Float32[Array, ""], Float32[Array, ""]]:
    """`seq2seq_loss` of the logits that the model's head makes of these states, without making all of them.

    The head, the loss and their gradients are computed for `chunk_size` labels at a time, so that float32 logits exist
    for one chunk only. Gradients are taken in the forward pass already, as the logits are at hand there: three products
    with the head's matrix, as with whole logits, and none for arrays that no gradient is asked of. Products are in the
    dtype of the model; logits, the loss and sums over chunks are float32. (The idea is that of Liger Kernel, Hsu et al.
    2024, "fused linear cross entropy".) It has no forward-mode derivative (`jax.jvp`).

    Args:
        model: An `EncoderDecoder` or a `Decoder`, with a head of any kind: tied or not, with a transform, a bias, a cap
            on logits, or adapters.
        hidden: What `model.last_hidden_state(...)` returned.
        labels: Integer ids, "batch target"; -100 is ignored.
        label_smoothing: As in `seq2seq_loss`.
        z_loss: As in `seq2seq_loss`.
        chunk_size: Labels at a time, at least 1. Default: as many as make logits of 128 MiB, at least 128, on a CPU; of
            256 MiB, at least 1024, elsewhere. Where that is all of them, whole logits are made.

    Returns:
        `(sum, weight)`, as `seq2seq_loss`.

    Raises:
        TypeError: Shapes or dtypes do not fit.
        ValueError: As `seq2seq_loss`; or `chunk_size` is below 1.
    """
    check_loss_options(label_smoothing, z_loss)
    labels = jnp.asarray(labels)
    options = {"label_smoothing": label_smoothing, "z_loss": z_loss, "chunk_size": chunk_size}
    total = divided_loss_from_hidden(model, hidden, labels, jnp.ones(()), **options)
    return total, jnp.sum(labels != IGNORED, dtype=jnp.float32)


def divided_loss_from_hidden(
    model: Any,
    hidden: Float[Array, "batch target hidden"],
    labels: Integer[Array, "batch target"],
    divisor: Float32[Array, ""],
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    chunk_size: int | None = None,
) -> Float32[Array, ""]:
    """The sum of `seq2seq_loss_from_hidden` over a number, which has no gradient.

    Given here and not divided by later, the number needs no pass over the gradient of the head's matrix.
    """
    decoder = getattr(model, "decoder", model)
    check_label_range(labels, decoder.config.vocab_size)
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}; None chooses one for the platform.")
    size = usual_chunk_size(decoder.config.vocab_size) * _devices(decoder) if chunk_size is None else chunk_size
    count = -(-labels.size // size)
    if count == 1:  # nothing to save, and autodiff is a little faster
        logits = decoder.logits(hidden).astype(jnp.float32)
        return summed_cross_entropy(logits, labels.astype(jnp.int32), label_smoothing, z_loss)[0] / divisor
    rows = _split(hidden.reshape(-1, hidden.shape[-1]), count, 0)
    flat = _split(labels.astype(jnp.int32).reshape(-1), count, IGNORED)
    with jax.named_scope("head_and_loss"):
        head = (decoder.head, decoder.head.what_it_reads(decoder.embeddings))
        return _summed_loss((head, rows), flat, 1.0 / divisor, float(label_smoothing), float(z_loss))


def total_weight(loss: Loss, labels: Array, model: Any) -> Array:
    """The weight that a loss gives to these labels, whatever the logits are.

    Raises:
        TypeError: The loss returns something else than two scalars.
    """
    logits = jnp.zeros((*labels.shape, model.decoder.config.vocab_size), jnp.float32)
    made = loss(logits, labels)
    if not (isinstance(made, tuple) and len(made) == 2 and all(jnp.shape(each) == () for each in made)):
        raise TypeError("a loss must return (sum, weight), two scalars, as seq2seq_loss does: sums, not means.")
    return jax.lax.stop_gradient(jnp.asarray(made[1], jnp.float32))


def check_loss_options(label_smoothing: float, z_loss: float) -> None:
    """Raises ValueError where an option of `seq2seq_loss` is out of its range."""
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(f"label_smoothing must be at least 0 and less than 1, got {label_smoothing}; 0.1 is usual.")
    if not z_loss >= 0.0:
        raise ValueError(f"z_loss must be at least 0, got {z_loss}; 1e-4 is usual, 0 turns it off.")


def check_label_range(labels: ArrayLike, vocab_size: int) -> None:
    """Raises ValueError where a concrete label is neither -100 nor in [0, vocab_size); traced ones are let through."""
    if isinstance(labels, Tracer) or not getattr(labels, "is_fully_addressable", True):
        return
    values = np.asarray(labels)
    wrong = (values != IGNORED) & ((values < 0) | (values >= vocab_size))
    if not wrong.any():
        return
    row, column = np.argwhere(wrong)[0]
    raise ValueError(
        f"labels must be {IGNORED} (ignored) or ids in [0, {vocab_size}), got {values[row, column]} at row {row}, "
        f"position {column} ({wrong.sum()} such labels). Is it the decoder's tokenizer that made them? A model whose "
        "vocabulary grew needs model.resize_token_embeddings(n, key=key), or resize_decoder_token_embeddings."
    )


def summed_cross_entropy(
    logits: Float32[Array, "*places vocab"], labels: Int32[Array, "*places"], label_smoothing: float, z_loss: float
) -> tuple[Float32[Array, ""], Float32[Array, "*places"]]:
    """The sum that `seq2seq_loss` returns, and the logsumexp of each place."""
    counted = labels != IGNORED
    # The label's logit is gathered, never multiplied by a one-hot, so the only vocabulary-sized arrays are the logits
    # and their gradient. A label outside the vocabulary is sent out of bounds, where the gather fills in NaN.
    index = jnp.where(counted, jnp.where(labels < 0, logits.shape[-1], labels), 0)
    label_logit = jnp.take_along_axis(logits, index[..., None], axis=-1, mode="fill")[..., 0]
    log_total = jax.nn.logsumexp(logits, axis=-1)
    loss = log_total - (1.0 - label_smoothing) * label_logit
    if label_smoothing:
        loss = loss - label_smoothing * jnp.mean(logits, axis=-1)
    if z_loss:
        loss = loss + z_loss * jnp.square(log_total)
    return jnp.sum(jnp.where(counted, loss, 0.0)), log_total


def usual_chunk_size(vocab_size: int) -> int:
    """Labels at a time where nobody chose: few enough to save memory, enough for products at full speed."""
    least, most_bytes = (128, 128 * 2**20) if platform() == "cpu" else (1024, 256 * 2**20)
    return max(least, most_bytes // (4 * vocab_size))


def _devices(decoder: Any) -> int:
    """How many devices share the labels: each makes logits of as many as a single one would.

    Of a smaller chunk its logits would be sent about, not the table, and the table's gradient be summed for each.
    """
    place = placement_of(decoder)
    return 1 if place is None else place.mesh.size


def _split(x: Array, count: int, padding: int) -> Array:
    """(places, …) as (count, places / count, …), each part taking each `count`-th place, padded at the end.

    So places that lie on several devices are split without moving to another one.
    """
    missing = -x.shape[0] % count
    x = jnp.pad(x, [(0, missing), *((0, 0),) * (x.ndim - 1)], constant_values=padding) if missing else x
    return jnp.swapaxes(x.reshape(-1, count, *x.shape[1:]), 0, 1)


@eqx.filter_custom_vjp
def _summed_loss(
    differentiated: tuple[Any, Float[Array, "chunks size hidden"]],
    labels: Int32[Array, "chunks size"],
    scale: Float32[Array, ""],
    label_smoothing: float,
    z_loss: float,
) -> Float32[Array, ""]:
    """The scaled sum of the losses of all chunks; differentiated are the head with what it reads, and the states."""
    (head, table), hidden = differentiated

    def add(total: Array, chunk: tuple[Array, Array]) -> tuple[Array, None]:
        states, its_labels = chunk
        loss, _ = summed_cross_entropy(head(states, table), its_labels, label_smoothing, z_loss)
        return total + loss, None

    return scale * jax.lax.scan(add, jnp.zeros(()), (hidden, labels))[0]


@_summed_loss.def_fwd
def _loss_and_gradients(
    perturbed: Any, differentiated: Any, labels: Array, scale: Array, label_smoothing: float, z_loss: float
) -> tuple[Array, Any]:
    head, hidden = differentiated
    perturbed_head, perturbed_hidden = perturbed
    trained, fixed = eqx.partition(head, perturbed_head)

    def logits_of(trained: Any, states: Array) -> Array:
        its_head, its_table = eqx.combine(trained, fixed)
        return its_head(states if perturbed_hidden else jax.lax.stop_gradient(states), its_table)

    def add(sums: tuple[Array, Any], chunk: tuple[Array, Array]) -> tuple[tuple[Array, Any], Array | None]:
        states, its_labels = chunk
        logits, pull = jax.vjp(logits_of, trained, states)
        loss, log_totals = summed_cross_entropy(logits, its_labels, label_smoothing, z_loss)
        of_trained, of_states = pull(scale * _slope(logits, log_totals, its_labels, label_smoothing, z_loss))
        total, gradients = sums
        gradients = jax.tree.map(lambda sum_, part: sum_ + part.astype(sum_.dtype), gradients, of_trained)
        return (total + loss, gradients), of_states if perturbed_hidden else None

    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype if x.dtype.itemsize > 2 else jnp.float32), trained)
    (total, of_trained), of_hidden = jax.lax.scan(add, (jnp.zeros(()), nothing), (hidden, labels))
    return scale * total, (of_trained, of_hidden)


@_summed_loss.def_bwd
def _scaled(residuals: Any, gradient: Array, perturbed: Any, differentiated: Any, *rest: Any) -> Any:
    del rest
    of_head, of_hidden = residuals
    (head, hidden), (perturbed_head, _) = differentiated, perturbed

    def scaled(gradient_of: Array, like: Array) -> Array:
        return (gradient_of.astype(gradient.dtype) * gradient).astype(like.dtype)

    of_head = jax.tree.map(scaled, of_head, eqx.filter(head, perturbed_head))
    return of_head, None if of_hidden is None else scaled(of_hidden, hidden)


def _slope(
    logits: Float32[Array, "size vocab"],
    log_totals: Float32[Array, " size"],
    labels: Int32[Array, " size"],
    label_smoothing: float,
    z_loss: float,
) -> Float32[Array, "size vocab"]:
    """The gradient of `summed_cross_entropy` by the logits, in one pass over them."""
    at = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1)
    share = jnp.exp(logits - log_totals[:, None])
    if z_loss:
        share = share * (1.0 + 2.0 * z_loss * log_totals)[:, None]
    wanted = jnp.where(at == labels[:, None], 1.0 - label_smoothing, 0.0) + label_smoothing / logits.shape[1]
    return jnp.where((labels != IGNORED)[:, None], share - wanted, 0.0)


def _starts(value: Any, rows: int) -> Int32[Array, " batch"]:
    """The first input of every row."""
    if not np.ndim(value) or value is None:
        start = _token_id("decoder_start_token_id", value, "bos_token_id or BERT's [CLS] is usual")
        return jnp.full((rows,), start, jnp.int32)
    if not isinstance(value, Tracer) and (wrong := np.asarray(value)[np.asarray(value) < 0]).size:
        raise ValueError(f"decoder_start_token_id must hold ids of the vocabulary, got {wrong[0]}.")
    return jnp.asarray(value).astype(jnp.int32)


def _token_id(name: str, value: int | np.integer | None, hint: str) -> int:
    if value is None:
        raise ValueError(
            f"{name} is None: {hint}. Pass it here, or set it once with model.with_special_tokens({name}=...)."
        )
    if value < 0:
        raise ValueError(f"{name} must be an id of the vocabulary, got {value}.")
    return int(value)
