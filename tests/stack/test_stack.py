"""The two layouts of a stack: same weights, same numbers, whatever differs between layers."""

import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from encdec_eqx import AttentionConfig, Decoder, Encoder, LayerSpec
from encdec_eqx.stack import Layout, ScannedStack, to_layout
from encdec_eqx.stack.unrolled import schedule
from encdec_eqx.training import add_lora, merge_lora, segmented
from models import array_count, decoder_config, encoder_config, random_ids, randomised, right_mask, tiny_pair
from tolerances import SAME_GRADIENT, SAME_MODEL

LAYERS = {
    "all alike": (LayerSpec(cross_attention=True),) * 4,
    "every second one crosses": tuple(LayerSpec(cross_attention=at % 2 == 1) for at in range(4)),
    "an unfinished group": tuple(LayerSpec(cross_attention=at % 2 == 0) for at in range(5)),
    "nothing repeats": tuple(LayerSpec(cross_attention=at == 2) for at in range(3)),
    "scales differ": tuple(LayerSpec(cross_attention=True, score_scale=0.5 / (at + 1)) for at in range(3)),
    "shared weights": (LayerSpec(cross_attention=True, weights=0),) * 3,
    "two shared groups": tuple(LayerSpec(cross_attention=True, weights=at // 2) for at in range(4)),
}


def _decoder(layers: tuple[LayerSpec, ...], **changes: Any) -> Decoder:
    return randomised(Decoder.init(decoder_config(layers=layers, **changes), key=jax.random.key(0)))


def _states() -> jax.Array:
    return jax.random.normal(jax.random.key(1), (2, 5, 12))


@pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS)
def test_conversion_loses_nothing(layers: tuple[LayerSpec, ...]) -> None:
    decoder = _decoder(layers)
    scanned = decoder.with_layout("scanned")
    assert isinstance(scanned.stack, ScannedStack)
    back = scanned.with_layout("unrolled")
    assert jax.tree.structure(back) == jax.tree.structure(decoder)
    assert eqx.tree_equal(back, decoder)
    size = sum(leaf.size for leaf in jax.tree.leaves(decoder))
    assert size == sum(leaf.size for leaf in jax.tree.leaves(scanned)), "a distinct block is stored once"


@pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS)
def test_both_layouts_say_the_same(layers: tuple[LayerSpec, ...]) -> None:
    decoder, ids = _decoder(layers), random_ids(0, 2, 6)
    options = {"encoder_hidden_states": _states(), "output_attentions": True, "output_hidden_states": True}
    ours = decoder(ids, **options)
    theirs = decoder.with_layout("scanned")(ids, **options)
    assert [weights is None for weights in ours.cross_attentions] == [not spec.cross_attention for spec in layers]
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for mine, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(mine, other, atol=SAME_MODEL, rtol=0)


@pytest.mark.parametrize("layout", ["unrolled", "scanned"])
@pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS)
def test_cached_equals_whole(layers: tuple[LayerSpec, ...], layout: Layout) -> None:
    decoder, ids = _decoder(layers).with_layout(layout), random_ids(0, 2, 6)
    whole = decoder(ids, encoder_hidden_states=_states()).logits
    cache = decoder.init_cache(_states(), None, rows=2, slots=8)
    logits = []
    for part in (slice(0, 1), slice(1, 4), slice(4, 6)):
        hidden, cache = decoder.advance(jnp.asarray(ids[:, part]), cache)
        logits.append(decoder.logits(hidden))
    np.testing.assert_allclose(np.concatenate(logits, 1), whole, atol=SAME_MODEL, rtol=0)


@pytest.mark.parametrize("relative", ["key", "key_query"])
def test_relative_positions_in_both_layouts(relative: Any) -> None:
    attention = AttentionConfig(num_heads=3, head_dim=4, relative_positions=relative)
    decoder, ids = _decoder(LAYERS["all alike"], attention=attention), random_ids(0, 2, 6)
    plain = _decoder(LAYERS["all alike"])(ids, encoder_hidden_states=_states()).logits
    ours = decoder(ids, encoder_hidden_states=_states()).logits
    theirs = decoder.with_layout("scanned")(ids, encoder_hidden_states=_states()).logits
    np.testing.assert_allclose(ours, theirs, atol=SAME_MODEL, rtol=0)
    assert float(jnp.abs(ours - plain).max()) > 100 * SAME_MODEL


CUTS = {
    "one cut": ("all alike", (2,)),
    "two cuts": ("all alike", (1, 3)),
    "a cut inside a group": ("every second one crosses", (1,)),
    "a cut in an unfinished group": ("an unfinished group", (3,)),
}


@pytest.mark.parametrize(("name", "cuts"), CUTS.values(), ids=CUTS)
def test_a_cut_stack_says_the_same_and_caches_as_well(name: str, cuts: tuple[int, ...]) -> None:
    decoder, ids = _decoder(LAYERS[name]), random_ids(0, 2, 6)
    cut = eqx.tree_at(lambda d: d.stack, decoder, to_layout(decoder.stack, "scanned", cuts=cuts))
    assert cut.stack.starts[: len(cuts) + 1] == (0, *cuts)
    assert eqx.tree_equal(cut.with_layout("unrolled"), decoder)
    whole = decoder(ids, encoder_hidden_states=_states(), output_hidden_states=True)
    theirs = cut(ids, encoder_hidden_states=_states(), output_hidden_states=True)
    for mine, other in zip(jax.tree.leaves(whole), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(mine, other, atol=SAME_MODEL, rtol=0)
    cache = cut.init_cache(_states(), None, rows=2, slots=8)
    for part in (slice(0, 4), slice(4, 6)):
        hidden, cache = cut.advance(jnp.asarray(ids[:, part]), cache)
    np.testing.assert_allclose(cut.logits(hidden)[:, -1], whole.logits[:, -1], atol=SAME_MODEL, rtol=0)
    assert len(cut.with_layout("scanned").stack.segments) == 1


def test_a_stack_is_cut_where_arrays_differ() -> None:
    decoder = _decoder((LayerSpec(cross_attention=True),) * 5)
    bias = lambda d: [d.stack.blocks[at].feed_forward.up.bias for at in (3, 4)]  # noqa: E731
    changed = eqx.tree_at(bias, decoder, [None, None])
    assert changed.with_layout("scanned").stack.starts == (0, 3)
    assert eqx.tree_equal(changed.with_layout("scanned").with_layout("unrolled"), changed)


def test_shared_weights_cannot_be_cut() -> None:
    with pytest.raises(NotImplementedError, match="keep this stack unrolled"):
        to_layout(_decoder(LAYERS["two shared groups"]).stack, "scanned", cuts=(2,))


@pytest.mark.parametrize(
    ("remat", "unroll"),
    [(False, 1), (True, 1), ("keep_all", 1), ("keep_linear", 1), (False, 2), (True, 2), ("keep_linear", 3), (True, 9)],
)
def test_gradients_are_the_same_in_both_layouts(remat: Any, unroll: int) -> None:
    """Two and three layers: one iteration with and without a remainder, and no loop at all."""
    model = tiny_pair()
    ids, target, mask = random_ids(0, 2, 7), random_ids(1, 2, 5), right_mask([7, 4], 7)

    @eqx.filter_jit
    @eqx.filter_grad
    def gradient(model: Any) -> jax.Array:
        return jnp.sum(jnp.square(model(ids, target, attention_mask=mask).logits))

    ours = gradient(model)
    theirs = gradient(model.with_layout("scanned", remat=remat, unroll=unroll)).with_layout("unrolled")
    for mine, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        largest = float(jnp.abs(mine).max())
        np.testing.assert_allclose(mine, other, atol=SAME_GRADIENT * max(largest, 1.0), rtol=0)


@pytest.mark.parametrize(("unroll", "loops"), [(1, 2), (2, 2), (8, 0)])
def test_an_iteration_runs_as_many_layers_as_asked(unroll: int, loops: int) -> None:
    """A loop forwards and one backwards, with so many layers in each; or none."""
    encoder, ids = Encoder.init(encoder_config(depth=8), key=jax.random.key(0)), random_ids(0, 8, 24)

    scanned = encoder.with_layout("scanned", remat=True, unroll=unroll)
    loss: Any = eqx.filter_jit(eqx.filter_grad(lambda e: jnp.sum(jnp.square(e(ids).last_hidden_state))))
    text = loss.lower(scanned).compile().compiled.as_text()
    assert len(re.findall(r" while\(.*layers_0_to_7", text)) == loops


def test_how_a_stack_is_scanned_outlives_what_cuts_and_joins_it() -> None:
    model = tiny_pair().with_layout("scanned", remat=True, unroll=2)
    cut = segmented(model, "decoder.layers.1")
    adapted: Any = add_lora(model, "decoder.layers.1", rank=2, key=jax.random.key(0))
    for it in (model, cut, adapted, merge_lora(adapted)):
        for stack in (it.encoder.stack, it.decoder.stack):
            assert (stack.remat, stack.unroll) == ("keep_nothing", 2)
    assert len(cut.decoder.stack.segments) == 3


def test_remat_keeps_less_for_the_backward_pass() -> None:
    config = encoder_config(depth=8)
    encoder, ids = Encoder.init(config, key=jax.random.key(0)), random_ids(0, 8, 24)

    def temporary_bytes(remat: Any) -> int:
        scanned = encoder.with_layout("scanned", remat=remat)
        loss: Any = eqx.filter_jit(eqx.filter_grad(lambda e: jnp.sum(jnp.square(e(ids).last_hidden_state))))
        return loss.lower(scanned).compile().compiled.memory_analysis().temp_size_in_bytes

    keep_all, products, linear, nothing = map(
        temporary_bytes, ("keep_all", "keep_products", "keep_linear", "keep_nothing")
    )
    assert nothing < 0.7 * linear < 0.7 * 0.8 * products < 0.7 * 0.8 * 0.6 * keep_all
    assert (temporary_bytes(False), temporary_bytes(True)) == (products, nothing)


def test_dropout_draws_the_same_in_both_layouts(key: jax.Array) -> None:
    model, ids, target = tiny_pair(encoder_config(dropout=0.3)), random_ids(0, 2, 7), random_ids(1, 2, 5)
    dropped = model(ids, target, key=key).logits
    assert not np.allclose(dropped, model(ids, target).logits, atol=100 * SAME_MODEL)
    np.testing.assert_allclose(
        dropped, model.with_layout("scanned")(ids, target, key=key).logits, atol=SAME_MODEL, rtol=0
    )


def test_shared_weights_are_one_set_of_leaves() -> None:
    shared = Encoder.init(encoder_config(layers=(LayerSpec(weights=0),) * 6), key=jax.random.key(0))
    single = Encoder.init(encoder_config(depth=1), key=jax.random.key(0))
    assert array_count(shared) == array_count(single)


def test_the_schedule_numbers_blocks_by_first_use() -> None:
    layers = (LayerSpec(weights=7), LayerSpec(), LayerSpec(weights=3), LayerSpec(weights=7))
    assert schedule(layers) == (0, 1, 2, 0)


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_layout_is_an_error() -> None:
    with pytest.raises(ValueError, match="'stacked'; expected 'unrolled'"):
        tiny_pair().with_layout("stacked")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="scanned layout only"):
        tiny_pair().with_layout("unrolled", remat=True)
    with pytest.raises(ValueError, match="unroll"):
        tiny_pair().with_layout("unrolled", unroll=2)
    with pytest.raises(ValueError, match=r"unroll must be .* at least 1"):
        tiny_pair().with_layout("scanned", unroll=0)
    with pytest.raises(ValueError, match=r"remat is 'nothing'; expected .* 'keep_nothing'"):
        tiny_pair().with_layout("scanned", remat="nothing")  # pyright: ignore[reportArgumentType]
