"""The two backends of attention: the same numbers, and which of them is taken."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from encdec_eqx import Decoder, LayerSpec
from encdec_eqx.cache import Branches, FoldedKV, SelfKV, empty_kv
from encdec_eqx.layers import attend as attending
from encdec_eqx.layers.attend import attend, fused, why_reference
from encdec_eqx.layers.context import AttentionMask
from encdec_eqx.layers.linear import Dropout
from models import decoder_config, random_ids, randomised, right_mask, tiny_pair
from tolerances import ORACLE, SAME_MODEL

KEYS = jnp.asarray([[True] * 8, [True, True, False, True, True, False, False, False], [False] * 8])

MASKS: dict[str, AttentionMask | None] = {
    "all": None,
    "padding": AttentionMask(KEYS),
    "causal": AttentionMask(causal=True),
    "causal and padding": AttentionMask(KEYS, causal=True),
    "causal window": AttentionMask(causal=True, window=3),
    "window both ways": AttentionMask(KEYS, window=3),
    "left padding": AttentionMask(KEYS[:, ::-1], causal=True, window=3),
}


def _tensors(queries: int, keys: int, kv_heads: int = 2, dtype: Any = jnp.float32) -> tuple[jax.Array, ...]:
    rng = np.random.default_rng(0)
    shapes = ((3, 4, queries, 8), (3, kv_heads, keys, 8), (3, kv_heads, keys, 8))
    q, k, v = (jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)
    return q, k, v


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_both_backends_attend_alike(mask: AttentionMask | None, kv_heads: int) -> None:
    q, k, v = _tensors(8, 8, kv_heads)
    theirs, weights = attend(q, k, v, mask=mask, scale=0.3, dropout=Dropout(0.0), key=None)
    assert weights is not None
    np.testing.assert_allclose(fused(q, k, v, mask=mask, scale=0.3, implementation="xla"), theirs, atol=ORACLE)


def test_keys_shared_by_query_heads_are_those_of_their_group() -> None:
    q, k, v = _tensors(5, 7)
    grouped, _ = attend(q, k, v, mask=None, scale=0.3, dropout=Dropout(0.0), key=None)
    k, v = (jnp.repeat(x, 2, axis=1) for x in (k, v))
    repeated, _ = attend(q, k, v, mask=None, scale=0.3, dropout=Dropout(0.0), key=None)
    np.testing.assert_allclose(grouped, repeated, atol=ORACLE)


def test_a_cap_squashes_scores_before_the_mask() -> None:
    q, k, v = _tensors(8, 8, 4)
    mask = MASKS["causal"]
    _, weights = attend(10 * q, k, v, mask=mask, scale=1.0, cap=2.0, dropout=Dropout(0.0), key=None)
    assert weights is not None
    scores = 2 * np.tanh(np.einsum("bhqe,bhke->bhqk", 10 * np.asarray(q, np.float64), k) / 2)
    powers = np.exp(scores) * np.tril(np.ones((8, 8)))
    np.testing.assert_allclose(weights, powers / powers.sum(-1, keepdims=True), atol=ORACLE)


def test_weights_are_computed_only_when_asked_for() -> None:
    q, k, v = _tensors(4, 4)
    assert attend(q, k, v, mask=None, scale=0.3, dropout=Dropout(0.0), key=None, need_weights=False)[1] is None
    model = tiny_pair()
    out = model(random_ids(0, 2, 5), random_ids(1, 2, 4))
    assert out.cross_attentions is None and out.decoder_attentions is None


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attending, "platform", lambda: "gpu")


def _why(
    dtype: Any = jnp.bfloat16, shape: tuple[int, ...] = (3, 4, 8, 8), mask: Any = None, **changes: Any
) -> str | None:
    options: dict[str, Any] = {"scale": 0.3, "cap": None, "extras": {}, **changes}
    tensor = jax.ShapeDtypeStruct(shape, dtype)
    return why_reference(tensor, tensor, mask, **options)


@pytest.mark.usefixtures("on_gpu")
def test_the_fused_backend_is_taken_where_it_can_be() -> None:
    assert _why() is None
    assert _why(dtype=jnp.float16, mask=MASKS["causal and padding"]) is None
    assert _why(shape=(3, 4, 7, 8), mask=MASKS["causal window"]) is None


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dtype": jnp.float32}, "queries are float32"),
        ({"shape": (3, 4, 8, 12)}, "head_dim is 12"),
        ({"shape": (3, 4, 8, 256)}, "head_dim is 256"),
        ({"cap": 50.0}, "capped"),
        ({"scale": jnp.asarray(0.3)}, "different score scales"),
        ({"extras": {"a bias": True, "dropout": False}}, "it has a bias"),
        ({"mask": jnp.ones((1, 1, 8, 8), bool)}, "mask is dense"),
        ({"shape": (3, 4, 7, 8), "mask": MASKS["padding"]}, "odd"),
    ],
)
def test_the_reference_says_why_it_is_taken(changes: dict[str, Any], reason: str) -> None:
    assert reason in (_why(**changes) or "")


def test_a_cpu_has_the_reference_alone() -> None:
    assert "the platform is cpu" in (_why() or "")


@pytest.mark.usefixtures("on_gpu")
def test_a_model_says_which_backend_attends_where() -> None:
    model = tiny_pair(decoder=decoder_config(size=24, layers=(LayerSpec(cross_attention=True), LayerSpec())))
    backends = model.astype(jnp.bfloat16).attention_backends()
    assert set(backends) == {
        *(f"encoder/layer_{at}/self_attention" for at in range(2)),
        *(f"decoder/layer_{at}/self_attention" for at in range(2)),
        "decoder/layer_0/cross_attention",
    }
    assert backends["decoder/layer_0/self_attention"] == "fused"
    assert backends["encoder/layer_0/self_attention"].startswith("reference: head_dim is 4")
    assert all("float32" in backend for backend in model.attention_backends().values())


@pytest.mark.usefixtures("on_gpu")
def test_a_model_takes_the_fused_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder: Any = randomised(Decoder.init(decoder_config(size=24), key=jax.random.key(0))).astype(jnp.bfloat16)
    ids, mask, calls = random_ids(0, 2, 6), right_mask([6, 4], 6), []

    def counted(*args: Any, **kwargs: Any) -> jax.Array:
        calls.append(kwargs["mask"])
        return fused(*args, **kwargs, implementation="xla")

    monkeypatch.setattr(attending, "fused", counted)
    ours = decoder(ids, attention_mask=mask).logits
    assert len(calls) == 3
    monkeypatch.setattr(attending, "platform", lambda: "cpu")
    theirs = decoder(ids, attention_mask=mask).logits
    assert len(calls) == 3
    np.testing.assert_allclose(ours, theirs, atol=0.1, rtol=0)


def test_a_cache_with_its_axes_apart_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, ids = randomised(Decoder.init(decoder_config(), key=jax.random.key(0))), random_ids(0, 2, 6)
    whole = decoder(ids).logits
    for layout in ("unrolled", "scanned"):
        for platform in ("cpu", "tpu"):
            monkeypatch.setattr("encdec_eqx.blocks.block.platform", lambda platform=platform: platform)
            laid: Any = decoder.with_layout(layout)
            cache = laid.init_cache(None, None, rows=2, slots=8)
            kinds = jax.tree.leaves(cache.self_kv, is_leaf=lambda node: isinstance(node, FoldedKV | SelfKV))
            assert {type(kind) for kind in kinds} == {FoldedKV if platform == "cpu" else SelfKV}
            hidden, cache = laid.advance(jnp.asarray(ids[:, :2]), cache)
            hidden, cache = laid.advance(jnp.asarray(ids[:, 2:]), cache)
            np.testing.assert_allclose(laid.logits(hidden), whole[:, 2:], atol=SAME_MODEL, rtol=0)


@pytest.mark.parametrize("folded", [False, True])
def test_what_a_cache_is_written_it_reads(folded: bool) -> None:
    rng = np.random.default_rng(0)
    new = SelfKV(*(jnp.asarray(rng.normal(size=(2, 3, 2, 4)), jnp.float32) for _ in range(2)))
    cache = empty_kv(new, 5, folded=folded).write(new, jnp.asarray(1))
    for kept, written in zip(cache.read(), (new.k, new.v), strict=True):
        np.testing.assert_array_equal(kept[:, :, 1:3], written)
        assert not kept[:, :, [0, 3, 4]].any()


def test_the_parts_of_a_mask_make_a_dense_one() -> None:
    real = np.asarray(KEYS)
    query, key = np.arange(3)[:, None] + 4, np.arange(8)[None]
    causal = AttentionMask(KEYS, start=jnp.asarray(4), causal=True)
    np.testing.assert_array_equal(causal.dense(3)[:, 0], real[:, None] & (key <= query))
    windowed = AttentionMask(KEYS, start=4, causal=True, window=2)
    np.testing.assert_array_equal(windowed.dense(3)[:, 0], real[:, None] & (key <= query) & (key > query - 2))
    assert AttentionMask().dense(3) is None
    np.testing.assert_array_equal(
        AttentionMask(window=2).dense(4)[0, 0], np.abs(np.subtract.outer(*[np.arange(4)] * 2)) < 2
    )


def test_branches_are_windowed_by_their_depth() -> None:
    visible = jnp.asarray([[[True, True, True, False], [True, True, False, True]]])
    branches = Branches(visible, jnp.asarray([2, 2], jnp.int32), jnp.asarray([0, 1, 2, 2], jnp.int32))
    mask = AttentionMask(start=2, branches=branches, causal=True, window=2)
    np.testing.assert_array_equal(mask.dense(2)[0, 0], [[False, True, True, False], [False, True, False, True]])
