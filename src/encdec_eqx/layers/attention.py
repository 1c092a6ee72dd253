"""Multi-head attention of a sequence to itself and to encoder states: projections around `attend`.

`AttentionConfig` makes the modules below. Another mechanism, such as DeBERTa's, is another config with the same
`init_…` methods, beside modules of the same calls.
"""

import dataclasses
from abc import abstractmethod
from typing import Any, Literal, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float

from .._typing import Array, PRNGKey
from ..cache import AbstractKV, CrossKV, SelfKV
from .alibi import AlibiConfig
from .attend import DEFAULT_BACKENDS, attend, choose
from .attention_backend import AttentionBackend, AttentionCall
from .context import AttentionContext, AttentionMask, LayerContext
from .linear import AbstractLinear, Dropout, Embedding, Linear
from .norm import AbstractNorm, QKNormConfig, init_qk_norm
from .positions import relative_scores
from .relative_bias import RelativeBias, RelativeBiasConfig
from .rotary import RotaryConfig
from .unfolded_attention import UnfoldedAttention
from .validation import one_of, part_config, positive, positive_real, rate

Heads = Float[Array, "batch heads queries head_dim"]
Backends = tuple[AttentionBackend, ...] | None
_Tree = TypeVar("_Tree")


@part_config
class AttentionConfig:
    """Scaled dot-product attention (Vaswani et al. 2017).

    Attributes:
        num_heads: number of heads.
        head_dim: width of one head.
        num_kv_heads: number of heads of keys and values, each shared by as many query heads as there are for it
            (Ainslie et al. 2023); `None` means `num_heads`.
        dropout: rate of dropout on the attention weights.
        relative_positions: `"key"` adds the product of queries with a learned table of distances to the scores,
            `"key_query"` that of keys too (Shaw et al. 2018; Huang et al. 2020); in self-attention only.
        relative_bias: a learned bias per bucket of distances; in self-attention only.
        alibi: a bias that grows with the key's position; in self-attention only.
        rotary: rotations of queries and keys, of which each layer names one; in self-attention only.
        rotate_values: whether values are rotated too.
        qkv_bias: whether the projections to queries, keys and values have biases: all of them, or each by itself.
        out_bias: whether the projection of the heads' output has one.
        qk_norm: norms of queries and keys before they are rotated; in self-attention only.
        logit_cap: scores are squashed to stay below it, by cap · tanh(score / cap), before they are masked.
    """

    num_heads: int
    head_dim: int
    num_kv_heads: int | None = None
    dropout: float = 0.0
    relative_positions: Literal["none", "key", "key_query"] = "none"
    relative_bias: RelativeBiasConfig | None = None
    alibi: AlibiConfig | None = None
    rotary: tuple[RotaryConfig, ...] = ()
    rotate_values: bool = False
    qkv_bias: bool | tuple[bool, bool, bool] = True
    out_bias: bool = True
    qk_norm: QKNormConfig | None = None
    logit_cap: float | None = None

    def __post_init__(self):
        positive(self, "num_heads", "head_dim")
        rate(self, "dropout")
        one_of(self, "relative_positions", ("none", "key", "key_query"))
        if self.logit_cap is not None:
            positive_real(self, "logit_cap")
        if self.num_kv_heads is not None:
            positive(self, "num_kv_heads")
            if self.num_heads % self.num_kv_heads:
                raise ValueError(
                    f"AttentionConfig.num_kv_heads is {self.num_kv_heads}; expected a divisor of num_heads, "
                    f"{self.num_heads}: every key-value head serves as many query heads."
                )
        if self.relative_positions != "none" and self.kv_heads != self.num_heads:
            raise ValueError(
                "AttentionConfig.relative_positions compares every query head with keys of its own: leave num_kv_heads."
            )
        for rotary in self.rotary:
            width = self.head_dim if rotary.dim is None else rotary.dim
            if width % 2 or width > self.head_dim:
                raise ValueError(
                    f"positions rotate pairs, but {width} entries of a head of {self.head_dim} are to rotate."
                )

    @property
    def kv_heads(self) -> int:
        """Number of heads of keys and values."""
        return self.num_kv_heads or self.num_heads

    @property
    def biases(self) -> tuple[bool, bool, bool]:
        """Whether the projections to queries, to keys and to values have biases."""
        every = self.qkv_bias
        return (every, every, every) if isinstance(every, bool) else every

    def init_self(
        self,
        hidden_size: int,
        *,
        max_positions: int,
        window: int | None,
        rotary: int | None,
        scale: float,
        key: PRNGKey,
    ) -> "AbstractSelfAttention":
        """One layer's self-attention, its weights normal with standard deviation `scale`.

        Args:
            hidden_size: width of the residual stream.
            max_positions: the longest sequence, which a table of distances has to cover.
            window: how many slots a query sees, its own included; all, if `None`.
            rotary: which of the rotations it uses; `None` for none.
            scale: standard deviation of the weights.
            key: draws them.
        """
        qkv_key, out_key, extra_key = jax.random.split(key, 3)
        heads, size, bias = self.num_heads, self.head_dim, self.biases
        table, own_bias = None, None
        if self.relative_positions != "none":
            table = Embedding.init(2 * max_positions - 1, size, scale=scale, key=extra_key)
        if self.relative_bias is not None and not self.relative_bias.shared:
            own_bias = RelativeBias.init(self.relative_bias, heads, scale=scale, key=extra_key)
        rest = {
            "out": Linear.init(heads * size, hidden_size, scale=scale, bias=self.out_bias, key=out_key),
            "distances": table,
            "relative_bias": own_bias,
            "q_norm": None if self.qk_norm is None else init_qk_norm(self.qk_norm, heads, size),
            "k_norm": None if self.qk_norm is None else init_qk_norm(self.qk_norm, self.kv_heads, size),
            "dropout": Dropout(self.dropout),
            "config": self,
            "window": window,
            "rotary": rotary,
        }
        if self.kv_heads == heads and len(set(bias)) == 1:
            return SelfAttention(
                qkv=Linear.init(hidden_size, 3, heads, size, scale=scale, bias=bias[0], key=qkv_key), **rest
            )
        q_key, k_key, v_key = jax.random.split(qkv_key, 3)
        return GroupedSelfAttention(
            q=Linear.init(hidden_size, heads, size, scale=scale, bias=bias[0], key=q_key),
            k=Linear.init(hidden_size, self.kv_heads, size, scale=scale, bias=bias[1], key=k_key),
            v=Linear.init(hidden_size, self.kv_heads, size, scale=scale, bias=bias[2], key=v_key),
            **rest,
        )

    def init_cross(self, hidden_size: int, cross_size: int, *, scale: float, key: PRNGKey) -> "AbstractCrossAttention":
        """One layer's attention to states of width `cross_size`, its weights normal with standard deviation `scale`."""
        q_key, kv_key, out_key = jax.random.split(key, 3)
        heads, kv_heads, size, bias = self.num_heads, self.kv_heads, self.head_dim, self.biases
        rest = {
            "q": Linear.init(hidden_size, heads, size, scale=scale, bias=bias[0], key=q_key),
            "out": Linear.init(heads * size, hidden_size, scale=scale, bias=self.out_bias, key=out_key),
            "dropout": Dropout(self.dropout),
            "config": self,
        }
        if bias[1] == bias[2]:
            return CrossAttention(
                kv=Linear.init(cross_size, 2, kv_heads, size, scale=scale, bias=bias[1], key=kv_key), **rest
            )
        k_key, v_key = jax.random.split(kv_key)
        return SeparateCrossAttention(
            k=Linear.init(cross_size, kv_heads, size, scale=scale, bias=bias[1], key=k_key),
            v=Linear.init(cross_size, kv_heads, size, scale=scale, bias=bias[2], key=v_key),
            **rest,
        )

    def init_shared(self, hidden_size: int, *, scale: float, key: PRNGKey) -> eqx.Module | None:
        """What all layers of a stack have in common."""
        if self.relative_bias is None or not self.relative_bias.shared:
            return None
        return RelativeBias.init(self.relative_bias, self.num_heads, scale=scale, key=key)


class AttentionOutput(eqx.Module):
    """What self-attention returns.

    Attributes:
        out: to be added to the residual stream.
        kv: keys and values of all slots: the cache's with the new ones written, or just the new ones.
        new_kv: keys and values of this call's tokens alone.
        weights: attention weights, if they were asked for.
    """

    out: Float[Array, "rows queries hidden"]
    kv: AbstractKV
    new_kv: SelfKV
    weights: Float[Array, "rows heads queries keys"] | None


class AbstractSelfAttention(eqx.Module):
    """Attention of a sequence to itself: what is the same however queries, keys and values are projected.

    Attributes:
        out: from the heads side by side back to the residual stream.
        distances: rows whose products with queries are added to the scores.
        relative_bias: the layer's own table of biases.
        q_norm: norm of queries.
        k_norm: norm of keys.
        dropout: of the attention weights.
        config: the rest of the architecture.
        window: how many slots a query sees.
        rotary: which of the call's rotations it uses.
        backends: what may compute it instead of the reference; the default ones, if `None`.
    """

    out: eqx.AbstractVar[AbstractLinear]
    distances: eqx.AbstractVar[Embedding | None]
    relative_bias: eqx.AbstractVar[RelativeBias | None]
    q_norm: eqx.AbstractVar[AbstractNorm | None]
    k_norm: eqx.AbstractVar[AbstractNorm | None]
    dropout: eqx.AbstractVar[Dropout]
    config: eqx.AbstractVar[AttentionConfig]
    window: eqx.AbstractVar[int | None]
    rotary: eqx.AbstractVar[int | None]
    backends: eqx.AbstractVar[Backends]

    @abstractmethod
    def _queries_keys_values(self, x: Float[Array, "batch queries hidden"]) -> tuple[Array, Array, Array]:
        """Each (batch, heads, queries, head_dim), not yet normed or rotated."""

    def project(
        self, x: Float[Array, "batch queries hidden"], context: AttentionContext | None
    ) -> tuple[Heads, SelfKV]:
        """Queries, keys and values of `x`, normed and rotated as `context` has the positions."""
        q, k, v = self._queries_keys_values(x)
        q, k = _normed(self.q_norm, q), _normed(self.k_norm, k)
        rotation = None if context is None else context.rotation(self.rotary)
        if rotation is None:
            return q, SelfKV(k, v)
        return rotation(q), SelfKV(rotation(k), rotation(v) if self.config.rotate_values else v)

    @jax.named_scope("self_attention")
    def __call__(
        self,
        x: Float[Array, "rows queries hidden"],
        context: AttentionContext,
        layer: LayerContext,
        *,
        key: PRNGKey | None,
    ) -> AttentionOutput:
        """Attend to the new tokens, and to those in the cache if there is one."""
        q, new = self.project(x, context)
        kv = new if layer.past is None else layer.past.write(new, context.mask.start)
        k, v = kv.read()
        attended, weights = attend(
            q,
            k,
            v,
            mask=context.within(self.window),
            scale=layer.scale,
            relative=self._relative(q, k, context, key),
            bias=context.bias if self.relative_bias is None else self.relative_bias(context.relative_position),
            cap=self.config.logit_cap,
            dropout=self.dropout,
            key=key,
            need_weights=context.need_weights,
            backends=self.backends,
        )
        return AttentionOutput(self.out(attended), kv, new, weights)

    def backend(
        self, hidden: jax.ShapeDtypeStruct, mask: AttentionMask, *, bias: bool, scale: Any, dropout: bool
    ) -> str:
        """Which backend `attend` takes, and why no other.

        Args:
            hidden: shape of the residual stream.
            mask: one of the kind that a call has.
            bias: whether the stack adds a bias.
            scale: factor on the scores.
            dropout: whether dropout is on.
        """
        q, kv = jax.eval_shape(lambda x: self.project(x, None), hidden)
        call = AttentionCall(
            q,
            kv.k,
            kv.v,
            dataclasses.replace(mask, window=self.window),
            scale,
            relative=0.0 if self.distances is not None else None,
            bias=0.0 if bias or self.relative_bias is not None else None,
            dropout=self.dropout,
            key=jax.random.key(0) if dropout else None,
            cap=self.config.logit_cap,
        )
        return choose(call, self.backends, need_weights=False)[1]

    def _relative(
        self,
        q: Heads,
        k: Float[Array, "batch kv_heads keys head_dim"],
        context: AttentionContext,
        key: PRNGKey | None,
    ) -> Float[Array, "batch heads queries keys"] | None:
        """What is added to the scores before they are scaled; another mechanism has its own."""
        if self.distances is None:
            return None
        with_keys = self.config.relative_positions == "key_query"
        return relative_scores(self.distances, q, k, relative_position=context.relative_position, with_keys=with_keys)


class SelfAttention(AbstractSelfAttention):
    """With projections to queries, keys and values fused in one matrix: as many heads, and biases, of each."""

    qkv: AbstractLinear
    out: AbstractLinear
    distances: Embedding | None
    relative_bias: RelativeBias | None
    q_norm: AbstractNorm | None
    k_norm: AbstractNorm | None
    dropout: Dropout
    config: AttentionConfig = eqx.field(static=True)
    window: int | None = eqx.field(static=True)
    rotary: int | None = eqx.field(static=True)
    backends: Backends = eqx.field(static=True, default=None)

    def _queries_keys_values(self, x: Float[Array, "batch queries hidden"]) -> tuple[Array, Array, Array]:
        q, k, v = jnp.moveaxis(self.qkv(x), (2, 3), (0, 2))
        return q, k, v


class GroupedSelfAttention(AbstractSelfAttention):
    """With projections apart: fewer heads of keys and values, or unequal biases."""

    q: AbstractLinear
    k: AbstractLinear
    v: AbstractLinear
    out: AbstractLinear
    distances: Embedding | None
    relative_bias: RelativeBias | None
    q_norm: AbstractNorm | None
    k_norm: AbstractNorm | None
    dropout: Dropout
    config: AttentionConfig = eqx.field(static=True)
    window: int | None = eqx.field(static=True)
    rotary: int | None = eqx.field(static=True)
    backends: Backends = eqx.field(static=True, default=None)

    def _queries_keys_values(self, x: Float[Array, "batch queries hidden"]) -> tuple[Array, Array, Array]:
        q, k, v = (jnp.moveaxis(project(x), 2, 1) for project in (self.q, self.k, self.v))
        return q, k, v


class AbstractCrossAttention(eqx.Module):
    """Attention of decoder positions to encoder states, whose keys and values are computed once per source sequence."""

    q: eqx.AbstractVar[AbstractLinear]
    out: eqx.AbstractVar[AbstractLinear]
    dropout: eqx.AbstractVar[Dropout]
    config: eqx.AbstractVar[AttentionConfig]
    backends: eqx.AbstractVar[Backends]

    @abstractmethod
    def keys_values(self, states: Float[Array, "batch source cross"]) -> CrossKV:
        """Keys and values of the encoder states."""

    @jax.named_scope("cross_attention")
    def __call__(
        self,
        x: Float[Array, "rows queries hidden"],
        kv: CrossKV,
        context: AttentionContext,
        layer: LayerContext,
        *,
        key: PRNGKey | None,
    ) -> tuple[Float[Array, "rows queries hidden"], Float[Array, "rows heads queries keys"] | None]:
        """The output and the attention weights, if they were asked for.

        Several rows may belong to one source sequence (its beams or samples, side by side): their queries are folded
        into one longer set, so that keys and values are neither tiled nor reordered.
        """
        rows, queries, hidden = x.shape
        folded = x.reshape(kv.k.shape[0], -1, hidden)
        attended, weights = attend(
            jnp.moveaxis(self.q(folded), 2, 1),
            kv.k,
            kv.v,
            mask=context.cross_mask,
            scale=layer.scale,
            cap=self.config.logit_cap,
            dropout=self.dropout,
            key=key,
            need_weights=context.need_weights,
            backends=self.backends,
        )
        out = self.out(attended).reshape(rows, queries, hidden)
        return out, None if weights is None else _unfold(weights, rows)

    def backend(self, hidden: jax.ShapeDtypeStruct, mask: AttentionMask, *, scale: Any, dropout: bool) -> str:
        """As `AbstractSelfAttention.backend`."""
        q = jax.eval_shape(lambda x: jnp.moveaxis(self.q(x), 2, 1), hidden)
        key = jax.random.key(0) if dropout else None
        call = AttentionCall(q, q, q, mask, scale, dropout=self.dropout, key=key, cap=self.config.logit_cap)
        return choose(call, self.backends, need_weights=False)[1]


class CrossAttention(AbstractCrossAttention):
    """With projections to keys and values fused in one matrix."""

    q: AbstractLinear
    kv: AbstractLinear
    out: AbstractLinear
    dropout: Dropout
    config: AttentionConfig = eqx.field(static=True)
    backends: Backends = eqx.field(static=True, default=None)

    def keys_values(self, states: Float[Array, "batch source cross"]) -> CrossKV:
        """See `AbstractCrossAttention`."""
        kv = jnp.moveaxis(self.kv(states), (2, 3), (0, 2))
        return CrossKV(kv[0], kv[1])


class SeparateCrossAttention(AbstractCrossAttention):
    """With projections to keys and values apart, as one of them has a bias and the other none."""

    q: AbstractLinear
    k: AbstractLinear
    v: AbstractLinear
    out: AbstractLinear
    dropout: Dropout
    config: AttentionConfig = eqx.field(static=True)
    backends: Backends = eqx.field(static=True, default=None)

    def keys_values(self, states: Float[Array, "batch source cross"]) -> CrossKV:
        """See `AbstractCrossAttention`."""
        return CrossKV(jnp.moveaxis(self.k(states), 2, 1), jnp.moveaxis(self.v(states), 2, 1))


def with_backends(tree: _Tree, backends: Backends) -> _Tree:
    """The tree with other backends in all its attention; its arrays are the same.

    On a mesh the last one stays `UnfoldedAttention`: the reference would gather rows and heads there.

    Raises:
        TypeError: what is given is no tuple of `AttentionBackend`s.
    """
    if backends is not None and not (
        isinstance(backends, tuple) and all(isinstance(each, AttentionBackend) for each in backends)
    ):
        raise TypeError(f"backends must be a tuple of AttentionBackend objects, or None for the default: {backends!r}.")
    kinds = (AbstractSelfAttention, AbstractCrossAttention)

    def exchanged(node: Any) -> Any:
        if not isinstance(node, kinds):
            return node
        on_mesh = tuple(each for each in node.backends or () if isinstance(each, UnfoldedAttention))
        given = DEFAULT_BACKENDS if backends is None else backends
        return dataclasses.replace(node, backends=(*given, *on_mesh) if on_mesh else backends)

    return jax.tree.map(exchanged, tree, is_leaf=lambda node: isinstance(node, kinds))


def _normed(norm: AbstractNorm | None, x: Heads) -> Heads:
    """Norms take heads beside head_dim, as projections yield them."""
    return x if norm is None else jnp.moveaxis(norm(jnp.moveaxis(x, 1, 2)), 2, 1)


def _unfold(weights: Float[Array, "batch heads folded keys"], rows: int) -> Float[Array, "rows heads queries keys"]:
    batch, heads, folded, keys = weights.shape
    per_source = rows // batch
    split = weights.reshape(batch, heads, per_source, folded // per_source, keys)
    return jnp.moveaxis(split, 2, 1).reshape(rows, heads, folded // per_source, keys)
