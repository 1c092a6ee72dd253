"""Attention by a kernel in bfloat16 against the reference: cuDNN's on a GPU, and anywhere what it is told, by XLA."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from encdec_eqx import AttentionConfig, EncoderDecoder, init_train_state, make_train_step
from encdec_eqx._padding import RightPadding
from encdec_eqx.layers.attend import attend
from encdec_eqx.layers.attention_backend import AttentionBackend, FusedAttention
from encdec_eqx.layers.context import AttentionMask
from encdec_eqx.layers.linear import Dropout
from models import decoder_config, encoder_config, random_ids, right_mask, tiny_pair
from tolerances import KERNEL_GRADIENT, KERNEL_LOSS, KERNEL_OUTPUT

# the derivative of XLA's form mixes dtypes, long after `FusedAttention` allowed it for the form itself
pytestmark = pytest.mark.usefixtures("standard_promotion")

CUDNN = pytest.param("cudnn", marks=pytest.mark.needs_gpu)
both = pytest.mark.parametrize("implementation", [CUDNN, "xla"])

LENGTHS = RightPadding(np.asarray([64, 37, 1, 0], np.int32), 64)
MASKS: dict[str, AttentionMask | None] = {
    "all": None,
    "lengths": AttentionMask(LENGTHS),
    "causal": AttentionMask(causal=True),
    "causal and lengths": AttentionMask(LENGTHS, causal=True),
    "causal window": AttentionMask(causal=True, window=9),
}


def _tensors(kv_heads: int, head_dim: int, queries: int = 64) -> tuple[jax.Array, ...]:
    rng = np.random.default_rng(0)
    shapes = ((4, 4, queries, head_dim), *((4, kv_heads, 64, head_dim),) * 2)
    q, k, v = (jnp.asarray(rng.normal(size=shape), jnp.bfloat16) for shape in shapes)
    return q, k, v


def _attended(mask: AttentionMask | None, backends: tuple[AttentionBackend, ...]) -> Callable[..., jax.Array]:
    def attended(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        options: dict[str, Any] = {"dropout": Dropout(0.0), "key": None, "need_weights": False, "backends": backends}
        return attend(q, k, v, mask=mask, scale=q.shape[-1] ** -0.5, **options)[0]

    return attended


@both
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(("kv_heads", "head_dim"), [(4, 64), (2, 64), (4, 8), (4, 128)])
def test_a_kernel_attends_like_the_reference(
    implementation: Literal["cudnn", "xla"], mask: str, kv_heads: int, head_dim: int
) -> None:
    kernel, tensors = FusedAttention(implementation=implementation), _tensors(kv_heads, head_dim)

    def both_ways(backends: tuple[AttentionBackend, ...]) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        attended = _attended(MASKS[mask], backends)

        def loss(*tensors: jax.Array) -> jax.Array:
            return jnp.sum(jnp.square(attended(*tensors).astype(jnp.float32)))

        return jax.jit(attended)(*tensors), jax.jit(jax.grad(loss, (0, 1, 2)))(*tensors)

    (ours, our_gradients), (theirs, their_gradients) = both_ways((kernel,)), both_ways(())
    np.testing.assert_allclose(ours, theirs, atol=KERNEL_OUTPUT, rtol=0)
    for one, other in zip(our_gradients, their_gradients, strict=True):
        assert np.isfinite(np.asarray(one, np.float32)).all()
        np.testing.assert_allclose(one, other, atol=KERNEL_GRADIENT * float(jnp.max(jnp.abs(other))), rtol=0)
    if mask in ("lengths", "causal and lengths"):
        assert not np.asarray(ours[3]).any(), "a row that sees nothing gets zeros"


@both
def test_a_kernel_takes_odd_numbers_of_queries_and_keys(implementation: Literal["cudnn", "xla"]) -> None:
    q, k, v = _tensors(4, 64, queries=33)
    k, v = k[:, :, :51], v[:, :, :51]
    mask = AttentionMask(RightPadding(np.asarray([51, 37, 1, 0], np.int32), 51))
    kernel = FusedAttention(implementation=implementation)
    ours, theirs = (jax.jit(_attended(mask, backends))(q, k, v) for backends in ((kernel,), ()))
    np.testing.assert_allclose(ours, theirs, atol=KERNEL_OUTPUT, rtol=0)


def _pair() -> EncoderDecoder:
    attention = AttentionConfig(num_heads=2, head_dim=16)
    return tiny_pair(encoder_config(32, attention=attention), decoder_config(32, attention=attention))


@both
@pytest.mark.parametrize("layout", ["unrolled", "scanned"])
def test_a_training_step_by_a_kernel_is_that_of_the_reference(
    implementation: Literal["cudnn", "xla"], layout: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if implementation == "xla":
        monkeypatch.setattr("encdec_eqx._inputs.platform", lambda: "gpu")
    model, optimizer = _pair().with_layout(layout), optax.sgd(0.1)
    kernel = model.with_attention_backends(FusedAttention(implementation=implementation))
    assert set(kernel.astype(jnp.bfloat16).attention_backends().values()) == {"fused"}
    step = make_train_step(optimizer, compute_dtype=jnp.bfloat16)
    batch = {
        "input_ids": random_ids(0, 4, 16),
        "attention_mask": right_mask([16, 9, 5, 1], 16),
        "labels": random_ids(1, 4, 16),
    }
    ours, theirs = (
        step(init_train_state(each, optimizer), batch, None)[1] for each in (kernel, model.with_attention_backends())
    )
    np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=KERNEL_LOSS)
    np.testing.assert_allclose(ours["grad_norm"], theirs["grad_norm"], rtol=10 * KERNEL_LOSS)


@both
def test_a_source_encoded_by_a_kernel_is_generated_from(
    implementation: Literal["cudnn", "xla"], monkeypatch: pytest.MonkeyPatch
) -> None:
    if implementation == "xla":
        monkeypatch.setattr("encdec_eqx._inputs.platform", lambda: "gpu")
    model = _pair().astype(jnp.bfloat16)
    kernel = model.with_attention_backends(FusedAttention(implementation=implementation))
    source, mask = random_ids(0, 3, 16), right_mask([16, 9, 1], 16)
    for given in (mask, mask[:, ::-1]):
        ours, theirs = (each.encode(source, attention_mask=given).last_hidden_state for each in (kernel, model))
        real = given.astype(bool)
        np.testing.assert_allclose(
            np.asarray(ours, np.float32)[real], np.asarray(theirs, np.float32)[real], atol=0.1, rtol=0
        )
        result = kernel.generate(source, attention_mask=given, max_new_tokens=4)
        assert result.sequences.shape == (3, 5)
