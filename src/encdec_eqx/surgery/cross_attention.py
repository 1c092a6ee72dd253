"""Cross-attention for a stack that was pretrained without it: nothing but what is new is made."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp

from .. import _trees
from .._quoting import quoted
from .._typing import Array, PRNGKey
from ..blocks import AbstractBlock, kind_of
from ..blocks.block import init_cross_attention
from ..blocks.merged import merged
from ..config import CrossAttention, StackConfig, with_cross_layers
from ..layers.attention import GroupedSelfAttention, SelfAttention
from ..layers.int8 import is_int8
from ..layers.linear import Linear
from ..layers.norm import init_norm
from ..stack import to_layout
from ..stack.unrolled import AbstractStack, UnrolledStack, schedule

_Decoder = TypeVar("_Decoder", bound=eqx.Module)


def grafting(how: CrossAttention | None) -> Callable[..., Any] | None:
    """What loading a decoder is to do with it before anyone sees it: `graft` as `how` says, or nothing.

    Raises:
        TypeError: `how` is something else, such as the name of an init alone.
    """
    if how is not None and not isinstance(how, CrossAttention):
        raise TypeError(
            f"cross_attention is {quoted(how)}; expected a CrossAttention, as in "
            "cross_attention=encdec_eqx.CrossAttention(init='zero_gate')."
        )
    return None if how is None else functools.partial(graft, how=how)


def graft(
    decoder: _Decoder, how: CrossAttention, *, key: PRNGKey | None, drawn: str, width: int | None = None
) -> _Decoder:
    """The decoder with cross-attention, unrolled, and what is new in its report if it was loaded.

    Args:
        decoder: a `Decoder` without.
        how: in which layers, and how it begins.
        key: draws what is drawn: the very weights that `Decoder.init` draws of its stack's key.
        drawn: how that is, in words.
        width: of the states to attend to; default what its config says, or its own.

    Raises:
        ValueError: it has cross-attention already, no layer would get any, or this cannot be made of it.
        TypeError: weights are to be drawn, and there is no key.
    """
    old: Any = decoder
    config = _grafted_config(old.config, how, width)
    if is_int8(decoder):
        raise ValueError(
            "the decoder is quantized to int8: give the float32 one cross-attention, train it, and quantize the pair."
        )
    if key is None and how.init in ("random", "zero_gate"):
        raise TypeError(f"cross-attention with init={how.init!r} draws weights: give key=jax.random.key(0), say.")
    stack, new = _with_cross_attention(old.stack, config, how, key, drawn)
    report = old.load_report
    if report.source:
        note = (
            f"cross-attention in {sum(spec.cross_attention for spec in config.layers)} of {len(config.layers)} layers"
        )
        note += f", by CrossAttention(every={how.every}, init={how.init!r})"
        report = dataclasses.replace(report, new=(*report.new, *new), notes=(*report.notes, note))
    return dataclasses.replace(old, stack=stack, config=config, load_report=report)


def _grafted_config(config: StackConfig, how: CrossAttention, width: int | None) -> StackConfig:
    if config.cross_attention:
        raise ValueError("this decoder has cross-attention already.")
    width = config.cross_attention_hidden_size if width is None else width
    if how.init in ("copy", "merged") and width not in (None, config.hidden_size):
        what = "copies" if how.init == "copy" else "uses"
        raise ValueError(
            f"cross-attention with init={how.init!r} {what} projections that take the decoder's width, "
            f"{config.hidden_size}, but is to read states of cross_attention_hidden_size = {width}: leave that out, "
            "and EncoderDecoder.from_pieces adds a projection that brings the encoder's states to the decoder's width."
        )
    try:
        return with_cross_layers(config, how.every, how.kind).replace(cross_attention_hidden_size=width)
    except ValueError as error:
        raise ValueError(f"CrossAttention(every={how.every}) does not fit this decoder: {error}") from None


def _with_cross_attention(
    stack: AbstractStack, config: StackConfig, how: CrossAttention, key: PRNGKey | None, drawn: str
) -> tuple[UnrolledStack, list[tuple[str, str]]]:
    """The layers with cross-attention, and the paths of what is new, with how it was made."""
    unrolled = to_layout(stack, "unrolled")
    assert isinstance(unrolled, UnrolledStack)
    order = schedule(config.layers)
    # the keys that `UnrolledStack.init` gives its blocks
    keys = [None] * len(unrolled.blocks) if key is None else jax.random.split(key, len(unrolled.blocks) + 1)[1:]
    blocks, new = [], []
    for number, block in enumerate(unrolled.blocks):
        spec = config.layers[order.index(number)]
        if spec.cross_attention and how.init == "merged":
            block = merged(block)
        elif spec.cross_attention:
            block, told = _SubLayer(block, config, how, keys[number], drawn).put_into(kind_of(spec))
            new += [(f"stack.blocks.{number}.{path}", why) for path, why in told]
        blocks.append(block)
    whole = UnrolledStack(blocks=tuple(blocks), shared=unrolled.shared, layers=config.layers, scales=unrolled.scales)
    return whole, new


@dataclasses.dataclass(frozen=True)
class _SubLayer:
    """One layer's new cross-attention."""

    block: AbstractBlock
    config: StackConfig
    how: CrossAttention
    key: PRNGKey | None
    drawn: str

    def put_into(self, kind: type[Any]) -> tuple[AbstractBlock, list[tuple[str, str]]]:
        """The layer with the sub-layer, and what is new in it."""
        copied = self.how.init == "copy"
        attention, told = self._copied() if copied else (self._drawn(), f"cross-attention, {self.drawn}")
        parts: dict[str, Any] = {"cross_attention": attention}
        why = {"cross_attention": told}
        for ours, theirs in (("cross_norm", "self_norm"), ("cross_output_norm", "self_output_norm")):
            made = self._norm(ours, theirs, copied=copied)
            if made is not None:
                parts[ours], why[ours] = made
        if self.how.init == "zero_gate":
            parts["cross_gate"] = jnp.zeros(())
            why["cross_gate"] = "the gate of cross-attention, at 0: closed"
        parts = _trees.astype(parts, self._dtype)
        fields = {field.name: getattr(self.block, field.name) for field in dataclasses.fields(self.block)}
        leaves, _ = jax.tree_util.tree_flatten_with_path(parts)
        paths = [_trees.path_name(path) for path, _ in leaves]
        return kind(**{**fields, **parts}), [(path, why[path.split(".")[0]]) for path in paths]

    def _drawn(self) -> Any:
        assert self.key is not None
        spec = dataclasses.replace(self.config.layers[0], cross_attention=True)
        return init_cross_attention(self.config, spec, key=jax.random.split(self.key, 4)[1])

    def _copied(self) -> tuple[Any, str]:
        own = self.block.self_attention
        if isinstance(own, SelfAttention):
            projections = [_part(own.qkv, at) for at in range(3)]
        elif isinstance(own, GroupedSelfAttention):
            projections = [_copy(own.q), _copy(own.k), _copy(own.v)]
        else:
            raise ValueError(f"self-attention is a {type(own).__name__}, which cannot be copied; choose another init.")
        q, k, v = projections
        # what kind of module it is, and its constants, are read off one that is not computed
        like = eqx.filter_eval_shape(
            lambda key: self.config.attention.init_cross(
                self.config.hidden_size, self.config.cross_width, scale=1.0, key=key
            ),
            jax.random.key(0),
        )
        made = {"kv": _fused(k, v)} if hasattr(like, "kv") else {"k": k, "v": v}
        made |= {"q": q, "out": _copy(own.out)}
        return dataclasses.replace(like, **made), "cross-attention, copied from the layer's self-attention"

    def _norm(self, ours: str, theirs: str, *, copied: bool) -> tuple[Any, str] | None:
        """A norm of cross-attention, where the layer has such: self-attention's, or a new one."""
        own = getattr(self.block, theirs, None)
        if ours == "cross_output_norm" and own is None:
            return None
        if copied and own is not None:
            return jax.tree.map(jnp.copy, own), "a norm of cross-attention, copied from the layer's self-attention"
        return init_norm(self.config.norm, self.config.hidden_size), "a norm of cross-attention, as in a new model"

    @property
    def _dtype(self) -> Any:
        """Of the layer's norms, or of its other arrays if they have none."""
        norm: Any = getattr(self.block, "self_norm", None) or getattr(self.block, "feed_forward_norm", None)
        leaves = jax.tree.leaves(norm) or jax.tree.leaves(eqx.filter(self.block, eqx.is_inexact_array))
        return leaves[0].dtype


def _plain(linear: Any) -> Linear:
    if not isinstance(linear, Linear):
        raise ValueError(
            f"a projection is a {type(linear).__name__}, which cannot be copied: merge adapters first, or choose "
            "another init."
        )
    return linear


def _copy(linear: Any) -> Linear:
    """With arrays of its own: those of a model may be donated, each once."""
    return jax.tree.map(jnp.copy, _plain(linear))


def _part(linear: Any, at: int) -> Linear:
    """One of the projections that are fused in a matrix."""
    plain = _plain(linear)
    return Linear(plain.weight[:, at], None if plain.bias is None else plain.bias[at])


def _fused(k: Linear, v: Linear) -> Linear:
    bias: Array | None = None if k.bias is None or v.bias is None else jnp.stack([k.bias, v.bias])
    return Linear(jnp.stack([k.weight, v.weight], axis=1), bias)
