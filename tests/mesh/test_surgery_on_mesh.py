"""What changes a model does so on a mesh as well: adapters, layouts, dtypes, vocabularies, pieces, attention."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from encdec_eqx import AttentionConfig, FeedForwardConfig, make_mesh, with_mesh
from encdec_eqx._trees import path_name
from encdec_eqx.params.lora import add_lora, drop_lora, load_lora, merge_lora, save_lora, unmerge_lora
from encdec_eqx.params.sharding import mesh_of
from encdec_eqx.params.trainable import segmented
from models import decoder_config, encoder_config, random_ids, tiny_pair
from tolerances import LORA_MERGED, ON_A_MESH

LAYOUTS: Any = ("unrolled", "scanned")
KEY = jax.random.key(0)
IDS, TARGET = random_ids(0, 8, 6), random_ids(1, 8, 4)
MESH = (2, 2, 2)


@pytest.fixture(scope="module")
def plain():
    attention, wide = AttentionConfig(num_heads=4, head_dim=8), FeedForwardConfig(size=48)
    encoder = encoder_config(32, attention=attention, feed_forward=wide)
    return tiny_pair(encoder, decoder_config(32, depth=2, attention=attention, feed_forward=wide))


@pytest.fixture(params=LAYOUTS)
def models(request, plain):
    """A model, and the same on a mesh."""
    model = plain.with_layout(request.param)
    return model, with_mesh(model, make_mesh(*MESH))


@eqx.filter_jit
def _logits(model: Any) -> jax.Array:
    return model(IDS, TARGET).logits


def _same(one: Any, other: Any, tolerance: float = ON_A_MESH) -> None:
    np.testing.assert_allclose(_logits(one), _logits(other), atol=tolerance, rtol=0)


def _lies_as(one: Any, other: Any) -> None:
    for (path, leaf), wanted in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True):
        assert leaf.sharding == wanted.sharding, path_name(path)


def _learned(model: Any) -> Any:
    """With adapters that add something."""
    up = lambda path, x: x + 0.1 if ".lora.b" in jax.tree_util.keystr(path) else x  # noqa: E731
    return jax.tree_util.tree_map_with_path(up, model)


def test_adapters_are_added_merged_taken_out_and_saved(models, tmp_path):
    model, spread = models
    adapted = _learned(add_lora(model, "self_attention | decoder.layers.1.feed_forward", rank=2, key=KEY))
    before = with_mesh(adapted, make_mesh(*MESH))
    after = _learned(add_lora(spread, "self_attention | decoder.layers.1.feed_forward", rank=2, key=KEY))
    _lies_as(after, before)
    _same(before, adapted)
    merged = merge_lora(before)
    _lies_as(merged, spread)
    _same(merged, adapted, LORA_MERGED)
    _same(unmerge_lora(merged, before), adapted, LORA_MERGED)
    assert eqx.tree_equal(drop_lora(before), spread)
    save_lora(before, tmp_path)
    loaded = load_lora(spread, tmp_path)
    _lies_as(loaded, before)
    assert eqx.tree_equal(loaded, before)


def test_layouts_change_there_and_back_where_arrays_lie(plain):
    unrolled, scanned = (with_mesh(plain.with_layout(layout), make_mesh(*MESH)) for layout in LAYOUTS)
    for one, other in ((unrolled, scanned), (scanned, unrolled)):
        made = one.with_layout("scanned" if one is unrolled else "unrolled")
        assert eqx.tree_equal(made, other)
        _lies_as(made, other)
    cut = segmented(scanned, "decoder.layers.1-")
    _lies_as(cut, with_mesh(segmented(plain.with_layout("scanned"), "decoder.layers.1-"), make_mesh(*MESH)))


def test_dtypes_and_vocabularies_change_where_arrays_lie(models):
    model, spread = models
    _lies_as(spread.astype(jnp.bfloat16), spread)
    larger = model.resize_token_embeddings(59, key=KEY)
    made = spread.resize_token_embeddings(59, key=KEY)
    _lies_as(made, with_mesh(larger, make_mesh(*MESH)))
    _same(made, larger)


def test_pieces_stay_on_the_mesh(models):
    _, spread = models
    assert all(mesh_of(piece) == mesh_of(spread) for piece in spread.pieces())


def test_other_backends_leave_heads_where_they_are(models):
    _, spread = models
    assert set(spread.with_attention_backends().attention_backends().values()) == {"unfolded"}
