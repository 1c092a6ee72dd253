"""Cross-attention given to a decoder that was pretrained without: what it is made of, that nothing else is made, files.

`tests/stack/test_manners.py` has the arithmetic of gates and of merged attention in decoders of many kinds.
"""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from encdec_eqx import AttentionConfig, Decoder, Encoder, EncoderDecoder, LayerSpec, NormConfig, StackConfig
from encdec_eqx._trees import path_name
from encdec_eqx.config import CrossAttention
from encdec_eqx.layers.attention import SelfAttention
from models import decoder_config, encoder_config, random_ids, randomised, right_mask
from tolerances import SAME_MODEL, SEQUENCE_SCORES

KEY = jax.random.key(7)
INITS: Any = ["random", "copy", "zero_gate", "merged"]
IDS, SOURCE = random_ids(0, 2, 6), right_mask([5, 3], 5)


def plain_config(depth: int = 4, **changes: Any) -> StackConfig:
    return decoder_config(depth=depth, layers=(LayerSpec(),) * depth, **changes)


def plain_decoder(depth: int = 4, **changes: Any) -> Decoder:
    return randomised(Decoder.init(plain_config(depth, **changes), key=KEY))


def states(size: int = 12) -> jax.Array:
    return jax.random.normal(jax.random.key(1), (2, 5, size))


def _named(tree: Any) -> dict[str, jax.Array]:
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def paths(tree: Any) -> set[str]:
    return {path_name(path) for path, _ in jax.tree_util.tree_flatten_with_path(eqx.filter(tree, eqx.is_array))[0]}


@eqx.filter_jit
def _whole(decoder: Decoder) -> Any:
    return decoder(IDS, encoder_hidden_states=states(), encoder_attention_mask=SOURCE, output_attentions=True)


@eqx.filter_jit
def _in_steps(decoder: Decoder) -> Any:
    """The logits by a cache of two rows for each source sequence."""
    ids = jnp.repeat(jnp.asarray(IDS), 2, axis=0)
    cache = decoder.init_cache(states(), jnp.asarray(SOURCE, bool), rows=4, slots=8)
    first, cache = decoder.advance(ids[:, :3], cache)
    rest = [first]
    for at in range(3, 6):
        hidden, cache = decoder.advance(ids[:, at : at + 1], cache)
        rest.append(hidden)
    return decoder.logits(jnp.concatenate(rest, axis=1))


@pytest.mark.parametrize("init", ["zero_gate", "merged"])
def test_every_second_layer_attends_in_both_layouts_and_by_steps(init: Any):
    decoder = randomised(plain_decoder().with_cross_attention(CrossAttention(every=2, init=init), key=KEY))
    out = _whole(decoder)
    assert [weights is not None for weights in out.cross_attentions] == [False, True, False, True]
    assert [weights.shape[-1] for weights in out.attentions] == [6] * 4
    scanned = decoder.with_layout("scanned")
    stack: Any = scanned.stack
    assert [len(segment.groups) for segment in stack.segments] == [2]
    for got, expected in zip(jax.tree.leaves(_whole(scanned)), jax.tree.leaves(out), strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=SAME_MODEL)
    for layout in (decoder, scanned):
        np.testing.assert_allclose(_in_steps(layout)[::2], out.logits, rtol=0, atol=SAME_MODEL)
        np.testing.assert_allclose(_in_steps(layout)[1::2], out.logits, rtol=0, atol=SAME_MODEL)


@pytest.mark.parametrize("init", INITS)
def test_a_file_holds_what_was_grafted(init: Any, tmp_path: Path):
    decoder = randomised(plain_decoder().with_cross_attention(CrossAttention(every=2, init=init), key=KEY))
    decoder.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["cross_attention_every"] == 2
    kinds = {"zero_gate": "gated", "merged": "merged"}
    assert written.get("cross_attention_kind") == kinds.get(init)
    again = Decoder.from_pretrained(tmp_path)
    assert again.config == decoder.config and not again.load_report.loud
    assert eqx.tree_equal(again, decoder)


@pytest.mark.parametrize("init", INITS)
def test_a_report_names_every_new_array_and_how_it_was_made(init: Any, tmp_path: Path):
    plain = plain_decoder()
    plain.save_pretrained(tmp_path)
    decoder = Decoder.from_pretrained(tmp_path, cross_attention=CrossAttention(every=2, init=init), key=KEY)
    told = dict(decoder.load_report.new)
    assert told.keys() == paths(decoder) - paths(plain)
    assert all(re.match(r"stack\.blocks\.[13]\.cross_", path) for path in told)
    words = {"random": "drawn with standard deviation 0.02", "copy": "copied from", "zero_gate": "at 0"}
    assert init == "merged" or any(words[init] in why for why in told.values())
    assert "cross-attention in 2 of 4 layers" in str(decoder.load_report)


def test_drawn_is_what_a_new_decoder_would_have(tmp_path: Path):
    """And what loading draws by itself."""
    plain_decoder().save_pretrained(tmp_path)
    given = Decoder.from_pretrained(tmp_path, cross_attention=CrossAttention(), key=KEY)
    assert eqx.tree_equal(given, Decoder.from_pretrained(tmp_path, key=KEY))
    fresh: Any = Decoder.init(given.config, key=KEY).stack
    blocks = zip(given.stack.blocks, fresh.blocks, strict=True)  # pyright: ignore[reportAttributeAccessIssue]
    assert all(eqx.tree_equal(one.cross_attention, other.cross_attention) for one, other in blocks)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_nothing_is_made_but_what_is_new(init: Any, dtype: Any):
    """Counted in a traced program, at sizes that are never allocated; a copy and a cast of an array make it again."""
    config = decoder_config(size=3072, depth=8, layers=(LayerSpec(),) * 8, vocab_size=50_000)
    config = config.replace(attention=AttentionConfig(num_heads=24, head_dim=128, num_kv_heads=8))
    plain = eqx.filter_eval_shape(lambda: Decoder.init(config, key=KEY).astype(dtype))
    how = CrossAttention(every=4, init=init)
    traced = jax.make_jaxpr(lambda decoder: jax.tree.leaves(decoder.with_cross_attention(how, key=KEY)))(plain)
    old = {id(var) for var in traced.jaxpr.invars}
    kept = [var for var in traced.jaxpr.outvars if id(var) in old]
    assert len(kept) == len(jax.tree.leaves(plain))
    new = sum(_elements(var) for var in traced.jaxpr.outvars if id(var) not in old)
    made = sum(_elements(var) for step in traced.jaxpr.eqns for var in step.outvars)
    assert made <= 4 * new
    assert all(var.aval.dtype == dtype for var in traced.jaxpr.outvars)
    # one layer's arrays exist in float32, too, for a moment
    assert max((_elements(var) for step in traced.jaxpr.eqns for var in step.outvars), default=0) <= 3072 * 3072


def _elements(var: Any) -> int:
    return int(np.prod(var.aval.shape)) if jnp.issubdtype(var.aval.dtype, jnp.floating) else 0


@pytest.mark.parametrize(
    "heads",
    [
        AttentionConfig(num_heads=3, head_dim=4),
        AttentionConfig(num_heads=4, head_dim=2, num_kv_heads=2, out_bias=False),
        AttentionConfig(num_heads=3, head_dim=4, qkv_bias=(True, False, True)),
    ],
    ids=["fused", "grouped", "unequal biases"],
)
def test_a_copy_attends_to_states_as_self_attention_does(heads: AttentionConfig):
    """To the layer's own normed input, without a mask, it is self-attention without a mask; norms are copied too."""
    plain = plain_decoder(1, attention=heads, norm=NormConfig(placement="pre", final=True))
    decoder = plain.with_cross_attention(CrossAttention(init="copy"))
    block: Any = decoder.stack.blocks[0]  # pyright: ignore[reportAttributeAccessIssue]
    assert eqx.tree_equal(block.cross_norm, block.self_norm)
    q, kv = block.self_attention.project(states(), None)
    crossing = block.cross_attention.keys_values(states())
    np.testing.assert_allclose(crossing.k, kv.k, rtol=0, atol=SAME_MODEL)
    np.testing.assert_allclose(crossing.v, kv.v, rtol=0, atol=SAME_MODEL)
    np.testing.assert_allclose(jnp.moveaxis(block.cross_attention.q(states()), 2, 1), q, rtol=0, atol=SAME_MODEL)
    assert eqx.tree_equal(block.cross_attention.out, block.self_attention.out)
    # what is trained step by step may be donated, each array once
    pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(decoder)]
    assert len(set(pointers)) == len(pointers)


def test_states_of_another_width_come_through_the_projection():
    encoder = Encoder.init(encoder_config(), key=KEY)
    for init in ("copy", "merged"):
        decoder = plain_decoder(2).with_cross_attention(CrossAttention(init=init))
        pair = EncoderDecoder.from_pieces(encoder, decoder, key=KEY)
        assert pair.enc_to_dec_proj is not None and pair.decoder.config.cross_width == 12


def test_a_merged_pair_searches_and_is_saved(tmp_path: Path):
    """Beams share their source's keys and values; what they are told of each token, full passes say too."""
    how = CrossAttention(every=2, init="merged")
    decoder = plain_decoder(2).with_cross_attention(how)
    pair = randomised(EncoderDecoder.from_pieces(Encoder.init(encoder_config(), key=KEY), decoder, key=KEY))
    source = random_ids(3, 2, 5)
    pair.save_pretrained(tmp_path)
    again = EncoderDecoder.from_pretrained(tmp_path)
    assert eqx.tree_equal(jax.tree.leaves(again), jax.tree.leaves(pair))
    options: Any = {"max_length": 7, "attention_mask": SOURCE, "decoder_start_token_id": 1, "num_beams": 3}
    best = again.generate(source, num_return_sequences=3, **options)
    ids = np.asarray(best.sequences)
    logits = jax.nn.log_softmax(
        pair(np.repeat(source, 3, 0), ids[:, :-1], attention_mask=np.repeat(SOURCE, 3, 0)).logits
    )
    told = np.take_along_axis(np.asarray(logits), ids[:, 1:, None], -1)[..., 0]
    real = np.arange(ids.shape[1] - 1)[None] < best.lengths[:, None]
    np.testing.assert_allclose(best.log_probs, np.where(real, told, 0), rtol=0, atol=SEQUENCE_SCORES)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: CrossAttention(every=0), ValueError, r"CrossAttention\.every is 0; expected a whole number"),
        (lambda: CrossAttention(init="gate"), ValueError, r"CrossAttention\.init is 'gate'; expected one of random, c"),  # type: ignore[arg-type]
        (
            lambda: Decoder.from_pretrained("nowhere", cross_attention="zero_gate"),  # type: ignore[arg-type]
            TypeError,
            r"(?s)cross_attention.*'zero_gate'.*CrossAttention",
        ),
        (
            lambda: plain_decoder(2).with_cross_attention(CrossAttention(every=3), key=KEY),
            ValueError,
            r"CrossAttention\(every=3\) does not fit this decoder: .* in none: the decoder has 2 layers",
        ),
        (lambda: plain_decoder(1).with_cross_attention(), TypeError, r"init='random' draws weights: give key="),
        (
            lambda: plain_decoder(1).with_cross_attention(CrossAttention(init="copy"), cross_attention_hidden_size=10),
            ValueError,
            r"take the decoder's width, 12, .* = 10: leave that out, and EncoderDecoder\.from_pieces adds a projection",
        ),
        (
            lambda: plain_decoder(1).with_cross_attention(key=KEY).with_cross_attention(key=KEY),
            ValueError,
            "has cross-attention already",
        ),
        (
            lambda: StackConfig.from_hf(
                {"model_type": "gpt2", "is_decoder": True, "add_cross_attention": True, "cross_attention_kind": "tanh"}
            ),
            ValueError,
            r"cross_attention_kind is 'tanh'; expected one of sublayer, gated, merged",
        ),
    ],
)
def test_what_cannot_be_is_said_before_work_begins(make: Any, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("init", INITS)
def test_a_checkpoint_that_has_cross_attention_is_given_no_other(init: Any, tmp_path: Path):
    plain_decoder(2).with_cross_attention(CrossAttention(init=init), key=KEY).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"is for decoders that were pretrained without it, .*leave the argument out"):
        Decoder.from_pretrained(tmp_path, cross_attention=CrossAttention())
    encoder = Encoder.from_pretrained(tmp_path)
    assert not encoder.config.cross_attention
    assert dataclasses.replace(encoder.config.layers[0], rotary=0) == LayerSpec()
    assert isinstance(encoder.stack.blocks[0].self_attention, SelfAttention)  # pyright: ignore[reportAttributeAccessIssue]


def _without_cross(folder: Path) -> EncoderDecoder:
    """A pair's folder that lost all of its decoder's cross-attention, and the projection; the pair that it was."""
    encoder = Encoder.init(encoder_config(), key=KEY)
    pair = randomised(EncoderDecoder.from_pieces(encoder, plain_decoder(2).with_cross_attention(key=KEY), key=KEY))
    pair.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    left = {name: array for name, array in tensors.items() if "cross" not in name and "proj." not in name[:17]}
    save_file(left, folder / "model.safetensors", metadata={"format": "pt"})
    return pair


def test_a_pair_without_cross_attention_is_told_how_to_get_some(tmp_path: Path):
    pair = _without_cross(tmp_path)
    with pytest.raises(
        ValueError, match=r"no cross-attention at all, .*EncoderDecoder\.from_pretrained\(\.\.\., cross_"
    ) as told:
        EncoderDecoder.from_pretrained(tmp_path)
    call = re.search(r"EncoderDecoder\.from_pretrained\(\.\.\., (cross_attention=.*?\))\)", str(told.value))
    assert call is not None
    grafted = eval(f"EncoderDecoder.from_pretrained(tmp_path, {call[1]})")
    assert [spec.cross_kind for spec in grafted.decoder.config.layers] == ["gated"] * 2
    new = dict(grafted.load_report.new)
    assert new.keys() == {path for path in paths(grafted) if "cross" in path or "enc_to_dec_proj" in path}
    assert eqx.tree_equal(grafted.encoder, pair.encoder)
    own = {name: array for name, array in _named(grafted.decoder).items() if "cross" not in name}
    assert all(np.array_equal(array, _named(pair.decoder)[name]) for name, array in own.items())
    grafted.save_pretrained(tmp_path / "again")
    assert eqx.tree_equal(jax.tree.leaves(EncoderDecoder.from_pretrained(tmp_path / "again")), jax.tree.leaves(grafted))


def test_a_whole_pair_is_given_no_other_cross_attention(tmp_path: Path):
    encoder = Encoder.init(encoder_config(), key=KEY)
    EncoderDecoder.from_pieces(encoder, plain_decoder(1).with_cross_attention(key=KEY)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"pretrained without it, but .* has 'decoder\..*cross"):
        EncoderDecoder.from_pretrained(tmp_path, cross_attention=CrossAttention())
    with pytest.raises(TypeError, match="got a key, but draws nothing"):
        EncoderDecoder.from_pretrained(tmp_path, key=KEY)


def test_a_family_that_always_has_cross_attention_is_given_no_other():
    folder = Path(__file__).parent.parent / "goldens" / "families" / "bart"
    with pytest.raises(ValueError, match="is of 'bart', whose decoders all have it: leave the argument out"):
        Decoder.from_pretrained(folder, cross_attention=CrossAttention())
