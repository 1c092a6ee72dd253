"""The one entrance to attention: the choice of a backend, and the reference, which can do every call."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from .._typing import Array, PRNGKey
from .attention_backend import AttentionBackend, AttentionCall, FusedAttention
from .context import AttentionMask
from .linear import Dropout, float32_product

Queries = Float[Array, "batch heads queries head_dim"]
Keys = Float[Array, "batch kv_heads keys head_dim"]
Scores = Float[Array, "batch heads queries keys"]

DEFAULT_BACKENDS: tuple[AttentionBackend, ...] = (FusedAttention(),)
"""Asked in turn; what all refuse, the reference does."""


def attend(
    q: Queries,
    k: Keys,
    v: Keys,
    *,
    mask: AttentionMask | Bool[Array, "#batch 1 #queries #keys"] | None,
    scale: Float[Array, ""] | float,
    relative: Scores | None = None,
    bias: Float[Array, "#batch heads #queries keys"] | None = None,
    cap: float | None = None,
    dropout: Dropout,
    key: PRNGKey | None,
    need_weights: bool = True,
    backends: tuple[AttentionBackend, ...] | None = None,
) -> tuple[Float[Array, "batch queries heads*head_dim"], Scores | None]:
    """Scaled dot-product attention (Vaswani et al. 2017), scores and softmax in float32.

    A query that may attend to nothing gets zeros, never NaN. Query head h reads the keys of head h // (heads /
    kv_heads); keys that several query heads share are not copied.

    Args:
        q: queries.
        k: keys.
        v: values.
        mask: who may attend to whom, in parts or dense.
        scale: factor on the scores.
        relative: added to the scores before they are scaled.
        bias: added after.
        cap: what scores are squashed to stay below, last of all before the mask.
        dropout: of the weights.
        key: turns dropout on.
        need_weights: whether to return the weights.
        backends: asked in turn before the reference does it; default `DEFAULT_BACKENDS`.

    Returns:
        The heads side by side, and the attention weights (float32, after dropout, as torch reports them) or `None`.
    """
    call = AttentionCall(q, k, v, mask, scale, relative, bias, dropout, key, cap)
    backend, _ = choose(call, backends, need_weights=need_weights)
    if backend is not None:
        with jax.named_scope(backend.name):
            return backend(call), None
    with jax.named_scope("reference"):
        out, weights = _reference(call)
    return out, weights if need_weights else None


def choose(
    call: AttentionCall, backends: tuple[AttentionBackend, ...] | None, *, need_weights: bool
) -> tuple[AttentionBackend | None, str]:
    """The backend that does a call, `None` for the reference, and in words which one and why no other. All is static.

    Args:
        call: what `attend` is given, or as much of it as is known: shapes may stand for arrays.
        backends: as in `attend`.
        need_weights: whether weights are to be returned, which the reference alone can.
    """
    backends = DEFAULT_BACKENDS if backends is None else backends
    if need_weights:
        return None, "reference: it has weights asked for"
    refusals = []
    for backend in backends:
        reason = backend.refuses(call)
        if reason is None:
            return backend, backend.name
        refusals.append(reason if len(backends) == 1 else f"{backend.name}: {reason}")
    return None, ": ".join(["reference", *(["; ".join(refusals)] if refusals else [])])


def _reference(call: AttentionCall) -> tuple[Float[Array, "batch queries all_heads"], Scores]:
    """By two matrix products around a softmax, as XLA compiles them anywhere."""
    q, k, v = call.q, call.k, call.v
    folded = float32_product("nqe,nke->nqk", _fold_queries(q, k), _fold(k))
    weights = attention_weights(call, folded.reshape(*q.shape[:3], k.shape[2]))
    context = jnp.einsum("nqk,nke->nqe", _fold_queries(weights, k).astype(v.dtype), _fold(v))
    side_by_side = jnp.moveaxis(context.reshape(*q.shape[:3], v.shape[3]), 1, 2)
    return side_by_side.reshape(*side_by_side.shape[:2], -1), weights


def attention_weights(call: AttentionCall, products: Scores) -> Scores:
    """Weights in float32, after dropout, of the products of queries and keys."""
    scores = (products if call.relative is None else products + call.relative) * call.scale
    scores = scores if call.bias is None else scores + jnp.broadcast_to(call.bias, scores.shape)
    scores = scores if call.cap is None else soft_cap(scores, call.cap)
    return call.dropout(_masked_softmax(scores, call.dense_mask()), key=call.key)


def _fold(x: Keys) -> Float[Array, "batch*kv_heads keys head_dim"]:
    """Batch and heads in one axis, as XLA's CPU backend multiplies them fastest."""
    return x.reshape(-1, *x.shape[2:])


def _fold_queries(
    x: Float[Array, "batch heads queries size"], k: Keys
) -> Float[Array, "batch*kv_heads grouped_queries size"]:
    """The same of queries, where those of the heads that share keys make one longer set."""
    batch, kv_heads = k.shape[:2]
    return x.reshape(batch * kv_heads, -1, x.shape[3])


def _masked_softmax(scores: Scores, mask: Bool[Array, "#batch 1 #queries #keys"] | None) -> Scores:
    """One where, then nothing between maximum, sum and quotient: XLA makes one kernel of it on GPUs.

    Guards there (of the maximum, for scores of -inf; of weights, by comparing it) make five of it.
    """
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
    # the shift cancels, so no gradient needs to flow through it
    powers = jnp.exp(scores - jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True)))
    total = jnp.sum(powers, axis=-1, keepdims=True)
    if mask is not None:
        # a row that sees nothing is divided by infinity: its weights are 0, and so are their gradients
        total = jnp.where(jnp.any(mask, axis=-1, keepdims=True), total, jnp.inf)
    return powers / total


def soft_cap(x: Float[Array, "*shape"], cap: float) -> Float[Array, "*shape"]:
    """The input where it is small, never beyond `cap` in size (Gemma 2)."""
    return cap * jnp.tanh(x / cap)
