"""Attention with rows and heads each in an axis of their own, as a mesh splits them."""

import dataclasses
from typing import ClassVar, get_args

import jax.numpy as jnp
from jaxtyping import Float

from .._typing import Array
from .attend import attention_weights
from .attention_backend import AttentionBackend, AttentionCall, Feature
from .linear import float32_product
from .sharded import HeadPlacement


@dataclasses.dataclass(frozen=True)
class UnfoldedAttention(AttentionBackend):
    """What the reference computes, without its fold of rows and heads, which would gather both on a mesh.

    Attributes:
        heads: where rows and heads lie.
    """

    takes: ClassVar[frozenset[Feature]] = frozenset(get_args(Feature))
    heads: HeadPlacement

    @property
    def name(self) -> str:
        """See `AttentionBackend`."""
        return "unfolded"

    def __call__(self, call: AttentionCall) -> Float[Array, "batch queries all_heads"]:
        """See `AttentionBackend`."""
        q = self.heads.put_heads(call.q)
        k, v = self.heads.put_kv_heads(call.k), self.heads.put_kv_heads(call.v)
        rows, heads, queries, size = q.shape
        groups = (rows, k.shape[1], heads // k.shape[1], queries)
        products = float32_product("nhgqe,nhke->nhgqk", q.reshape(*groups, size), k)
        weights = attention_weights(call, self.heads.put_heads(products.reshape(rows, heads, queries, -1)))
        sums = jnp.einsum("nhgqk,nhke->nqhge", weights.reshape(*groups, -1).astype(v.dtype), v)
        return sums.reshape(rows, queries, -1)
