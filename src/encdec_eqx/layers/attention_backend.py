"""Who computes attention in place of the reference: the interface of backends, and the one by a fused kernel.

A kernel of a user's own is a class of `AttentionBackend` in a file of its own, and `model.with_attention_backends` puts
it in.
"""

import dataclasses
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from .._inputs import platform
from .._padding import RightPadding
from .._typing import Array, PRNGKey
from .context import AttentionMask
from .linear import Dropout

Feature = Literal[
    "causal",
    "lengths",
    "window",
    "padding",
    "cache",
    "branches",
    "dense",
    "scales",
    "cap",
    "bias",
    "relative",
    "dropout",
]
"""What a call of attention may have besides queries, keys and values; a backend lists in `takes` what it can do.

`"lengths"` are of keys, where padding is known to be on the right (`RightPadding`), `"padding"` is any other, as bools;
`"cache"`: queries go on from a slot that is not known, in a causal mask; `"scales"`: the score scale is an array.
"""

_WORDS: dict[Feature, str] = {
    "causal": "its mask is causal",
    "lengths": "its keys have lengths",
    "window": "its mask has a window",
    "padding": "its padding is not known to be on the right",
    "cache": "its queries go on from a cache",
    "branches": "its queries are branches of a search",
    "dense": "its mask is dense",
    "scales": "the layers of a scanned group have different score scales",
    "cap": "scores are capped",
    "bias": "it has a bias",
    "relative": "it has relative positions",
    "dropout": "it has dropout",
}


class AttentionCall(eqx.Module):
    """All that `attend` is given. Backends choose by shapes, dtypes and structure; values are there when they compute.

    Attributes:
        q: queries (batch, heads, queries, head_dim).
        k: keys (batch, kv_heads, keys, head_dim); query head h reads those of head h // (heads / kv_heads).
        v: values, likewise.
        mask: who may attend to whom, in parts or dense.
        scale: factor on the scores.
        relative: added to the scores before they are scaled.
        bias: added after.
        dropout: of the weights.
        key: turns dropout on.
        cap: what scores are squashed to stay below, by cap · tanh(score / cap), last of all before the mask.
    """

    q: Any
    k: Any
    v: Any
    mask: AttentionMask | Bool[Array, "#batch 1 #queries #keys"] | None
    scale: Any
    relative: Any = None
    bias: Any = None
    dropout: Dropout = Dropout(0.0)
    key: PRNGKey | None = None
    cap: float | None = eqx.field(static=True, default=None)

    @property
    def lengths(self) -> Array | None:
        """How many keys of each row are real, where the mask says so; at most as many as there are."""
        keys = self.mask.keys if isinstance(self.mask, AttentionMask) else None
        return jnp.clip(keys.lengths, 0, keys.width) if isinstance(keys, RightPadding) else None

    @property
    def is_causal(self) -> bool:
        """Whether queries and keys are the same slots, each of which sees none after its own."""
        return isinstance(self.mask, AttentionMask) and self.mask.causal and self.mask.branches is None

    @property
    def window(self) -> int | None:
        """How many slots a query sees, its own included."""
        return self.mask.window if isinstance(self.mask, AttentionMask) else None

    def dense_mask(self) -> Bool[Array, "#batch 1 #queries #keys"] | None:
        """The mask for each query and key; `None` where all may attend to all."""
        return self.mask.dense(self.q.shape[2]) if isinstance(self.mask, AttentionMask) else self.mask

    def features(self) -> frozenset[Feature]:
        """What the call has besides queries, keys and values."""
        mask = self.mask
        has: dict[Feature, bool] = {
            "scales": not isinstance(self.scale, float),
            "cap": self.cap is not None,
            "bias": self.bias is not None,
            "relative": self.relative is not None,
            "dropout": self.key is not None and self.dropout.rate > 0,
            "dense": mask is not None and not isinstance(mask, AttentionMask),
        }
        if isinstance(mask, AttentionMask):
            lengths = isinstance(mask.keys, RightPadding)
            has["causal"] = self.is_causal
            has["lengths"] = lengths
            has["window"] = mask.window is not None
            has["padding"] = mask.keys is not None and not lengths
            has["cache"] = self.is_causal and not _starts_at_zero(mask)
            has["branches"] = mask.branches is not None
        return frozenset(name for name, present in has.items() if present)


def _starts_at_zero(mask: AttentionMask) -> bool:
    return isinstance(mask.start, int) and mask.start == 0


@dataclasses.dataclass(frozen=True)
class AttentionBackend(ABC):
    """One way to compute attention. It is part of a model's structure, so its fields must be hashable.

    `takes` are the features of a call that it can do; a call that has others never reaches it. `why_not` may refuse for
    further reasons, `__call__` computes. A query that may attend to nothing must get zeros.
    """

    takes: ClassVar[frozenset[Feature]] = frozenset()

    @property
    @abstractmethod
    def name(self) -> str:
        """What `attention_backends` and profiles call it."""

    @abstractmethod
    def __call__(self, call: AttentionCall) -> Float[Array, "batch queries all_heads"]:
        """The weighted sums of values, the heads side by side.

        Args:
            call: queries, keys, values, and all that is asked of them.
        """

    def why_not(self, call: AttentionCall) -> str | None:
        """Why it cannot do this call, by platform, dtypes and shapes; `None` where it can.

        Args:
            call: the same; only its shapes, dtypes and structure may count.
        """
        return None

    def refuses(self, call: AttentionCall) -> str | None:
        """`why_not`, or which features of the call it does not take."""
        beyond = call.features() - self.takes
        return self.why_not(call) or "; ".join(words for name, words in _WORDS.items() if name in beyond) or None


@dataclasses.dataclass(frozen=True)
class FusedAttention(AttentionBackend):
    """One kernel that keeps no scores (Dao et al. 2022), by `jax.nn.dot_product_attention`.

    It is told causality, windows and lengths, never a mask of queries x keys, which it would read as a bias: slow, and
    with gradients of its own.

    Attributes:
        implementation: "cudnn", or "xla", which runs anywhere and keeps scores: for tests of what a kernel is told.
        fewest: queries from which on it attends; by default, from where scores are more bytes than keys and values.
    """

    takes: ClassVar[frozenset[Feature]] = frozenset({"causal", "lengths", "window"})
    implementation: Literal["cudnn", "xla"] = "cudnn"
    fewest: int | None = None

    @property
    def name(self) -> str:
        """See `AttentionBackend`."""
        return "fused"

    def why_not(self, call: AttentionCall) -> str | None:
        """Also refuses windows that are not causal, or stand beside lengths."""
        if self.implementation == "cudnn" and (problem := _why_no_cudnn(call)) is not None:
            return problem
        queries, head_dim = call.q.shape[2:]
        # a score is written and read in float32 and again in the queries' dtype, where keys and values are read once
        fewest = -(-head_dim // 3) if self.fewest is None else self.fewest
        if queries < fewest:
            return f"scores of {queries} queries are fewer bytes than keys and values: a kernel saves nothing"
        if call.window is not None and (not call.is_causal or call.lengths is not None):
            return "a window is causal and has no lengths beside it, where a kernel does it"
        return None

    def __call__(self, call: AttentionCall) -> Float[Array, "batch queries all_heads"]:
        """See `AttentionBackend`."""
        lengths = call.lengths
        # jax's own code promotes dtypes, which callers may have forbidden
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            out = jax.nn.dot_product_attention(
                *(jnp.moveaxis(x, 1, 2) for x in (call.q, call.k, call.v)),
                scale=call.scale,
                is_causal=call.is_causal,
                # a kernel given no key at all may fail
                key_value_seq_lengths=None if lengths is None else jnp.maximum(lengths, 1),
                local_window_size=None if call.window is None else (call.window - 1, 0),
                implementation=self.implementation,
            )
        if lengths is not None:
            out = jnp.where((lengths > 0)[:, None, None, None], out, jnp.zeros_like(out))
        return out.reshape(*out.shape[:2], -1)


def _why_no_cudnn(call: AttentionCall) -> str | None:
    """What cuDNN's kernels do not run on: see jax's `check_is_flash_attention`."""
    q, k = call.q, call.k
    if (where := platform()) != "gpu":
        return f"the platform is {where}; cuDNN's fused attention is for GPUs"
    if (capability := _compute_capability()) < (8, 0):
        return f"the GPU's compute capability is {capability[0]}.{capability[1]}; cuDNN's fused attention needs 8.0"
    if q.dtype not in (jnp.float16, jnp.bfloat16) or k.dtype != q.dtype:
        return f"queries are {q.dtype}, keys {k.dtype}; cuDNN takes float16 and bfloat16"
    largest = 256 if capability >= (9, 0) else 128
    if q.shape[3] % 8 or q.shape[3] > largest:
        return f"head_dim is {q.shape[3]}; cuDNN takes multiples of 8 up to {largest}"
    return None


def _compute_capability() -> tuple[int, int]:
    """Of the first GPU; the least that will do where there is none, as when compiling for another machine.

    A GPU that is not NVIDIA's has none: (0, 0).
    """
    device = jax.devices()[0]
    if device.platform != "gpu":
        return 8, 0
    major, _, minor = str(getattr(device, "compute_capability", "")).partition(".")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else (0, 0)
