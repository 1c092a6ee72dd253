"""One run of the model on a batch: its loss, its gradients, and what went on inside. One compiled program for all runs.

Every run of a diagnosis (the batch itself, its sources swapped, other first tokens, steps of the optimiser) has the
same shapes, so that they share one compilation. Knows the model's public calls; must not judge what comes out.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Float32, Int32, PyTree

from .._typing import Array
from ..training.loss import IGNORED

Inputs = dict[str, Any]
"""What a run reads: `input_ids`, `decoder_input_ids`, `labels`, and masks, types and positions by their names."""


_OF_DECODER = ("decoder_attention_mask", "decoder_position_ids")


class Seen(eqx.Module):
    """What one run showed.

    Attributes:
        loss: mean cross-entropy over the labels that count.
        token_loss: the cross-entropy at each place, 0 where there is no label.
        logits: of each place.
        states: the encoder's last hidden states.
        finite: whether a row's states and logits are finite; what is not finite anywhere inside reaches one of them.
    """

    loss: Float32[Array, ""]
    token_loss: Float32[Array, "batch target"]
    logits: Float32[Array, "batch target vocab"]
    states: Float[Array, "batch source encoder_hidden"]
    finite: Bool[Array, " batch"]


@eqx.filter_jit
def run(trained: PyTree, rest: PyTree, inputs: Inputs) -> tuple[Seen, PyTree]:
    """Runs the model on a batch, without dropout.

    Args:
        trained: the model with None for every leaf that needs no gradient.
        rest: the model with None for the others.
        inputs: see `Inputs`.

    Returns:
        What was seen, and the gradient of the loss.
    """
    (_, seen), grads = jax.value_and_grad(_loss, has_aux=True)(trained, rest, inputs)
    return seen, grads


def _loss(trained: PyTree, rest: PyTree, inputs: Inputs) -> tuple[Array, Seen]:
    model: Any = eqx.combine(trained, rest)
    given = dict(inputs)
    labels, ids, mask = given.pop("labels"), given.pop("decoder_input_ids"), given.pop("attention_mask", None)
    of_decoder = {name: given.pop(name) for name in _OF_DECODER if name in given}
    encoded = model.encode(given.pop("input_ids"), attention_mask=mask, **given)
    out = model.decode(ids, encoded, encoder_attention_mask=mask, **of_decoder)
    states = jnp.asarray(encoded.last_hidden_state)
    token_loss = _token_loss(out.logits, labels)
    loss = jnp.sum(token_loss) / jnp.maximum(jnp.sum(labels != IGNORED), 1).astype(jnp.float32)
    return loss, Seen(
        loss=loss,
        token_loss=token_loss,
        logits=out.logits,
        states=states,
        finite=_finite(states) & _finite(out.logits),
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
    """Kullback-Leibler divergence of the second from the first, in nats, at each place; 0 where there is no label."""
    p, q = jax.nn.log_softmax(logits), jax.nn.log_softmax(others)
    return jnp.where(labels != IGNORED, jnp.sum(jnp.exp(p) * (p - q), axis=-1), 0.0)


def rows(inputs: Inputs, index: np.ndarray) -> Inputs:
    """Some rows of a batch, or the same rows in another order."""
    return {name: value[index] for name, value in inputs.items()}
