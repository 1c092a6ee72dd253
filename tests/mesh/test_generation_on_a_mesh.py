"""Generating on eight virtual devices: the tokens of one, and what each device holds and sends."""

import collections
import contextlib
from typing import Any

import collectives
import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from encdec_eqx import AttentionConfig, FeedForwardConfig, make_mesh, with_mesh
from encdec_eqx.generation import engine
from encdec_eqx.generation.source_and_prompt import bucket
from encdec_eqx.params.sharding import mesh_of
from models import VOCAB, decoder_config, encoder_config, random_ids, right_mask, tiny_pair
from tolerances import ON_A_MESH

MESHES = [(8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2)]
KEY = jax.random.key(7)
NEW = 6
ROWS = 3
SOURCE = {"input_ids": random_ids(0, ROWS, 12), "attention_mask": right_mask([12, 5, 7], 12)}
PROMPTS = {
    "decoder_input_ids": np.array([[1, 5, 8], [1, 6, 7], [1, 2, 2]]),
    "decoder_attention_mask": np.array([[1, 1, 1], [0, 1, 1], [0, 0, 1]]),
}
MAIN: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "sampling": {"do_sample": True, "key": KEY, "num_return_sequences": 2},
}
OTHERS: dict[str, tuple[tuple[int, int, int], dict[str, Any]]] = {
    "prompts of several lengths, and what they attend to": ((2, 2, 2), {**PROMPTS, "output_cross_attentions": True}),
    "diverse beams": ((2, 2, 2), {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5}),
    "sampled beams": ((1, 8, 1), {"num_beams": 3, "do_sample": True, "key": KEY}),
    "contrastive": ((2, 2, 2), {"penalty_alpha": 0.6, "top_k": 3}),
    "forced words": ((2, 2, 2), {"num_beams": 3, "force_words_ids": [[5, 9]]}),
    "copied ahead": ((1, 8, 1), {"prompt_lookup_num_tokens": 2}),
    "rules": (
        (1, 8, 1),
        {
            "repetition_penalty": 1.3,
            "no_repeat_ngram_size": 2,
            "encoder_repetition_penalty": 1.2,
            "top_p": 0.9,
            "do_sample": True,
            "key": jax.random.split(KEY, ROWS),
        },
    ),
}


@pytest.fixture(scope="module")
def pair():
    attention, wide = AttentionConfig(num_heads=8, head_dim=4), FeedForwardConfig(size=64)
    encoder = encoder_config(32, attention=attention, feed_forward=wide)
    return tiny_pair(encoder, decoder_config(32, depth=2, attention=attention, feed_forward=wide))


def assert_same(mine, theirs):
    np.testing.assert_array_equal(mine.sequences, theirs.sequences)
    np.testing.assert_array_equal(mine.lengths, theirs.lengths)
    np.testing.assert_allclose(mine.scores, theirs.scores, rtol=ON_A_MESH, atol=ON_A_MESH)
    np.testing.assert_allclose(mine.log_probs, theirs.log_probs, rtol=ON_A_MESH, atol=ON_A_MESH)


def places(state):
    return [leaf.sharding for leaf in jax.tree.leaves(state)]


@contextlib.contextmanager
def watched(monkeypatch):
    """The loop's program, then of each of its calls where the state lay before and after, and how its caches do."""
    seen: list[Any] = []
    advance = engine.advance_until

    def watch(fixed, state):
        before = places(state)
        if not seen:
            seen.append(collectives.compiled_text(advance, fixed, state))
        after = advance(fixed, state)
        caches = jax.tree.leaves((after.cache.self_kv, after.cache.cross_kv))
        parts = [x.nbytes // shard.data.nbytes for x in caches for shard in x.addressable_shards]
        seen.append((before, places(after), [(x.sharding.spec, x.ndim) for x in caches], parts))
        return after

    with monkeypatch.context() as patched:
        patched.setattr(engine, "advance_until", watch)
        yield seen


@pytest.mark.parametrize("search", MAIN)
@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_it_says_what_one_device_says(pair, sizes, search):
    call = {**SOURCE, "max_new_tokens": NEW, **MAIN[search]}
    spread = with_mesh(pair, make_mesh(*sizes))
    assert_same(spread.generate(**call), pair.generate(**call))
    assert spread.generate(**call).compilations == 0


@pytest.mark.parametrize("name", OTHERS)
def test_so_does_every_other_search(pair, name):
    sizes, options = OTHERS[name]
    call = {**SOURCE, "max_new_tokens": NEW, **options}
    mine, theirs = (model.generate(**call) for model in (with_mesh(pair, make_mesh(*sizes)), pair))
    assert_same(mine, theirs)
    for ours, one in zip(mine.cross_attentions or (), theirs.cross_attentions or (), strict=True):
        np.testing.assert_allclose(ours, one, atol=ON_A_MESH)


def test_an_assistant_is_laid_out_beside_the_model(pair):
    spread = with_mesh(pair, make_mesh(2, 2, 2))
    draft = tiny_pair(pair.encoder.config, pair.decoder.config, seed=5)
    call = {**SOURCE, "max_new_tokens": NEW, "num_assistant_tokens": 3}
    assert_same(spread.generate(**call, assistant_model=draft), pair.generate(**call, assistant_model=draft))


@pytest.mark.parametrize("rows", [1, 2])
def test_a_stream_of_few_rows_needs_no_rows_for_every_device(pair, rows):
    spread = with_mesh(pair, make_mesh(2, 2, 2))
    call = {**{name: value[:rows] for name, value in SOURCE.items()}, "max_new_tokens": NEW}
    mine, theirs = (list(model.stream(**call, tokens_at_a_time=2)) for model in (spread, pair))
    assert len(mine) == len(theirs) == NEW // 2
    for ours, one in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(ours.tokens, one.tokens)
    assert_same(mine[-1].result, theirs[-1].result)


@pytest.mark.parametrize("devices", [3, 6])
def test_rows_divide_among_devices_that_are_no_power_of_two(pair, devices):
    mesh = make_mesh(devices, devices=jax.devices()[:devices])
    call = {**{name: value[:2] for name, value in SOURCE.items()}, "max_new_tokens": 3}
    assert_same(with_mesh(pair, mesh).generate(**call), pair.generate(**call))


def test_sizes_of_parts_are_of_the_grid():
    for parts in (2, 3, 6, 8):
        sizes = {bucket(size, parts=parts) for size in range(1, 200)}
        assert {size // parts for size in sizes} <= {bucket(size) for size in range(1, 200)}
        assert all(bucket(size, parts=parts) >= size for size in range(1, 200))
        assert all(size % parts == 0 for size in sizes)
    assert bucket(1, least=2, parts=3) == 3


def test_a_mesh_may_be_named_at_the_call(pair):
    mesh = make_mesh(1, 1, 8)
    call = {**SOURCE, "max_new_tokens": NEW}
    named, spread = pair.generate(**call, mesh=mesh), with_mesh(pair, mesh)
    assert_same(named, pair.generate(**call))
    assert spread.generate(**call, mesh=mesh).compilations == 0
    assert spread.warmup(source_lengths=[12], batch_sizes=[ROWS], max_new_tokens=NEW, mesh=mesh).compilations == 0
    assert mesh_of(pair) is None
    with pytest.raises(TypeError, match="make_mesh"):
        pair.generate(**call, mesh=(2, 4))


def test_what_was_encoded_and_what_is_scored(pair):
    spread = with_mesh(pair, make_mesh(2, 2, 2))
    mask = SOURCE["attention_mask"]
    known = pair.encode(SOURCE["input_ids"], attention_mask=mask)
    mine = spread.generate(encoder_outputs=known, attention_mask=mask, max_new_tokens=NEW)
    assert_same(mine, pair.generate(**SOURCE, max_new_tokens=NEW))
    again = spread.rescore(mine.sequences, **SOURCE)
    np.testing.assert_allclose(again.scores, mine.scores, rtol=ON_A_MESH, atol=ON_A_MESH)


@pytest.mark.parametrize("layout", ["unrolled", "scanned"])
@pytest.mark.parametrize("sizes", [(1, 1, 8), (2, 2, 2)], ids=str)
def test_caches_lie_over_rows_and_heads_and_stay_there(pair, sizes, layout, monkeypatch):
    rows = {1: None, 2: ("data", "fsdp")}[sizes[0]]
    spread = with_mesh(pair.with_layout(layout), make_mesh(*sizes))
    for prompt in ({}, PROMPTS):
        with watched(monkeypatch) as seen:
            list(spread.stream(**SOURCE, **prompt, max_new_tokens=4, tokens_at_a_time=2))
        assert len(seen) == 3
        for before, after, caches, parts in seen[1:]:
            assert before == after
            for spec, ndim in caches:
                assert spec == PartitionSpec(*(None,) * (ndim - 4), rows, "tensor")
            assert set(parts) == {8}


SENT: dict[str, dict[str, Any]] = {"greedy": {}, "beams": MAIN["beams"], "sampling": MAIN["sampling"]}


@pytest.mark.parametrize("search", SENT)
def test_a_step_over_tensor_sums_up_once_a_sub_layer(pair, search, monkeypatch):
    """And puts the tokens' embeddings together, and sums up the logits: choosing sends nothing."""
    with watched(monkeypatch) as seen:
        with_mesh(pair, make_mesh(1, 1, 8)).generate(**SOURCE, max_new_tokens=NEW, **SENT[search])
    # samples of a source sequence read it as one, as beams do everything
    rows, crossing = {"greedy": ("3,1", "3,1"), "beams": ("3,3", "3,3"), "sampling": ("6,1", "3,2")}[search]
    expected = collections.Counter({f"all-gather f32[{rows},32]": 1, f"all-reduce f32[{rows},{VOCAB}]": 1})
    for each in (rows, crossing, rows):  # self-attention, cross-attention, feed-forward of two layers
        expected[f"all-reduce f32[{each},32]"] += 2
    assert collectives.in_loop(seen[0]) == expected


@pytest.mark.parametrize("search", SENT)
def test_a_step_over_data_sends_one_bit(pair, search, monkeypatch):
    with watched(monkeypatch) as seen:
        with_mesh(pair, make_mesh(8)).generate(**SOURCE, max_new_tokens=NEW, **SENT[search])
    assert collectives.in_loop(seen[0]) == {"all-reduce pred[]": 1}


@pytest.mark.parametrize("sizes", [(1, 8, 1), (2, 2, 2)], ids=str)
def test_no_weight_and_no_cache_is_ever_put_together(pair, sizes, monkeypatch):
    """Over fsdp rows go to the weights: what is gathered has their size."""
    with watched(monkeypatch) as seen:
        with_mesh(pair, make_mesh(*sizes)).generate(**SOURCE, max_new_tokens=NEW)
    gathered = [name for name in collectives.in_program(seen[0]) if name.startswith("all-gather")]
    assert gathered
    rows = {1: (8,), 2: (4, 2)}[sizes[0]]  # all, and those that share a copy of the weights
    for name in gathered:
        shape = [int(size) for size in name.split("[")[1].rstrip("]").split(",")]
        # before the loop there are vectors
        assert len(shape) == 1 or (shape[0] in rows and shape[1] == 1 and shape[2] <= 64), name
