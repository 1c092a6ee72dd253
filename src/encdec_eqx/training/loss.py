"""The teacher-forcing inputs and the loss of a sequence-to-sequence model."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Float, Float32, Int32, Integer

from .._inputs import IGNORED as IGNORED
from .._typing import Array, ArrayLike, TargetIds, checked

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
        `(sum, weight)`, two float32 scalars: (0, 0) with zero gradients if every label is -100.

    Raises:
        TypeError: Shapes or dtypes do not fit.
        ValueError: A label is neither -100 nor an id of the vocabulary (under `jit`, where values cannot be seen, such
            a label makes the sum NaN), or an option is out of its range.
    """
    check_loss_options(label_smoothing, z_loss)
    check_label_range(labels, logits.shape[-1])
    logits, labels = jnp.asarray(logits).astype(jnp.float32), jnp.asarray(labels).astype(jnp.int32)
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
    return jnp.sum(jnp.where(counted, loss, 0.0)), jnp.sum(counted, dtype=jnp.float32)


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
