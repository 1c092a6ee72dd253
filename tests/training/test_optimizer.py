"""Optimisers from settings: rates and decay by array in both layouts, the updates themselves, bytes, and errors."""

import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from encdec_eqx import LayerSpec
from encdec_eqx.generation.result import counted
from encdec_eqx.training import init_train_state, make_optimizer, make_schedule, make_train_step, trainable
from models import decoder_config, encoder_config, random_ids, tiny_pair
from tolerances import OPTIMIZER_UPDATE, SAME_UPDATE

LAYOUTS = ("unrolled", "scanned")
OPTIMIZERS = ("adamw", "adafactor", "lion", "muon", "sgd")
CONSTANT = {"num_training_steps": 10, "lr_scheduler_type": "constant", "max_grad_norm": None}


def _model() -> Any:
    return tiny_pair(encoder_config(depth=2), decoder_config(depth=3))


def _gradients(params: Any, seed: int = 0) -> Any:
    """Normal, drawn for the unrolled layout, so that both layouts get the same."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape), leaf.dtype), params)


@eqx.filter_jit
def _updated(optimizer: Any, params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
    with jax.numpy_dtype_promotion("standard"):
        return optimizer.update(grads, state, params)


def _one_update(optimizer: Any, params: Any, grads: Any) -> Any:
    return _updated(optimizer, params, optimizer.init(params), grads)[0]


def _by_path(tree: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.mark.parametrize("optim", OPTIMIZERS)
def test_updates_do_not_depend_on_the_layout(optim: str) -> None:
    optimizer = make_optimizer(
        num_training_steps=10,
        optim=optim,
        learning_rate=0.5,
        lr_scheduler_type="cosine",
        weight_decay=0.1,
        layer_wise_lr_decay=0.5,
        learning_rates={"cross_attention | enc_to_dec_proj": 2.0},
    )
    updates = []
    for layout in LAYOUTS:
        params = _model().with_layout(layout)
        state = optimizer.init(params)
        _, state = _updated(optimizer, params, state, _gradients(_model(), 0).with_layout(layout))
        update, _ = _updated(optimizer, params, state, _gradients(_model(), 1).with_layout(layout))
        updates.append(_by_path(update.with_layout("unrolled")))
    for path, one in updates[0].items():
        np.testing.assert_allclose(one, updates[1][path], rtol=0, atol=SAME_UPDATE, err_msg=path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weight_decay_shrinks_matrices_and_tables_alone(layout: Any) -> None:
    model = _model()
    optimizer = make_optimizer(**CONSTANT, learning_rate=0.5, weight_decay=0.1)
    params = model.with_layout(layout)
    update = _one_update(optimizer, params, jax.tree.map(jnp.zeros_like, params)).with_layout("unrolled")
    shrunk = set()
    for path, leaf in _by_path(model).items():
        expected = -0.05 * leaf if _by_path(update)[path].any() else jnp.zeros_like(leaf)
        np.testing.assert_allclose(_by_path(update)[path], expected, rtol=1e-6, atol=1e-9)
        shrunk |= {path} if _by_path(update)[path].any() else set()
    assert shrunk == {path for path in _by_path(model) if path.endswith(".weight") and "norm" not in path}


EXPECTED_RATES = (
    # the path of an unrolled pair of two and three layers, and its rate
    (r"cross_(attention|norm)|enc_to_dec_proj", 3.0),
    (r"^\.encoder\.embeddings", 0.5**3),
    (r"^\.encoder\.stack\.blocks\[0\]", 0.5**2),
    (r"^\.encoder\.stack\.blocks\[1\]", 0.5),
    (r"^\.decoder\.embeddings", 0.5**4),
    (r"^\.decoder\.stack\.blocks\[0\]", 0.5**3),
    (r"^\.decoder\.stack\.blocks\[1\]", 0.5**2),
    (r"^\.decoder\.stack\.blocks\[2\]", 0.5),
    (r"final_norm|pooler", 1.0),
)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rates_by_depth_and_by_selector(layout: Any) -> None:
    model = _model()
    optimizer = make_optimizer(
        **CONSTANT,
        optim="sgd",
        learning_rate=1.0,
        layer_wise_lr_decay=0.5,
        learning_rates={"cross_attention": 3.0, "enc_to_dec_proj": 3.0},
    )
    params = model.with_layout(layout)
    update = _one_update(optimizer, params, jax.tree.map(jnp.ones_like, params)).with_layout("unrolled")
    for path, leaf in _by_path(update).items():
        rate = next(rate for pattern, rate in EXPECTED_RATES if re.search(pattern, path))
        np.testing.assert_array_equal(leaf, np.full(leaf.shape, -rate, np.float32), err_msg=path)


def test_frozen_layers_leave_the_depths_of_others_as_they_are() -> None:
    model = _model()
    params = eqx.filter(model, trainable(model, "decoder.layers.1"))
    optimizer = make_optimizer(**CONSTANT, optim="sgd", learning_rate=1.0, layer_wise_lr_decay=0.5)
    update = _one_update(optimizer, params, jax.tree.map(jnp.ones_like, params))
    assert {float(value) for leaf in jax.tree.leaves(update) for value in np.unique(leaf)} == {-0.25}


def test_a_norm_above_the_limit_is_scaled_down_and_one_below_is_not() -> None:
    params = _model()
    grads = _gradients(params)
    norm = np.sqrt(sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(grads)))
    settings: Any = {**CONSTANT, "optim": "sgd", "learning_rate": 1.0}
    for limit, factor in ((norm / 4, 0.25), (norm * 4, 1.0), (None, 1.0)):
        optimizer = make_optimizer(**{**settings, "max_grad_norm": limit})
        update = _one_update(optimizer, params, grads)
        for one, grad in zip(jax.tree.leaves(update), jax.tree.leaves(grads), strict=True):
            np.testing.assert_allclose(one, -factor * grad, rtol=1e-5, atol=1e-7)


def test_lion_is_the_sign_of_a_blend() -> None:
    params = _model()
    optimizer = make_optimizer(**CONSTANT, optim="lion", learning_rate=0.5, adam_beta1=0.8, adam_beta2=0.9)
    state = optimizer.init(params)
    first, second = _gradients(params, 0), _gradients(params, 1)
    _, state = _updated(optimizer, params, state, first)
    update, _ = _updated(optimizer, params, state, second)
    for path, leaf in _by_path(update).items():
        moment = 0.1 * _by_path(first)[path]
        expected = -0.5 * np.sign(0.8 * moment + 0.2 * _by_path(second)[path])
        np.testing.assert_array_equal(leaf, expected, err_msg=path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_muon_turns_each_part_of_a_weight_into_a_rotation_of_adams_size(layout: Any) -> None:
    model = _model()
    optimizer = make_optimizer(**CONSTANT, optim="muon", learning_rate=1.0)
    grads = _gradients(model).with_layout(layout)
    update = _one_update(optimizer, model.with_layout(layout), grads).with_layout("unrolled")
    block = update.decoder.stack.blocks[1]
    matrices = {
        "a part of the fused weight": block.self_attention.qkv.weight[:, 1].reshape(12, 12),
        "keys of the source": block.cross_attention.kv.weight[:, 0].reshape(12, 12),
        "a wide matrix": block.feed_forward.up.weight,
        "a tall matrix": block.feed_forward.down.weight,
        "the projection": update.enc_to_dec_proj.weight,
    }
    for name, matrix in matrices.items():
        values = np.linalg.svd(np.asarray(matrix), compute_uv=False) / (0.2 * max(matrix.shape) ** 0.5)
        assert 0.6 < values.min() < values.max() < 1.3, name
    adam = _one_update(make_optimizer(**CONSTANT, learning_rate=1.0), model.with_layout(layout), grads)
    adam = adam.with_layout("unrolled")
    for part in (lambda m: m.encoder.embeddings, lambda m: m.decoder.stack.blocks[1].self_norm):
        for one, other in zip(jax.tree.leaves(part(update)), jax.tree.leaves(part(adam)), strict=True):
            np.testing.assert_allclose(one, other, rtol=OPTIMIZER_UPDATE)


def _bytes_of_state(optimizer: Any, params: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(optimizer.init(params)) if leaf.ndim)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bytes_of_state(layout: Any) -> None:
    model = _model()
    params, leaves = model.with_layout(layout), _by_path(model)
    everything = sum(leaf.nbytes for leaf in leaves.values())
    hidden = sum(
        leaf.nbytes for path, leaf in leaves.items() if path.endswith(".weight") and not re.search("norm|embed", path)
    )
    factored = 0
    for path, leaf in leaves.items():
        if not path.endswith(".weight") or "norm" in path:
            factored += leaf.nbytes
        else:
            parts = leaf.shape[1] if leaf.ndim == 4 else 1
            factored += 4 * parts * (leaf.shape[0] + leaf.size // leaf.shape[0] // parts)
    expected = {
        "adamw": 2 * everything,
        "lion": everything,
        "sgd": 0,
        "muon": hidden + 2 * (everything - hidden),
        "adafactor": factored,
    }
    sizes = {optim: _bytes_of_state(make_optimizer(**CONSTANT, optim=optim), params) for optim in OPTIMIZERS}
    assert sizes == expected


def test_equal_settings_make_one_program() -> None:
    def optimizer(rate: float = 1e-3) -> Any:
        return make_optimizer(
            num_training_steps=10, learning_rate=rate, warmup_ratio=0.2, learning_rates={"enc_to_dec_proj": 1e-2}
        )

    assert optimizer() == optimizer()
    assert hash(optimizer()) == hash(optimizer())
    assert optimizer() != optimizer(2e-3)
    model = tiny_pair(encoder_config(depth=1), decoder_config(depth=1))
    batch = {"input_ids": random_ids(0, 2, 5), "labels": random_ids(1, 2, 4)}
    state, _ = make_train_step(optimizer())(init_train_state(model, optimizer()), batch, None)
    with counted() as count:
        make_train_step(optimizer())(state, batch, None)
    assert count.programs == 0


def test_the_schedule_is_at_hand() -> None:
    optimizer = make_optimizer(num_training_steps=10, learning_rate=0.5, warmup_ratio=0.15, optim="sgd")
    assert optimizer.settings.schedule is optimizer.schedule
    rates = [float(optimizer.schedule(step)) for step in range(11)]
    np.testing.assert_allclose(rates[:4], [0, 0.25, 0.5, 0.5 * 7 / 8], rtol=1e-6)
    assert rates[-1] == 0
    params = _model()
    state = optimizer.init(params)
    for step in range(3):
        update, state = _updated(optimizer, params, state, jax.tree.map(jnp.ones_like, params))
        norm = np.sqrt(sum(leaf.size for leaf in jax.tree.leaves(params)))
        np.testing.assert_allclose(update.enc_to_dec_proj.bias, np.full(12, -rates[step] / norm), rtol=1e-5)


ERRORS: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown optimiser": ({"optim": "adam"}, "did you mean 'adamw'"),
    "an unknown schedule": ({"lr_scheduler_type": "cosin"}, "did you mean 'cosine'"),
    "an unread setting": ({"optim": "sgd", "adam_beta1": 0.8}, "'sgd' does not read it"),
    "a rate of zero": ({"learning_rate": 0.0}, "learning_rate must be above 0"),
    "no steps": ({"num_training_steps": 0}, "num_training_steps at least 1"),
    "two warm-ups": ({"warmup_steps": 2, "warmup_ratio": 0.1}, "leave one out"),
    "a ratio above 1": ({"warmup_ratio": 1.5}, "warmup_ratio in"),
    "a constant with warm-up": ({"lr_scheduler_type": "constant", "warmup_steps": 2}, "constant_with_warmup"),
    "an unknown option": ({"lr_scheduler_kwargs": {"power": 2.0}}, "hold power, unknown to 'linear'"),
    "a floor twice": (
        {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 0.1, "min_lr_rate": 0.1}},
        "one of min_lr and min_lr_rate",
    ),
    "an end above the start": (
        {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"lr_end": 1.0}},
        "lr_end must be below",
    ),
    "half a restart": (
        {"lr_scheduler_type": "cosine_with_restarts", "lr_scheduler_kwargs": {"num_cycles": 1.5}},
        "whole number",
    ),
    "no decay steps": ({"lr_scheduler_type": "warmup_stable_decay"}, "needs num_decay_steps"),
    "too many decay steps": (
        {"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": {"num_decay_steps": 99}},
        "more than num_training_steps=10",
    ),
    "a beta of 1": ({"adam_beta2": 1.0}, "adam_beta2 must be between"),
    "an epsilon of 0": ({"adam_epsilon": 0.0}, "adam_epsilon must be between"),
    "negative decay": ({"weight_decay": -0.1}, "weight_decay must be at least 0"),
    "growth with depth": ({"layer_wise_lr_decay": 1.1}, r"in \(0, 1\]"),
    "a limit of 0": ({"max_grad_norm": 0.0}, "None for no clipping"),
    "a rate of 0 by selector": ({"learning_rates": {"encoder": 0.0}}, "freeze what is not trained"),
    "an empty selector": ({"learning_rates": {"encoder | ": 1.0}}, "empty part"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_a_setting_out_of_its_range_is_an_error(name: str) -> None:
    settings, words = ERRORS[name]
    with pytest.raises(ValueError, match=words):
        make_optimizer(**{"num_training_steps": 10, **settings})


def test_a_selector_of_rates_is_checked_against_what_is_trained() -> None:
    model = _model()
    for rates, words in (
        ({"encodre": 1e-3}, "nearest names are 'encoder'"),
        ({"encoder": 1e-3, "bias": 1e-2}, "two rates: by 'encoder' and by 'bias'"),
        ({"decoder.layers.0-3": 1e-3}, "go from 0 to 2"),
    ):
        with pytest.raises(ValueError, match=words):
            init_train_state(model, make_optimizer(num_training_steps=5, learning_rates=rates))
    optimizer = make_optimizer(num_training_steps=5, learning_rates={"encoder": 1e-3})
    with pytest.raises(ValueError, match="'encoder' matches no array"):
        init_train_state(model, optimizer, trainable="decoder")
    with pytest.raises(ValueError, match="layer_wise_lr_decay would do nothing"):
        init_train_state(
            model, make_optimizer(num_training_steps=5, layer_wise_lr_decay=0.9), trainable="enc_to_dec_proj"
        )


def test_depth_means_nothing_where_layers_share_weights() -> None:
    model = tiny_pair(encoder_config(layers=(LayerSpec(weights=0),) * 3))
    optimizer = make_optimizer(num_training_steps=5, layer_wise_lr_decay=0.9)
    with pytest.raises(ValueError, match="share their weights"):
        init_train_state(model, optimizer)
    init_train_state(model, optimizer, trainable="decoder")


def test_a_schedule_may_be_asked_under_jit() -> None:
    schedule = make_schedule(learning_rate=0.1, lr_scheduler_type="cosine", num_training_steps=9)
    assert jax.jit(schedule)(jnp.asarray(4)) == schedule(4)
