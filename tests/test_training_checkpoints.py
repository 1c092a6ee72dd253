"""Checkpoints of a run: bit for bit, whole or not there, what is kept, damage of every kind, other runs, full disks."""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from encdec_eqx.training import TrainState, init_train_state, make_train_step
from encdec_eqx.training.checkpoints import (
    RunCheckpoints,
)
from models import decoder_config, encoder_config, random_ids, tiny_pair

OPTIMIZER = optax.adamw(1e-2)
POSITION = {"epoch": 1, "batch": 3, "order": [2, 0, 1]}


def _state(seed: int = 0, optimizer: Any = OPTIMIZER, trained: str = "decoder", **decoder: Any) -> TrainState:
    """A state whose encoder is frozen."""
    model = tiny_pair(encoder_config(depth=1), decoder_config(depth=1, **decoder), seed=seed)
    spec = jax.tree.map(lambda _: False, model)
    spec = eqx.tree_at(lambda m: getattr(m, trained), spec, jax.tree.map(lambda _: True, getattr(model, trained)))
    return init_train_state(model, optimizer, trainable=spec)


def _at(step: int, state: TrainState, shift: float = 0.0) -> TrainState:
    """The state as if so many steps had been taken."""
    params = jax.tree.map(lambda leaf: leaf + shift, state.params)
    return TrainState(params, state.frozen, state.opt_state, jnp.asarray(step, jnp.int32))


def _host(tree: Any) -> list[np.ndarray]:
    return [np.array(leaf) for leaf in jax.tree.leaves(tree)]


def _same(one: Any, other: Any) -> bool:
    pairs = zip(_host(one), _host(other), strict=True)
    return all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in pairs)


def test_what_was_saved_comes_back_bit_for_bit_and_the_next_step_is_the_same(tmp_path: Path):
    step = make_train_step(OPTIMIZER)
    batch = {"input_ids": random_ids(0, 2, 4), "labels": random_ids(1, 2, 3)}
    state = step(_state(), batch, None)[0]
    before = _host((state.params, state.opt_state, state.step))
    key = jax.random.key(5)
    with RunCheckpoints(tmp_path) as checkpoints:
        assert checkpoints.restore_latest(_state()) is None
        checkpoints.save(1, state, POSITION, {"loss": 2.5}, key=key)
        expected, _ = step(state, batch, None)  # gives the saved state's buffers away while it is being written
        restored = checkpoints.restore_latest(_state())
    assert restored is not None
    assert _same((restored.state.params, restored.state.opt_state, restored.state.step), before)
    assert (restored.step, restored.position, restored.metrics, restored.notes) == (1, POSITION, {"loss": 2.5}, ())
    assert restored.key is not None and restored.key.dtype == key.dtype
    assert _same(jax.random.key_data(restored.key), jax.random.key_data(key))
    again, _ = step(restored.state, batch, None)
    assert _same((again.params, again.opt_state), (expected.params, expected.opt_state))
    assert jax.tree.structure(restored.state) == jax.tree.structure(expected)
