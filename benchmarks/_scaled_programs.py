"""Programs of a pair on a mesh, compiled from shapes alone: a training step and a decoding step of any size.

No weight is ever made, so that a pair of ten billion parameters is compiled for 64 devices on a laptop.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any
from unittest import mock

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks._collectives import Collective, collectives
from encdec_eqx import Decoder, Encoder, EncoderDecoder, StackConfig, make_train_step, with_mesh
from encdec_eqx.params.sharding import batch_sharding, shardings
from encdec_eqx.training import loss, step
from encdec_eqx.training.step import TrainState

T5_XXL = {
    "model_type": "t5",
    "num_layers": 24,
    "d_model": 4096,
    "num_heads": 64,
    "d_kv": 64,
    "d_ff": 10240,
    "vocab_size": 32128,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "dropout_rate": 0.0,
}
"""`config.json` of the encoder: google/t5-v1_1-xxl's sizes."""

QWEN3_4B = {
    "model_type": "qwen3",
    "num_hidden_layers": 36,
    "hidden_size": 2560,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 9728,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "rope_theta": 1e6,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "pad_token_id": 151643,
}
"""`config.json` of the decoder: Qwen/Qwen3-4B's sizes."""

SMALL_T5 = {**T5_XXL, "num_layers": 2, "d_model": 64, "num_heads": 8, "d_kv": 8, "d_ff": 160, "vocab_size": 512}
SMALL_QWEN3 = {
    **QWEN3_4B,
    "num_hidden_layers": 3,
    "hidden_size": 48,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 8,
    "intermediate_size": 144,
    "vocab_size": 768,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 3,
}
"""The same shapes, small."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """What a step is given.

    Attributes:
        rows: of the whole batch.
        source: source tokens of a row.
        target: target tokens of a row.
    """

    rows: int
    source: int
    target: int


@dataclasses.dataclass(frozen=True)
class Counted:
    """What was found in a compiled program, for one device.

    Attributes:
        arguments: bytes of what goes in: weights and optimiser state, and the batch.
        temporary: bytes that it needs besides.
        collectives: what it sends.
    """

    arguments: int
    temporary: int
    collectives: list[Collective]


def pair_of_shapes(encoder: Mapping[str, Any], decoder: Mapping[str, Any]) -> EncoderDecoder:
    """The pair with cross-attention grafted, scanned, keeping nothing for the backward pass; shapes for arrays.

    Args:
        encoder: Its `config.json`.
        decoder: Likewise.
    """

    def make() -> EncoderDecoder:
        key = jax.random.key(0)
        reads = Encoder.init(StackConfig.from_hf(encoder), key=key)
        writes = Decoder.init(StackConfig.from_hf(decoder), key=key).with_cross_attention(key=key)
        return EncoderDecoder.from_pieces(reads, writes, key=key).with_layout("scanned", remat="keep_nothing")

    return eqx.filter_eval_shape(make)


def spread(model: EncoderDecoder, mesh: Mesh) -> EncoderDecoder:
    """`with_mesh` of a model of shapes."""
    laid = eqx.filter_eval_shape(lambda it: with_mesh(it, mesh), model)
    places = jax.tree.unflatten(jax.tree.structure(laid), jax.tree.leaves(shardings(model, mesh)))
    return jax.tree.map(_at, laid, places)


def training_step(model: EncoderDecoder, mesh: Mesh, work: Work) -> Counted:
    """A step with AdamW in float32, dropout off, as on a GPU as far as the library decides by the platform.

    Args:
        model: Of shapes, plain.
        mesh: Of virtual CPU devices.
        work: Its rows must divide among `data` and `fsdp`.
    """
    optimizer = optax.adamw(1e-4)
    taken = make_train_step(optimizer)
    whole, rows = NamedSharding(mesh, PartitionSpec()), batch_sharding(mesh)
    params, frozen = eqx.partition(spread(model, mesh), lambda leaf: jnp.issubdtype(leaf.dtype, jnp.floating))

    def beside(node: Any) -> Any:
        return params if isinstance(node, EncoderDecoder) else _at(node, whole)

    opt_state = eqx.filter_eval_shape(optimizer.init, params)
    opt_state = jax.tree.map(beside, opt_state, is_leaf=lambda node: isinstance(node, EncoderDecoder))
    count: Any = jax.ShapeDtypeStruct((), jnp.int32, sharding=whole)
    state = TrainState(params, frozen, opt_state, count)
    batch = {"input_ids": (work.rows, work.source), "labels": (work.rows, work.target)}
    ids = {name: jax.device_put(np.ones(shape, np.int32), rows) for name, shape in batch.items()}
    update: Any = step._update
    (kept, carried), rest = eqx.partition(taken._arguments(state, ids, None), _is_array)

    def run(kept: Any, carried: Any) -> Any:
        return eqx.filter(update.__wrapped__(*eqx.combine((kept, carried), rest)), eqx.is_array)

    with mock.patch.object(loss, "platform", lambda: "gpu"):
        return _counted(jax.jit(run, donate_argnums=1).lower(kept, carried), mesh)


def decoding_step(model: EncoderDecoder, mesh: Mesh, work: Work) -> Counted:
    """One more token for each row, chosen greedily, in float32; the cache has room for `work.target` of them."""
    decoder = spread(model, mesh).decoder
    rows = batch_sharding(mesh)
    states = jax.ShapeDtypeStruct((work.rows, work.source, decoder.config.cross_width), jnp.float32, sharding=rows)

    def opened(decoder: Decoder, states: Any) -> Any:
        return decoder.init_cache(states, None, rows=work.rows, slots=work.target)

    def advanced(decoder: Decoder, ids: Any, cache: Any) -> Any:
        hidden, cache = decoder.advance(ids, cache)
        return jnp.argmax(decoder.logits(hidden), axis=-1), cache

    def laid(leaf: Any) -> Any:
        """Rows over `data` and `fsdp`, heads over `tensor`, as `generate` has them."""
        axes = (*rows.spec, "tensor", None, None) if leaf.ndim >= 4 else tuple(rows.spec)[: leaf.ndim]
        return _at(leaf, NamedSharding(mesh, PartitionSpec(*(None,) * (leaf.ndim - len(axes)), *axes)))

    cache = jax.tree.map(laid, eqx.filter_eval_shape(opened, decoder, states))
    ids = jax.ShapeDtypeStruct((work.rows, 1), jnp.int32, sharding=rows)
    given, rest = eqx.partition((decoder, ids, cache), _is_array)

    def run(given: Any) -> Any:
        return eqx.filter(advanced(*eqx.combine(given, rest)), eqx.is_array)

    return _counted(jax.jit(run).lower(given), mesh)


def _counted(lowered: Any, mesh: Mesh) -> Counted:
    compiled = lowered.compile()
    memory = compiled.memory_analysis()
    found = collectives(compiled.as_text(), mesh.shape)
    return Counted(memory.argument_size_in_bytes, memory.temp_size_in_bytes, found)


def _at(leaf: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | jax.ShapeDtypeStruct)
