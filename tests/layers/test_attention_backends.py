"""The two backends of attention: the same numbers, and which of them is taken."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from encdec_eqx import AttentionConfig, Decoder, LayerSpec
from encdec_eqx._padding import RightPadding
from encdec_eqx.cache import Branches, FoldedKV, SelfKV, empty_kv
from encdec_eqx.layers import attention_backend
from encdec_eqx.layers.attend import attend
from encdec_eqx.layers.attention_backend import AttentionBackend, AttentionCall, Feature, FusedAttention
from encdec_eqx.layers.context import AttentionMask
from encdec_eqx.layers.linear import Dropout
from models import decoder_config, encoder_config, random_ids, randomised, right_mask, tiny_pair
from tolerances import ORACLE, SAME_MODEL

KEYS = jnp.asarray([[True] * 8, [True, True, False, True, True, False, False, False], [False] * 8])

LENGTHS = RightPadding(np.asarray([8, 5, 0], np.int32), 8)

MASKS: dict[str, AttentionMask | None] = {
    "all": None,
    "lengths": AttentionMask(LENGTHS),
    "causal and lengths": AttentionMask(LENGTHS, causal=True),
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


ANYWHERE = FusedAttention(implementation="xla")
"""What a kernel is told, computed by what runs on a CPU too."""

FUSED = ("all", "lengths", "causal and lengths", "causal", "causal window")


@pytest.mark.parametrize("mask", FUSED)
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_both_backends_attend_alike(mask: str, kv_heads: int) -> None:
    q, k, v = _tensors(8, 8, kv_heads)
    options: dict[str, Any] = {"mask": MASKS[mask], "scale": 0.3, "dropout": Dropout(0.0), "key": None}
    theirs, weights = attend(q, k, v, **options)
    assert weights is not None
    assert ANYWHERE.refuses(AttentionCall(q, k, v, MASKS[mask], 0.3)) is None
    ours, _ = attend(q, k, v, **options, need_weights=False, backends=(ANYWHERE,))
    np.testing.assert_allclose(ours, theirs, atol=ORACLE)


@pytest.mark.parametrize("mask", FUSED)
@pytest.mark.parametrize("kv_heads", [1, 4])
def test_both_backends_have_the_same_gradients(mask: str, kv_heads: int) -> None:
    def loss(tensors: tuple[jax.Array, ...], backends: tuple[AttentionBackend, ...]) -> jax.Array:
        out, _ = attend(
            *tensors,
            mask=MASKS[mask],
            scale=0.3,
            dropout=Dropout(0.0),
            key=None,
            need_weights=False,
            backends=backends,
        )
        return jnp.mean(jnp.square(out + 1))

    tensors = _tensors(8, 8, kv_heads)
    for ours, theirs in zip(jax.grad(loss)(tensors, (ANYWHERE,)), jax.grad(loss)(tensors, ()), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=ORACLE)


def test_other_masks_are_the_reference_s() -> None:
    q, k, v = _tensors(8, 8)
    reasons = {
        name: ANYWHERE.refuses(AttentionCall(q, k, v, mask, 0.3)) for name, mask in MASKS.items() if name not in FUSED
    }
    assert set(reasons) == {"padding", "causal and padding", "window both ways", "left padding"}
    assert reasons.pop("window both ways") == "a window is causal and has no lengths beside it, where a kernel does it"
    assert set(reasons.values()) == {"its padding is not known to be on the right"}


def test_lengths_beyond_the_keys_count_as_all_of_them() -> None:
    q, k, v = _tensors(8, 8)
    wrong = AttentionMask(RightPadding(np.asarray([99, 5, -3], np.int32), 8))
    options: dict[str, Any] = {"scale": 0.3, "dropout": Dropout(0.0), "key": None, "need_weights": False}
    ours, _ = attend(q, k, v, mask=wrong, **options, backends=(ANYWHERE,))
    for mask in (wrong, MASKS["lengths"]):
        np.testing.assert_allclose(ours, attend(q, k, v, mask=mask, **options)[0], atol=ORACLE)


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
    monkeypatch.setattr(attention_backend, "platform", lambda: "gpu")
    monkeypatch.setattr("encdec_eqx._inputs.platform", lambda: "gpu")


def _why(
    dtype: Any = jnp.bfloat16, shape: tuple[int, ...] = (3, 4, 8, 8), mask: Any = None, **changes: Any
) -> str | None:
    options: dict[str, Any] = {"scale": 0.3, **changes}
    tensor = jax.ShapeDtypeStruct(shape, dtype)
    return FusedAttention().refuses(AttentionCall(tensor, tensor, tensor, mask, **options))


@pytest.mark.usefixtures("on_gpu")
def test_the_fused_backend_is_taken_where_it_can_be() -> None:
    assert _why() is None
    assert _why(dtype=jnp.float16, mask=MASKS["causal and lengths"]) is None
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
        ({"bias": 0.0, "key": jax.random.key(0)}, "it has a bias"),
        ({"mask": jnp.ones((1, 1, 8, 8), bool)}, "mask is dense"),
        ({"mask": MASKS["padding"]}, "padding is not known to be on the right"),
        ({"mask": AttentionMask(LENGTHS, causal=True, window=3)}, "no lengths beside it"),
        ({"mask": AttentionMask(window=3)}, "a window is causal"),
        ({"mask": AttentionMask(start=jnp.asarray(4), causal=True)}, "go on from a cache"),
        ({"dropout": Dropout(0.1), "key": jax.random.key(0)}, "it has dropout"),
        ({"shape": (3, 4, 2, 8)}, "scores of 2 queries are fewer bytes"),
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
    compute = FusedAttention.__call__

    def counted(self: FusedAttention, call: AttentionCall) -> jax.Array:
        calls.append(call.lengths)
        return compute(ANYWHERE, call)

    monkeypatch.setattr(FusedAttention, "__call__", counted)
    ours = decoder(ids, attention_mask=mask).logits
    assert len(calls) == 3
    assert [each.tolist() for each in calls] == [[6, 4]] * 3
    decoder(ids, attention_mask=mask[:, ::-1])
    assert len(calls) == 3, "left padding is the reference's"
    monkeypatch.setattr(attention_backend, "platform", lambda: "cpu")
    theirs = decoder(ids, attention_mask=mask).logits
    assert len(calls) == 3
    np.testing.assert_allclose(ours, theirs, atol=0.1, rtol=0)


@pytest.mark.usefixtures("on_gpu")
def test_what_is_said_depends_on_padding_and_dropout() -> None:
    attention = AttentionConfig(num_heads=2, head_dim=8, dropout=0.1)
    pair = tiny_pair(encoder_config(attention=attention), decoder_config(size=16, attention=attention))
    model = pair.astype(jnp.bfloat16)
    assert set(model.attention_backends().values()) == {"fused"}
    assert set(model.attention_backends(dropout=True).values()) == {"reference: it has dropout"}
    unknown = model.attention_backends(right_padded=False)
    assert {name for name, said in unknown.items() if said == "fused"} == {
        f"decoder/layer_{at}/self_attention" for at in range(3)
    }
    assert unknown["encoder/layer_0/self_attention"] == "reference: its padding is not known to be on the right"
    assert set(model.with_attention_backends().attention_backends().values()) == {"reference"}


@dataclasses.dataclass(frozen=True)
class Toy(AttentionBackend):
    """A kernel of a user's own: softmax by sums of powers, in what it declares to take."""

    takes: ClassVar[frozenset[Feature]] = frozenset({"causal", "lengths", "padding", "cap", "cache"})
    fewest: int = 1

    @property
    def name(self) -> str:
        return "toy"

    def why_not(self, call: AttentionCall) -> str | None:
        queries = call.q.shape[2]
        return None if queries >= self.fewest else f"{queries} queries are below {self.fewest}"

    def __call__(self, call: AttentionCall) -> jax.Array:
        group = call.q.shape[1] // call.k.shape[1]
        k, v = (jnp.repeat(x, group, axis=1) for x in (call.k, call.v))
        scores = jnp.einsum("bhqe,bhke->bhqk", call.q, k) * call.scale
        scores = scores if call.cap is None else call.cap * jnp.tanh(scores / call.cap)
        mask = call.dense_mask()
        powers = (
            jnp.exp(scores) if mask is None else jnp.where(jnp.broadcast_to(mask, scores.shape), jnp.exp(scores), 0)
        )
        total = jnp.maximum(jnp.sum(powers, axis=-1, keepdims=True), jnp.finfo(powers.dtype).tiny)
        out = jnp.einsum("bhqk,bhke->bqhe", powers / total, v)
        return out.reshape(*out.shape[:2], -1)


@pytest.mark.parametrize("layout", ["unrolled", "scanned"])
def test_a_kernel_of_ones_own_stands_in(layout: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = tiny_pair().with_layout(layout), []
    ours = model.with_attention_backends(Toy())
    assert set(ours.attention_backends().values()) == {"toy"}
    compute = Toy.__call__
    monkeypatch.setattr(Toy, "__call__", lambda self, call: calls.append(1) or compute(self, call))
    source, target, mask = random_ids(0, 2, 5), random_ids(1, 2, 4), right_mask([5, 3], 5)
    np.testing.assert_allclose(
        ours(source, target, attention_mask=mask).logits,
        model(source, target, attention_mask=mask).logits,
        atol=SAME_MODEL,
    )
    assert len(calls) == (8 if layout == "unrolled" else 3)
    weights = ours(source, target, attention_mask=mask, output_attentions=True)
    assert weights.cross_attentions is not None
    assert len(calls) == (8 if layout == "unrolled" else 3), "weights are the reference's"
    if layout == "scanned":
        return
    options: dict[str, Any] = {"attention_mask": mask, "max_new_tokens": 4}
    np.testing.assert_array_equal(
        ours.generate(source, **options).sequences, model.generate(source, **options).sequences
    )


def test_backends_are_asked_in_turn() -> None:
    model = tiny_pair().with_attention_backends(FusedAttention(), Toy(fewest=1000))
    said = model.attention_backends()["encoder/layer_0/self_attention"]
    assert said == (
        "reference: fused: the platform is cpu; cuDNN's fused attention is for GPUs; toy: 128 queries are below 1000"
    )
    assert (
        model.with_attention_backends(Toy(fewest=1000), Toy()).attention_backends(dropout=False)[
            "decoder/layer_1/cross_attention"
        ]
        == "toy"
    )
    q, k, v = _tensors(4, 4)
    assert Toy().refuses(AttentionCall(q, k, v, None, 0.3, bias=jnp.zeros((1, 4, 4, 4)))) == "it has a bias"


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_backend_is_refused() -> None:
    model: Any = tiny_pair()
    with pytest.raises(TypeError, match="tuple of AttentionBackend objects"):
        model.with_attention_backends("cudnn")


def _cuda_calls(function: Any, *arguments: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kernels that a program calls on a GPU: lowered for one, which takes none."""
    monkeypatch.setattr("jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", lambda: 91000)
    lowered = jax.jit(function).trace(*arguments).lower(lowering_platforms=("cuda",))
    return [line for line in lowered.as_text().splitlines() if "custom_call @__cudnn" in line]


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize(
    ("mask", "kind", "inputs"),
    [
        ("all", "NO_MASK", 3),
        ("lengths", "PADDING", 5),
        ("causal", "CAUSAL", 3),
        ("causal and lengths", "PADDING_CAUSAL", 5),
    ],
)
def test_a_gpu_s_kernel_is_told_lengths_and_no_mask(
    mask: str, kind: str, inputs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loss(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        out, _ = attend(q, k, v, mask=MASKS[mask], scale=0.3, dropout=Dropout(0.0), key=None, need_weights=False)
        return jnp.sum(out.astype(jnp.float32))

    tensors = _tensors(8, 8, dtype=jnp.bfloat16)
    forward, backward = _cuda_calls(jax.value_and_grad(loss, (0, 1, 2)), *tensors, monkeypatch=monkeypatch)
    assert "fmhaSoftmax(" in forward and "fmhaSoftmaxBackward(" in backward
    for call, more in ((forward, 0), (backward, 3)):
        assert f"mask_type\\22: \\22{kind}\\22" in call
        assert call.split("(", 1)[1].split(")", 1)[0].count("%") == inputs + more, "no mask of queries x keys"


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize(("remat", "forward"), [("keep_all", 1), ("keep_products", 1), ("keep_nothing", 2)])
def test_a_scanned_stack_keeps_what_a_kernel_made(remat: Any, forward: int, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder: Any = randomised(Decoder.init(decoder_config(size=24), key=jax.random.key(0))).astype(jnp.bfloat16)
    ids = random_ids(0, 2, 6)
    calls = _cuda_calls(
        jax.grad(lambda decoder: jnp.sum(decoder(ids).logits)),
        decoder.with_layout("scanned", remat=remat),
        monkeypatch=monkeypatch,
    )
    assert ["Backward" in call for call in calls].count(False) == forward
    assert len(calls) == forward + 1


@pytest.mark.usefixtures("on_gpu")
def test_a_gpu_s_reference_calls_no_kernel_for_holes(monkeypatch: pytest.MonkeyPatch) -> None:
    def out(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return attend(q, k, v, mask=MASKS["padding"], scale=0.3, dropout=Dropout(0.0), key=None, need_weights=False)[0]

    assert not _cuda_calls(out, *_tensors(8, 8, dtype=jnp.bfloat16), monkeypatch=monkeypatch)


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
