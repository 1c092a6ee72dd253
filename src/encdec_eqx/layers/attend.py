"""The one entrance to attention: weighted sums of values, by one of two backends."""

from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from .._typing import Array, PRNGKey
from .context import AttentionMask
from .linear import Dropout

Queries = Float[Array, "batch heads queries head_dim"]
Keys = Float[Array, "batch kv_heads keys head_dim"]
Scores = Float[Array, "batch heads queries keys"]

_LARGEST_HEAD = 128
"""Width of heads up to which cuDNN's kernels run on every GPU that has them."""


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

    Returns:
        The heads side by side, and the attention weights (float32, after dropout, as torch reports them) or `None`.
    """
    extras = {"relative positions": relative is not None, "a bias": bias is not None, "weights asked for": need_weights}
    extras["dropout"] = key is not None and dropout.rate > 0
    problem = why_reference(q, k, mask, scale=scale, cap=cap, extras=extras)
    if problem is None:
        assert mask is None or isinstance(mask, AttentionMask)
        assert isinstance(scale, float)
        return fused(q, k, v, mask=mask, scale=scale), None
    dense = mask.dense(q.shape[2]) if isinstance(mask, AttentionMask) else mask
    out, weights = _reference(
        q, k, v, mask=dense, scale=scale, relative=relative, bias=bias, cap=cap, dropout=dropout, key=key
    )
    return out, weights if need_weights else None


def why_reference(
    q: Queries | jax.ShapeDtypeStruct,
    k: Keys | jax.ShapeDtypeStruct,
    mask: AttentionMask | Bool[Array, "#batch 1 #queries #keys"] | None,
    *,
    scale: Float[Array, ""] | float,
    cap: float | None,
    extras: Mapping[str, bool],
) -> str | None:
    """Why the reference backend attends and not the fused one; `None` where that does. All of it is static.

    Args:
        q: queries, or their shape.
        k: keys, likewise.
        mask: who may attend to whom.
        scale: factor on the scores.
        cap: what scores are squashed to stay below.
        extras: what else the reference alone has, and whether it is needed.
    """
    if (where := platform()) != "gpu":
        return f"the platform is {where}; cuDNN's fused attention is for GPUs"
    if q.dtype not in (jnp.float16, jnp.bfloat16) or k.dtype != q.dtype:
        return f"queries are {q.dtype}, keys {k.dtype}; cuDNN takes float16 and bfloat16"
    if q.shape[3] % 8 or q.shape[3] > _LARGEST_HEAD:
        return f"head_dim is {q.shape[3]}; cuDNN takes multiples of 8 up to {_LARGEST_HEAD}"
    if not isinstance(scale, float):
        return "the layers of a scanned group have different score scales"
    if cap is not None:
        return "scores are capped"
    if needed := [name for name, present in extras.items() if present]:
        return f"it has {', '.join(needed)}"
    if mask is not None and not isinstance(mask, AttentionMask):
        return "its mask is dense"
    if mask is not None and not _is_causal_alone(mask, q.shape[2]) and (q.shape[2] % 2 or k.shape[2] % 2):
        return "the number of queries or keys is odd, and there is a mask"
    return None


def _reference(
    q: Queries,
    k: Keys,
    v: Keys,
    *,
    mask: Bool[Array, "#batch 1 #queries #keys"] | None,
    scale: Float[Array, ""] | float,
    relative: Scores | None,
    bias: Float[Array, "#batch heads #queries keys"] | None,
    cap: float | None,
    dropout: Dropout,
    key: PRNGKey | None,
) -> tuple[Float[Array, "batch queries heads*head_dim"], Scores]:
    """By two matrix products around a softmax, as XLA compiles them anywhere."""
    folded = jnp.einsum("nqe,nke->nqk", _fold_queries(q, k), _fold(k), preferred_element_type=jnp.float32)
    scores = folded.reshape(*q.shape[:3], k.shape[2])
    scores = (scores if relative is None else scores + relative) * scale
    scores = scores if bias is None else scores + jnp.broadcast_to(bias, scores.shape)
    scores = scores if cap is None else soft_cap(scores, cap)
    weights = dropout(_masked_softmax(scores, mask), key=key)
    context = jnp.einsum("nqk,nke->nqe", _fold_queries(weights, k).astype(v.dtype), _fold(v))
    side_by_side = jnp.moveaxis(context.reshape(*q.shape[:3], v.shape[3]), 1, 2)
    return side_by_side.reshape(*side_by_side.shape[:2], -1), weights


def fused(
    q: Queries,
    k: Keys,
    v: Keys,
    *,
    mask: AttentionMask | None,
    scale: float,
    implementation: Literal["cudnn", "xla"] = "cudnn",
) -> Float[Array, "batch queries heads*head_dim"]:
    """By one kernel that keeps no scores (Dao et al. 2022).

    A mask that is causal, within a window or not, is left to the kernel; any other is given as queries x keys per row.
    """
    queries = q.shape[2]
    causal = mask is not None and _is_causal_alone(mask, queries)
    window = mask.window - 1 if mask is not None and causal and mask.window is not None else None
    dense = None if mask is None or causal else mask.dense(queries)
    if dense is not None:
        dense = jnp.broadcast_to(dense, (q.shape[0], 1, queries, k.shape[2]))
    # jax's own code promotes dtypes, which callers may have forbidden
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        out = jax.nn.dot_product_attention(
            *(jnp.moveaxis(x, 1, 2) for x in (q, k, v)),
            mask=dense,
            scale=scale,
            is_causal=causal,
            local_window_size=None if window is None else (window, 0),
            implementation=implementation,
        )
    if dense is not None:
        # the kernel gives a query that sees nothing the mean of all values
        out = jnp.where(jnp.any(dense[:, 0], axis=-1)[..., None, None], out, jnp.zeros_like(out))
    return out.reshape(*out.shape[:2], -1)


def _is_causal_alone(mask: AttentionMask, queries: int) -> bool:
    """Whether queries and keys are the same slots, each of which sees those up to its own."""
    parts = mask.keys is None and mask.branches is None
    return parts and mask.causal and isinstance(mask.start, int) and mask.start == 0


def platform() -> str:
    """Where arrays live by default: "cpu", "gpu" or "tpu"."""
    device = getattr(jax.config, "jax_default_device", None)
    return jax.default_backend() if device is None else getattr(device, "platform", str(device))


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
    if mask is not None:
        mask = jnp.broadcast_to(mask, scores.shape)
        scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
    # the shift cancels, so no gradient needs to flow through it
    powers = jnp.exp(scores - jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True)))
    if mask is not None:
        powers = jnp.where(mask, powers, 0.0)
    total = jnp.sum(powers, axis=-1, keepdims=True)
    # only a row that sees nothing has a total of 0; a floor at 1 would halve the gradient of rows that see one key
    return powers / jnp.where(total == 0.0, 1.0, total)


def soft_cap(x: Float[Array, "*shape"], cap: float) -> Float[Array, "*shape"]:
    """The input where it is small, never beyond `cap` in size (Gemma 2)."""
    return cap * jnp.tanh(x / cap)
