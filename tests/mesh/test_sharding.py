"""A model spread over eight virtual devices: the same numbers as on one, and what each device holds and sends."""

import equinox as eqx
import jax
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

from encdec_eqx import AttentionConfig, FeedForwardConfig, init_train_state, make_mesh, make_train_step, with_mesh
from encdec_eqx.params.quantize import quantize
from encdec_eqx.params.sharding import RULES, MeshConfig, batch_sharding, mesh_of, shard_batch, shardings, without_mesh
from models import decoder_config, encoder_config, random_ids, right_mask, tiny_pair
from tolerances import ON_A_MESH

MESHES = [(8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2)]
STEP = make_train_step(optax.sgd(0.1))
KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def pair():
    attention = AttentionConfig(num_heads=8, head_dim=4, dropout=0.1)
    wide = FeedForwardConfig(size=64, dropout=0.1)
    encoder = encoder_config(32, attention=attention, feed_forward=wide)
    return tiny_pair(encoder, decoder_config(32, depth=2, attention=attention, feed_forward=wide))


@pytest.fixture(scope="module")
def batch():
    return {
        "input_ids": random_ids(0, 8, 12),
        "attention_mask": right_mask([12, 5, 7, 12, 3, 1, 9, 12], 12),
        "labels": np.where(right_mask([6, 2, 4, 8, 1, 8, 7, 3], 8), random_ids(1, 8, 8), -100),
    }


def one_step(model, batch):
    state, metrics = STEP(init_train_state(model, STEP.optimizer), batch, KEY)
    return state.params, metrics


@pytest.fixture(scope="module")
def on_one_device(pair, batch):
    return {layout: one_step(pair.with_layout(layout), batch) for layout in ("unrolled", "scanned")}


@pytest.mark.parametrize("layout", ["unrolled", "scanned"])
@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_a_training_step_is_that_of_one_device(pair, batch, on_one_device, sizes, layout):
    mesh = make_mesh(*sizes)
    spread = with_mesh(pair.with_layout(layout), mesh)
    params, metrics = one_step(spread, shard_batch(batch, mesh))
    wanted, wanted_metrics = on_one_device[layout]
    for name, value in wanted_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=ON_A_MESH)
    for mine, theirs in zip(jax.tree.leaves(params), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=ON_A_MESH, rtol=0)
    before = dict(jax.tree_util.tree_leaves_with_path(spread))
    assert all(leaf.sharding == before[path].sharding for path, leaf in jax.tree_util.tree_leaves_with_path(params))


def test_a_second_step_compiles_nothing(pair, batch):
    mesh = make_mesh(2, 2, 2)
    spread = init_train_state(with_mesh(pair, mesh), STEP.optimizer)
    given = shard_batch(batch, mesh)
    state, _ = STEP(spread, given, KEY)
    from encdec_eqx.generation.engine import counted

    with counted() as count:
        STEP(state, given, KEY)
    assert count.programs == 0


def held(model):
    """Bytes of a model's arrays on each device."""
    count = dict.fromkeys(jax.devices(), 0)
    for leaf in jax.tree.leaves(model):
        for shard in leaf.addressable_shards:
            count[shard.device] += shard.data.nbytes
    return count


def in_bytes(model):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(model))


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_devices_hold_equal_parts_of_all_that_is_in_the_table(pair, sizes):
    _, fsdp, tensor = sizes
    spread = with_mesh(pair, make_mesh(*sizes))
    matrices = sum(leaf.nbytes for leaf in jax.tree.leaves(pair) if leaf.ndim > 1)
    everything = in_bytes(pair)
    (each,) = set(held(spread).values())
    # vectors and the small tables of positions and types are whole, the pooler is split by fsdp alone
    small = everything - matrices + 4 * 32 * (24 + 2 + 24) + 4 * 32 * 32
    assert everything // (fsdp * tensor) <= each <= everything // (fsdp * tensor) + small
    state = init_train_state(spread, optax.adam(1e-3))
    assert held(state.opt_state[0].mu) == held(state.params)


def test_where_arrays_lie_is_known_from_shapes(pair):
    mesh = make_mesh(2, 2, 2)
    shapes = eqx.filter_eval_shape(lambda: pair)
    told = shardings(shapes, mesh)
    spread = with_mesh(pair, mesh)
    assert jax.tree.structure(told) == jax.tree.structure(pair)
    for where, leaf in zip(jax.tree.leaves(told), jax.tree.leaves(spread), strict=True):
        assert leaf.sharding == where


def test_a_model_goes_from_mesh_to_mesh_and_back(pair):
    first = with_mesh(pair, make_mesh(2, 2, 2))
    second = with_mesh(first, make_mesh(1, 1, 8))
    assert mesh_of(second).shape == {"data": 1, "fsdp": 1, "tensor": 8}
    assert mesh_of(pair) is None
    back = without_mesh(second)
    assert jax.tree.structure(back) == jax.tree.structure(pair)
    for mine, theirs in zip(jax.tree.leaves(back), jax.tree.leaves(pair), strict=True):
        assert np.array_equal(mine, theirs)


def test_a_mesh_of_jax_own_making_will_do(pair):
    mesh = jax.make_mesh((4, 2), ("data", "tensor"))
    assert mesh.axis_types == (AxisType.Explicit,) * 2
    spread = with_mesh(pair, mesh)
    ids = random_ids(4, 8, 6)
    mine, theirs = (model(ids, decoder_input_ids=ids).logits for model in (spread, pair))
    np.testing.assert_allclose(mine, theirs, atol=ON_A_MESH)


def test_a_mesh_may_be_set_for_all_that_follows(pair, batch, on_one_device):
    mesh = make_mesh(2, 2, 2)
    ids, options = random_ids(4, 8, 6), {"max_new_tokens": 3, "decoder_start_token_id": 1}
    wanted = pair.generate(ids, **options).sequences
    with jax.set_mesh(mesh):
        spread = with_mesh(pair, mesh)
        np.testing.assert_array_equal(spread.generate(ids, **options).sequences, wanted)
        _, metrics = one_step(spread, shard_batch(batch, mesh))
    np.testing.assert_allclose(metrics["loss"], on_one_device["unrolled"][1]["loss"], rtol=ON_A_MESH)


def test_explicit_axes_that_are_set_for_all_are_told(pair, batch):
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"))
    spread, ids = with_mesh(pair, mesh), random_ids(4, 8, 6)
    state, given = init_train_state(spread, STEP.optimizer), shard_batch(batch, mesh)
    options = {"max_new_tokens": 3, "decoder_start_token_id": 1}
    uses = [
        lambda: spread(ids, decoder_input_ids=ids),
        lambda: eqx.filter_jit(spread)(ids, decoder_input_ids=ids),
        lambda: spread.generate(ids, **options),
        lambda: list(spread.stream(ids, **options)),
        lambda: pair.generate(ids, mesh=mesh, **options),
        lambda: init_train_state(spread, STEP.optimizer),
        lambda: STEP(state, given, KEY),
    ]
    for use in uses:
        with jax.set_mesh(mesh), pytest.raises(ValueError, match=r"set the mesh of encdec_eqx\.make_mesh instead"):
            use()


def test_a_program_of_explicit_axes_calls_the_model_under_auto_axes(pair, batch):
    """The way out that the message names: gradients included."""
    ids = random_ids(4, 8, 6)

    def total(arrays, rest, ids):
        return (eqx.combine(arrays, rest)(ids, decoder_input_ids=ids).logits ** 2).mean()

    def gradient(model, under):
        arrays, rest = eqx.partition(model, eqx.is_array)
        function = under(lambda arrays, ids: total(arrays, rest, ids))
        return jax.jit(jax.grad(function))(arrays, ids)

    wanted = gradient(pair, lambda function: function)
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"))
    with jax.set_mesh(mesh):
        found = gradient(with_mesh(pair, mesh), lambda function: jax.sharding.auto_axes(function, out_sharding=jax.P()))
    for mine, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=ON_A_MESH)


def test_a_batch_that_does_not_divide_is_told(pair, batch):
    mesh = make_mesh(2, 4, 1)
    few = {name: value[:6] for name, value in batch.items()}
    with pytest.raises(ValueError, match=r"a batch of 6 rows .* data=2 x fsdp=4: make it a multiple of 8"):
        shard_batch(few, mesh)
    with pytest.raises(ValueError, match="a multiple of 8"):
        with_mesh(pair, mesh)(few["input_ids"], decoder_input_ids=few["input_ids"])
    assert batch_sharding(mesh).spec == jax.P(("data", "fsdp"))


def test_an_axis_that_does_not_divide_is_told_and_can_be_kept_whole():
    odd = tiny_pair()  # three heads in the decoder
    mesh = make_mesh(4, 1, 2)
    with pytest.raises(ValueError, match=r"has 3 'heads', which tensor=2 .*'heads': \(\), 'kv_heads': \(\)"):
        with_mesh(odd, mesh)
    spread = with_mesh(odd, mesh, rules={**RULES, "heads": (), "kv_heads": ()})
    ids = random_ids(4, 8, 6)
    mine, theirs = (model(ids, decoder_input_ids=ids).logits for model in (spread, odd))
    np.testing.assert_allclose(mine, theirs, atol=ON_A_MESH)


def test_wrong_meshes_and_rules_are_told(pair):
    with pytest.raises(TypeError, match="make_mesh"):
        with_mesh(pair, (2, 4))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="an axis 'model'; expected data, fsdp, tensor"):
        with_mesh(pair, jax.make_mesh((8,), ("model",)))
    with pytest.raises(ValueError, match="takes 6 devices, and there are 8"):
        make_mesh(2, 3)
    with pytest.raises(ValueError, match=r"mesh.fsdp must be at least 1, got 0"):
        MeshConfig(fsdp=0)
    with pytest.raises(TypeError, match=r"mesh.data must be a whole number, got 2.0"):
        MeshConfig(data=2.0)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="'width' that no array has"):
        with_mesh(pair, make_mesh(8), rules={"width": "tensor"})
    with pytest.raises(ValueError, match="over 'model'; a mesh has data, fsdp, tensor"):
        with_mesh(pair, make_mesh(8), rules={"hidden": "model"})
    with pytest.raises(ValueError, match="int8 model generates on one CPU"):
        with_mesh(quantize(pair, "int8"), make_mesh(8))
