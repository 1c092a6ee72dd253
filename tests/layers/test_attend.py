"""Properties of `attend` that hold for every mask."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from encdec_eqx.layers.attend import attend
from encdec_eqx.layers.linear import Dropout
from tolerances import ORACLE

BATCH, HEADS, QUERIES, KEYS, DIM = 2, 4, 3, 5, 4
MASKS = arrays(bool, (BATCH, 1, QUERIES, KEYS))


def _normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    out, weights = attend(
        jnp.asarray(q),
        jnp.asarray(k),
        jnp.asarray(v),
        mask=jnp.asarray(mask),
        scale=0.7,
        dropout=Dropout(0.0),
        key=None,
    )
    return np.asarray(out), np.asarray(weights)


@given(mask=MASKS, size=st.sampled_from([1e-3, 1.0, 100.0]))
def test_weights_are_a_distribution_over_what_a_query_sees(mask: np.ndarray, size: float) -> None:
    q, k, v = (_normal(seed, BATCH, HEADS, length, DIM) for seed, length in enumerate((QUERIES, KEYS, KEYS)))
    out, weights = _attend(size * q, k, v, mask)
    visible = np.broadcast_to(mask, weights.shape)
    assert (weights >= 0).all()
    assert (weights[~visible] == 0).all()
    np.testing.assert_allclose(weights.sum(-1), visible.any(-1), atol=ORACLE)
    assert (out[~mask[:, 0].any(-1)] == 0).all(), "who sees nothing gets zeros"


@given(mask=MASKS, seed=st.integers(0, 99), size=st.sampled_from([1.0, 1e4]))
def test_what_is_masked_changes_nothing(mask: np.ndarray, seed: int, size: float) -> None:
    mask = np.broadcast_to(mask[:, :, :1], mask.shape)  # keys that no query sees
    q, k, v = (_normal(at, BATCH, HEADS, length, DIM) for at, length in enumerate((QUERIES, KEYS, KEYS)))
    hidden = ~mask[:, :, 0, :, None]
    other_k, other_v = (np.where(hidden, size * _normal(seed + at, *k.shape), it) for at, it in enumerate((k, v)))
    for ours, theirs in zip(_attend(q, k, v, mask), _attend(q, other_k, other_v, mask), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@given(mask=MASKS, kv_heads=st.sampled_from([1, 2, 4]))
def test_heads_that_share_keys_read_the_same_ones(mask: np.ndarray, kv_heads: int) -> None:
    q = _normal(0, BATCH, HEADS, QUERIES, DIM)
    k, v = (_normal(seed, BATCH, kv_heads, KEYS, DIM) for seed in (1, 2))
    all_k, all_v = (np.repeat(it, HEADS // kv_heads, axis=1) for it in (k, v))
    for ours, theirs in zip(_attend(q, k, v, mask), _attend(q, all_k, all_v, mask), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=ORACLE)


def test_scores_are_masked_once() -> None:
    q, k, v = (
        jnp.asarray(_normal(seed, BATCH, HEADS, length, DIM)) for seed, length in enumerate((QUERIES, KEYS, KEYS))
    )
    mask = jnp.ones((BATCH, 1, QUERIES, KEYS), bool)
    program = jax.make_jaxpr(lambda q: attend(q, k, v, mask=mask, scale=0.7, dropout=Dropout(0.0), key=None)[0])(q)
    made = [
        eqn.primitive.name
        for eqn in _equations(program.jaxpr)
        if eqn.outvars[0].aval.shape == (BATCH, HEADS, QUERIES, KEYS) and eqn.primitive.name != "broadcast_in_dim"
    ]
    # a quotient of powers and their sum: nothing else is as large as the scores
    assert sorted(made) == ["div", "exp", "mul", "reshape", "select_n", "sub"]


def test_products_of_gradients_are_in_the_dtype_of_the_keys() -> None:
    q, k, v = (
        jnp.asarray(_normal(seed, BATCH, HEADS, length, DIM), jnp.bfloat16)
        for seed, length in enumerate((QUERIES, KEYS, KEYS))
    )

    def total(q: Any, k: Any, v: Any) -> Any:
        out, _ = attend(q, k, v, mask=None, scale=0.7, dropout=Dropout(0.0), key=None)
        return jnp.sum(out.astype(jnp.float32))

    program = jax.make_jaxpr(jax.grad(total, argnums=(0, 1, 2)))(q, k, v)
    products = [eqn for eqn in _equations(program.jaxpr) if eqn.primitive.name == "dot_general"]
    assert len(products) == 6
    assert {operand.aval.dtype for eqn in products for operand in eqn.invars} == {jnp.dtype(jnp.bfloat16)}


def _equations(jaxpr: Any) -> Iterator[Any]:
    """Of a program and of the functions it calls, but for the calls."""
    for eqn in jaxpr.eqns:
        inner = [getattr(value, "jaxpr", value) for value in eqn.params.values() if hasattr(value, "jaxpr")]
        yield from [each for one in inner for each in _equations(one)] or [eqn]
