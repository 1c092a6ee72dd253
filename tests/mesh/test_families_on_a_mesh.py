"""Families on a mesh whose three axes are all used: logits, losses, gradients and greedy ids of one device."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from checkpoints import write_tied_pair
from compositions import DECODERS, ENCODERS, stored_config
from encdec_eqx import Decoder, Encoder, EncoderDecoder, StackConfig, make_mesh, with_mesh
from encdec_eqx._trees import path_name
from encdec_eqx.layers.convolution import Convolution, ConvolutionConfig
from encdec_eqx.params.sharding import shard_batch, shardings
from encdec_eqx.training.loss import seq2seq_loss
from models import random_ids, right_mask, tiny_pair
from tolerances import ON_A_MESH

KEY = jax.random.key(3)
NOT_PARTS = {
    *("model_type", "activation", "padding_idx"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"),
}


def config_of(role: str, family: str) -> StackConfig:
    """Of the stored tiny config of a family, with two layers, and four heads so that they divide."""
    config = StackConfig.from_hf(stored_config(role, family))
    attention = config.attention
    shared = attention.num_kv_heads not in (None, attention.num_heads)
    attention = dataclasses.replace(attention, num_heads=4, num_kv_heads=2 if shared else None)
    return config.replace(layers=config.layers[:2], attention=attention)


def parts_of(config: Any) -> Any:
    """Which parts a config has, in its classes and words: two families that agree in them differ in numbers alone."""
    if dataclasses.is_dataclass(config):
        fields = [each.name for each in dataclasses.fields(config) if each.name not in NOT_PARTS]
        return (type(config).__name__, *(parts_of(getattr(config, name)) for name in fields))
    if isinstance(config, tuple):
        return frozenset(map(parts_of, config))
    return config if isinstance(config, str) else config is None


def first_of_each(role: str, families: Sequence[str]) -> list[str]:
    """The families without those whose parts an earlier one has."""
    firsts: dict[Any, str] = {}
    for family in families:
        firsts.setdefault(parts_of(config_of(role, family)), family)
    return list(firsts.values())


KINDS = first_of_each("encoder", ENCODERS), first_of_each("decoder", DECODERS)
PAIRS = list(zip(itertools.cycle(KINDS[0]), KINDS[1], strict=False))


def pair_of(encoder: StackConfig, decoder: StackConfig) -> EncoderDecoder:
    pair = tiny_pair(encoder, decoder)
    return pair.with_special_tokens(decoder_start_token_id=1, pad_token_id=0, eos_token_id=2)


@pytest.fixture(scope="module")
def batch() -> dict[str, np.ndarray]:
    return {
        "input_ids": random_ids(0, 8, 6, low=4),
        "attention_mask": right_mask([6, 5, 2, 6, 3, 1, 6, 4], 6),
        "decoder_input_ids": random_ids(2, 8, 4),
        "labels": np.where(right_mask([4, 2, 4, 3, 1, 4, 2, 4], 4), random_ids(1, 8, 4), -100),
    }


@eqx.filter_jit
def _learn(model: Any, batch: Any) -> Any:
    """Loss, logits and gradients."""

    def loss(model: Any) -> Any:
        out = model(batch["input_ids"], batch["decoder_input_ids"], attention_mask=batch["attention_mask"])
        total, weight = seq2seq_loss(out.logits, batch["labels"])
        return total / weight, out.logits

    return eqx.filter_value_and_grad(loss, has_aux=True)(model)


def _is_as_on_one_device(pair: Any, batch: Any, *layouts: Any, sizes: tuple[int, int, int] = (2, 2, 2)) -> None:
    mesh = make_mesh(*sizes)
    (loss, logits), grads = _learn(pair, batch)
    options: Any = {"attention_mask": batch["attention_mask"], "max_new_tokens": 4, "num_beams": 1, "do_sample": False}
    generated = pair.generate(batch["input_ids"], **options).sequences
    for layout in layouts:
        spread = with_mesh(pair.with_layout(layout), mesh)
        (mine, my_logits), my_grads = _learn(spread, shard_batch(batch, mesh))
        np.testing.assert_allclose(mine, loss, rtol=ON_A_MESH)
        np.testing.assert_allclose(my_logits, logits, atol=ON_A_MESH, rtol=0)
        wanted = jax.tree_util.tree_leaves_with_path(grads.with_layout(layout))
        for (path, theirs), ours in zip(wanted, jax.tree.leaves(my_grads), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=ON_A_MESH, rtol=0, err_msg=path_name(path))
        np.testing.assert_array_equal(spread.generate(batch["input_ids"], **options).sequences, generated)


@pytest.mark.parametrize("names", PAIRS, ids="+".join)
def test_every_kind_of_family_is_as_on_one_device(names, batch):
    """Layers are stacked; what they are unrolled is `test_special_parts_are_as_on_one_device`'s."""
    encoder, decoder = config_of("encoder", names[0]), config_of("decoder", names[1])
    _is_as_on_one_device(pair_of(encoder, decoder).with_layout("scanned"), batch, "scanned")


SPECIAL = [
    ("deberta-v2", "gemma2"),  # a convolution and disentangled attention; windows, a logit cap, grouped heads
    ("albert", "bloom"),  # shared layers and a narrow embedding; ALiBi
    ("umt5", "t5_gemma_module"),  # a relative bias in every layer; attention merged with cross-attention
]


@pytest.mark.parametrize("names", SPECIAL, ids="+".join)
def test_special_parts_are_as_on_one_device(names, batch):
    pair = pair_of(config_of("encoder", names[0]), config_of("decoder", names[1]))
    _is_as_on_one_device(pair, batch, "unrolled")


@pytest.mark.parametrize("layout", ["scanned", "unrolled"])
def test_a_pair_that_shares_its_layers_is_as_on_one_device(layout, batch, tmp_path):
    pair = EncoderDecoder.from_pretrained(write_tied_pair(tmp_path))
    small = {**batch, **{name: np.minimum(batch[name], 16) for name in ("input_ids", "decoder_input_ids", "labels")}}
    _is_as_on_one_device(pair, small, layout)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_convolution_of_rows_on_several_devices_has_the_gradient_of_one(groups):
    made = Convolution.init(ConvolutionConfig(kernel_size=3, groups=groups), 8, scale=1.0, key=KEY)
    x = jax.random.normal(KEY, (8, 5, 8))
    gradient = jax.jit(jax.grad(lambda made, x: jnp.sum(jnp.sin(made(x)))))
    spread = shard_batch({"x": x}, make_mesh(2, 2, 2))["x"]
    np.testing.assert_allclose(gradient(made, spread).weight, gradient(made, x).weight, atol=ON_A_MESH)


WHOLE = {
    # one row for each position, kind of token, or distance
    "embeddings.positions.weight",
    "embeddings.token_types.weight",
    "embeddings.task_types.weight",
    "self_attention.relative_bias.weight",
    "self_attention.distances.weight",
    "stack.shared.relative_bias.weight",
    "stack.shared.other.weight",
    # between an embedding's narrower width and the model's
    "embeddings.projection.weight",
    # norms of all heads together
    "self_attention.q_norm.weight",
    "self_attention.k_norm.weight",
    # DeBERTa v2's, in its first layer
    "convolution.weight",
}
"""All matrices that are not spread by `fsdp`: each device has them whole."""


def test_every_other_matrix_of_every_family_is_spread():
    """By name, so that a field that the table does not know is noticed whatever its size in a tiny model."""
    found, mesh = set(), make_mesh(2, 2, 2)
    for role, kind, names in (("encoder", Encoder, ENCODERS), ("decoder", Decoder, DECODERS)):
        for name in names:
            model = eqx.filter_eval_shape(kind.init, config_of(role, name), key=KEY)
            laid = jax.tree.leaves(shardings(model, mesh))
            for (path, leaf), sharding in zip(jax.tree_util.tree_leaves_with_path(model), laid, strict=True):
                name_of = path_name(path).partition(".blocks.")[2].partition(".")[2] or path_name(path)
                if leaf.ndim > 1 and not name_of.endswith("bias") and not _uses(sharding, "fsdp"):
                    found.add(name_of)
    assert found == WHOLE - {"self_attention.distances.weight"}


def _uses(sharding: Any, axis: str) -> bool:
    return any(axis in (part if isinstance(part, tuple) else (part,)) for part in sharding.spec)
