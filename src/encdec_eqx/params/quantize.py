"""Models of eight bits: `quantize` rounds the weights of linear layers and token tables, for generating on CPUs."""

from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp

from .._quoting import quoted
from .._trees import astype
from ..layers.int8 import is_int8, to_int8
from ..layers.linear import AbstractLinear, WithLoRA
from ..surgery.ties import rescan_whole, unroll_whole

Model = TypeVar("Model", bound=eqx.Module)


def quantize(model: Model, method: str) -> Model:
    """The same model with int8 weights and activations: twice as fast at generating on CPUs, a quarter as large.

    Every linear layer's weight is rounded per output channel, the token tables (and so a tied head) per row, once; what
    a layer reads is rounded row by row when it reads it. Sums are exact, in int32; scales, biases, norms, positions and
    attention are float32, into which the rest of a bfloat16 or float16 model is cast. An array that encoder and decoder
    share stays one. Quantize last: after training, merging adapters and resizing. `docs/accelerators.md` has the cost
    in accuracy, measured.

    The model generates, is saved and loaded as before, in either layout; it has no gradients. On GPUs it saves memory
    rather than time.

    Args:
        model: an `EncoderDecoder`, or an `Encoder` or a `Decoder`, in either layout, which is kept.
        method: `"int8"`.

    Raises:
        ValueError: the method is unknown, or the model is quantized already, has adapters.
    """
    if method != "int8":
        raise ValueError(f"quantize got the method {quoted(method)}; expected 'int8', the only one there is.")
    if is_int8(model):
        raise ValueError(
            "the model, or a part of it, is quantized already, and rounding twice would lose more: quantize the "
            "float32 model, whole."
        )
    linears = jax.tree.leaves(model, is_leaf=lambda node: isinstance(node, AbstractLinear))
    if any(isinstance(linear, WithLoRA) for linear in linears):
        raise ValueError(
            "the model has low-rank adapters (LoRA), which cannot be quantized beside their layers: merge them first, "
            "quantize(encdec_eqx.training.merge_lora(model), 'int8')."
        )
    return rescan_whole(to_int8(astype(unroll_whole(model), jnp.float32)), model)
