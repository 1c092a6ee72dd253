"""Stacks in the manner of modern families, made of the parts alone: what holds for every stack holds for them."""

import dataclasses
import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from encdec_eqx import (
    AttentionConfig,
    CrossAttention,
    Decoder,
    EmbeddingsConfig,
    Encoder,
    LayerSpec,
    PositionsConfig,
    StackConfig,
)
from encdec_eqx.config import (
    AlibiConfig,
    GatedMLPConfig,
    HeadConfig,
    LayerNormConfig,
    MLPConfig,
    QKNormConfig,
    RelativeBiasConfig,
    RMSNormConfig,
    RotaryConfig,
)
from encdec_eqx.layers.context import AttentionContext, AttentionMask, LayerContext
from models import decoder_config, encoder_config, random_ids, randomised, right_mask
from tolerances import CLOSED_GATE, MERGED_ATTENTION, SAME_MODEL

RMS = RMSNormConfig(eps=1e-5)
BOTH = RMSNormConfig(placement="both", unit_offset=True, scale_in_float32=True)
PRE = LayerNormConfig(eps=1e-5, placement="pre", final=True)
GATED = GatedMLPConfig(size=24)
SLIDING = (LayerSpec(window=3), LayerSpec())


def _heads(**changes: Any) -> AttentionConfig:
    settings: dict[str, Any] = {"num_heads": 4, "head_dim": 4, "qkv_bias": False, "out_bias": False}
    return AttentionConfig(**{**settings, **changes})


def _stack(attention: AttentionConfig, **changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "attention": attention,
        "norm": RMS,
        "feed_forward": GATED,
        "positions": PositionsConfig(max_positions=24, kind="none"),
        "embeddings": EmbeddingsConfig(),
        "layers": (LayerSpec(),) * 3,
    }
    return {**settings, **changes}


DECODERS: dict[str, dict[str, Any]] = {
    "Llama": _stack(_heads(num_kv_heads=2, rotary=(RotaryConfig(),))),
    "Qwen 2": _stack(_heads(num_kv_heads=2, qkv_bias=True, rotary=(RotaryConfig(),)), layers=SLIDING * 2),
    "Qwen 3": _stack(_heads(num_kv_heads=1, qk_norm=QKNormConfig(norm=RMS), rotary=(RotaryConfig(theta=1e6),))),
    "Gemma 2": _stack(
        _heads(num_kv_heads=2, logit_cap=2.0, rotary=(RotaryConfig(),)),
        norm=BOTH,
        head=HeadConfig(logit_cap=0.5),
        layers=tuple(LayerSpec(score_scale=0.3, window=spec.window) for spec in SLIDING * 2),
    ),
    "Gemma 3": _stack(
        _heads(
            num_kv_heads=2,
            qk_norm=QKNormConfig(norm=BOTH),
            rotary=(RotaryConfig(theta=1e6), RotaryConfig(theta=1e4)),
        ),
        norm=BOTH,
        layers=(*(LayerSpec(window=4, rotary=1),) * 2, LayerSpec(rotary=0)) * 2,
    ),
    "T5": _stack(
        _heads(relative_bias=RelativeBiasConfig(buckets=8, entries=8, max_distance=20, bidirectional=False)),
        layers=(LayerSpec(score_scale=1.0),) * 2,
        feed_forward=MLPConfig(size=24, activation="relu", bias=False),
        head=HeadConfig(scale=0.25),
    ),
    "umT5": _stack(
        _heads(
            relative_bias=RelativeBiasConfig(buckets=8, entries=8, max_distance=20, bidirectional=False, shared=False)
        ),
        layers=(LayerSpec(score_scale=1.0),) * 2,
    ),
    "OPT": _stack(
        _heads(qkv_bias=True, out_bias=True),
        norm=PRE,
        feed_forward=MLPConfig(size=24, activation="relu"),
        positions=PositionsConfig(max_positions=26, counting="mask", offset=2),
    ),
    "Bloom": _stack(
        _heads(qkv_bias=True, out_bias=True, alibi=AlibiConfig()),
        norm=LayerNormConfig(eps=1e-5, placement="pre_residual", final=True),
        feed_forward=MLPConfig(size=24, activation="gelu_new"),
        embeddings=EmbeddingsConfig(norm=True),
    ),
    "Falcon": _stack(
        _heads(num_kv_heads=1, alibi=AlibiConfig(scaled=True, bfloat16=True)),
        norm=PRE,
        layers=(LayerSpec(block="parallel"),) * 2,
        feed_forward=MLPConfig(size=24),
    ),
    "Phi": _stack(
        _heads(qkv_bias=True, out_bias=True, rotary=(RotaryConfig(dim=2),)),
        norm=PRE,
        layers=(LayerSpec(block="parallel"),) * 2,
        feed_forward=MLPConfig(size=24, activation="gelu_new"),
    ),
    "GPT-NeoX": _stack(
        _heads(qkv_bias=True, out_bias=True, rotary=(RotaryConfig(dim=2),)),
        norm=PRE,
        layers=(LayerSpec(block="parallel_norms"),) * 2,
        feed_forward=MLPConfig(size=24),
    ),
    "OLMo 2": _stack(
        _heads(qk_norm=QKNormConfig(norm=RMS, span="all_heads"), rotary=(RotaryConfig(),)),
        norm=RMSNormConfig(placement="output"),
    ),
    "SmolLM 3": _stack(
        _heads(num_kv_heads=2, rotary=(RotaryConfig(),)),
        layers=(LayerSpec(), LayerSpec(), LayerSpec(), LayerSpec(rotary=None, window=3)),
    ),
    "unequal biases": _stack(_heads(qkv_bias=(True, False, True), out_bias=True), norm=PRE),
}

ENCODERS: dict[str, dict[str, Any]] = {
    "ModernBERT": _stack(
        _heads(rotary=(RotaryConfig(theta=16e4), RotaryConfig(theta=1e4))),
        norm=LayerNormConfig(eps=1e-5, placement="pre", final=True, bias=False, final_in_hidden_states=False),
        embeddings=EmbeddingsConfig(norm=True),
        layers=(
            LayerSpec(self_norm=False),
            *(LayerSpec(window=3, rotary=1),) * 2,
            LayerSpec(),
            *(LayerSpec(window=3, rotary=1),) * 2,
        ),
    ),
    "T5": _stack(
        _heads(relative_bias=RelativeBiasConfig(buckets=8, entries=8, max_distance=20)),
        layers=(LayerSpec(score_scale=1.0),) * 2,
    ),
}

LAYOUTS = ["unrolled", "scanned"]


def _config(settings: dict[str, Any], make: Any) -> StackConfig:
    return make(size=16, **{"pooler": False, **settings} if make is encoder_config else settings)


@functools.cache  # drawing the weights takes longer than most of what is done with them
def _decoder(name: str) -> Decoder:
    return randomised(Decoder.init(_config(DECODERS[name], decoder_config), key=jax.random.key(0)))


@functools.cache
def _encoder(name: str) -> Encoder:
    return randomised(Encoder.init(_config(ENCODERS[name], encoder_config), key=jax.random.key(0)))


def _close(ours: Any, theirs: Any) -> None:
    np.testing.assert_allclose(ours, theirs, atol=10 * SAME_MODEL, rtol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", DECODERS)
def test_cached_equals_whole(name: str, layout: Any) -> None:
    decoder, ids = _decoder(name).with_layout(layout), random_ids(0, 2, 9)
    whole = decoder(ids).logits
    cache, logits = decoder.init_cache(None, None, rows=2, slots=12), []
    for part in (slice(0, 1), slice(1, 6), slice(6, 9)):
        hidden, cache = decoder.advance(jnp.asarray(ids[:, part]), cache)
        logits.append(decoder.logits(hidden))
    _close(np.concatenate(logits, 1), whole)


@pytest.mark.parametrize("name", DECODERS)
def test_both_layouts_of_decoders_say_the_same(name: str) -> None:
    decoder, ids = _decoder(name), random_ids(0, 2, 9)
    scanned = decoder.with_layout("scanned")
    assert eqx.tree_equal(scanned.with_layout("unrolled"), decoder)
    _close(scanned(ids).logits, decoder(ids).logits)


@pytest.mark.parametrize("name", ENCODERS)
def test_both_layouts_of_encoders_say_the_same(name: str) -> None:
    encoder, ids, mask = _encoder(name), random_ids(0, 2, 9), right_mask([9, 5], 9)
    scanned = encoder.with_layout("scanned")
    _close(
        scanned(ids, attention_mask=mask).last_hidden_state[1, :5],
        encoder(ids, attention_mask=mask).last_hidden_state[1, :5],
    )


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", DECODERS)
def test_a_padded_row_is_what_it_is_alone(name: str, side: str) -> None:
    decoder, ids, mask = _decoder(name), random_ids(0, 2, 9), right_mask([9, 5], 9)
    real = slice(0, 5)
    if side == "left":
        mask, real = mask[:, ::-1].copy(), slice(4, 9)
    _close(decoder(ids, attention_mask=mask).logits[1, real], decoder(ids[1:, real]).logits[0])


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", ENCODERS)
def test_a_padded_source_is_what_it_is_alone(name: str, side: str) -> None:
    encoder, ids, mask = _encoder(name), random_ids(0, 2, 9), right_mask([9, 5], 9)
    real = slice(0, 5)
    if side == "left":
        mask, real = mask[:, ::-1].copy(), slice(4, 9)
    _close(encoder(ids, attention_mask=mask).last_hidden_state[1, real], encoder(ids[1:, real]).last_hidden_state[0])


@pytest.mark.parametrize("name", ["Llama", "Gemma 2", "Bloom"])
def test_left_padding_changes_nothing_in_a_cache(name: str) -> None:
    decoder, ids, mask = _decoder(name), random_ids(0, 2, 9), right_mask([9, 5], 9)[:, ::-1].astype(bool).copy()
    cache = decoder.init_cache(None, None, rows=2, slots=12)
    hidden = None
    for at in range(9):
        hidden, cache = decoder.advance(jnp.asarray(ids[:, at : at + 1]), cache, mask=jnp.asarray(mask[:, at : at + 1]))
    assert hidden is not None
    _close(decoder.logits(hidden)[1, 0], decoder(ids[1:, 4:]).logits[0, -1])


def test_a_window_hides_what_lies_further_back() -> None:
    settings = {**DECODERS["Llama"], "layers": (LayerSpec(window=3),)}
    decoder = randomised(Decoder.init(_config(settings, decoder_config), key=jax.random.key(0)))
    ids = random_ids(0, 1, 9)
    other = ids.copy()
    other[0, 0] += 1
    change = np.abs(np.asarray(decoder(ids).logits - decoder(other).logits)).max(-1)[0]
    assert (change[:3] > SAME_MODEL).all()
    assert not change[3:].any()


def test_an_encoder_sees_as_far_both_ways() -> None:
    settings = {**ENCODERS["ModernBERT"], "layers": (LayerSpec(window=3),)}
    encoder = randomised(Encoder.init(_config(settings, encoder_config), key=jax.random.key(0)))
    attended = encoder(random_ids(0, 1, 9), output_attentions=True).attentions
    assert attended is not None
    distance = np.abs(np.arange(9)[:, None] - np.arange(9)[None])
    np.testing.assert_array_equal(np.asarray(attended[0][0] > 0), np.broadcast_to(distance < 3, (4, 9, 9)))


def test_a_second_call_compiles_nothing() -> None:
    traces = []

    @eqx.filter_jit
    def step(decoder: Decoder, ids: jax.Array, cache: Any) -> Any:
        traces.append(1)
        return decoder.advance(ids, cache)

    decoder = _decoder("Gemma 3")
    cache = decoder.init_cache(None, None, rows=2, slots=12)
    for at in range(3):
        _, cache = step(decoder, jnp.asarray(random_ids(at, 2, 1)), cache)
    assert len(traces) == 1


def test_sliding_layers_repeat_as_a_group() -> None:
    scanned: Any = _decoder("Gemma 3").with_layout("scanned").stack
    assert [len(segment.groups) for segment in scanned.segments] == [3]


@pytest.mark.parametrize("name", ["Llama", "Phi", "Gemma 2"])
def test_cross_attention_can_be_added(name: str) -> None:
    decoder = _decoder(name).with_cross_attention(key=jax.random.key(1), cross_attention_hidden_size=10)
    states, ids = jax.random.normal(jax.random.key(2), (2, 5, 10)), random_ids(0, 2, 6)
    out = decoder(ids, encoder_hidden_states=states)
    _close(decoder.with_layout("scanned")(ids, encoder_hidden_states=states).logits, out.logits)
    cache = decoder.init_cache(states, None, rows=2, slots=8)
    _close(decoder.logits(decoder.advance(jnp.asarray(ids), cache)[0]), out.logits)


def test_a_head_scales_its_input_and_caps_its_logits() -> None:
    decoder, ids = _decoder("Llama"), random_ids(0, 2, 6)
    plain = np.asarray(decoder(ids).logits, np.float64)
    head = dataclasses.replace(decoder.head, scale=0.25, logit_cap=0.5)
    scaled = dataclasses.replace(decoder, head=head)
    _close(scaled(ids).logits, 0.5 * np.tanh(0.25 * plain / 0.5))


MANNERS = {
    **DECODERS,
    "BERT": _stack(_heads(qkv_bias=True), norm=LayerNormConfig(eps=1e-5)),
    "relative keys": _stack(_heads(relative_positions="key")),
}


def _plain(name: str) -> Decoder:
    return randomised(Decoder.init(_config(MANNERS[name], decoder_config), key=jax.random.key(0)))


def _logits(decoder: Decoder, ids: Any, states: Any) -> jax.Array:
    return decoder(ids, encoder_hidden_states=states).logits


@pytest.mark.parametrize("name", ["BERT", "Gemma 2", "OLMo 2", "Bloom", "Falcon"])
def test_a_closed_gate_leaves_the_decoder_as_it_was(name: str) -> None:
    """Wherever norms stand; and it can open, which nothing behind it needs to learn first."""
    plain = _plain(name)
    gated = plain.with_cross_attention(CrossAttention(init="zero_gate"), key=jax.random.key(1))
    states, ids = jax.random.normal(jax.random.key(2), (2, 5, 16)), random_ids(0, 2, 6)
    np.testing.assert_array_equal(_logits(gated, ids, states), _logits(plain, ids, None))

    @eqx.filter_jit
    def compiled(decoder: Decoder, states: Any) -> Any:
        return eqx.filter_grad(lambda d: jnp.sum(jnp.sin(_logits(d, ids, states))))(decoder), _logits(
            decoder, ids, states
        )

    gradient, logits = compiled(gated, states)
    np.testing.assert_allclose(logits, eqx.filter_jit(_logits)(plain, ids, None), rtol=0, atol=CLOSED_GATE)
    for block in gradient.stack.blocks:
        assert abs(float(block.cross_gate)) > 1e-5
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(block.cross_attention))


@pytest.mark.parametrize("name", ["Llama", "Qwen 2", "Gemma 3", "OLMo 2", "Bloom", "Falcon", "umT5", "relative keys"])
def test_merged_attention_is_one_softmax_over_target_and_source(name: str) -> None:
    """By the layer's own projections: a plain layer's weights, scaled, beside those of source keys, not rotated."""
    plain = _plain(name)
    merged = plain.with_cross_attention(CrossAttention(init="merged"))
    assert all(x is y for x, y in zip(jax.tree.leaves(merged), jax.tree.leaves(plain), strict=True))
    x, states = (jax.random.normal(jax.random.key(at), (2, size, 16)) for at, size in enumerate((6, 5)))
    target, source = 1 - right_mask([0, 2], 6), right_mask([5, 3], 5)
    context = AttentionContext(
        AttentionMask(jnp.asarray(target, bool), causal=True),
        cross_mask=AttentionMask(jnp.asarray(source, bool)),
        encoder_states=states,
        positions=jnp.maximum(jnp.cumsum(jnp.asarray(target), axis=1) - 1, 0),
        need_weights=True,
    )
    stacks: Any = plain.stack, merged.stack
    context = dataclasses.replace(stacks[0]._prepared(context, 6), need_weights=True)
    layer, own = LayerContext(stacks[0].scales[0]), stacks[0].blocks[0].self_attention
    alone = own(x, context, layer, key=None)
    out = stacks[1].blocks[0].self_attention(x, context, layer, key=None)
    seen = np.asarray(target, bool)[:, None, :, None]
    in_target, in_source = (np.asarray(part) for part in (out.weights[..., :6], out.weights[..., 6:]))
    assert not np.any(in_source * (1 - source)[:, None, None, :])
    share = in_target.sum(-1, keepdims=True)
    assert np.all((share > 1e-3) & (share < 1 - 1e-3) | ~seen)
    close = {"rtol": 0, "atol": MERGED_ATTENTION}
    np.testing.assert_allclose(in_target, np.asarray(alone.weights) * share, **close)
    np.testing.assert_allclose(share + in_source.sum(-1, keepdims=True), 1.0, **close)

    # of a query's own key and a source key, rotations aside, the scores are known
    q, kv = own.project(x, None)
    rotated, _ = own.project(x, context)
    _, theirs = own.project(states, None)
    heads, cap = plain.config.attention, plain.config.attention.logit_cap
    groups = heads.num_heads // heads.kv_heads
    mine, k, v, of_source = (np.repeat(np.asarray(a, np.float64), groups, 1) for a in (kv.k, theirs.k, kv.v, theirs.v))
    own_scores = np.einsum("bhqe,bhqe->bhq", np.asarray(q, np.float64), mine)[..., None]
    if own.distances is not None:
        at_zero = np.asarray(own.distances.weight, np.float64)[own.distances.weight.shape[0] // 2]
        own_scores = own_scores + (np.asarray(q, np.float64) @ at_zero)[..., None]
    own_scores = own_scores * layer.scale
    if own.relative_bias is not None:
        own_scores = own_scores + np.asarray(own.relative_bias(jnp.zeros((1, 1), jnp.int32)), np.float64)
    scores = np.einsum("bhqe,bhse->bhqs", np.asarray(rotated, np.float64), k) * layer.scale
    capped = [a if cap is None else cap * np.tanh(a / cap) for a in (scores, own_scores)]
    ratio = np.exp(capped[0] - capped[1]) * source[:, None, None, :]
    of_own = np.diagonal(in_target, axis1=2, axis2=3)[..., None]
    np.testing.assert_allclose(np.where(seen, in_source, 0), np.where(seen, ratio * of_own, 0), **close)
    mixed = np.einsum("bhqk,bhke->bqhe", in_target, v) + np.einsum("bhqs,bhse->bqhe", in_source, of_source)
    np.testing.assert_allclose(out.out, own.out(jnp.asarray(mixed.reshape(2, 6, -1), jnp.float32)), **close)
