"""Disentangled scores against loops in float64 NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encdec_eqx._trees import path_name
from encdec_eqx.layers.disentangled import (
    DisentangledAttentionConfig,
    DisentangledConfig,
    disentangled_scores,
    position_rows,
)
from tolerances import ORACLE


def _normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _rows(config: DisentangledConfig, *relative: int) -> list[int]:
    return np.asarray(position_rows(config, jnp.asarray([relative])))[0].tolist()


@pytest.mark.parametrize(("to_position", "to_content"), [(True, False), (False, True), (True, True)])
def test_scores(to_position: bool, to_content: bool) -> None:
    q, k = _normal(0, 2, 3, 4, 5), _normal(1, 2, 3, 6, 5)
    keys, queries = _normal(2, 3, 8, 5), _normal(3, 3, 8, 5)
    rows = position_rows(DisentangledConfig(span=4, max_distance=9), jnp.arange(4)[:, None] - jnp.arange(6)[None])
    ours = disentangled_scores(
        jnp.asarray(q),
        jnp.asarray(k),
        position_keys=jnp.asarray(keys) if to_position else None,
        position_queries=jnp.asarray(queries) if to_content else None,
        rows=rows,
    )
    theirs = np.zeros((2, 3, 4, 6))
    for query, key in np.ndindex(4, 6):
        row = int(rows[query, key])
        if to_position:
            theirs[:, :, query, key] += (q[:, :, query].astype(np.float64) * keys[None, :, row]).sum(-1)
        if to_content:
            theirs[:, :, query, key] += (k[:, :, key].astype(np.float64) * queries[None, :, row]).sum(-1)
    np.testing.assert_allclose(ours, theirs, atol=ORACLE, rtol=ORACLE)


def test_buckets_by_logarithm() -> None:
    config = DisentangledConfig(span=8, max_distance=40)
    far = [math.ceil(math.log(distance / 4) / math.log(39 / 4) * 3) + 4 for distance in (5, 9, 20, 39)]
    assert _rows(config, 0, 3, 4, -4, 5, 9, 20, 39) == [8, 11, 12, 4, *(8 + place for place in far)]
    assert _rows(config, 40, 1000, -39, -1000) == [15, 15, 1, 0]


def test_without_buckets_distances_are_cut_off() -> None:
    config = DisentangledConfig(span=3, max_distance=3, buckets=False)
    assert _rows(config, 0, 1, 2, 3, 50, -1, -3, -50) == [3, 4, 5, 5, 5, 2, 0, 0]


@settings(max_examples=10)  # each number of buckets is a program of its own
@given(span=st.integers(4, 40), extra=st.integers(1, 200))
def test_rows_grow_with_the_relative_position_and_are_symmetric(span: int, extra: int) -> None:
    config = DisentangledConfig(span=span, max_distance=span // 2 + 1 + extra)
    rows = _rows(config, *range(-250, 251))
    assert rows == sorted(rows)
    assert rows[250] == span
    inner = [row - span for row in rows if 0 < row < 2 * span - 1]
    assert set(inner) - {span - 1, 1 - span} == {-row for row in inner} - {span - 1, 1 - span}


@pytest.mark.parametrize("own", [False, True])
def test_new_attention_has_the_arrays_that_its_config_names(own: bool, key: jax.Array) -> None:
    rows = DisentangledConfig(span=4, max_distance=9)
    config = DisentangledAttentionConfig(num_heads=3, head_dim=5, rows=rows, own_projections=own)
    made = config.init_self(7, max_positions=9, window=None, rotary=0, scale=0.02, key=key)
    shapes = {path_name(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(made)}
    positions = {f"position_{name}.{part}" for name in ("key", "query") for part in ("weight", "bias")}
    assert shapes["qkv.weight"] == (7, 3, 3, 5)
    assert positions & shapes.keys() == (positions if own else set())
    assert config.init_shared(7, scale=0.02, key=key)().shape == (8, 7)


def test_what_configs_refuse() -> None:
    with pytest.raises(ValueError, match="leave rotary, qk_norm"):
        DisentangledAttentionConfig(
            num_heads=4, head_dim=6, num_kv_heads=2, rows=DisentangledConfig(span=4, max_distance=9)
        )
    with pytest.raises(ValueError, match="a max_distance above span / 2 \\+ 1"):
        DisentangledConfig(span=8, max_distance=5)
    with pytest.raises(ValueError, match=r"span is 0; expected a whole number"):
        DisentangledConfig(span=0, max_distance=5)
